"""Fig. 2 of Yan et al. 2023: climbing Q on the predictions themselves.

`datasets.synthetic`, 10,000 users without features, K = 4, costs 1 .. 4, known. The parameters are
the predicted responses v, one for each user and arm; Adam with rate .005 takes 100 steps along the
NES gradient of Q(v, c) at a budget of 2.0 per user, c = c_gt being fixed. The start is v drawn anew
by the procedure of the truth. The paper has Q(v_gt) = .2123, Q(start) = .1996, at the end .2141.

    a   what the arms cost and bring in the trial, and the curve of v_gt by Eq. 6
    b   cosine of the NES gradient with that of all 40,000 finite differences, against N'
    c   the curve of the start
    d   the curve of the end

These are of one trial, the first. Not told in the paper: N' of the ascent (several are shown),
sigma and h (those of its Section 4.3 for Criteo), alpha_max and iterations.

Ours: Q is estimated from one trial, and so is its gradient; the steps can fit the draw of its
responses. The simulation knows the truth, so beside Q there is

    V(v) = mean_i true_response[i, x_i(alpha)],   alpha such that the true mean cost is the budget

for the same users (`evaluation.true_curve`): what a second trial of them would show on average.
What Q gains and V does not is overfitting. This is done on several trials. The paper's text says
K = 4 and then has matrices of 10,000 x 5: Q of v_gt and of the start are given for K = 5 too.
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
from tfalloc.datasets import synthetic_start
from tfalloc.evaluation import true_curve
from tfalloc.gradients import NES, FiniteDifference
from tfalloc.outcome import curve, expected_outcome
from tfalloc.reproduce import synthetic_report
from tfalloc.reproduce.figures import require_matplotlib
from tfalloc.reproduce.runs import Runs

# Section 4.3.
BUDGET, LEARNING_RATE = 2.0, 0.005
# Of the paper's Criteo study; not told for this one.
SIGMA, STEP = 1e-3, 3e-4
POINTS = 10  # of the ascent at which the true value is looked up
CURVE = 120  # points of a curve that are kept
# Costs are known, so they are not perturbed; NES wants a deviation, and any that is too small to
# change an assignment will do.
NO_NOISE = 1e-9
SAMPLE, COSINE, ASCENT, CURVES = "sample", "cosine", "ascent", "curves"
EXACT = 0  # in place of N': finite differences of every entry
ARMS = (4, 5)  # the text's K first


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all runs of the study have in common.

    Attributes:
      rows: users of a trial.
      steps: of Adam.
      directions: N' of the ascents on the first trial.
      repeated: N' of the ascents on all trials, among `directions`.
      cosines: N' at which the cosine is taken, ascending, multiples of the first.
      jit: whether XLA compiles the gradients.
    """

    rows: int = 10_000
    steps: int = 100
    directions: tuple[int, ...] = (10, 100, 1_000)
    repeated: tuple[int, ...] = (10, 100)
    cosines: tuple[int, ...] = (250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000)
    jit: bool = True


FAST = Settings(1_000, 10, (20,), (20,), (20, 40, 80), jit=False)


def study(
    output: str | os.PathLike[str],
    *,
    seeds: int = 20,
    settings: Settings | None = None,
    restart: bool = False,
    command: str | None = None,
) -> Runs:
    """Runs what is missing of the study, and writes its table and figures.

    Args:
      output: directory for runs.json, table.md, figure.png (the paper's) and truth.png (ours).
      seeds: trials, each with its own users, start and directions.
      settings: sizes; None: the paper's.
      restart: whether to throw earlier runs away.
      command: kept beside the runs.

    Returns:
      The runs, by `method`: "sample" (Q and V of v_gt and of the start), "ascent" (one for each
      N', 0 for all finite differences), and of the first trial "cosine" and "curves".

    Raises:
      ValueError: `seeds` is below 1, the settings are not those of the runs kept, the directory
        is not this study's, or matplotlib is not installed.
    """
    if seeds < 1:
        raise ValueError(f"seeds={seeds!r}: expected at least 1.")
    require_matplotlib()
    settings = settings or Settings()
    folder = Path(output)
    fixed = {"budget": BUDGET, "sigma": SIGMA, "step": STEP, "learning_rate": LEARNING_RATE}
    kept = dataclasses.asdict(settings)
    del kept["directions"], kept["repeated"]  # the keys say which there are
    runs = Runs(
        folder / "runs.json",
        {**kept, **fixed},
        products=("table.md", "figure.png", "truth.png"),
        command=command,
        restart=restart,
    )
    keys: list[dict[str, Any]] = []
    for seed in range(seeds):
        keys += [{"method": SAMPLE, "arms": arms, "seed": seed} for arms in ARMS]
        own = settings.repeated if seed else settings.directions
        for directions in (EXACT, *own):
            keys.append({"method": ASCENT, "directions": directions, "seed": seed})
        if seed == 0:
            keys += [{"method": CURVES, "seed": 0}, {"method": COSINE, "seed": 0}]
    laboratory = Laboratory(settings)
    runs.complete(keys, laboratory.run, "synthetic", prepare=laboratory.prepare)
    synthetic_report.write(folder, runs)
    return runs


class Laboratory:
    """Does the runs; each gradient is compiled once for all seeds."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._compiled: dict[int, Callable[..., Any]] = {}

    def prepare(self, *, seed: int, **_: Any) -> None:
        """Draws the trial of a seed once: rows too few are refused here."""
        Trial(self.settings.rows, seed)

    def run(self, method: str, seed: int, **key: Any) -> dict[str, Any]:
        """The figures of one run."""
        trial = Trial(self.settings.rows, seed, key.get("arms", ARMS[0]))
        if method == SAMPLE:
            return trial.sample()
        if method == CURVES:
            return trial.curves()
        if method == COSINE:
            return self._cosines(trial)
        return self._ascend(key["directions"], trial)

    def _differentiate(self, directions: int, trial: Trial, v: Any, number: int) -> Any:
        """(Q, dQ/dv) at v; `number` tells draws of a trial apart."""
        if directions not in self._compiled:
            gradient: Any = FiniteDifference(step=STEP, step_cost=NO_NOISE)
            if directions != EXACT:
                gradient = NES(sigma=SIGMA, sigma_cost=NO_NOISE, num_directions=directions)

            @tf.function(jit_compile=self.settings.jit)
            def compiled(v: Any, c: Any, treatment: Any, y: Any, z: Any, seed: Any) -> Any:
                found = gradient(v, c, treatment, y, z, BUDGET, seed=seed)
                return found.goal, found.d_response

            self._compiled[directions] = compiled
        draw = tf.constant([trial.seed, number])
        return self._compiled[directions](tf.convert_to_tensor(v), *trial.tensors, draw)

    def _ascend(self, directions: int, trial: Trial) -> dict[str, Any]:
        import keras

        v = tf.Variable(trial.start)
        optimizer = keras.optimizers.Adam(LEARNING_RATE)
        steps = self.settings.steps
        marks = np.unique(np.linspace(0, steps, POINTS + 1).astype(int)).tolist()
        q, truth = [], {}
        self._differentiate(directions, trial, v, 0)  # compiles, which is not part of the run
        start = time.perf_counter()
        for step in range(steps):
            if step in marks:
                truth[step] = trial.true_value(v.numpy())
            goal, gradient = self._differentiate(directions, trial, v, step)
            q.append(float(goal))
            optimizer.apply([-gradient], [v])
        seconds = time.perf_counter() - start
        end = v.numpy()
        q.append(trial.q(end)[0])
        truth[steps] = trial.true_value(end)
        return {
            "q_start": q[0],
            "q_end": q[-1],
            "true_start": truth[0],
            "true_end": truth[steps],
            "q": np.round(q, 6),
            "true_steps": marks,
            "true": np.round([truth[mark] for mark in marks], 6),
            "moved": float(np.abs(end - trial.start).mean()),
            "curve": trial.curve(end) if trial.seed == 0 else None,
            "seconds": seconds,
        }

    def _cosines(self, trial: Trial) -> dict[str, Any]:
        """Cosine of NES with all finite differences at the start, as N' grows."""
        exact = np.ravel(self._differentiate(EXACT, trial, trial.start, 0)[1])
        part = self.settings.cosines[0]
        total, taken, found = np.zeros_like(exact, np.float64), 0, []
        for wanted in self.settings.cosines:
            while taken * part < wanted:
                number = self.settings.steps + taken  # draws that the ascent has not seen
                total += np.ravel(self._differentiate(part, trial, trial.start, number)[1])
                taken += 1
            norms = np.linalg.norm(total) * np.linalg.norm(exact)
            found.append(float(total @ exact / norms) if norms else 0.0)
        entries = {"entries": exact.size, "nonzero": int(np.count_nonzero(exact))}
        return {"directions": self.settings.cosines, "cosine": found, **entries}


class Trial:
    """A trial of `datasets.synthetic`, the start of the ascent, and Q and V on it."""

    def __init__(self, rows: int, seed: int, arms: int = ARMS[0]):
        self.seed = seed
        simulation = datasets.synthetic(rows, seed, arms)
        self.true_response, self._cost = simulation.true_response, simulation.true_cost
        data = simulation.data
        self._treatment, self._response = np.asarray(data.treatment), np.asarray(data.response)
        outcomes = data.treatment, data.response, data.cost
        self.tensors = tuple(tf.constant(x) for x in (self._cost, *outcomes))
        self.start = synthetic_start(rows, seed, arms)

    def q(self, v: np.ndarray) -> tuple[float, float]:
        """Algorithm 1 on this trial, and its standard error."""
        found = expected_outcome(v, *self.tensors, budget=BUDGET)
        return float(found.response), float(found.response_stderr)

    def true_value(self, v: np.ndarray) -> float:
        """V: what v's assignment of these users brings in truth."""
        found = true_curve(v, self._cost, self.true_response, self._cost, BUDGET)
        return float(found.response[0])

    def sample(self) -> dict[str, Any]:
        """Q and V of the true responses and of the start."""
        q_truth, stderr = self.q(self.true_response)
        return {
            "q_truth": q_truth,
            "q_truth_stderr": stderr,
            "true_truth": self.true_value(self.true_response),
            "q_start": self.q(self.start)[0],
            "true_start": self.true_value(self.start),
        }

    def curves(self) -> dict[str, Any]:
        """What the arms cost and bring in the trial, and the curves of v_gt and of the start."""
        arms = [self._treatment == arm for arm in range(self._cost.shape[1])]
        return {
            "arm_cost": self._cost[0],
            "arm_response": [float(self._response[rows].mean()) for rows in arms],
            "truth": self.curve(self.true_response),
            "start": self.curve(self.start),
        }

    def curve(self, v: np.ndarray) -> list[list[float]]:
        """(C, V) by Eq. 6 at prices that are evenly spread over the changes of the assignment."""
        found = curve(v, *self.tensors)
        used = np.flatnonzero(np.isfinite(found.alpha) & (found.num_matched.numpy() > 0))
        kept = used[np.linspace(0, len(used) - 1, CURVE).astype(int)]
        pairs = np.stack([found.cost.numpy()[kept], found.response.numpy()[kept]], axis=1)
        return np.round(pairs, 5).tolist()
