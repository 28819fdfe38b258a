"""`tfalloc train`: one trial in, one directory with a model and all that is known of it out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfalloc import _files
from tfalloc.cli import console, options
from tfalloc.cli.console import start_tensorflow
from tfalloc.training.columns import Columns
from tfalloc.training.recipe import Recipe

if TYPE_CHECKING:
    from tfalloc.training import TrainedRun


@options.recipe_options
def train(
    data: options.Data,
    treatment: Annotated[
        str, typer.Option(metavar="COL", show_default=False, help="Column of the arm received.")
    ],
    response: Annotated[
        str, typer.Option(metavar="COL", show_default=False, help="Column of the reward.")
    ],
    cost: Annotated[
        str,
        typer.Option(
            metavar="COL|MAPPING",
            show_default=False,
            help="Cost per user: a column, or assumed costs 'No E-Mail=0,Mens E-Mail=0.1'.",
        ),
    ],
    output: Annotated[
        Path, typer.Option(metavar="DIR", show_default=False, help="Directory to leave.")
    ],
    recipe: Recipe,
    features: options.Features = None,
    exclude: options.Exclude = None,
    treatments: options.Treatments = None,
    propensity: options.Propensity = None,
    weight: options.Weight = None,
    missing: options.Missing = "error",
    positive: options.Positive = None,
    cluster: options.Cluster = None,
    na: options.Na = None,
    overwrite: options.Overwrite = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Start afresh instead of where a killed run stopped."),
    ] = False,
) -> None:
    """Train a model on a randomised trial, and evaluate it on rows it has not seen.

    A run that was killed goes on where it stopped when the same command is given again: until it is
    done, its state is in DIR.partial.
    """
    _files.check_free(output, overwrite=overwrite)
    _files.require_writable(output)
    options.check_data(data)
    columns = Columns(
        treatment=treatment,
        response=response,
        cost=_required(options.parse_column_or_mapping("--cost", cost)),
        features=options.parse_list(features),
        exclude=options.parse_list(exclude),
        treatments=options.parse_list(treatments),
        propensity=options.parse_column_or_mapping("--propensity", propensity),
        weight=weight,
        missing=missing,
        positive=positive,
        cluster=cluster,
        na=options.parse_list(na),
    )
    console.note("starting TensorFlow …")
    start_tensorflow(recipe.seed)
    from tfalloc.cli.progress import watcher
    from tfalloc.training import train as train_run
    from tfalloc.training.fitting import make_gradients

    make_gradients(recipe.gradient)
    console.note(f"reading {data} …")
    trial = columns.read(data)
    trial.summary(lambda text: console.out().print(text, markup=False, soft_wrap=True))
    with watcher() as watching:
        trained = train_run(
            trial,
            recipe,
            output,
            columns=columns,
            path=data,
            overwrite=overwrite,
            restart=restart,
            watcher=watching,
        )
    _print(trained)
    console.out().print(f"\nmodel, metrics and plots are in {output}", markup=False, soft_wrap=True)


def _required(cost: str | dict[str, float] | None) -> str | dict[str, float]:
    if not cost:
        raise ValueError("--cost is empty; expected a column, or TREATMENT=NUMBER,….")
    return cost


def _print(trained: TrainedRun) -> None:
    if trained.outcomes.empty:
        return
    title = f"Expected outcome on {trained.held_out_rows:,} held-out rows"
    console.out().print()
    console.out().print(console.outcome_table(trained.outcomes, title))
    for entry in trained.versus_two_stage:
        console.out().print(
            f"versus two-stage at {entry['budget']:g} per user: {entry['difference']:+.3g} "
            f"(95 % interval {entry['difference_low']:+.3g} … {entry['difference_high']:+.3g}, "
            f"p = {entry['p_value']:.2g}); {_verdict(entry)}",
            markup=False,
            soft_wrap=True,
        )


def _verdict(entry: dict[str, float]) -> str:
    if entry["difference_low"] == entry["difference_high"] == 0:
        return "the same policy: nothing beat two-stage on validation rows beyond noise"
    if entry["difference_low"] > 0:
        return "end-to-end is better"
    if entry["difference_high"] < 0:
        return "two-stage is better"
    return "these rows cannot tell them apart"
