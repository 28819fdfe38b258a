"""Methods against each other on one simulation: who spends a budget best, on users not seen?

For each seed and method: a model trained on the seed's trial, evaluated on fresh users whose true
response and cost of every arm are known, at five budgets b:

    share = mean over b of (V(b) - V_mix(b)) / (V_oracle(b) - V_mix(b)),
            but for budgets at which perfect targeting adds nothing

    V          true response per user of the policy that the predictions lead to, at true cost b;
               where even its cheapest assignment costs more, mixed with the cheapest arm for all
    V_mix      of the best mix of arms that is the same for everyone: 0, no use in targeting
    V_oracle   of the policy with true predictions: 1, the best that can be done

Methods of a seed see the same rows, and are compared by differences within seeds.

    criteo_like        two arms, responses are rare
    produce_coin       30 arms, paid on response
    criteo_outcomes    four arms, simulated on features of a file of Criteo Uplift: one half of its
                       rows to learn from, the other to evaluate on
    well_specified     three arms; a logistic regression for each is the truth

Hyper-parameters are in `settings.py`, what a method is given in `task.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from studies.methods import report
from studies.methods.controls import CONTROLS, Method
from studies.methods.ours import OURS
from studies.methods.settings import OUR_NETWORK, RECIPE, TUNED
from studies.methods.task import FAST as FAST
from studies.methods.task import (
    REPORTED_SEED,
    Scenario,
    Settings,
    Task,
    checked,
)
from studies.methods.task import fast as fast
from tfalloc.baselines.scores import predictions
from tfalloc.datasets import Simulation
from tfalloc.evaluation import mix_curve, oracle_curve, true_curve
from tfalloc.reproduce.figures import require_matplotlib
from tfalloc.reproduce.runs import Runs
from tfalloc.reproduce.truth import at_equal_cost

NUM_BUDGETS = 5

METHODS: dict[str, Method] = {**CONTROLS, **OURS}


def study(
    output: str | os.PathLike[str],
    simulation: str = "criteo_like",
    *,
    seeds: int = 20,
    settings: Settings | None = None,
    data: str | os.PathLike[str] | None = None,
    methods: Sequence[str] | None = None,
    first_seed: int = REPORTED_SEED,
    restart: bool = False,
    command: str | None = None,
) -> Runs:
    """Runs what is missing of the study, and writes its table and figure.

    Args:
      output: directory for runs.json, table.md and figure.png.
      simulation: "criteo_like", "produce_coin", "criteo_outcomes" or "well_specified".
      seeds: trials, each with its own users and initial weights.
      settings: sizes; None: the defaults.
      data: file of Criteo Uplift, as for `datasets.criteo_outcomes`; for that simulation only.
      methods: names among `METHODS`; None: all that go with the simulation.
      first_seed: of the trials; hyper-parameters are chosen on other seeds than reported.
      restart: whether to throw earlier runs away.
      command: kept beside the runs.

    Returns:
      The runs, one for each method and seed, with share, response, mix and oracle (responses per
      user, means over budgets), shares and budgets (each a list), arguments, and the seconds of
      training.

    Raises:
      FileNotFoundError: nothing at `data`.
      ValueError: an argument is not known or out of range, a file is missing or not needed, there
        is no control to compare with, the settings or a method's arguments are not those of the
        runs kept, or matplotlib is not installed.
      ImportError: scikit-learn, which most controls need, is not installed.

    Example:
      >>> import tempfile
      >>> where = {"simulation": "well_specified", "settings": FAST}
      >>> runs = study(tempfile.mkdtemp(), methods=["logistic"], seeds=2, first_seed=101, **where)
      >>> runs.frame()[["method", "seed"]].values.tolist()
      [['logistic', 101], ['logistic', 102]]
    """
    settings = settings or Settings()
    if seeds < 1:
        raise ValueError(f"seeds={seeds!r}: expected at least 1.")
    if first_seed < 0:
        raise ValueError(f"first_seed={first_seed!r}: expected at least 0.")
    scenario = checked(simulation, data)
    chosen = _chosen(simulation, methods)
    require_matplotlib()
    kept = sizes(simulation, settings, scenario, data)
    folder = Path(output)
    runs = Runs(
        folder / "runs.json",
        kept,
        products=("table.md", "figure.png"),
        command=command,
        restart=restart,
    )
    for name in chosen:
        runs.check_arguments(arguments_of(TUNED[simulation], name), method=name)
    _check_controls(runs, chosen)
    protocol = Protocol(simulation, scenario, settings, data)
    every = range(first_seed, first_seed + seeds)
    keys = [{"method": name, "seed": seed} for seed in every for name in chosen]
    runs.complete(keys, protocol.run, "methods", prepare=protocol.prepare)
    _check_controls(runs, [])
    report.write(folder, runs, list(METHODS), CONTROLS)
    return runs


def sizes(
    simulation: str, settings: Settings, scenario: Scenario, data: Any = None
) -> dict[str, Any]:
    """What runs must have in common to be of one study."""
    kept = {"simulation": simulation, **dataclasses.asdict(settings)}
    if data is None:
        return {**kept, "rows": settings.rows or scenario.rows}
    del kept["rows"], kept["fresh"]
    # A file's name and size, for the same file may lie elsewhere.
    return {
        **kept,
        "data": os.path.basename(os.fspath(data)),
        "bytes": os.path.getsize(data),
    }


def _chosen(simulation: str, methods: Sequence[str] | None) -> list[str]:
    """Names of methods to run, in the order of `METHODS`."""
    expected = [name for name in METHODS if name in OURS or name in TUNED[simulation]]
    return some_of(expected, methods, simulation)


def some_of(expected: list[str], methods: Sequence[str] | None, simulation: str) -> list[str]:
    """The methods asked for, in their own order; None: all.

    Raises:
      ValueError: one is not among them.
    """
    unknown = [name for name in methods or () if name not in expected]
    if unknown:
        raise ValueError(
            f"methods={unknown!r} are not known for {simulation}; expected some of {expected}."
        )
    return [name for name in expected if name in (methods or expected)]


def _check_controls(runs: Runs, chosen: list[str]) -> None:
    """Refuses to compare without a control, chosen or kept."""
    kept = [str(run["method"]) for run in runs.frame().to_dict("records")]
    if any(name in CONTROLS for name in (*kept, *chosen)):
        return
    refused = "".join(f" {key['method']}: {why}" for key, why in runs.refused)
    raise ValueError(
        f"methods={chosen or sorted(set(kept))!r} have no control among them, nor have the runs "
        f"kept; expected at least one of {[*CONTROLS]}.{refused}"
    )


def arguments_of(tuned: Mapping[str, Any], method: str) -> dict[str, Any]:
    """A method's hyper-parameters; those of ours are their own and those of what they build on.

    Args:
      tuned: of the simulation, `settings.TUNED`.
      method: name among `METHODS`.
    """
    if method not in OURS:
        return dict(tuned[method])
    regression = tuned.get("spline logistic", tuned["logistic"])
    members = {"boosting": tuned["boosting, single"], "regression": regression}
    return {"network": tuned[OUR_NETWORK], **members, **tuned[RECIPE]}


class Protocol:
    """Does the runs: trial, training, true value on fresh users."""

    def __init__(self, simulation: str, scenario: Scenario, settings: Settings, data: Any):
        self.simulation, self.scenario, self.settings = simulation, scenario, settings
        self.data = data
        self.budgets = np.linspace(*scenario.budgets, NUM_BUDGETS)
        # The methods of a seed see the same rows and users, one after the other.
        self.task = functools.lru_cache(1)(self._draw_task)
        self.fresh = functools.lru_cache(1)(self._draw_fresh)

    def prepare(self, *, seed: int, **_: Any) -> None:
        """Draws the trial of a seed and the users to evaluate on; too few are refused here."""
        self.task(seed)
        self.fresh(seed)

    def run(self, method: str, seed: int) -> dict[str, Any]:
        """The figures of one run; its seconds are those of the training."""
        task = self.task(seed)
        found, seconds = self.predicted(method, task, seed)
        worth = self.evaluate(found["response"], found["cost"], seed)
        return {**worth, "arguments": arguments_of(task.tuned, method), "seconds": seconds}

    def predicted(self, method: str, task: Task, seed: int) -> tuple[dict[str, np.ndarray], float]:
        """What a method predicts for the fresh users of a seed, and the seconds of its training."""
        task.shared.begin()
        model = METHODS[method](task, seed)
        seconds = task.shared.seconds()
        return predictions(model, self.fresh(seed)[0].data), seconds

    def evaluate(self, response: np.ndarray, cost: np.ndarray, seed: int) -> dict[str, Any]:
        """What predictions for the fresh users of a seed are worth.

        Args:
          response: [users, K], predicted.
          cost: [users, K], predicted.
          seed: of the trial.

        Returns:
          share, and its parts at each budget; response, mix and oracle, means over budgets.
        """
        fresh, mix, oracle = self.fresh(seed)
        truth = fresh.true_response, fresh.true_cost
        reached = true_curve(response, cost, *truth, self.budgets)
        value = at_equal_cost(reached, *(x.mean(axis=0, dtype="f8") for x in truth))
        gain, wanted = oracle - mix, to_be_had(mix, oracle)
        shares = np.divide(value - mix, gain, where=wanted, out=np.full_like(gain, np.nan))
        share = float(shares[wanted].mean()) if wanted.any() else math.nan
        means = {"response": value, "mix": mix, "oracle": oracle}
        return {
            "share": share,
            **{name: float(x.mean()) for name, x in means.items()},
            "shares": shares.tolist(),
            "budgets": self.budgets.tolist(),
        }

    def _draw_task(self, seed: int) -> Task:
        keras.utils.clear_session()  # graphs of the models of seeds that are gone
        rows = self.settings.rows or self.scenario.rows or 0
        trial = self.scenario.trial(rows, seed, self.data).data
        amounts = self.scenario.cost_amounts
        tuned = TUNED[self.simulation]
        return Task(self.simulation, trial, self.scenario.budgets, amounts, self.settings, tuned)

    def _draw_fresh(self, seed: int) -> tuple[Simulation, np.ndarray, np.ndarray]:
        """Users to evaluate on; what is reached at each budget without targeting and with truth."""
        fresh = self.scenario.fresh(self.settings.fresh, seed, self.data)
        truth = fresh.true_response, fresh.true_cost
        limits = (curve(*truth, self.budgets).response for curve in (mix_curve, oracle_curve))
        mix, oracle = (x.to_numpy() for x in limits)
        return fresh, mix, oracle


def to_be_had(mix: Any, oracle: Any) -> Any:
    """Whether perfect targeting adds anything at a budget, which may pay for the best arm for all.

    Args:
      mix: response per user without targeting, any shape.
      oracle: of perfect targeting, the same shape.
    """
    return oracle - mix > 1e-6 * oracle
