"""The Typer application: its commands, and `--version`."""

from __future__ import annotations

from typing import Annotated

import typer

from tfalloc._version import __version__
from tfalloc.cli.allocate import allocate
from tfalloc.cli.demo import demo
from tfalloc.cli.errors import OneLineErrors
from tfalloc.cli.evaluate import evaluate
from tfalloc.cli.export import export
from tfalloc.cli.reproduce import app as reproduce
from tfalloc.cli.train import train

app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Learn from a randomised trial who should get which treatment within a budget.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tfalloc {__version__}")
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
