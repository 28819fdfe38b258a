"""`tfalloc train`: one trial in, one directory with a model and all that is known of it out."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfalloc._files import is_csv
from tfalloc.cli import console, options, parse, run
from tfalloc.cli.staging import check_free, resumable_directory
from tfalloc.cli.trial import Columns, check_budget
from tfalloc.cli.versions import start_tensorflow, versions

if TYPE_CHECKING:
    from tfalloc.cli.fitting import Recipe
    from tfalloc.data import RCTData
    from tfalloc.models import Checkpoint


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
    ] = 0.1,
    goal_scale: Annotated[
        str,
        typer.Option(
            metavar="normalized|paper",
            help="What a goal weight of 1 means: as strong as the prediction losses, or Eq. 11.",
        ),
    ] = "normalized",
    gradient: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="How the outcome is differentiated: finite-difference, nes, smoothed, integrated; "
            "several are summed.",
        ),
    ] = "finite-difference",
    warm_start: Annotated[
        bool,
        typer.Option(help="Train two-stage first, then through the allocation; keep the best."),
    ] = True,
    backbone: Annotated[
        str,
        typer.Option(
            metavar="encoded|small|paper",
            help="Network: 16 units on binned features beside a linear path, 16 units, or "
            "512-256-128-64.",
        ),
    ] = "encoded",
    response_head: Annotated[
        str | None,
        typer.Option(
            metavar="binary|nonnegative|hurdle|real",
            help="Kind of response; binary is cross entropy. (default: by the data)",
        ),
    ] = None,
    cost_head: Annotated[
        str | None,
        typer.Option(
            metavar="binary|nonnegative|hurdle|constant|on_response",
            help="Kind of cost. (default: by the data)",
        ),
    ] = None,
    heads: Annotated[
        str,
        typer.Option(
            metavar="independent|marginal|spline",
            help="One output for each arm, steps from arm to arm in the order of cost, or curves "
            "over many arms in the order of their dose.",
        ),
    ] = "independent",
    monotone: Annotated[
        bool, typer.Option("--monotone", help="Response and cost increase in the arms' order.")
    ] = False,
    cost_amounts: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,…",
            help="Cost per response of each arm, in their order, for --cost-head on_response.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Rows a step. (default: 10,000, less on small data)")
    ] = None,
    epochs: Annotated[
        int, typer.Option(help="At most so many passes over the data; warm start: in each phase.")
    ] = 20,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="Decoupled, of Adam; 0: none.")] = 0.0,
    validation_share: Annotated[
        float, typer.Option(help="Share of the training rows that decides when to stop.")
    ] = 0.2,
    test_share: Annotated[
        float, typer.Option(help="Share of the rows held out for the final evaluation.")
    ] = 0.2,
    patience: Annotated[
        int, typer.Option(help="Epochs without a better val_goal before stopping; 0: never.")
    ] = 5,
    compare_two_stage: Annotated[
        bool,
        typer.Option("--compare-two-stage", help="Also train goal weight 0, and compare."),
    ] = False,
    seed: options.Seed = 0,
    jit: options.Jit = True,
    overwrite: options.Overwrite = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Start afresh instead of where a killed run stopped."),
    ] = False,
    checkpoint_seconds: Annotated[
        float, typer.Option(help="Least time between two checkpoints; at most 1 % goes into them.")
    ] = 10.0,
) -> None:
    """Train a model on a randomised trial, and evaluate it on rows it has not seen.

    A run that was killed goes on where it stopped when the same command is given again: until it is
    done, its checkpoints are in DIR.partial.
    """
    if not (math.isfinite(checkpoint_seconds) and checkpoint_seconds >= 0):
        raise ValueError(f"--checkpoint-seconds {checkpoint_seconds}: expected a number from 0.")
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
    with resumable_directory(output, overwrite=overwrite, restart=restart) as (staging, kept):
        console.note("starting TensorFlow …")
        start_tensorflow(seed if 0 <= seed < 2**31 else None)
        from tfalloc.cli import scoring
        from tfalloc.cli.fitting import Recipe, make_gradients
        from tfalloc.models import Checkpoint

        recipe = Recipe(
            budget=target,
            goal_weight=goal_weight,
            goal_scale=goal_scale,
            gradient=gradient,
            warm_start=warm_start,
            backbone=backbone,
            response_head=response_head,
            cost_head=cost_head,
            heads=heads,
            monotone=monotone,
            cost_amounts=parse.parse_numbers("--cost-amounts", cost_amounts),
            batch_size=batch_size,
            epochs=epochs,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            validation_share=validation_share,
            patience=patience,
            seed=seed,
            jit=jit,
        )
        recipe.check()
        make_gradients(gradient)
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
        checkpoints = {
            name: Checkpoint(kept / name.replace(" ", "-"), checkpoint_seconds)
            for name in (scoring.MODEL, scoring.TWO_STAGE)
        }
        _train_into(staging, trial, recipe, test_share, compare_two_stage, settings, checkpoints)
    console.out().print(f"\nmodel, metrics and plots are in {output}", markup=False, soft_wrap=True)


def _train_into(
    staging: Path,
    trial: RCTData,
    recipe: Recipe,
    test_share: float,
    compare_two_stage: bool,
    settings: dict[str, Any],
    checkpoints: dict[str, Checkpoint],
) -> None:
    """Everything after validation: fit, evaluate on held-out rows, write."""
    from tfalloc.cli import fitting, scoring
    from tfalloc.cli.plots import write_plots
    from tfalloc.evaluation import outcome_curve

    points = parse.budget_points(recipe.budget)
    rows, held_out = trial.split([1 - test_share, test_share], recipe.seed)
    models, histories = {}, {}
    recipes = {scoring.MODEL: recipe}
    if compare_two_stage:
        recipes[scoring.TWO_STAGE] = recipe.two_stage()
    for name, each in recipes.items():
        models[name], histories[name] = fitting.fit(rows, each, name, checkpoints[name])
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
    if entry["difference_low"] == entry["difference_high"] == 0:
        return "the same policy: nothing beat two-stage on validation rows beyond noise"
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
