"""`tfalloc evaluate`: what a trained model achieves on the rows of a trial."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from tfalloc._files import is_csv
from tfalloc.cli import console, options, parse, run
from tfalloc.cli.staging import check_free, staged_file
from tfalloc.cli.trial import Columns
from tfalloc.cli.versions import start_tensorflow, versions


def evaluate(
    directory: options.RunDirectory,
    data: options.Data,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="B[,B…]|LOW:HIGH",
            help="Costs per user, or a range of it. (default: as in training)",
        ),
    ] = None,
    treatment: Annotated[str | None, typer.Option(metavar="COL", help="As in `train`.")] = None,
    response: Annotated[str | None, typer.Option(metavar="COL", help="As in `train`.")] = None,
    cost: Annotated[str | None, typer.Option(metavar="COL|MAPPING", help="As in `train`.")] = None,
    propensity: options.Propensity = None,
    weight: options.Weight = None,
    held_out: Annotated[
        bool,
        typer.Option("--held-out", help="Only the share that `train` held out of this same file."),
    ] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Also write the numbers here.")
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Evaluate a trained model on a trial; columns default to those of the training."""
    if output is not None:
        check_free(output, overwrite=overwrite, directory=False)
    config = run.read_config(directory)
    is_csv(data)
    columns = _columns(run.columns_of(config), treatment, response, cost, propensity, weight)
    budgets = _budgets(budget, config)
    console.note("starting TensorFlow …")
    start_tensorflow()
    from tfalloc.cli import scoring

    model = run.load_model(directory)
    console.note(f"reading {data} …")
    trial = columns.read(data)
    if trial.num_treatments != model.num_treatments:
        raise ValueError(
            f"{data} has treatments {trial.treatment_names}, but the model was trained on "
            f"{config['data']['treatments']}; expected the same."
        )
    same_file = os.path.abspath(data) == config["data"]["path"]
    same_file = same_file and len(trial) == config["data"]["rows"]
    if held_out:
        trial = _held_out(trial, config, same_file, data)
    elif same_file:
        console.warn(
            "these rows include those that the model was trained on, so this is optimistic; "
            "--held-out takes the share that training did not see."
        )
    predictions, outcomes = scoring.scored_rows({scoring.MODEL: model}, trial)
    everyone = scoring.with_baselines(predictions, trial, len(trial))
    table = scoring.outcomes_at(everyone, outcomes, budgets)
    console.out().print(
        scoring.outcome_table(table, f"Expected outcome on {len(trial):,} rows of {data}")
    )
    if output is not None:
        with staged_file(output, overwrite=overwrite) as staging:
            run.write_json(
                staging,
                {
                    "model": os.path.abspath(directory),
                    "data": {"path": os.path.abspath(data), "rows": len(trial)},
                    "held_out": held_out,
                    "versions": versions(),
                    "outcomes": table.to_dict("records"),
                },
            )
        console.out().print(f"numbers are in {output}", markup=False, soft_wrap=True)


def _columns(
    columns: Columns,
    treatment: str | None,
    response: str | None,
    cost: str | None,
    propensity: str | None,
    weight: str | None,
) -> Columns:
    given = {
        "treatment": treatment,
        "response": response,
        "cost": parse.parse_column_or_mapping("--cost", cost),
        "propensity": parse.parse_column_or_mapping("--propensity", propensity),
        "weight": weight,
    }
    changes: Any = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(columns, **changes)


def _budgets(text: str | None, config: dict[str, Any]) -> list[float]:
    if text is None:
        trained = config["options"]["budget"]
        return parse.budget_points(tuple(trained) if isinstance(trained, list) else trained)
    return [b for part in text.split(",") for b in parse.budget_points(parse.parse_budget(part))]


def _held_out(trial: Any, config: dict[str, Any], same_file: bool, path: str) -> Any:
    """The rows that training did not see: a row's part is a hash of the seed and its number."""
    if not same_file:
        raise ValueError(
            f"--held-out: {path} is not the file that the model was trained on "
            f"({config['data']['path']}, {config['data']['rows']:,} rows)."
        )
    share, seed = config["options"]["test_share"], config["options"]["seed"]
    if not math.isfinite(share):
        raise ValueError("--held-out: the run held nothing out.")
    return trial.split([1 - share, share], seed)[1]
