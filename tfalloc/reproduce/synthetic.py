"""Section 4.1 to 4.4 of Yan et al. 2023: climbing Q on the predictions themselves (Fig. 2).

10,000 users, five arms, a budget of 2.0 per user, known costs. The parameters are the predicted
responses v themselves, one for each user and arm. The paper starts where Q = .1996, takes 100 steps
of Adam along the NES gradient, reaches .2141, and notes that the true responses have only .2123.

Q is estimated from one trial, and so is its gradient: each response is drawn once, and the steps
can fit that draw. The simulation knows the true responses, so beside Q on the trial there is

    V(v) = mean_i true_response[i, x_i(alpha)],   alpha such that the true mean cost is the budget

for the same users (`evaluation.true_curve`): what a second trial of them would show on average.
What Q gains and V does not is overfitting.

Ours, where the paper does not say: the start is v_gt plus normal noise of deviation `START_NOISE`,
so that V(start) is about .1996; Adam's rate is 1e-4, which the paper has on Criteo; `directions` is
the N' of a step; finite differences have a step of the size of sigma, so that both gradients are of
nearly the same objective.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfalloc import datasets
from tfalloc.evaluation import true_curve
from tfalloc.gradients import NES, FiniteDifference
from tfalloc.outcome import expected_outcome
from tfalloc.reproduce import synthetic_report
from tfalloc.reproduce.figures import require_matplotlib
from tfalloc.reproduce.runs import Runs

BUDGET = 2.0
SIGMA = 1e-3
LEARNING_RATE = 1e-4
START_NOISE = 0.0575
POINTS = 10  # of the ascent at which the true value is looked up
# Costs are known, so they are not perturbed; NES wants a deviation, and any that is too small to
# change an assignment will do.
NO_NOISE = 1e-9
SAMPLE, COSINE = "sample", "cosine"
ASCENTS = ("NES", "FiniteDifference")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all runs of the study have in common.

    Attributes:
      rows: users of a trial.
      steps: of Adam.
      directions: N' of a step of NES.
      most_directions: N' up to which the cosine is taken, from `directions` on by doubling.
      jit: whether XLA compiles the gradients.
    """

    rows: int = 10_000
    steps: int = 100
    directions: int = 500
    most_directions: int = 8_000
    jit: bool = True


FAST = Settings(rows=1_000, steps=10, directions=20, most_directions=80, jit=False)


def study(
    output: str | os.PathLike[str],
    *,
    seeds: int = 20,
    settings: Settings | None = None,
    restart: bool = False,
    command: str | None = None,
) -> Runs:
    """Runs what is missing of the study, and writes its table and figure.

    Args:
      output: directory for runs.json, table.md and figure.png.
      seeds: trials, each with its own users, start and directions.
      settings: sizes; None: the paper's.
      restart: whether to throw earlier runs away.
      command: kept beside the runs.

    Returns:
      The runs: methods "sample" (Q of v_gt and of the start), "NES" and "FiniteDifference" (the
      ascent), and "cosine".

    Raises:
      ValueError: `seeds` is below 1, the settings are not those of the runs kept, or matplotlib is
        not installed.
    """
    if seeds < 1:
        raise ValueError(f"seeds={seeds!r}: expected at least 1.")
    require_matplotlib()
    settings = settings or Settings()
    fixed = {"budget": BUDGET, "sigma": SIGMA, "learning_rate": LEARNING_RATE}
    fixed |= {"start_noise": START_NOISE}
    folder = Path(output)
    kept = {**dataclasses.asdict(settings), **fixed}
    runs = Runs(folder / "runs.json", kept, command=command, restart=restart)
    methods = (SAMPLE, *ASCENTS, COSINE)
    keys = [{"method": method, "seed": seed} for seed in range(seeds) for method in methods]
    laboratory = Laboratory(settings)
    runs.complete(keys, laboratory.run, "synthetic", prepare=laboratory.prepare)
    synthetic_report.write(folder, runs)
    return runs


class Laboratory:
    """Does the runs; each gradient is compiled once for all seeds."""

    def __init__(self, settings: Settings):
        self.settings = settings
        directions = settings.directions
        self._gradients = {
            "NES": NES(sigma=SIGMA, sigma_cost=NO_NOISE, num_directions=directions),
            "FiniteDifference": FiniteDifference(step=SIGMA, step_cost=NO_NOISE),
        }
        self._compiled: dict[str, Callable[..., Any]] = {}

    def prepare(self, *, seed: int, **_: Any) -> None:
        """Draws the trial of a seed once: rows too few are refused here."""
        _Trial(self.settings.rows, seed)

    def run(self, method: str, seed: int) -> dict[str, Any]:
        """The figures of one run."""
        trial = _Trial(self.settings.rows, seed)
        if method == SAMPLE:
            return trial.sample()
        if method == COSINE:
            return self._cosines(trial)
        return self._ascend(method, trial)

    def _differentiate(self, method: str, trial: _Trial, v: Any, number: int) -> Any:
        """(Q, dQ/dv) at v; `number` tells draws of a trial apart."""
        if method not in self._compiled:
            gradient = self._gradients[method]

            @tf.function(jit_compile=self.settings.jit)
            def compiled(v: Any, c: Any, treatment: Any, y: Any, z: Any, seed: Any) -> Any:
                found = gradient(v, c, treatment, y, z, BUDGET, seed=seed)
                return found.goal, found.d_response

            self._compiled[method] = compiled
        return self._compiled[method](
            tf.convert_to_tensor(v), *trial.tensors, tf.constant([trial.seed, number])
        )

    def _ascend(self, method: str, trial: _Trial) -> dict[str, Any]:
        import keras

        v = tf.Variable(trial.start)
        optimizer = keras.optimizers.Adam(LEARNING_RATE)
        steps = self.settings.steps
        marks = np.unique(np.linspace(0, steps, POINTS + 1).astype(int)).tolist()
        q, truth = [], {}
        self._differentiate(method, trial, v, 0)  # compiles, which is not part of the run
        start = time.perf_counter()
        for step in range(steps):
            if step in marks:
                truth[step] = trial.true_value(v.numpy())
            goal, gradient = self._differentiate(method, trial, v, step)
            q.append(float(goal))
            optimizer.apply([-gradient], [v])
        seconds = time.perf_counter() - start
        q.append(trial.q(v.numpy())[0])
        truth[steps] = trial.true_value(v.numpy())
        return {
            "q_start": q[0],
            "q_end": q[-1],
            "true_start": truth[0],
            "true_end": truth[steps],
            "q": np.round(q, 6),
            "true_steps": marks,
            "true": np.round([truth[mark] for mark in marks], 6),
            "seconds": seconds,
        }

    def _cosines(self, trial: _Trial) -> dict[str, Any]:
        """Cosine of NES with all finite differences at the start, as N' doubles."""
        exact = np.ravel(self._differentiate("FiniteDifference", trial, trial.start, 0)[1])
        directions, most = self.settings.directions, self.settings.most_directions
        total, taken, found = np.zeros_like(exact, np.float64), 0, {}
        wanted = directions
        while wanted <= most:
            while taken * directions < wanted:
                number = self.settings.steps + taken  # draws that the ascent has not seen
                total += np.ravel(self._differentiate("NES", trial, trial.start, number)[1])
                taken += 1
            norms = np.linalg.norm(total) * np.linalg.norm(exact)
            found[wanted] = float(total @ exact / norms) if norms else 0.0
            wanted *= 2
        return {"directions": list(found), "cosine": list(found.values())}


class _Trial:
    """A trial of `datasets.synthetic`, the start of the ascent, and Q and V on it."""

    def __init__(self, rows: int, seed: int):
        self.seed = seed
        simulation = datasets.synthetic(rows, seed=seed)
        self._response, self._cost = simulation.true_response, simulation.true_cost
        data = simulation.data
        outcomes = data.treatment, data.response, data.cost
        self.tensors = tuple(tf.constant(x) for x in (self._cost, *outcomes))
        noise = np.random.default_rng([seed, 2]).normal(0.0, START_NOISE, self._response.shape)
        self.start = (self._response + noise).astype(np.float32)

    def q(self, v: np.ndarray) -> tuple[float, float]:
        """Algorithm 1 on this trial, and its standard error."""
        found = expected_outcome(v, *self.tensors, budget=BUDGET)
        return float(found.response), float(found.response_stderr)

    def true_value(self, v: np.ndarray) -> float:
        """V: what v's assignment of these users brings in truth."""
        curve = true_curve(v, self._cost, self._response, self._cost, BUDGET)
        return float(curve.response[0])

    def sample(self) -> dict[str, Any]:
        """Q and V of the true responses and of the start."""
        q_truth, stderr = self.q(self._response)
        return {
            "q_truth": q_truth,
            "q_truth_stderr": stderr,
            "true_truth": self.true_value(self._response),
            "q_start": self.q(self.start)[0],
            "true_start": self.true_value(self.start),
        }
