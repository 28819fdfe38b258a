"""`tfalloc train`: one trial in, one directory with a model and all that is known of it out."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfalloc.cli import console, options, parse, run
from tfalloc.cli.staging import check_free, staged_directory
from tfalloc.cli.trial import Columns, check_budget, is_csv
from tfalloc.cli.versions import start_tensorflow, versions

if TYPE_CHECKING:
    from tfalloc.cli.fitting import Recipe
    from tfalloc.data import RCTData


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
    budget: options.Budget,
    output: Annotated[
        Path, typer.Option(metavar="DIR", show_default=False, help="Directory to leave.")
    ],
    features: options.Features = None,
    exclude: options.Exclude = None,
    treatments: options.Treatments = None,
    propensity: options.Propensity = None,
    weight: options.Weight = None,
    missing: options.Missing = "error",
    goal_weight: Annotated[
        float, typer.Option(help="Weight of the allocation's outcome in the loss; 0: two-stage.")
    ] = 1.0,
    gradient: Annotated[
        str, typer.Option(help="How the outcome is differentiated: a name in tfalloc.gradients.")
    ] = "finite-difference",
    backbone: Annotated[
        str, typer.Option(metavar="paper|small", help="Network: 512-256-128-64, or 16 units.")
    ] = "paper",
    response_head: Annotated[
        str | None,
        typer.Option(
            metavar="binary|nonnegative|real",
            help="Kind of response; binary is cross entropy. (default: by the data)",
        ),
    ] = None,
    cost_head: Annotated[
        str | None,
        typer.Option(
            metavar="binary|nonnegative|constant", help="Kind of cost. (default: by the data)"
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Rows a step. (default: 10,000, less on small data)")
    ] = None,
    epochs: Annotated[int, typer.Option(help="At most so many passes over the data.")] = 20,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 1e-3,
    validation_share: Annotated[
        float, typer.Option(help="Share of the training rows that decides when to stop.")
    ] = 0.2,
    test_share: Annotated[
        float, typer.Option(help="Share of the rows held out for the final evaluation.")
    ] = 0.2,
    patience: Annotated[
        int, typer.Option(help="Epochs without a better val_loss before stopping; 0: never.")
    ] = 5,
    compare_two_stage: Annotated[
        bool,
        typer.Option("--compare-two-stage", help="Also train goal weight 0, and compare."),
    ] = False,
    seed: options.Seed = 0,
    jit: options.Jit = True,
    overwrite: options.Overwrite = False,
) -> None:
    """Train a model on a randomised trial, and evaluate it on rows it has not seen."""
    check_free(output, overwrite=overwrite)
    is_csv(data)
    _check_share(test_share)
    columns = Columns(
        treatment=treatment,
        response=response,
        cost=_required(parse.parse_column_or_mapping("--cost", cost)),
        features=parse.parse_list(features),
        exclude=parse.parse_list(exclude),
        treatments=parse.parse_list(treatments),
        propensity=parse.parse_column_or_mapping("--propensity", propensity),
        weight=weight,
        missing=missing,
    )
    target = parse.parse_budget(budget)
    with staged_directory(output, overwrite=overwrite) as staging:
        console.note("starting TensorFlow …")
        start_tensorflow(seed if 0 <= seed < 2**31 else None)
        from tfalloc.cli.fitting import Recipe, make_gradient

        recipe = Recipe(
            budget=target,
            goal_weight=goal_weight,
            gradient=gradient,
            backbone=backbone,
            response_head=response_head,
            cost_head=cost_head,
            batch_size=batch_size,
            epochs=epochs,
            learning_rate=learning_rate,
            validation_share=validation_share,
            patience=patience,
            seed=seed,
            jit=jit,
        )
        recipe.check()
        make_gradient(gradient)
        console.note(f"reading {data} …")
        trial = columns.read(data)
        trial.summary(lambda text: console.out().print(text, markup=False, soft_wrap=True))
        points = parse.budget_points(target)
        check_budget(trial, min(points), max(points))
        settings: dict[str, Any] = {
            "command": "train",
            "data": {
                "path": os.path.abspath(data),
                "rows": len(trial),
                "feature_kinds": trial.feature_kinds,
                "treatments": trial.treatment_names,
            },
            "columns": run.record(columns.resolved(trial)),
            "options": {
                **dataclasses.asdict(recipe),
                "test_share": test_share,
                "compare_two_stage": compare_two_stage,
            },
            "versions": versions(),
        }
        _train_into(staging, trial, recipe, test_share, compare_two_stage, settings)
    console.out().print(f"\nmodel, metrics and plots are in {output}", markup=False, soft_wrap=True)


def _train_into(
    staging: Path,
    trial: RCTData,
    recipe: Recipe,
    test_share: float,
    compare_two_stage: bool,
    settings: dict[str, Any],
) -> None:
    """Everything after validation: fit, evaluate on held-out rows, write."""
    from tfalloc.cli import fitting, scoring
    from tfalloc.cli.plots import write_plots
    from tfalloc.evaluation import outcome_curve

    points = parse.budget_points(recipe.budget)
    rows, held_out = trial.split([1 - test_share, test_share], recipe.seed)
    models, histories = {}, {}
    models[scoring.MODEL], histories[scoring.MODEL] = fitting.fit(rows, recipe, scoring.MODEL)
    if compare_two_stage:
        baseline = dataclasses.replace(recipe, goal_weight=0.0)
        models[scoring.TWO_STAGE], histories[scoring.TWO_STAGE] = fitting.fit(
            rows, baseline, scoring.TWO_STAGE
        )
    predictions, outcomes = scoring.scored_rows(models, held_out)
    everyone = scoring.with_baselines(predictions, rows, len(held_out))
    table = scoring.outcomes_at(everyone, outcomes, points)
    title = f"Expected outcome on {len(held_out):,} held-out rows"
    console.out().print()
    console.out().print(scoring.outcome_table(table, title))

    best = fitting.best_epoch(histories[scoring.MODEL])
    metrics: dict[str, Any] = {
        "held_out_rows": len(held_out),
        "training_rows": len(rows),
        "epochs_run": len(histories[scoring.MODEL]),
        "best_epoch": int(best["epoch"]),
        "validation": {name: float(best[name]) for name in best.index if name != "epoch"},
        "outcomes": table.to_dict("records"),
    }
    if compare_two_stage:
        metrics["versus_two_stage"] = [
            {"budget": b, **scoring.paired_difference(everyone, outcomes, b, scoring.TWO_STAGE)}
            for b in points
        ]
        for entry in metrics["versus_two_stage"]:
            console.out().print(
                f"versus two-stage at {entry['budget']:g} per user: {entry['difference']:+.3g} "
                f"(95 % interval {entry['difference_low']:+.3g} … {entry['difference_high']:+.3g}, "
                f"p = {entry['p_value']:.2g}); {_verdict(entry)}",
                markup=False,
                soft_wrap=True,
            )
    curves = {name: outcome_curve(*predictions[name], outcomes) for name in models}
    untargeted = outcome_curve(*everyone[scoring.UNTARGETED], outcomes)
    folder = staging / run.PLOTS
    folder.mkdir()
    write_plots(
        folder,
        {**curves, scoring.UNTARGETED: untargeted},
        curves[scoring.MODEL],
        histories,
        budget=points[0],
        binary=trial.response_kind == "binary",
    )
    models[scoring.MODEL].save(staging / run.MODEL)
    curves[scoring.MODEL].to_csv(staging / run.CURVE, index=False)
    histories[scoring.MODEL].to_csv(staging / run.HISTORY, index=False)
    run.write_json(staging / run.CONFIG, settings)
    run.write_json(staging / run.METRICS, metrics)


def _verdict(entry: dict[str, float]) -> str:
    if entry["difference_low"] > 0:
        return "end-to-end is better"
    if entry["difference_high"] < 0:
        return "two-stage is better"
    return "these rows cannot tell them apart"


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"--test-share {share}: expected a share between 0 and 1.")


def _required(cost: str | dict[str, float] | None) -> str | dict[str, float]:
    if not cost:
        raise ValueError("--cost is empty; expected a column, or TREATMENT=NUMBER,….")
    return cost
