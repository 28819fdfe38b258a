"""The `tfalloc` command: train, evaluate, allocate, export, demo, reproduce.

Nothing here imports TensorFlow until a command needs it, so that `tfalloc --help` is instant.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the `tfalloc` command."""
    try:
        from tfalloc.cli import errors
    except KeyboardInterrupt:
        print("interrupted: no output was written.", file=sys.stderr)
        raise SystemExit(130) from None
    raise SystemExit(errors.run(_command))


def _command() -> None:
    from tfalloc.cli.app import app

    app(prog_name="tfalloc")


__all__ = ["main"]
