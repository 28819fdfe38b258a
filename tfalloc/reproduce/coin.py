"""The Produce-Coin campaign of Yan et al. 2023 as a simulation: Fig. 3 and the online test.

30 arms, from 0 to 29 coins for a produced video, equally likely, paid on response. The paper's
trial is not public; `datasets.produce_coin` has its shape, with truths of its own, so levels do not
compare; the course of the curve and the relative differences do.

As published (`PAPER`): 512-256-128-64 with independent heads of 32-1, Adam 3e-4, 20 epochs in
batches of 10,000, budget of a step uniform on (1.0, 1.5); 80 % of the rows to train, the others to
evaluate; goal_weight 0, 1, 2, 5, ... 5000 in the scale of Eq. 11, four runs each, along finite
differences; online, the two-stage model and goal_weight 200 trained on all rows. `OURS` has what
the package has for coins: heads that know that coins are paid on response and that more never lower
it, a small network, a fixed budget, all rows to train and fresh users to evaluate.

Offline (Fig. 3), at a cost of 1.2 per user, the same rows and initial weights within a seed:

    estimate    Q by Eq. 6 and bisection on the rows kept to evaluate, or on the trial of the fresh
                users; none where the policy cannot spend as little
    response    the true one of fresh users, at a true cost of 1.2 (`evaluation.true_curve`); a
                policy whose cheapest assignment costs more is mixed with no coins for all

Online: for each seed the two-stage model and the end-to-end one are exported as SavedModels, and
two disjoint groups of fresh users get what `allocate_for_budget` says at the same budget per user.
Responses are drawn, coins are paid; the difference is that of two random samples, as the paper's.
Without a weight to deploy, the one whose *estimate* is best over the seeds is: choosing by the
truth would be a privilege of simulations. The test is made twice, as the exported table of budgets
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

import keras
import numpy as np
import tensorflow as tf

from tfalloc import datasets, export
from tfalloc.data import RCTData
from tfalloc.datasets import Simulation
from tfalloc.evaluation import oracle_curve, true_curve
from tfalloc.gradients import FiniteDifference
from tfalloc.models import AllocationModel
from tfalloc.outcome import expected_outcome
from tfalloc.reproduce import coin_report
from tfalloc.reproduce.figures import require_matplotlib
from tfalloc.reproduce.runs import Runs
from tfalloc.reproduce.truth import at_equal_cost

BUDGET = 1.2
WEIGHTS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
DEPLOYED = 200  # the paper's weight online
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
SLACK = 0.02  # share by which the cost found by bisection may pass the budget
SERVED = 50_000  # users a call of the SavedModel


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all runs of the study have in common.

    Attributes:
      rows: of a trial; the paper has 82.4 million.
      epochs: of every training; nothing is stopped early.
      fresh: users by whose truth the models are evaluated.
      users: in each group online; the paper has 7.1 million.
      heads: "independent", as in the paper, or "marginal", for arms in the order of their cost and
        costs paid on response; see `HEADS`.
      backbone: of the network, as in `AllocationModel`.
      num_treatments: K.
      jit: whether XLA compiles the training step.
      learning_rate: of Adam.
      budgets: lowest and highest budget of a step; None: that of the evaluation.
      test_share: of the rows, kept to evaluate; None: none, the fresh users' own trial is.
    """

    rows: int = 300_000
    epochs: int = 20
    fresh: int = 100_000
    users: int = 500_000
    heads: str = "independent"
    backbone: str = "paper"
    num_treatments: int = 30
    jit: bool = True
    learning_rate: float = 3e-4
    budgets: tuple[float, float] | None = (1.0, 1.5)
    test_share: float | None = 0.2


PAPER = Settings()
OURS = Settings(
    heads="marginal", backbone="small", learning_rate=3e-3, budgets=None, test_share=None
)


def fast(settings: Settings = PAPER) -> Settings:
    """The same with sizes for a try."""
    sizes: dict[str, Any] = {"rows": 8_000, "epochs": 2, "fresh": 4_000, "users": 3_000}
    return dataclasses.replace(settings, num_treatments=4, backbone="small", jit=False, **sizes)


FAST = fast()
FAST_WEIGHTS = (0, 10, 1000)


def study(
    output: str | os.PathLike[str],
    *,
    seeds: int = 4,
    settings: Settings | None = None,
    weights: Sequence[float] = WEIGHTS,
    deployed: float | None = DEPLOYED,
    restart: bool = False,
    command: str | None = None,
) -> Runs:
    """Runs what is missing of the study, and writes its table and figure.

    Args:
      output: directory for runs.json, table.md and figure.png.
      seeds: trials, each with its own users and initial weights; the paper has 4 runs a weight.
      settings: sizes; None: the paper's.
      weights: of the goal, in the scale of Eq. 11: 0, then those above it. Others that the runs
        kept have stay in the table.
      deployed: the weight of the online test, among `weights`; None: the best by the estimate.
      restart: whether to throw earlier runs away.
      command: kept beside the runs.

    Returns:
      The runs: parts "offline" (one for each goal_weight and seed) and "online" (one for each
      calibration and seed).

    Raises:
      ValueError: `seeds` is below 1, no weight is above 0 or the first is not 0, the one to deploy
        is not among them, the settings are not those of the runs kept, the directory is not a
        study's, no end-to-end policy keeps the budget on every seed, or matplotlib is missing.
    """
    settings = settings or Settings()
    if seeds < 1:
        raise ValueError(f"seeds={seeds!r}: expected at least 1.")
    if len(weights) < 2 or weights[0] != 0 or not all(0 < w < math.inf for w in weights[1:]):
        raise ValueError(
            f"weights={list(weights)!r}: expected 0, which is two-stage, then others above 0."
        )
    if deployed is not None and deployed not in weights[1:]:
        raise ValueError(
            f"deployed={deployed!r} is not among weights={list(weights)!r}; expected one of them "
            "above 0, or None for the best by the estimate."
        )
    if settings.heads not in HEADS:
        raise ValueError(f"heads={settings.heads!r} is not known; expected one of {list(HEADS)}.")
    require_matplotlib()
    folder = Path(output)
    # None: as in runs that were kept before there was such a setting.
    given = {name: x for name, x in dataclasses.asdict(settings).items() if x is not None}
    runs = Runs(
        folder / "runs.json",
        {**given, "budget": BUDGET},
        products=("table.md", "figure.png"),
        command=command,
        restart=restart,
    )
    campaign = Campaign(settings)
    offline = [
        {"part": SWEEP, "goal_weight": weight, "seed": seed}
        for seed in range(seeds)
        for weight in weights
    ]
    runs.complete(offline, campaign.run, "coin", prepare=campaign.prepare)
    weight = coin_report.best_weight(runs, seeds) if deployed is None else deployed
    online = [
        {"part": ONLINE, "calibration": calibration, "goal_weight": weight, "seed": seed}
        for seed in range(seeds)
        for calibration in CALIBRATIONS
    ]
    runs.complete(online, campaign.run, "coin")
    coin_report.write(folder, runs, seeds, weight, chosen=deployed is None)
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
            budget=self.settings.budgets or BUDGET,
            learning_rate=self.settings.learning_rate,
            **heads,
            backbone=self.settings.backbone,
            jit=self.settings.jit,
        )

    def prepare(self, *, seed: int, **_: Any) -> None:
        """Draws the trial of a seed and the users to evaluate on; too few are refused here."""
        self._trial(seed)
        self._fresh(seed)

    def run(
        self, part: str, goal_weight: float, seed: int, calibration: str = "predicted"
    ) -> dict[str, Any]:
        """The figures of one run."""
        if part == SWEEP:
            train, test = self._trial(seed)
            return self._evaluate(self._fit(goal_weight, seed, train), seed, test)
        return self._online(goal_weight, seed, calibration)

    def _draw(self, rows: int, seed: int) -> Simulation:
        return datasets.produce_coin(rows, seed, self.settings.num_treatments)

    def _draw_trial(self, seed: int) -> tuple[RCTData, RCTData]:
        """Rows to train on, and rows to evaluate."""
        whole, share = self._draw(self.settings.rows, seed).data, self.settings.test_share
        if share is None:
            return whole, self._fresh(seed).data
        train, test = whole.split([1.0 - share, share], 0)
        return train, test

    def _draw_fresh(self, seed: int) -> Simulation:
        return self._draw(self.settings.fresh, FRESH + seed)

    def _fit(self, goal_weight: float, seed: int, train: RCTData) -> Any:
        epochs = self.settings.epochs
        return self.learner.fit(train, goal_weight=goal_weight, seed=seed, epochs=epochs)

    def _evaluate(self, model: Any, seed: int, test: RCTData) -> dict[str, Any]:
        fresh = self._fresh(seed)
        truth = fresh.true_response, fresh.true_cost
        reached = true_curve(*_predicted(model, fresh.data), *truth, BUDGET)
        return {
            "response": at_equal_cost(reached, *(x.mean(axis=0) for x in truth))[0],
            **estimate(*_predicted(model, test), test),
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
        trial = self._trial(seed)[0]
        if self.settings.test_share is not None:
            trial = self._draw(self.settings.rows, seed).data  # all rows, as published
        weights = {"two_stage": 0.0, "end_to_end": goal_weight}
        for (name, weight), first in zip(weights.items(), GROUP, strict=True):
            with tempfile.TemporaryDirectory() as place:
                policy = os.path.join(place, "policy")
                model = self._fit(weight, seed, trial)
                export.save(model, policy, population=trial, **options)
                group = self._draw(self.settings.users, first + seed)
                response, cost = serve(policy, group, first + seed)
            for outcome, drawn in (("response", response), ("cost", cost)):
                figures[f"{name}_{outcome}"] = drawn.mean()
                figures[f"{name}_{outcome}_stderr"] = drawn.std(ddof=1) / np.sqrt(len(drawn))
        return figures


class Learner:
    """Trains models that differ in weight of the goal, data and seed only.

    Compiling a step takes longer than most trainings. The weight of the goal is a variable that the
    compiled step reads, so that one step serves a whole sweep over weights; weight 0 is the
    two-stage baseline to the last bit of the loss.

    Args:
      reference: rows that preprocessing is fitted to, the same whichever run comes first.
      budget: cost per user, or the lowest and highest of a step.
      learning_rate: of Adam.
      jit: whether XLA compiles the step.
      **shape: arguments of `AllocationModel`: heads, backbone and the like.
    """

    def __init__(
        self,
        reference: RCTData,
        *,
        budget: float | tuple[float, float],
        learning_rate: float,
        jit: bool = True,
        **shape: Any,
    ):
        self._shape = {"num_treatments": reference.num_treatments, **shape}
        self._weight = tf.Variable(0.0, dtype=tf.float32)
        self.model = AllocationModel(**self._shape)
        self.model.compile(
            keras.optimizers.Adam(learning_rate),
            goal_weight=lambda step: self._weight,
            goal_scale="paper",
            budget=budget,
            # No draws in the step: the result does not depend on what was trained before.
            gradient=FiniteDifference(),
            jit_compile=jit,
        )
        self.model.adapt(reference)

    def fit(self, train: RCTData, *, goal_weight: float, seed: int, epochs: int) -> AllocationModel:
        """Trains anew for a fixed number of epochs, in batches of 10,000 rows or a tenth.

        Args:
          train: rows.
          goal_weight: of the goal, at least 0.
          seed: seeds initial weights and the shuffling of rows.
          epochs: passes over the rows.

        Returns:
          The model, which the next call changes.
        """
        model = self.model
        model.adapt(train)  # output biases; preprocessing stays that of the reference
        kinds = {name: model.get_config()[name] for name in ("response_head", "cost_head")}
        fresh = AllocationModel(
            **{**self._shape, **kinds}, seed=seed, preprocessor=model.preprocessor
        )
        model.seed = seed
        model.network.set_weights(fresh.network.get_weights())
        for variable in [*model.optimizer.variables, *model._norms.variables]:
            if variable.name != "learning_rate":
                variable.assign(np.zeros(variable.shape, variable.dtype))
        self._weight.assign(goal_weight)
        model.fit(
            train,
            epochs=epochs,
            validation_split=0.0,
            early_stopping=False,
            verbose=0,
        )
        return model


def _predicted(model: Any, rows: RCTData) -> tuple[np.ndarray, np.ndarray]:
    found = model.predict(rows, verbose=0)
    return found["response"], found["cost"]


def estimate(response: np.ndarray, cost: np.ndarray, test: RCTData) -> dict[str, float]:
    """Response at `BUDGET` by Eq. 6 and bisection, with its standard error.

    Args:
      response: [rows, K], predicted.
      cost: [rows, K], predicted.
      test: trial rows that the model has not seen.

    Returns:
      estimate and estimate_stderr; NaN if even the cheapest assignment costs more, because the
      response is that of more money then.
    """
    outcomes = test.treatment, test.response, test.cost
    found = expected_outcome(response, cost, *outcomes, budget=BUDGET, method="bisection")
    if not float(found.cost) <= (1.0 + SLACK) * BUDGET:
        return {"estimate": math.nan, "estimate_stderr": math.nan}
    return {
        "estimate": float(found.response),
        "estimate_stderr": float(found.response_stderr),
    }


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
