"""The Produce-Coin campaign of Yan et al. 2023 as a simulation: Fig. 3 and the online test.

30 arms, from 0 to 29 coins for a produced video, paid on response. The paper's trial is not public;
`datasets.produce_coin` has its shape, with truths of its own, so levels do not compare; the course
of the curve and the relative differences do.

Offline (Fig. 3): models trained with goal_weight 0, 1, 2, 5, ... 5000 in the scale of Eq. 11, the
same rows and initial weights within a seed, judged at a cost of 1.2 per user on fresh users:

    response    the true one, at a true cost of 1.2 (`evaluation.true_curve`); a policy whose
                cheapest assignment costs more is mixed with no coins for all
    estimate    from those users' own trial, as on real data (`evaluation.policy_outcome`); none
                for such a policy

Online: for each seed the two-stage model and the end-to-end one are exported as SavedModels, and
two disjoint groups of fresh users get what `allocate_for_budget` says at the same budget per user.
Responses are drawn, coins are paid; the difference is that of two random samples, as the paper's.
The end-to-end model's weight is the one whose *estimate* is best over the seeds: choosing by the
truth would be a privilege of simulations. The test is made twice, as the exported table of prices
may be fitted to (`calibration` of `export.save`)

    predicted   the model's own costs, whose level training through the allocation may shift
    trial       what each policy costs in a second trial of as many users: equal budgets in truth,
                but for that trial's error
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfalloc import datasets, export
from tfalloc.data import RCTData
from tfalloc.datasets import Simulation
from tfalloc.evaluation import oracle_curve, policy_outcome, true_curve
from tfalloc.reproduce import coin_report
from tfalloc.reproduce.figures import require_matplotlib
from tfalloc.reproduce.learner import Learner
from tfalloc.reproduce.runs import Runs
from tfalloc.reproduce.truth import at_equal_cost

BUDGET = 1.2
LEARNING_RATE = 3e-3
WEIGHTS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
# Coins are paid on response, and more coins never lower it: what the package has for that. The
# paper's heads are independent of each other, for costs too.
HEADS: dict[str, dict[str, Any]] = {
    "marginal": {"heads": "marginal", "monotone": True, "cost_head": "on_response"},
    "independent": {"heads": "independent"},
}
SWEEP, ONLINE = "offline", "online"
CALIBRATIONS = tuple(coin_report.CALIBRATIONS)
# Seeds of draws that nobody trains on; those of trials are 0, 1, 2, ...
REFERENCE, FRESH, GROUP = 900_000, 1_000_000, (2_000_000, 3_000_000)
SECOND = 4_000_000
SERVED = 50_000  # users a call of the SavedModel


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all runs of the study have in common.

    Attributes:
      rows: of a trial.
      epochs: of every training; nothing is stopped early.
      fresh: users who judge the models offline.
      users: in each group online.
      heads: "marginal", for arms in the order of their cost and costs paid on response, or
        "independent", as in the paper; see `HEADS`.
      backbone: of the network, as in `AllocationModel`.
      num_treatments: K.
      jit: whether XLA compiles the training step.
    """

    rows: int = 300_000
    epochs: int = 20
    fresh: int = 100_000
    users: int = 500_000
    heads: str = "marginal"
    backbone: str = "small"
    num_treatments: int = 30
    jit: bool = True


FAST = Settings(
    rows=8_000,
    epochs=2,
    fresh=4_000,
    users=3_000,
    num_treatments=4,
    jit=False,
)
FAST_WEIGHTS = (0, 10, 1000)


def study(
    output: str | os.PathLike[str],
    *,
    seeds: int = 4,
    settings: Settings | None = None,
    weights: Sequence[float] = WEIGHTS,
    restart: bool = False,
    command: str | None = None,
) -> Runs:
    """Runs what is missing of the study, and writes its table and figure.

    Args:
      output: directory for runs.json, table.md and figure.png.
      seeds: trials, each with its own users and initial weights; the paper has 4 runs a weight.
      settings: sizes; None: the defaults.
      weights: of the goal, in the scale of Eq. 11: 0, then those above it. Others that the runs
        kept have stay in the table.
      restart: whether to throw earlier runs away.
      command: kept beside the runs.

    Returns:
      The runs: parts "offline" (one for each goal_weight and seed) and "online" (one for each
      calibration and seed).

    Raises:
      ValueError: `seeds` is below 1, no weight is above 0 or the first is not 0, the settings are
        not those of the runs kept, no end-to-end policy keeps the budget on every seed, or
        matplotlib is not installed.
    """
    settings = settings or Settings()
    if seeds < 1:
        raise ValueError(f"seeds={seeds!r}: expected at least 1.")
    if len(weights) < 2 or weights[0] != 0 or not all(0 < w < math.inf for w in weights[1:]):
        raise ValueError(
            f"weights={list(weights)!r}: expected 0, which is two-stage, then others above 0."
        )
    if settings.heads not in HEADS:
        raise ValueError(f"heads={settings.heads!r} is not known; expected one of {list(HEADS)}.")
    require_matplotlib()
    folder = Path(output)
    kept = {**dataclasses.asdict(settings), "budget": BUDGET, "learning_rate": LEARNING_RATE}
    runs = Runs(folder / "runs.json", kept, command=command, restart=restart)
    campaign = Campaign(settings)
    offline = [
        {"part": SWEEP, "goal_weight": weight, "seed": seed}
        for seed in range(seeds)
        for weight in weights
    ]
    runs.complete(offline, campaign.run, "coin", prepare=campaign.prepare)
    weight = coin_report.chosen_weight(runs, seeds)
    online = [
        {"part": ONLINE, "calibration": calibration, "goal_weight": weight, "seed": seed}
        for seed in range(seeds)
        for calibration in CALIBRATIONS
    ]
    runs.complete(online, campaign.run, "coin")
    coin_report.write(folder, runs, seeds)
    return runs


class Campaign:
    """Does the runs, with one compiled model for all of them."""

    def __init__(self, settings: Settings):
        self.settings = settings
        # A sweep asks for the same trial and users again and again.
        self._trial = functools.lru_cache(1)(self._draw_trial)
        self._fresh = functools.lru_cache(1)(self._draw_fresh)
        self._limits = functools.lru_cache(None)(self._find_limits)

    @functools.cached_property
    def learner(self) -> Learner:
        """The model of all runs."""
        reference = self._draw(10_000, REFERENCE).data
        heads = dict(HEADS[self.settings.heads])
        if heads.get("cost_head") == "on_response":
            heads["cost_amounts"] = coins_of(reference)
        return Learner(
            reference,
            budget=BUDGET,
            learning_rate=LEARNING_RATE,
            **heads,
            backbone=self.settings.backbone,
            jit=self.settings.jit,
        )

    def prepare(self, *, seed: int, **_: Any) -> None:
        """Has the trial of a seed and its judges at hand; sizes too small are refused here."""
        self._trial(seed)
        self._fresh(seed)

    def run(
        self, part: str, goal_weight: float, seed: int, calibration: str = "predicted"
    ) -> dict[str, Any]:
        """The figures of one run."""
        if part == SWEEP:
            return self._judge(self._fit(goal_weight, seed), seed)
        return self._online(goal_weight, seed, calibration)

    def _draw(self, rows: int, seed: int) -> Simulation:
        return datasets.produce_coin(rows, seed, self.settings.num_treatments)

    def _draw_trial(self, seed: int) -> Any:
        return self._draw(self.settings.rows, seed).data

    def _draw_fresh(self, seed: int) -> Simulation:
        return self._draw(self.settings.fresh, FRESH + seed)

    def _fit(self, goal_weight: float, seed: int) -> Any:
        return self.learner.fit(
            self._trial(seed),
            goal_weight=goal_weight,
            seed=seed,
            epochs=self.settings.epochs,
        )

    def _judge(self, model: Any, seed: int) -> dict[str, Any]:
        fresh = self._fresh(seed)
        truth = fresh.true_response, fresh.true_cost
        found = model.predict(fresh.data, verbose=0)
        predicted = found["response"], found["cost"]
        estimate = policy_outcome(*predicted, fresh.data, budget=BUDGET)
        reached = true_curve(*predicted, *truth, BUDGET)
        feasible = estimate.feasible  # if not, its response is that of more money
        return {
            "response": at_equal_cost(reached, *(x.mean(axis=0) for x in truth))[0],
            "estimate": estimate.response if feasible else math.nan,
            "estimate_stderr": estimate.response_stderr if feasible else math.nan,
            **self._limits(seed),
        }

    def _find_limits(self, seed: int) -> dict[str, float]:
        """Responses of perfect targeting, and of the best mix of arms for everyone alike."""
        v, c = self._fresh(seed).true_response, self._fresh(seed).true_cost
        alike_v, alike_c = (np.broadcast_to(x.mean(axis=0), x.shape) for x in (v, c))
        return {
            "oracle": oracle_curve(v, c, BUDGET).response[0],
            "mix": true_curve(alike_v, alike_c, v, c, BUDGET).response[0],
        }

    def _online(self, goal_weight: float, seed: int, calibration: str) -> dict[str, Any]:
        """Both models to SavedModels, and each to a group of its own."""
        options: dict[str, Any] = {"calibration": calibration}
        if calibration == "trial":
            options["trial"] = self._draw(self.settings.rows, SECOND + seed).data
        figures: dict[str, Any] = {}
        weights = {"two_stage": 0.0, "end_to_end": goal_weight}
        for (name, weight), first in zip(weights.items(), GROUP, strict=True):
            with tempfile.TemporaryDirectory() as place:
                policy = os.path.join(place, "policy")
                trial = self._trial(seed)
                export.save(self._fit(weight, seed), policy, population=trial, **options)
                group = self._draw(self.settings.users, first + seed)
                response, cost = serve(policy, group, first + seed)
            for outcome, drawn in (("response", response), ("cost", cost)):
                figures[f"{name}_{outcome}"] = drawn.mean()
                figures[f"{name}_{outcome}_stderr"] = drawn.std(ddof=1) / np.sqrt(len(drawn))
        return figures


def serve(policy: str, group: Simulation, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Gives a group of simulated users what an exported model says, and draws what they do.

    Args:
      policy: directory of the SavedModel.
      group: users of `datasets.produce_coin`.
      seed: of their responses.

    Returns:
      response, 0 or 1, and cost in coins, [users] each.
    """
    allocate = tf.saved_model.load(policy).signatures["allocate_for_budget"]
    features: Any = group.data.features
    treatment = []
    for start in range(0, len(group), SERVED):
        part = {name: column[start : start + SERVED] for name, column in features.items()}
        sent = {name: tf.constant(list(x) if x.dtype == object else x) for name, x in part.items()}
        size = len(next(iter(part.values())))
        answer = allocate(**sent, policy_budget=tf.fill([size], BUDGET))
        treatment.append(answer["treatment"].numpy())
    given = np.concatenate(treatment)[:, None]
    probability = np.take_along_axis(group.true_response, given, axis=1)[:, 0]
    response = np.random.default_rng([seed, 1]).random(len(group)) < probability
    return response.astype(np.float64), coins_of(group.data)[given[:, 0]] * response


def coins_of(data: RCTData) -> np.ndarray:
    """What a response costs in each arm, [K]: arms are named by it."""
    return np.array([float(name) for name in data.treatment_names])
