"""`tfalloc export`: a trained run to a SavedModel for serving."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tfalloc._files import is_csv
from tfalloc.cli import console, options, parse, run
from tfalloc.cli.staging import check_free
from tfalloc.cli.versions import start_tensorflow


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
    check_free(output, overwrite=overwrite)
    config = run.read_config(directory)
    is_csv(population)
    if calibration not in ("predicted", "trial"):
        raise ValueError(f"--calibration {calibration}: expected predicted or trial.")
    budgets = None if budget is None else parse.parse_budget(budget)
    if isinstance(budgets, float):
        budgets = (budgets, budgets)
    console.note("starting TensorFlow …")
    start_tensorflow()
    from tfalloc import export as exporter

    model = run.load_model(directory)
    console.note(f"reading {population} …")
    rows = _population(population, config, calibration)
    console.note("fitting prices, writing and verifying …")
    exporter.save(
        model,
        output,
        population=rows,
        budgets=budgets,
        calibration=calibration,
        treatment_names=config["data"]["treatments"],
        overwrite=overwrite,
    )
    describe(output)


def _population(path: str, config: dict[str, Any], calibration: str) -> Any:
    """A trial if prices are set by its outcomes; else features are all that is asked for."""
    if calibration == "trial":
        return run.columns_of(config).read(path)
    import numpy as np

    from tfalloc.cli.users import Users

    users = Users(path, config["data"]["feature_kinds"], config["columns"]["missing"])
    parts = [columns for _, columns in users.chunks()]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def describe(output: Path) -> None:
    """Prints the signatures of an export, its budgets, and how to ask it."""
    import json

    from tfalloc.cli.allocations import read_policy

    policy = read_policy(output)
    inputs = ", ".join(feature["input"] for feature in policy["features"])
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
    low, high = policy["least_budget"], policy["most_budget"]
    example = {
        feature["input"]: "text" if feature["kind"] == "string" else 0.0
        for feature in policy["features"]
    }
    asked = {**example, "policy_budget": round((low + high) / 2, 6)}
    body = json.dumps({"signature_name": "allocate_for_budget", "instances": [asked]})
    lines = [
        f"treatments: {', '.join(policy['treatment_names'])}",
        f"budgets from {low:.6g} to {high:.6g} per user (calibration: {policy['calibration']})",
        "",
        "look at it:",
        f"  saved_model_cli show --dir {output} --all",
        "ask a TensorFlow Serving that serves it as `tfalloc`:",
        f"  curl -d '{body}' http://localhost:8501/v1/models/tfalloc:predict",
    ]
    out.print("\n".join(lines), markup=False, soft_wrap=True)
