"""How a command starts and how it fails: one line on stderr and an exit code, for all of them."""

from __future__ import annotations

import errno
import lzma
import os
import shlex
import signal
import sys
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import typer
from typer.core import TyperGroup

BAD_INPUT = 2
INTERRUPTED = 130
TERMINATED = 143
PIPE_CLOSED = 141
BUG = 1

TRACEBACK_VARIABLE = "TFALLOC_TRACEBACK"
"""Set it to see the traceback of an error that is otherwise one line."""

# What values, files, options and a full machine may bring about. KeyError, TypeError, … are bugs.
BROUGHT_IN = (
    ValueError,
    OSError,
    EOFError,
    ImportError,
    OverflowError,
    MemoryError,
    RecursionError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)


class Interrupted(Exception):
    """Ctrl-C during a command; the message says what is left of it, if anything is."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: cleans up as Ctrl-C does."""


def run(command: Callable[[], Any]) -> int:
    """Runs a command of this process and returns its exit code, whatever happens to it.

    Args:
      command: called without arguments; its SystemExit is a result too.
    """
    _open_streams()
    with suppress(ValueError, OSError):  # not in the main thread, or not on this system
        signal.signal(signal.SIGTERM, _terminate)
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        command()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        code = report(error)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            _forget(stream)
            if error.errno == errno.EPIPE:
                code = code or PIPE_CLOSED
            else:
                _say(f"error: cannot write to {stream.name} ({error.strerror}).")
                code = code or BAD_INPUT
    return code


def report(error: BaseException) -> int:
    """Prints an error on stderr and returns the exit code.

    What the user can mend (values, files, options) is one line. Anything else is a fault of this
    package: it keeps its traceback, because a line would hide where it happened.
    """
    if isinstance(error, BrokenPipeError) and error.filename is None:
        _forget(sys.stdout)  # whoever read the output has gone, and wants no word about it
        return PIPE_CLOSED
    if isinstance(error, (Interrupted, typer.Abort)) or _was_interrupted(error):
        left = str(error) if isinstance(error, Interrupted) else ""
        _say(f"interrupted: {left or 'no output was written.'}")
        return TERMINATED if _within(error, Terminated) else INTERRUPTED
    if os.environ.get(TRACEBACK_VARIABLE):
        _show_traceback(error)
    # Typer may bring its own copy of Click, so its usage errors are known by what they can do.
    if hasattr(error, "format_message"):
        _say(f"error: {one_line(error.format_message())}")
        return BAD_INPUT
    if isinstance(error, BROUGHT_IN) or _of("tensorflow", "errors.OpError", error):
        _say(f"error: {one_line(_message(error))}")
        return BAD_INPUT
    if _of("pyarrow", "ArrowException", error):
        _say(f"error: {one_line(_message(error))}")
        return BAD_INPUT
    if not os.environ.get(TRACEBACK_VARIABLE):
        _show_traceback(error)
    return BUG


def _show_warning(message: Any, *where: Any) -> None:
    """A warning of a library is a line like those of the command."""
    _say(f"warning: {one_line(str(message))}")


def _terminate(number: int, frame: Any) -> None:
    raise Terminated


def _was_interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C is behind an error, such as that of an import which it broke off."""
    return _within(error, KeyboardInterrupt)


def _within(error: BaseException | None, kind: type[BaseException]) -> bool:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, kind):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _open_streams() -> None:
    """Gives a process whose stdin, stdout or stderr is closed an empty one in its place.

    Else the next file that is opened gets that number, and is written to by whoever prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # where "…" cannot be written


def _forget(stream: Any) -> None:
    """Sends what is left in a broken stream to nowhere: Python would complain when it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _show_traceback(error: BaseException) -> None:
    with suppress(OSError):
        traceback.print_exception(type(error), error, error.__traceback__)


def _say(line: str) -> None:
    with suppress(OSError):
        print(line, file=sys.stderr)


def one_line(text: str) -> str:
    """Joins lines and runs of blanks.

    >>> one_line("no such\\n   column ")
    'no such column'
    """
    return " ".join(str(text).split())


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, MemoryError):
        return f"not enough memory ({error})." if str(error) else "not enough memory."
    return str(error) or type(error).__name__


def _of(module: str, name: str, error: BaseException) -> bool:
    """Whether an exception is of a class in a module that need not be loaded."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return isinstance(found, type) and isinstance(error, found)


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
        except KeyboardInterrupt as error:
            raise Interrupted from error

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As Click's `main`, with this package's errors."""
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
