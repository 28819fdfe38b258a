"""The Typer application: its commands, `--version`, and one-line errors for all of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tfalloc.cli import errors, typed
from tfalloc.cli.allocate import allocate
from tfalloc.cli.demo import demo
from tfalloc.cli.evaluate import evaluate
from tfalloc.cli.export import export
from tfalloc.cli.reproduce import app as reproduce
from tfalloc.cli.train import train
from tfalloc.cli.versions import package_version


class OneLineErrors(TyperGroup):
    """A group whose failures are one line on stderr: 2 for bad input, 130 for Ctrl-C."""

    def make_context(
        self, info_name: Any, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """As Click's, with the arguments kept for commands that write down what was typed."""
        received = list(args)  # parsing empties the list
        context = super().make_context(info_name, args, parent, **extra)
        typed.keep(context, received)
        return context

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; Ctrl-C is kept from Typer, whose versions report it differently."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise errors.Interrupted from None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As Click's `main`, with this package's errors."""
        standalone = kwargs.get("standalone_mode", True)
        kwargs["standalone_mode"] = False
        if not standalone:
            return super().main(*args, **kwargs)
        try:
            result = super().main(*args, **kwargs)
        except (Exception, KeyboardInterrupt) as error:
            raise SystemExit(errors.report(error)) from None
        # Outside standalone mode `Exit` (of --help, for one) is returned as its code.
        raise SystemExit(result if isinstance(result, int) else 0)


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Learn from a randomised trial who should get which treatment within a budget.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tfalloc {package_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


app.command()(train)
app.command()(evaluate)
app.command()(allocate)
app.command()(export)
app.command()(demo)
app.add_typer(reproduce, name="reproduce")
