"""How a command starts and how it fails: one line on stderr and an exit code, for all of them."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

BAD_INPUT = 2
INTERRUPTED = 130
BUG = 1

TRACEBACK_VARIABLE = "TFALLOC_TRACEBACK"
"""Set it to see the traceback of an error that is otherwise one line."""


class Interrupted(Exception):
    """Ctrl-C during a command; the message says what is left of it, if anything is."""


def report(error: BaseException) -> int:
    """Prints an error on stderr and returns the exit code.

    What the user can mend (values, files, options) is one line. Anything else is a fault of this
    package: it keeps its traceback, because a line would hide where it happened.
    """
    if isinstance(error, (Interrupted, KeyboardInterrupt, typer.Abort)):
        left = str(error) if isinstance(error, Interrupted) else ""
        print(f"interrupted: {left or 'no output was written.'}", file=sys.stderr)
        return INTERRUPTED
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(type(error), error, error.__traceback__)
    # Typer may bring its own copy of Click, so its usage errors are known by what they can do.
    if hasattr(error, "format_message"):
        print(f"error: {one_line(error.format_message())}", file=sys.stderr)
        return BAD_INPUT
    if isinstance(error, (ValueError, OSError)) or _of_tensorflow(error):
        print(f"error: {one_line(_message(error))}", file=sys.stderr)
        return BAD_INPUT
    if not os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(type(error), error, error.__traceback__)
    return BUG


def one_line(text: str) -> str:
    """Joins lines and runs of blanks.

    >>> one_line("no such\\n   column ")
    'no such column'
    """
    return " ".join(str(text).split())


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    return str(error) or type(error).__name__


def _of_tensorflow(error: BaseException) -> bool:
    """Whether TensorFlow raised it; asked without importing TensorFlow."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(error, tensorflow.errors.OpError)


class OneLineErrors(TyperGroup):
    """A group whose failures are one line on stderr: 2 for bad input, 130 for Ctrl-C."""

    def make_context(
        self, info_name: Any, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """As Click's, with the arguments kept for commands that write down what was typed."""
        received = list(args)  # parsing empties the list
        context = super().make_context(info_name, args, parent, **extra)
        context.meta[_TYPED] = tuple(received)
        return context

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; Ctrl-C is kept from Typer, whose versions report it differently."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted from None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As Click's `main`, with this package's"""
        standalone = kwargs.get("standalone_mode", True)
        kwargs["standalone_mode"] = False
        if not standalone:
            return super().main(*args, **kwargs)
        try:
            result = super().main(*args, **kwargs)
        except (Exception, KeyboardInterrupt) as error:
            raise SystemExit(report(error)) from None
        # Outside standalone mode `Exit` (of --help, for one) is returned as its code.
        raise SystemExit(result if isinstance(result, int) else 0)


_TYPED = "tfalloc.arguments"


def typed_command(context: Any) -> str:
    """What was typed, as a line for the shell, for commands that write it down.

    It is kept on the call's own context. `sys.argv` is the process's, which need not be the
    command: the application may be called with arguments, in a test or from another program.

    >>> from types import SimpleNamespace
    >>> context = SimpleNamespace(meta={_TYPED: ("reproduce", "--output", "my results")})
    >>> typed_command(context)
    "tfalloc reproduce --output 'my results'"
    """
    return shlex.join(["tfalloc", *context.meta[_TYPED]])
