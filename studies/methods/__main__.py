"""`python -m studies.methods run | tune | summary`: see docs/reproduce.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studies import command
from tfalloc.reproduce.runs import write_file

TUNING_SEED, REPORTED_SEED, CANDIDATES = 101, 300, 6  # as in task.py and tuning.py


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="python -m studies.methods", description=__doc__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="train every method, compare with the best control")
    tune = commands.add_parser("tune", help="choose hyper-parameters, leave tuned.json")
    for each, seeds, first in ((run, 20, REPORTED_SEED), (tune, 3, TUNING_SEED)):
        each.add_argument(
            "--simulation",
            default="criteo_like",
            help="criteo_like, produce_coin, criteo_outcomes (needs --data) or well_specified",
        )
        each.add_argument("--first-seed", type=int, default=first, help=f"(default: {first})")
        command.add_sizes(each, seeds)
    tune.add_argument("--candidates", type=command.at_least_one, default=CANDIDATES)
    run.set_defaults(work=_run)
    tune.set_defaults(work=_tune)
    table = commands.add_parser("summary", help="tables of several outputs of `run`; runs nothing")
    table.add_argument("folders", nargs="+", metavar="DIR")
    table.add_argument("--output", metavar="FILE", help="Markdown to write too")
    table.set_defaults(work=_summary)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    return command.run(parser(), arguments)


def _run(options: argparse.Namespace, typed: str) -> None:
    from studies.methods import study

    folder = options.output or Path(f"methods-{options.simulation}")
    study.study(folder, methods=options.methods, **_common(options, typed))
    command.show(folder, "figure.png")


def _tune(options: argparse.Namespace, typed: str) -> None:
    from studies.methods import tuning

    folder = options.output or Path(f"tuning-{options.simulation}")
    some = {"count": options.candidates, "methods": options.methods}
    tuning.study(folder, **some, **_common(options, typed))
    command.show(folder, "tuned.json")


def _common(options: argparse.Namespace, typed: str) -> dict[str, Any]:
    from studies.methods import task

    fast = task.fast(options.simulation)
    return {
        "simulation": options.simulation,
        "seeds": command.seeds(options),
        "settings": command.settings(options, task.Settings(), lambda: fast),
        "data": options.data,
        "first_seed": options.first_seed,
        "restart": options.restart,
        "command": typed,
    }


def _summary(options: argparse.Namespace, typed: str) -> None:
    from studies.methods.summary import summary

    text = summary(options.folders)
    if options.output is not None:
        write_file(options.output, text)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
