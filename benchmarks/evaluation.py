"""How long evaluation takes, and what memory, from 10^5 to 10^7 users.

    python benchmarks/evaluation.py [--users 100000 1000000 10000000] [--rounds 3] [--json FILE]

Each figure is the median of calls in a process of its own, whose memory is that of the call alone:
the peak less what it held before, predictions and trial included. Policies are found by sorting
the ends of the rows' match intervals, so the limit beside each time is NumPy's sort of as many
float64 as there are users, with its order; `x sort` says how many such sorts a call takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import peak_mib, write_json

CALLS = ("policy_outcome", "compare", "outcome_curve", "calibration", "aucc", "qini")
ARMS = (2, 5)
TWO_ARMS_ONLY = ("aucc", "qini")


def trial(users: int, arms: int) -> tuple[dict[str, Any], list[tuple[np.ndarray, np.ndarray]]]:
    """A randomised trial, and the predictions of two models, float32."""
    rng = np.random.default_rng(0)
    skill = rng.random(users, np.float32)
    arm = rng.integers(0, arms, users, np.int32)
    chance = 0.05 + 0.1 * skill * arm / (arms - 1)
    data = {
        "treatment": arm,
        "response": (rng.random(users, np.float32) < chance).astype(np.float32),
        "cost": arm * rng.choice(np.array([0.5, 1.5], np.float32), users),
    }
    steps = np.arange(arms, dtype=np.float32)
    models = []
    for noise in (0.1, 0.3):
        seen = skill + noise * rng.standard_normal(users, np.float32)
        value = 0.05 + 0.1 * np.sqrt(np.outer(np.abs(seen), steps / (arms - 1)))
        models.append((value, np.outer(0.5 + 0.5 * skill, steps)))
    return data, models


def call(name: str, users: int, arms: int) -> Callable[[], Any]:
    """One call of `evaluation`, its arguments made."""
    from tfalloc import evaluation

    data, models = trial(users, arms)
    budget = 0.3 * (arms - 1)
    score = models[0][0][:, 1] / models[0][1][:, 1]
    calls: dict[str, Callable[[], Any]] = {
        "policy_outcome": lambda: evaluation.policy_outcome(*models[0], data, budget=budget),
        "compare": lambda: evaluation.compare(
            {"a": models[0], "b": models[1]}, data, budget=budget
        ),
        "outcome_curve": lambda: evaluation.outcome_curve(*models[0], data),
        "calibration": lambda: evaluation.calibration(*models[0], data),
        "aucc": lambda: evaluation.aucc(score, data),
        "qini": lambda: evaluation.qini(score, data),
    }
    return calls[name]


def measure(name: str, users: int, arms: int, rounds: int) -> dict[str, float]:
    """Median seconds and MiB of a call, and seconds of a sort; in this process."""
    warnings.simplefilter("ignore")
    call(name, 1_000, arms)()  # imports and TensorFlow's first steps
    run = call(name, users, arms)
    keys = np.random.default_rng(1).random(users)
    before = peak_mib()
    seconds, sorts = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        np.argsort(keys, kind="stable")
        sorts.append(time.perf_counter() - start)
    return {
        "seconds": statistics.median(seconds),
        "sort": statistics.median(sorts),
        "mebibytes": peak_mib() - before,
    }


def main() -> None:
    """Measures in processes, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = [100_000, 1_000_000, 10_000_000]
    parser.add_argument("--users", type=int, nargs="+", default=sizes)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--one", nargs=3, metavar=("CALL", "USERS", "ARMS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, users, arms = options.one
        print(json.dumps(measure(name, int(users), int(arms), options.rounds)))
        return
    report: dict[str, Any] = {"numpy": np.__version__, "calls": {}}
    print(f"{'call':<16} {'users':>11} {'arms':>5} {'seconds':>9} {'x sort':>7} {'MiB':>7}")
    for name in CALLS:
        for arms in ARMS[:1] if name in TWO_ARMS_ONLY else ARMS:
            for users in options.users:
                words = [sys.executable, __file__, "--rounds", str(options.rounds)]
                words += ["--one", name, str(users), str(arms)]
                done = subprocess.run(words, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")
                found = json.loads(done.stdout.splitlines()[-1])
                report["calls"][f"{name},users={users},arms={arms}"] = found
                print(
                    f"{name:<16} {users:>11,} {arms:>5} {found['seconds']:9.2f} "
                    f"{found['seconds'] / found['sort']:7.1f} {found['mebibytes']:7,.0f}",
                    flush=True,
                )
    write_json(options.json, report)


if __name__ == "__main__":
    main()
