"""The `tfalloc` command: train, evaluate, allocate, export, demo, reproduce.

Nothing here imports TensorFlow until a command needs it, so that `tfalloc --help` is instant.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of the `tfalloc` command."""
    from tfalloc.cli.app import app

    app(prog_name="tfalloc")


__all__ = ["main"]
