"""`tfalloc demo`: the whole way from a trial to served allocations, where the truth is known."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfalloc import _files
from tfalloc.cli import console, options
from tfalloc.cli.console import start_tensorflow
from tfalloc.training import run as run_files
from tfalloc.training.recipe import Recipe
from tfalloc.training.run import SAME_MIX, THIS_MODEL, TWO_STAGE

if TYPE_CHECKING:
    import pandas as pd

    from tfalloc.scale import Plan

LEAST_ROWS = 5_000
BUDGETS = (0.039, 0.047)
"""Range of the paper's budgets on Criteo: treating nobody costs .038, treating all .049."""

# The same network for both models, told that an advertisement cannot hurt. On seeds other than the
# demo's default, weights from 1 up made the policy worse (the signal of 200,000 rows is weak).
RECIPE = Recipe(budget=BUDGETS, goal_weight=0.1, monotone=True, patience=5)

ORACLE = "oracle (knows the truth)"
NAMES = {THIS_MODEL: "end-to-end", TWO_STAGE: "two-stage"}


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
    _files.check_free(output, overwrite=overwrite)
    with _files.new_directory(output, overwrite=overwrite) as staging:
        console.note("starting TensorFlow …")
        start_tensorflow(seed)
        facts: dict[str, Any] = {"versions": _files.versions(), "rows": rows, "seed": seed}
        facts.update(run_demo(staging, rows=rows, epochs=epochs, seed=seed, jit=jit))
        _files.write_json(staging / run_files.CONFIG, facts)
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


def run_demo(folder: Path, *, rows: int, epochs: int, seed: int, jit: bool) -> dict[str, Any]:
    """Runs everything and fills the folder.

    Args:
      folder: existing and empty.
      rows: of the trial; as many fresh users are simulated to judge by.
      epochs: at most.
      seed: of the simulation and of the models.
      jit: whether XLA compiles the training step.

    Returns:
      Settings and results.
    """
    import numpy as np

    from tfalloc import datasets
    from tfalloc.cli.progress import watcher
    from tfalloc.evaluation import oracle_curve, outcome_curve, predict_trial, true_curve
    from tfalloc.training import held_out
    from tfalloc.training.pipeline import watched_fit
    from tfalloc.training.plots import write_plots

    started = time.monotonic()
    budget = sum(BUDGETS) / 2
    console.note(f"simulating {rows:,} rows to learn from and {rows:,} to judge by …")
    trial = datasets.criteo_like(rows, seed=seed).data
    # Another seed: other users of the same population, whom neither model has seen.
    fresh = datasets.criteo_like(rows, seed=seed + 1_000_003)
    trial.summary(lambda text: console.out().print(text, markup=False, soft_wrap=True))

    recipe = dataclasses.replace(RECIPE, epochs=epochs, seed=seed, jit=jit)
    models, histories = {}, {}
    with watcher() as watching:
        for key, each in ((TWO_STAGE, recipe.two_stage()), (THIS_MODEL, recipe)):
            models[key], histories[NAMES[key]] = watched_fit(trial, each, NAMES[key], watching)
    model = models[THIS_MODEL]
    model.save(folder / run_files.MODEL)
    predictions, outcomes = predict_trial(models, fresh.data)
    everyone = held_out.with_baselines(predictions, run_files.Mix.of(trial), rows)
    table = held_out.outcomes_at(everyone, outcomes, [budget])
    truths = {
        name: true_curve(*pair, fresh.true_response, fresh.true_cost, budget).iloc[0]
        for name, pair in everyone.items()
    }
    truths[ORACLE] = oracle_curve(fresh.true_response, fresh.true_cost, budget).iloc[0]
    table["true_response"] = [truths[name].response for name in table.model]
    console.out().print()
    console.out().print(_table(table, truths[ORACLE], budget, rows))
    paired = held_out.gain_over(everyone, outcomes, budget, TWO_STAGE)
    true_gain = float(truths[THIS_MODEL].response - truths[TWO_STAGE].response)
    _say_what_holds(paired, true_gain, truths)

    curves = {NAMES[name]: outcome_curve(*pair, outcomes) for name, pair in predictions.items()}
    mean_cost = fresh.true_cost.mean(axis=0)
    budgets = np.linspace(mean_cost.min(), mean_cost.max(), 40)
    true_curves = {
        NAMES[name]: true_curve(*pair, fresh.true_response, fresh.true_cost, budgets)
        for name, pair in predictions.items()
    }
    true_curves["oracle"] = oracle_curve(fresh.true_response, fresh.true_cost, budgets)
    write_plots(
        folder / run_files.PLOTS,
        curves,
        histories,
        mix_of=NAMES[THIS_MODEL],
        budget=budget,
        binary=True,
        truth=true_curves,
        warn=console.warn,
    )
    served = _serve(folder, model, trial, fresh, budget)
    console.note(f"done in {time.monotonic() - started:.0f} s")
    return {
        "recipe": dataclasses.asdict(recipe),
        "outcomes": table.to_dict("records"),
        "true_response": {name: float(row.response) for name, row in truths.items()},
        "end_to_end_minus_two_stage": {**paired, "truth": true_gain},
        "served": served,
    }


def _table(table: pd.DataFrame, oracle: Any, budget: float, rows: int) -> Any:
    shown = [
        [
            NAMES.get(row.model, row.model),
            console.number(row.response),
            console.interval(row.response_low, row.response_high),
            console.number(row.true_response),
        ]
        for row in table.itertuples()
    ]
    shown.append([ORACLE, "-", "-", console.number(oracle.response)])
    return console.table(
        f"Conversions per user at a cost of {budget:g} visits per user, {rows:,} fresh users",
        ["policy", "estimate", "95 % interval", "truth"],
        shown,
        caption="Estimates use the fresh users' trial outcomes only; the truth is the "
        "simulation's, at equal true cost (the cheapest arm costs less).",
    )


def _say_what_holds(paired: dict[str, float], true_gain: float, truths: dict[str, Any]) -> None:
    """Sentences that are true whichever model wins."""
    low, high = paired["difference_low"], paired["difference_high"]
    clear = "clear of 0" if low > 0 or high < 0 else "not clear of 0"
    estimate = f"{paired['difference']:+.3g} ({low:+.3g} … {high:+.3g}), {clear}"
    if paired["difference"] != paired["difference"]:
        estimate = "not known, for these rows show no way to keep one of them within the budget"
    base = truths[SAME_MIX].response
    reach = truths[ORACLE].response - base
    shares = {
        NAMES[name]: (truths[name].response - base) / reach for name in (TWO_STAGE, THIS_MODEL)
    }
    if true_gain == 0 and low == high == 0:
        verdict = (
            "end-to-end is the two-stage model: no epoch through the allocation beat it on "
            "validation rows by more than a standard error, so its weights were kept."
        )
    else:
        better = "end-to-end" if true_gain > 0 else "two-stage"
        verdict = (
            f"end-to-end minus two-stage, paired by user: {estimate}; in truth {true_gain:+.3g}: "
            f"{better} is better on this seed."
        )
    lines = [
        verdict,
        "of what perfect targeting would add to the same mix for everyone, "
        + " and ".join(f"{name} gets {share:.0%}" for name, share in shares.items())
        + ".",
    ]
    console.out().print("\n".join(lines), markup=False, soft_wrap=True)


def _allocate(
    model: Any, target: Path, calibration: str, trial: Any, users: Path, budget: float
) -> Plan:
    from tfalloc import export, scale

    export.save(
        model, target, population=trial, budgets=BUDGETS, calibration=calibration, overwrite=True
    )
    return scale.allocate(target, str(users), budget=budget)


def _serve(folder: Path, model: Any, trial: Any, fresh: Any, budget: float) -> dict[str, float]:
    """Exports, reloads, allocates the fresh users, and compares spend with the budget."""
    import numpy as np
    import pandas as pd

    console.note("exporting a SavedModel, reloading it, allocating the fresh users …")
    target = folder / "savedmodel"
    users = folder / "users.parquet"
    try:
        pd.DataFrame(fresh.data.features).to_parquet(users, index=False)
        try:
            # Training through the allocation cares about decisions, not about the level of
            # predicted costs: the trial says what a price really costs.
            plan = _allocate(model, target, "trial", trial, users, budget)
        except ValueError as error:
            # A small trial may not show any price at which the budget is kept.
            console.note(f"by the trial's costs: {error}; going by predicted costs instead")
            # Nor need its predictions allow the budget: few of its rows are untreated.
            predicted = model.predict(fresh.data, verbose=0)["cost"]
            budget = max(budget, 1.01 * float(predicted.min(axis=1).mean()))
            plan = _allocate(model, target, "predicted", trial, users, budget)
    finally:
        users.unlink(missing_ok=True)
    plan.write(folder / "allocation.csv")
    given = plan.treatment[:, None]
    truth = {
        "response": float(np.take_along_axis(fresh.true_response, given, axis=1).mean()),
        "cost": float(np.take_along_axis(fresh.true_cost, given, axis=1).mean()),
    }
    share = float((plan.treatment == 1).mean())
    console.out().print(
        f"the reloaded SavedModel treats {share:.1%} of the fresh users at alpha = "
        f"{plan.alpha:.4g}: predicted spend {plan.cost:.5f} per user for a budget of {budget:g} "
        f"({plan.cost / budget - 1:+.1%}), true spend {truth['cost']:.5f} "
        f"({truth['cost'] / budget - 1:+.1%}), true response {truth['response']:.5f}.",
        markup=False,
        soft_wrap=True,
    )
    return {
        "budget": budget,
        "predicted_cost": plan.cost,
        "predicted_response": plan.value,
        "true_cost": truth["cost"],
        "true_response": truth["response"],
        "alpha": plan.alpha,
        "share_treated": share,
    }
