"""`tfalloc demo`: the whole way from a trial to served allocations, where the truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tfalloc.cli import console, options, run
from tfalloc.cli.staging import check_free, staged_directory
from tfalloc.cli.versions import start_tensorflow, versions

LEAST_ROWS = 5_000


def demo(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Directory to leave.")] = Path(
        "demo-output"
    ),
    rows: Annotated[int, typer.Option(help="Rows of the simulated trial.")] = 200_000,
    epochs: Annotated[int, typer.Option(help="At most so many passes over them.")] = 25,
    seed: options.Seed = 0,
    jit: options.Jit = True,
    overwrite: options.Overwrite = False,
) -> None:
    """Two-stage against end-to-end on a simulated trial, beside the truth; then export and serve.

    The simulation has the shape of the Criteo uplift trial: giving the ad costs visits, and
    returns conversions.
    """
    if rows < LEAST_ROWS:
        raise ValueError(f"--rows {rows}: expected at least {LEAST_ROWS:,}.")
    if epochs < 1:
        raise ValueError(f"--epochs {epochs}: expected at least 1.")
    if not 0 <= seed < 2**31:
        raise ValueError(f"--seed {seed}: expected an integer from 0 to 2^31 - 1.")
    check_free(output, overwrite=overwrite)
    with staged_directory(output, overwrite=overwrite) as staging:
        console.note("starting TensorFlow …")
        start_tensorflow(seed)
        from tfalloc.cli import simulated

        facts: dict[str, Any] = {"versions": versions(), "rows": rows, "seed": seed}
        facts.update(simulated.run_demo(staging, rows=rows, epochs=epochs, seed=seed, jit=jit))
        run.write_json(staging / run.CONFIG, facts)
    _print_paths(output)


def _print_paths(output: Path) -> None:
    shown = {
        "plots/outcome_curve.png": "both models, with bands, and the truth",
        "plots/treatment_mix.png": "who gets the treatment as the budget grows",
        "plots/training.png": "losses and goals by epoch",
        "allocation.csv": "the treatment of each held-out user, by the reloaded SavedModel",
        "savedmodel": "for TensorFlow Serving",
        "model.keras": "the end-to-end model",
        "config.json": "settings and every number above",
    }
    lines = [f"  {output / name}".ljust(46) + f" {what}" for name, what in shown.items()]
    console.out().print("\n".join(["\nlook at:", *lines]), markup=False, soft_wrap=True)
