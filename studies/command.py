"""What the commands of the studies share: options, one-line errors, what was typed."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> int:
    """Parses, calls the `work` that a parser has as a default, and turns errors into one line.

    Args:
      parser: its defaults have `work`, called with the options and the command as typed.
      arguments: None: those of the process.

    Returns:
      The exit code: 2 for bad input, 130 for Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(arguments)
    typed = shlex.join(["python", "-m", *parser.prog.split()[2:], *arguments])
    try:
        options.work(options, typed)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the runs it has.", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def add_sizes(parser: argparse.ArgumentParser, seeds: int) -> None:
    """Options that every study has."""
    parser.add_argument("--seeds", type=at_least_one, help=f"(default: {seeds}; 2 with --fast)")
    parser.add_argument("--rows", type=at_least_one, help="of a simulated trial")
    parser.add_argument("--methods", type=names, metavar="A;B;C", help="some methods only")
    parser.add_argument("--fast", action="store_true", help="small enough for a try")
    parser.add_argument("--restart", action="store_true", help="throw earlier runs away")
    parser.add_argument("--data", metavar="FILE", help="Criteo Uplift, CSV or Parquet")
    parser.add_argument("--output", type=Path, metavar="DIR")
    parser.set_defaults(default_seeds=seeds)


def seeds(options: argparse.Namespace) -> int:
    """Number of seeds."""
    return int(options.seeds or (2 if options.fast else options.default_seeds))


def settings(options: argparse.Namespace, usual: Any, fast: Callable[[], Any]) -> Any:
    """Settings with the rows that were asked for.

    Raises:
      ValueError: rows beside a file, which has its own.
    """
    if options.rows is not None and options.data is not None:
        raise ValueError(
            f"--rows {options.rows} with --data {options.data}: the file has its own; leave one "
            "out."
        )
    chosen = fast() if options.fast else usual
    return chosen if options.rows is None else dataclasses.replace(chosen, rows=options.rows)


def show(folder: Path, *files: str) -> None:
    """Prints the table of a study, and where its files are."""
    print((folder / "table.md").read_text("utf-8"))
    for name in ("table.md", *files, "runs.json"):
        print(f"  {folder / name}")


def at_least_one(text: str) -> int:
    """A number for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number of at least 1.")
    return int(text)


def names(text: str) -> list[str]:
    """Names of methods, with semicolons between."""
    return [name.strip() for name in text.split(";")]
