"""What end-to-end training costs: train steps and gradients, as ratios within one run.

    python benchmarks/train_step.py [--batch 10000] [--json FILE]

Prints, for K = 2 and 30 with the paper's network: the compiled train step with each gradient
against the same step with goal_weight = 0; the gradient alone; finite differences per entry
against brute-force Eq. 8 with a compiled Algorithm 1; and Q against the direct loop of Algorithm 1.
The limits: for a step, the two-stage step; for Q and for a gradient alone, one pass that reads v
and c, memory bandwidth (`growth.py` has the distances at many sizes).
Steps of the competitors alternate, so that a change of the machine's speed hits all alike; figures
are medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from measuring import write_json

import tfalloc
from tfalloc import gradients
from tfalloc.outcome import expected_outcome

ROUNDS = 30


def trial(batch: int, arms: int, seed: int = 0):
    """A batch with Criteo-like shares (K = 2) or equal shares, and predictions for it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, 12)).astype(np.float32)
    t = (rng.random(batch) < 0.85).astype(np.int32) if arms == 2 else rng.integers(0, arms, batch)
    share = np.where(t == 1, 0.85, 0.15) if arms == 2 else np.full(batch, 1 / arms)
    lift = np.log1p(np.arange(arms))[None, :] * (0.3 + 0.2 * np.tanh(x[:, :1]))
    v = 1 / (1 + np.exp(2 - 0.5 * x[:, 1:2] - lift))
    c = v * np.arange(arms)[None, :] / max(1, arms - 1) + 0.02 * rng.random((batch, arms))
    rows = np.arange(batch)
    y = (rng.random(batch) < v[rows, t]).astype(np.float32)
    z = (c[rows, t] * rng.choice([0.5, 1.5], batch)).astype(np.float32)
    return (
        x,
        v.astype(np.float32),
        c.astype(np.float32),
        t.astype(np.int32),
        y,
        z,
        share.astype("f4"),
    )


def alternate(calls: dict, rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each call, taken in turn; the first round compiles and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            tf.nest.map_structure(lambda x: x.numpy(), call())
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def available_gradients() -> dict:
    """The gradients of this version, with their defaults."""
    named = {"finite difference": gradients.FiniteDifference(max_iterations=18)}
    for name in ("Smoothed", "Integrated"):
        if hasattr(gradients, name):
            named[name.lower()] = getattr(gradients, name)()
    return named


def train_steps(batch: int, arms: int) -> dict[str, float]:
    """Seconds of one compiled train step for each gradient."""
    x, _, _, t, y, z, share = trial(batch, arms)
    data = (
        tf.constant(x),
        {
            k: tf.constant(a)
            for k, a in {"treatment": t, "response": y, "cost": z, "propensity": share}.items()
        },
    )
    calls = {}
    for name, gradient in {"two-stage": None, **available_gradients()}.items():
        model = tfalloc.AllocationModel(
            arms, "paper", num_features=12, response_head="binary", cost_head="nonnegative"
        )
        model.compile(
            keras.optimizers.Adam(1e-4),
            goal_weight=0.0 if gradient is None else 1.0,
            budget=float(z.mean()),
            gradient=gradient,
        )
        model.optimizer.build(model.trainable_variables)
        step = tf.function(model.train_step, jit_compile=True)
        calls[name] = lambda step=step: step(data)
    return alternate(calls)


def gradient_alone(batch: int, arms: int) -> dict[str, float]:
    """Seconds of one compiled gradient, all entries of v and c."""
    _, v, c, t, y, z, share = map(tf.constant, trial(batch, arms))
    budget = tf.reduce_mean(z)
    calls = {}
    for name, gradient in available_gradients().items():
        function = tf.function(
            lambda gradient=gradient: gradient(v, c, t, y, z, budget, propensity=share),
            jit_compile=True,
        )
        calls[name] = function
    return alternate(calls)


@tf.function(jit_compile=True)
def direct_algorithm_1(v, c, t, y, z, weight, budget, alpha_max):
    """Algorithm 1 as written: an argmax over all rows at each midpoint."""

    def sums(alpha):
        matched = tf.cast(tf.argmax(v - alpha * c, axis=1, output_type=tf.int32) == t, tf.float64)
        w = matched * weight
        return tf.reduce_sum(w * (z - budget)), tf.reduce_sum(w), tf.reduce_sum(w * y)

    def body(i, low, high, value):
        alpha = (low + high) / 2
        excess, total, response = sums(alpha)
        above = excess > 0
        return i + 1, tf.where(above, alpha, low), tf.where(above, high, alpha), response / total

    zero = tf.zeros((), tf.float64)
    return tf.while_loop(lambda i, *_: i < 18, body, (0, zero, alpha_max, zero))[3]


def q_alone(batch: int, arms: int) -> dict[str, float]:
    """Seconds of one Q: ours against the direct loop, both compiled, both float64."""
    _, v, c, t, y, z, share = trial(batch, arms)
    v, c, y, z, share = (tf.constant(a, tf.float64) for a in (v, c, y, z, share))
    t, budget, top = tf.constant(t), tf.reduce_mean(z), tf.constant(1.0, tf.float64)
    ours = tf.function(
        lambda: (
            expected_outcome(
                v, c, t, y, z, share, budget=budget, alpha_max=1.0, max_iterations=18
            ).response
        ),
        jit_compile=True,
    )
    return alternate(
        {
            "ours": ours,
            "direct": lambda: direct_algorithm_1(v, c, t, y, z, 1 / share, budget, top),
            "one pass": tf.function(lambda: tf.reduce_max(v - c, axis=1), jit_compile=True),
        },
        rounds=4 * ROUNDS,
    )


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=10_000)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    report: dict = {"batch": options.batch, "tensorflow": tf.__version__}
    for arms in (2, 30):
        steps, alone = train_steps(options.batch, arms), gradient_alone(options.batch, arms)
        q = q_alone(options.batch, arms)
        entries = 2 * options.batch * arms
        fd = alone["finite difference"]
        report[f"K={arms}"] = result = {
            "train_step_seconds": steps,
            "train_step_ratio": {n: s / steps["two-stage"] for n, s in steps.items()},
            "gradient_seconds": alone,
            "q_seconds": q,
            "q_speedup": q["direct"] / q["ours"],
            "q_passes": q["ours"] / q["one pass"],
            "gradient_passes": {n: s / q["one pass"] for n, s in alone.items()},
            # Eq. 8 needs two runs of Algorithm 1 for each entry of v and c.
            "fd_speedup_over_brute_force": 2 * entries * q["direct"] / fd,
            "fd_microseconds_per_entry": 1e6 * fd / entries,
        }
        print(f"\nK = {arms}, B = {options.batch:,}")
        for name, seconds in steps.items():
            print(
                f"  train step, {name:18s} {1e3 * seconds:8.1f} ms   "
                f"{result['train_step_ratio'][name]:5.2f} x two-stage"
            )
        for name, seconds in alone.items():
            passes = result["gradient_passes"][name]
            print(
                f"  alone, {name:23s} {1e3 * seconds:8.2f} ms   {passes:5.1f} passes over v and c"
            )
        print(
            "  finite differences against brute force   "
            f"{result['fd_speedup_over_brute_force']:12,.0f} x"
        )
        print(
            f"  Q: ours {1e3 * q['ours']:.2f} ms, direct loop {1e3 * q['direct']:.2f} ms: "
            f"{result['q_speedup']:.1f} x; {result['q_passes']:.1f} passes over v and c "
            f"({1e3 * q['one pass']:.2f} ms)"
        )
    write_json(options.json, report)


if __name__ == "__main__":
    main()
