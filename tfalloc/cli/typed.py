"""What was typed: the arguments that the application received, for commands that record them.

They are kept on the call's own context. `sys.argv` is the process's, which need not be the command:
the application may be called with arguments, in a test or from another program.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

_KEY = "tfalloc.arguments"


def keep(context: Any, arguments: Sequence[str]) -> None:
    """Keeps the arguments for all commands below a Click context."""
    context.meta[_KEY] = tuple(arguments)


def command(context: Any) -> str:
    """The command of a Click context as a line for the shell.

    >>> from types import SimpleNamespace
    >>> context = SimpleNamespace(meta={})
    >>> keep(context, ["reproduce", "coin", "--output", "my results"])
    >>> command(context)
    "tfalloc reproduce coin --output 'my results'"
    """
    return shlex.join(["tfalloc", *context.meta[_KEY]])
