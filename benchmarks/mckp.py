"""Times `tfalloc.mckp` against HiGHS, `maq` (if installed) and one pass over the same memory.

    python benchmarks/mckp.py --rows 1000000 --arms 5 30 --json mckp.json

Figures are medians over several runs, in seconds (HiGHS and maq: one run); only the ratios carry
over to other machines. The limit is one pass over values and costs, memory bandwidth: "passes" says
how far from it a line is.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from measuring import write_json

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tfalloc import mckp

Floats = npt.NDArray[np.float64]


def median_time(work: Callable[[], object], runs: int) -> float:
    """Returns the median seconds of `runs` calls after one unmeasured call."""
    work()
    return single_median(work, runs)


def single_median(work: Callable[[], object], runs: int) -> float:
    """Returns the median seconds of `runs` calls, with no call to warm up."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def problem(rows: int, arms: int) -> tuple[Floats, Floats]:
    """Random increasing costs and values: about half of all arms are on a hull at five arms."""
    rng = np.random.default_rng(0)
    cost = np.cumsum(rng.random((rows, arms)), axis=1)
    value = np.cumsum(0.1 * rng.random((rows, arms)), axis=1)
    return value, cost


def measure(rows: int, arms: int, runs: int) -> list[dict[str, Any]]:
    """Times one memory pass, `path` and `solve` at three budgets."""
    value, cost = problem(rows, arms)
    size = {"rows": rows, "arms": arms}
    one_pass = median_time(lambda: (value.sum(), cost.sum()), runs)
    rate = (value.nbytes + cost.nbytes) / one_pass / 1e9
    table: list[dict[str, Any]] = [
        {**size, "what": f"one pass, 1 thread, {rate:.1f} GB/s", "seconds": one_pass}
    ]
    table.append(
        {**size, "what": "path", "seconds": median_time(lambda: mckp.path(value, cost), runs)}
    )
    curve = mckp.path(value, cost)
    for share in (0.1, 0.5, 0.9):
        budget = float((1 - share) * curve.cost[0] + share * curve.cost[-1])
        seconds = median_time(partial(mckp.solve, value, cost, budget=budget), runs)
        table.append({**size, "what": f"solve, {share:.0%} of the range", "seconds": seconds})
    if importlib.util.find_spec("maq"):
        seconds = time_maq(value, cost)
        table.append({**size, "what": "maq, full path", "seconds": seconds})
        table[1]["maq_ratio"] = seconds / table[1]["seconds"]
    for line in table:
        line["passes"] = line["seconds"] / one_pass
    return table


def time_maq(value: Floats, cost: Floats) -> float:
    """Times the path of `maq`, whose arm 0 is implicit and free: costs are taken relative to it."""
    maq = importlib.import_module("maq")
    reward, spend = value[:, 1:] - value[:, :1], cost[:, 1:] - cost[:, :1]
    # Its default budget is unlimited. The third argument only evaluates the path.
    return single_median(lambda: maq.MAQ(n_bootstrap=0).fit(reward, spend, reward), 1)


def compare_with_highs(rows: int, arms: int, runs: int) -> list[dict[str, Any]]:
    """Times the same relaxed problem in HiGHS, simplex and interior point; all must agree."""
    import scipy.optimize
    import scipy.sparse

    value, cost = problem(rows, arms)
    curve = mckp.path(value, cost)
    budget = float((curve.cost[0] + curve.cost[-1]) / 2)
    one_arm = scipy.sparse.kron(scipy.sparse.eye(rows), np.ones((1, arms)), format="csr")

    def highs(method: str) -> dict[str, Any]:
        # Once: these take so long that the clock is not the problem.
        start = time.perf_counter()
        found = scipy.optimize.linprog(
            -value.ravel() / rows,
            A_ub=scipy.sparse.csr_matrix(cost.reshape(1, -1) / rows),
            b_ub=[budget],
            A_eq=one_arm,
            b_eq=np.ones(rows),
            method=method,
        )
        seconds = time.perf_counter() - start
        if abs(-found.fun - bound) > 1e-7:
            raise RuntimeError(f"{method} finds {-found.fun}, solve {bound}: they must agree")
        return {"what": f"LP, one budget, {method}", "seconds": seconds}

    bound = mckp.solve(value, cost, budget=budget).upper_bound
    table = [highs("highs-ds"), highs("highs-ipm")]
    # The ratios are to the faster of the two.
    best: float = min(line["seconds"] for line in table)
    for what, work in (
        ("solve, the same budget", lambda: mckp.solve(value, cost, budget=budget)),
        ("path, all budgets", lambda: mckp.path(value, cost)),
    ):
        table.append({"what": what, "seconds": median_time(work, runs)})
    return [
        {"rows": rows, "arms": arms, **line, "highs_ratio": best / line["seconds"]}
        for line in table
    ]


def main() -> None:
    """Parses the command line, measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--arms", type=int, nargs="+", default=[5, 30])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--highs-rows", type=int, default=20_000, help="0 to skip HiGHS")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()

    table = [x for arms in options.arms for x in measure(options.rows, arms, options.runs)]
    if options.highs_rows:
        table += compare_with_highs(options.highs_rows, 5, options.runs)

    print(f"{'rows':>9} {'arms':>4}  {'what':<32} {'seconds':>9}  ratio")
    for line in table:
        ratio = (
            f"{line['passes']:.1f} passes"
            if "passes" in line
            else f"{line['highs_ratio']:.3g}x the faster HiGHS"
        )
        if "maq_ratio" in line:
            ratio += f", {line['maq_ratio']:.3g}x maq"
        print(
            f"{line['rows']:>9} {line['arms']:>4}  {line['what']:<32} "
            f"{line['seconds']:>9.4f}  {ratio}"
        )
    machine = {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    write_json(options.json, {"machine": machine, "results": table})


if __name__ == "__main__":
    main()
