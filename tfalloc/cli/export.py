"""`tfalloc export`: a trained run to a SavedModel for serving."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tfalloc import _files
from tfalloc.cli import console, options
from tfalloc.cli.console import start_tensorflow
from tfalloc.training.run import Run


def export(
    directory: options.RunDirectory,
    output: Annotated[
        Path, typer.Argument(metavar="SAVEDMODEL", show_default=False, help="Directory to leave.")
    ],
    population: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            show_default=False,
            help="Users like those to be served (CSV or Parquet), to set prices by budget.",
        ),
    ],
    calibration: Annotated[
        str,
        typer.Option(
            metavar="predicted|trial",
            help="Spend as predicted, or as the trial in --population shows it.",
        ),
    ] = "predicted",
    budget: Annotated[
        str | None, typer.Option(metavar="LOW:HIGH", help="Where the price table is finest.")
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Export a run for TensorFlow Serving: predictions, and treatments within a budget."""
    _files.check_free(output, overwrite=overwrite)
    run = Run.read(directory)
    options.check_data(population)
    if calibration not in ("predicted", "trial"):
        raise ValueError(f"--calibration {calibration}: expected predicted or trial.")
    budgets = None if budget is None else options.parse_budget(budget)
    if isinstance(budgets, float):
        budgets = (budgets, budgets)
    console.note("starting TensorFlow …")
    start_tensorflow()
    from tfalloc import export as exporter

    model = run.model()
    console.note(f"reading {population} …")
    rows = _population(population, run, calibration)
    console.note("fitting prices, writing and verifying …")
    exporter.save(
        model,
        output,
        population=rows,
        budgets=budgets,
        calibration=calibration,
        treatment_names=run.config.data.treatments,
        na=run.columns.na or (),
        overwrite=overwrite,
    )
    describe(output)


def _population(path: str, run: Run, calibration: str) -> Any:
    """A trial if prices are set by its outcomes; else features are all that is asked for."""
    return run.columns.read(path) if calibration == "trial" else path


def describe(output: Path) -> None:
    """Prints the signatures of an export, its budgets, and how to ask it."""
    import json

    from tfalloc.export import read_policy

    policy = read_policy(output)
    inputs = ", ".join(feature.input for feature in policy.features)
    out = console.out()
    out.print(
        console.table(
            f"Signatures of {output}; all inputs and outputs are [batch]",
            ["signature", "inputs", "outputs"],
            [
                ["serving_default (= serve)", "features", "response, cost [batch, K]"],
                ["allocate", "features, policy_alpha", "treatment, response, cost"],
                ["allocate_for_budget", "features, policy_budget", "… and alpha, clamped"],
            ],
            caption=f"features: {inputs}",
        )
    )
    low, high = policy.least_budget, policy.most_budget
    example = {
        feature.input: "text" if feature.kind == "string" else 0.0 for feature in policy.features
    }
    asked = {**example, "policy_budget": round((low + high) / 2, 6)}
    body = json.dumps({"signature_name": "allocate_for_budget", "instances": [asked]})
    lines = [
        f"treatments: {', '.join(policy.treatment_names)}",
        f"budgets from {low:.6g} to {high:.6g} per user (calibration: {policy.calibration})",
        "",
        "look at it:",
        f"  saved_model_cli show --dir {output} --all",
        "ask a TensorFlow Serving that serves it as `tfalloc`:",
        f"  curl -d '{body}' http://localhost:8501/v1/models/tfalloc:predict",
    ]
    out.print("\n".join(lines), markup=False, soft_wrap=True)
