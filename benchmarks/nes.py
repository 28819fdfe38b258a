"""Times `tfalloc.gradients.NES` against Eq. 10 as written, and shows what memory it needs.

    python benchmarks/nes.py --rows 10000 --arms 2 30 --json nes.json

The rival is Eq. 10, vectorised and compiled: independent normal directions, for each perturbed
problem Algorithm 1 with an argmax over all rows and arms at every halving, chunks that fit in
cache, all in float32. Both sides get the same number of perturbed problems. Figures are medians of
several runs, taken in turns; only ratios carry over to other machines. With many arms the rival
takes minutes: `--many` sets the number of directions from 8 arms on, for both sides. The limit is
the drawing of its random numbers, which no estimator by directions can do without: "x draws".
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import tensorflow as tf
from measuring import peak_mib, write_json

from tfalloc.gradients import NES, antithetic_normals

BUDGET, ALPHA_MAX, ITERATIONS, SIGMA = 0.25, 0.5, 18, 1e-3
CHUNK_ENTRIES = 1 << 17  # of the rival; 2^15 to 2^20 were tried

Call = Callable[[tf.Tensor], Any]


def trial(rows: int, arms: int) -> list[tf.Tensor]:
    """A trial whose outcomes follow the predictions; the budget binds."""
    rng = np.random.default_rng(0)
    v = np.sort(0.05 + 0.1 * rng.random((rows, arms)), axis=1)
    c = np.sort(0.05 + rng.random((rows, arms)), axis=1)
    c[:, 0] = 0.02 * rng.random(rows)
    t = rng.integers(0, arms, rows)
    n = np.arange(rows)
    y = rng.random(rows) < v[n, t]
    z = c[n, t] * rng.choice([0.5, 1.5], rows)
    return [tf.constant(x, tf.float32) for x in (v, c)] + [
        tf.constant(t, tf.int32),
        tf.constant(y, tf.float32),
        tf.constant(z, tf.float32),
    ]


def fast(data: list[tf.Tensor], directions: int) -> Call:
    """NES as users call it."""
    gradient = NES(sigma=SIGMA, num_directions=directions, alpha_max=ALPHA_MAX)
    return lambda seed: gradient(*data, BUDGET, seed=seed)[1:3]


def direct(data: list[tf.Tensor], directions: int) -> Call:
    """Eq. 10: Q solved from scratch, by argmax, for each of `directions` directions."""
    v, c, t, y, z = data
    chunk = max(1, min(directions, CHUNK_ENTRIES // int(np.prod(v.shape))))
    rounds = -(-directions // chunk)

    def goals(v_: tf.Tensor, c_: tf.Tensor) -> tf.Tensor:
        def matched(alpha: tf.Tensor) -> tf.Tensor:
            best = tf.argmax(v_ - alpha[:, None, None] * c_, axis=-1, output_type=tf.int32)
            return tf.cast(best == t, tf.float32)

        def halve(low, high, _):
            alpha = (low + high) / 2
            above = tf.linalg.matvec(matched(alpha), z - BUDGET) > 0
            return tf.where(above, alpha, low), tf.where(above, high, alpha), alpha

        zero = tf.zeros([chunk])
        *_, alpha = tf.while_loop(
            lambda *_: True, halve, (zero, zero + ALPHA_MAX, zero), maximum_iterations=ITERATIONS
        )
        s = matched(alpha)
        return tf.math.divide_no_nan(tf.linalg.matvec(s, y), tf.reduce_sum(s, axis=-1))

    def call(seed: tf.Tensor) -> Any:
        def body(n, dv, dc):
            shape = [2, chunk, *v.shape]
            pair = tf.stack([seed[0], seed[1] + n])
            e, d = tf.unstack(tf.random.stateless_normal(shape, pair, alg="philox"))
            q = goals(v + SIGMA * e, c + SIGMA * d)
            return n + 1, dv + tf.tensordot(q, e, 1), dc + tf.tensordot(q, d, 1)

        zero = tf.zeros_like(v)
        _, dv, dc = tf.while_loop(lambda n, *_: n < rounds, body, (0, zero, zero))
        return dv / (directions * SIGMA), dc / (directions * SIGMA)

    return call


def random_alone(data: list[tf.Tensor], directions: int) -> Call:
    """The same directions as NES draws, summed up."""
    shape = tf.constant(data[0].shape[::-1])
    chunk = max(
        1, min(directions // 2, antithetic_normals.CHUNK_ENTRIES // int(np.prod(data[0].shape)))
    )

    def call(seed: tf.Tensor) -> Any:
        stream = antithetic_normals.Stream(shape, seed)

        def body(n, total):
            e, d = stream.directions(n, tf.constant(chunk))
            return n + chunk, total + tf.reduce_sum(e, axis=0) + tf.reduce_sum(d, axis=0)

        return tf.while_loop(
            lambda n, _: n < directions // 2, body, (0, tf.zeros(data[0].shape[::-1]))
        )

    return call


def stateless_normal_alone(data: list[tf.Tensor], directions: int) -> Call:
    """As many normals from `tf.random.stateless_normal`, summed up."""
    shape = [2, *data[0].shape]
    chunk = max(1, min(directions // 2, CHUNK_ENTRIES // int(np.prod(data[0].shape))))

    def call(seed: tf.Tensor) -> Any:
        def body(n, total):
            pair = tf.stack([seed[0], seed[1] + n])
            e = tf.random.stateless_normal([chunk, *shape], pair, alg="philox")
            return n + chunk, total + tf.reduce_sum(e, axis=0)

        return tf.while_loop(lambda n, _: n < directions // 2, body, (0, tf.zeros(shape)))

    return call


def measure(rows: int, arms: int, directions: int, runs: int) -> list[dict[str, Any]]:
    """Medians of wall-clock and CPU seconds of each contender, run in turns."""
    data = trial(rows, arms)
    contenders = {
        "NES": (fast, True),
        "NES, no XLA": (fast, False),
        "Eq. 10 as written": (direct, True),
        "Eq. 10 as written, no XLA": (direct, False),
        "random numbers of NES": (random_alone, True),
        "stateless_normal": (stateless_normal_alone, True),
    }
    calls, lines = {}, {}
    for what, (make, jit_compile) in contenders.items():
        calls[what] = tf.function(make(data, directions), jit_compile=jit_compile)
        start = time.perf_counter()
        _wait(calls[what](tf.constant([0, 1])))
        lines[what] = {"first": time.perf_counter() - start}
    wall: dict[str, list[float]] = {what: [] for what in calls}
    cpu: dict[str, list[float]] = {what: [] for what in calls}
    for run in range(runs):
        for what, call in calls.items():
            start, used = time.perf_counter(), time.process_time()
            _wait(call(tf.constant([run, 2])))
            wall[what].append(time.perf_counter() - start)
            cpu[what].append(time.process_time() - used)
    rival_wall = statistics.median(wall["Eq. 10 as written"])
    rival_cpu = statistics.median(cpu["Eq. 10 as written"])
    draws = statistics.median(wall["random numbers of NES"])
    return [
        {
            "rows": rows,
            "arms": arms,
            "directions": directions,
            "what": what,
            "seconds": statistics.median(wall[what]),
            "cpu_seconds": statistics.median(cpu[what]),
            "times_faster": rival_wall / statistics.median(wall[what]),
            "times_less_cpu": rival_cpu / statistics.median(cpu[what]),
            "times_its_draws": statistics.median(wall[what]) / draws,
            "compile_seconds": lines[what]["first"] - statistics.median(wall[what]),
        }
        for what in calls
    ]


def _wait(result: Any) -> None:
    for tensor in tf.nest.flatten(result):
        tensor.numpy()


def peak_memory(rows: int, arms: int, directions: int, mode: str) -> dict[str, Any]:
    """Peak of a process of its own, in MiB: after loading TensorFlow and data, and after NES."""
    source = Path(__file__)
    out = subprocess.run(
        [sys.executable, str(source), "--peak", str(rows), str(arms), str(directions), mode],
        check=True,
        capture_output=True,
        text=True,
    )
    before, after, seconds = map(float, out.stdout.split())
    return {
        "rows": rows,
        "arms": arms,
        "directions": directions,
        "mode": mode,
        "before_mib": before,
        "peak_mib": after,
        "seconds": seconds,
    }


def _report_peak(rows: int, arms: int, directions: int, mode: str) -> None:
    data = trial(rows, arms)
    call = fast(data, directions)
    if mode != "eager":
        call = tf.function(call, jit_compile=mode == "XLA")
    before = peak_mib()
    _wait(call(tf.constant([0, 1])))
    start = time.perf_counter()
    _wait(call(tf.constant([0, 2])))
    print(before, peak_mib(), time.perf_counter() - start)


def main() -> None:
    """Parses the command line, measures, prints tables, writes JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--arms", type=int, nargs="+", default=[2, 30])
    parser.add_argument("--directions", type=int, default=2000)
    parser.add_argument("--many", type=int, default=100, help="directions from 8 arms on")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--growth", type=int, nargs="*", default=[500, 2000, 8000])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        rows, arms, directions = map(int, options.peak[:3])
        _report_peak(rows, arms, directions, options.peak[3])
        return

    table = []
    print(
        f"{'rows':>7} {'arms':>4} {'N':>5}  {'what':<26} {'wall':>8} {'cpu':>8}  ratio (wall, cpu)"
    )
    for arms in options.arms:
        directions = options.directions if arms < 8 else options.many
        for line in measure(options.rows, arms, directions, options.runs):
            table.append(line)
            print(
                f"{line['rows']:>7} {line['arms']:>4} {line['directions']:>5}  {line['what']:<26} "
                f"{line['seconds']:>8.3f} {line['cpu_seconds']:>8.3f}  "
                f"{line['times_faster']:.2f}x {line['times_less_cpu']:.2f}x, "
                f"{line['times_its_draws']:.1f} x draws",
                flush=True,
            )
    memory = []
    print(
        f"{'rows':>7} {'arms':>4} {'N':>5}  {'mode':<5} {'before':>7} {'peak':>7} MiB {'wall':>8}"
    )
    for arms in options.arms:
        jobs = [(n, "XLA") for n in options.growth] + [(min(options.growth, default=2), "graph")]
        for directions, mode in jobs if options.growth else []:
            line = peak_memory(options.rows, arms, directions, mode)
            memory.append(line)
            print(
                f"{line['rows']:>7} {line['arms']:>4} {line['directions']:>5}  {line['mode']:<5} "
                f"{line['before_mib']:>7.0f} {line['peak_mib']:>7.0f}     {line['seconds']:>8.3f}",
                flush=True,
            )
    machine = {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
    }
    write_json(options.json, {"machine": machine, "results": table, "memory": memory})


if __name__ == "__main__":
    main()
