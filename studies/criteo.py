"""`python -m studies.criteo`: the package's own methods in the table of `tfalloc reproduce criteo`.

Ours are the network alone and three ends of the recipe (`studies.methods.ours`), with the
hyper-parameters that were chosen on `criteo_like`. They are monotone, that is told that the
treatment cannot hurt, which the others are not; "imitated, two-stage" is the control of the last
two, with the same start and another objective.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studies import command


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m studies.criteo", description=__doc__)
    command.add_sizes(parser, 20)
    parser.set_defaults(work=_run)
    return command.run(parser, arguments)


def _run(options: argparse.Namespace, typed: str) -> None:
    from tfalloc.reproduce import criteo

    folder = options.output or Path("criteo")
    criteo.study(
        folder,
        seeds=command.seeds(options),
        settings=command.settings(options, criteo.Settings(), lambda: criteo.FAST),
        data=options.data,
        methods=options.methods,
        more=ours(),
        restart=options.restart,
        command=typed,
    )
    command.show(folder, "figure.png")


def ours() -> dict[str, Any]:
    """{name: `criteo.Method`} of the package's own methods; those of a seed share what they use."""
    import keras

    from studies.methods.ours import LAST_STEPS
    from studies.methods.settings import OUR_NETWORK, TUNED
    from studies.methods.study import METHODS, arguments_of
    from studies.methods.task import Settings, Task
    from tfalloc.reproduce import criteo

    tuned = TUNED["criteo_like"]

    @functools.lru_cache(1)
    def task(settings: criteo.Settings, seed: int, trial: Any) -> Task:
        keras.utils.clear_session()  # graphs of the models of seeds that are gone
        sizes = Settings(epochs=settings.small_epochs, jit=settings.jit)
        return Task("criteo_like", trial, criteo.BUDGETS, None, sizes, tuned)

    def method(name: str) -> criteo.Method:
        def fit(settings: criteo.Settings, trial: Any, seed: int) -> tuple[Any, float]:
            own = task(settings, seed, trial)
            own.shared.begin()
            model = METHODS[name](own, seed)
            return model, own.shared.seconds()

        return criteo.Method(fit, "ours", arguments_of(tuned, name))

    return {name: method(name) for name in (OUR_NETWORK, *LAST_STEPS)}


if __name__ == "__main__":
    sys.exit(main())
