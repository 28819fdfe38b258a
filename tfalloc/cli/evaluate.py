"""`tfalloc evaluate`: what a trained model achieves on the rows of a trial."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfalloc import _files
from tfalloc._version import __version__
from tfalloc.cli import console, options
from tfalloc.cli.console import start_tensorflow
from tfalloc.training.recipe import budget_points
from tfalloc.training.run import Config, Run

if TYPE_CHECKING:
    from tfalloc.data import RCTData


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
    positive: options.Positive = None,
    cluster: options.Cluster = None,
    na: options.Na = None,
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
        _files.check_free(output, overwrite=overwrite, directory=False)
        _files.require_writable(output)
    run = Run.read(directory)
    options.check_data(data)
    given = {
        "treatment": treatment,
        "response": response,
        "cost": options.parse_column_or_mapping("--cost", cost),
        "propensity": options.parse_column_or_mapping("--propensity", propensity),
        "weight": weight,
        "positive": positive,
        "cluster": cluster,
        "na": options.parse_list(na),
    }
    changes: Any = {name: value for name, value in given.items() if value is not None}
    columns = dataclasses.replace(run.columns, **changes)
    budgets = _budgets(budget, run.config)
    console.note("starting TensorFlow …")
    start_tensorflow()
    from tfalloc import training

    model = run.model()
    console.note(f"reading {data} …")
    trial = columns.read(data)
    if trial.num_treatments != model.num_treatments:
        raise ValueError(
            f"{data} has treatments {trial.treatment_names}, but the model was trained on "
            f"{run.config.data.treatments}; expected the same."
        )
    same_file = _is_same(trial, data, run.config, columns == run.columns)
    if held_out:
        trial = _held_out(trial, run.config, same_file, data)
    elif same_file:
        console.warn(
            "these rows include those that the model was trained on, so this is optimistic; "
            "--held-out takes the share that training did not see."
        )
    mix = run.config.mix
    if mix is None:
        console.warn(
            f"{directory} is of an earlier version that kept no mix of its training rows: that of "
            "these rows takes its place, which makes it look better than it is."
        )
        mix = training.Mix.of(trial)
    table = training.evaluate(model, trial, budgets, mix)
    console.out().print(
        console.outcome_table(table, f"Expected outcome on {len(trial):,} rows of {data}")
    )
    if output is None:
        return
    numbers = {
        "model": os.path.abspath(directory),
        "data": {"path": os.path.abspath(data), "rows": len(trial)},
        "held_out": held_out,
        "versions": _files.versions(),
        "outcomes": table.to_dict("records"),
    }
    with _files.new_file(output, overwrite=overwrite) as file:
        _files.write_json(file, numbers)
    console.out().print(f"numbers are in {output}", markup=False, soft_wrap=True)


def _budgets(text: str | None, config: Config) -> list[float]:
    if text is None:
        return config.options.budget_points
    return [b for part in text.split(",") for b in budget_points(options.parse_budget(part))]


def _is_same(trial: RCTData, path: str, config: Config, same_columns: bool) -> bool:
    """Whether these are the rows of the training: by their content, where that can be compared."""
    known = config.data
    if known.fingerprint and same_columns and config.versions.get("tfalloc") == __version__:
        return trial.fingerprint() == known.fingerprint
    return os.path.abspath(path) == known.path and len(trial) == known.rows


def _held_out(trial: RCTData, config: Config, same_file: bool, path: str) -> RCTData:
    """The rows that training did not see: a row's part is a hash of the seed and its number."""
    if not same_file:
        raise ValueError(
            f"--held-out: {path} is not the file that the model was trained on "
            f"({config.data.path}, {config.data.rows:,} rows), or has changed since."
        )
    share = config.options.test_share
    return trial.split([1 - share, share], config.options.seed)[1]
