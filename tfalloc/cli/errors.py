"""Exceptions to one line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
import traceback

import typer

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
