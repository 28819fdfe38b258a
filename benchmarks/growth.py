"""How the cost of each gradient grows with rows B, arms K and directions N', beside its limit.

    python benchmarks/growth.py [--rounds 7] [--json FILE]

The limit is one compiled pass that reads v and c once (float32 in, float64 inside) and reduces each
row, which no method that looks at every prediction can beat: memory bandwidth and one subtraction
for each entry. NES has another: drawing its N' B K normals. Every figure is a median of calls
that take turns within one run; `x limit` says how far from its limit a gradient is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tensorflow as tf
from measuring import write_json
from train_step import alternate, trial

from tfalloc import gradients
from tfalloc.gradients import antithetic_normals

SIZES = [
    (1_000, 2),
    (10_000, 2),
    (100_000, 2),
    (1_000_000, 2),
    (10_000, 5),
    (10_000, 10),
    (10_000, 30),
    (10_000, 100),
]
NAMES = ("FiniteDifference", "Smoothed", "Integrated")
DIRECTIONS = [250, 1_000, 4_000]


def one_pass(v: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
    """Reads v and c once: each row's largest v - c, in float64."""
    return tf.reduce_max(tf.cast(v, tf.float64) - tf.cast(c, tf.float64), axis=1)


def at_size(batch: int, arms: int, rounds: int) -> dict[str, float]:
    """Seconds of each gradient and of one pass."""
    _, v, c, t, y, z, share = map(tf.constant, trial(batch, arms))
    budget = tf.reduce_mean(z)
    calls = {"one pass": tf.function(lambda: one_pass(v, c), jit_compile=True)}
    for name, gradient in {
        "FiniteDifference": gradients.FiniteDifference(),
        "Smoothed": gradients.Smoothed(),
        "Integrated": gradients.Integrated(),
    }.items():
        calls[name] = tf.function(
            lambda gradient=gradient: gradient(v, c, t, y, z, budget, propensity=share),
            jit_compile=True,
        )
    return alternate(calls, rounds=rounds)


def directions(number: int, batch: int, arms: int, rounds: int) -> dict[str, float]:
    """Seconds of NES with N' directions, and of its random numbers alone."""
    _, v, c, t, y, z, share = map(tf.constant, trial(batch, arms))
    budget, seed = tf.reduce_mean(z), tf.constant([1, 2])
    gradient = gradients.NES(num_directions=number)

    @tf.function(jit_compile=True)
    def nes(seed):
        return gradient(v, c, t, y, z, budget, propensity=share, seed=seed)

    @tf.function(jit_compile=True)
    def draws(seed):
        def sums(e, d):
            return tf.reduce_sum(e, axis=(1, 2)), tf.reduce_sum(d, axis=(1, 2))

        def as_values(e, d):
            return tuple(tf.cast(x, tf.float64) for x in sums(e, d))

        return antithetic_normals.estimate(as_values, tf.constant([arms, batch]), number // 2, seed)

    return alternate({"NES": lambda: nes(seed), "its normals": lambda: draws(seed)}, rounds)


def main() -> None:
    """Measures, prints two tables, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    report: dict = {"tensorflow": tf.__version__, "sizes": {}, "directions": {}}
    print("milliseconds of one compiled call (x limit: times one pass over v and c)")
    print(f"{'B':>9} {'K':>4} {'one pass':>9}  " + "".join(f"{n:>24}" for n in NAMES))
    for batch, arms in SIZES:
        seconds = at_size(batch, arms, options.rounds)
        report["sizes"][f"B={batch},K={arms}"] = seconds
        limit = seconds["one pass"]
        shown = "".join(f"{1e3 * seconds[n]:13.2f} ({seconds[n] / limit:5.1f} x)  " for n in NAMES)
        print(f"{batch:>9,} {arms:>4} {1e3 * limit:9.2f}  {shown}")
    print("\nNES at B = 10,000 and K = 2 (limit: its random numbers)")
    for number in DIRECTIONS:
        seconds = directions(number, 10_000, 2, max(3, options.rounds // 2))
        report["directions"][f"N={number}"] = seconds
        whole, normals = 1e3 * seconds["NES"], 1e3 * seconds["its normals"]
        print(
            f"  N' = {number:>5,}: {whole:8.1f} ms, normals alone {normals:7.1f} ms "
            f"({whole / normals:.1f} x)"
        )
    ends = [report["sizes"][f"B={b},K=2"] for b in (10_000, 1_000_000)]
    slopes = {n: np.log(ends[1][n] / ends[0][n]) / np.log(100) for n in NAMES}
    print(
        "\ngrowth from B = 10,000 to 1,000,000: "
        + ", ".join(f"{n} B^{s:.2f}" for n, s in slopes.items())
    )
    write_json(options.json, report)


if __name__ == "__main__":
    main()
