"""Hyper-parameters for the study of methods, each method's chosen among equally many candidates.

Every candidate of every method (`settings.candidates`) learns from the same few trials, of
seeds that the study does not report, and is evaluated on validation users by the share of perfect
targeting (`methods`). The candidate with the largest mean is chosen. Ours are searched in two
steps: the network alone, which is a control too, then the recipe around the chosen network and
the chosen boosting, by its last step ("imitated, smoothed").

The share is that of true values. It is what the policy's value on validation rows estimates, and
that estimate stands beside it, with its standard error: what users without the truth choose by.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies.methods.settings import RECIPE, candidates, entries, usual
from studies.methods.study import Protocol, sizes, some_of, to_be_had
from studies.methods.task import TUNING_SEED, Settings, Task, checked
from tfalloc.evaluation import policy_outcome
from tfalloc.reproduce import tables
from tfalloc.reproduce.runs import Runs, write_file

CANDIDATES = 6
# Whose share the recipe is chosen by.
LAST_STEP = "imitated, smoothed"


def study(
    output: str | os.PathLike[str],
    simulation: str = "criteo_like",
    *,
    seeds: int = 3,
    count: int = CANDIDATES,
    settings: Settings | None = None,
    data: str | os.PathLike[str] | None = None,
    methods: Sequence[str] | None = None,
    first_seed: int = TUNING_SEED,
    restart: bool = False,
    command: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Runs what is missing, and writes the table and the chosen arguments.

    Args:
      output: directory for runs.json, table.md and tuned.json.
      simulation: as for `methods.study`.
      seeds: trials that every candidate learns from.
      count: candidates of each method.
      settings: sizes; None: the defaults.
      data: as for `methods.study`.
      methods: names among `settings.entries`; None: all that go with the simulation.
      first_seed: of the trials, none of which the study is to report.
      restart: whether to throw earlier runs away.
      command: kept beside the runs.

    Returns:
      {method: {argument: value}}, the chosen ones.

    Raises:
      FileNotFoundError: nothing at `data`.
      ValueError: an argument is not known or out of range, a file is missing or not needed, or the
        settings or candidates are not those of the runs kept.
      ImportError: scikit-learn, which most controls need, is not installed.

    Example:
      >>> import tempfile
      >>> from studies.methods.task import FAST
      >>> where = {"methods": ["logistic"], "seeds": 1, "settings": FAST}
      >>> sorted(study(tempfile.mkdtemp(), "well_specified", count=2, **where)["logistic"])
      ['C']
    """
    settings = settings or Settings()
    for name, value in (("seeds", seeds), ("candidates", count)):
        if value < 1:
            raise ValueError(f"{name}={value!r}: expected at least 1.")
    scenario = checked(simulation, data)
    chosen_methods = some_of(entries(simulation), methods, simulation)
    folder = Path(output)
    kept = {**sizes(simulation, settings, scenario, data), "candidates": count}
    runs = Runs(
        folder / "runs.json",
        kept,
        products=("table.md", "tuned.json"),
        command=command,
        restart=restart,
    )
    for row in runs.frame().to_dict("records"):
        known = row["method"] in entries(simulation)
        now = dict(enumerate(candidates(row["method"], count) if known else []))
        where = {"method": row["method"], "candidate": row["candidate"]}
        runs.check_arguments(now.get(row["candidate"], {}), **where)
    work = _Candidates(Protocol(simulation, scenario, settings, data), runs, count)
    every = range(first_seed, first_seed + seeds)
    keys = [
        {"method": method, "candidate": index, "seed": seed}
        for method in chosen_methods  # the recipe last, which stands on the others' choices
        for seed in every
        for index in range(len(candidates(method, count)))
    ]
    runs.complete(keys, work.run, "tuning", prepare=work.protocol.prepare)
    chosen = _chosen(runs)
    write_file(folder / "tuned.json", json.dumps(chosen, indent=1) + "\n")
    write_file(folder / "table.md", _table(runs, simulation))
    return chosen


class _Candidates:
    """Does the runs; the recipe's candidates stand on what was chosen before."""

    def __init__(self, protocol: Protocol, runs: Runs, count: int):
        self.protocol, self.runs, self.count = protocol, runs, count

    @functools.cached_property
    def before(self) -> dict[str, dict[str, Any]]:
        """What the recipe stands on, the same for all its candidates.

        Another process may go on with the others' runs meanwhile.
        """
        return _chosen(self.runs)

    def run(self, method: str, candidate: int, seed: int) -> dict[str, Any]:
        """The figures of one run."""
        arguments = candidates(method, self.count)[candidate]
        before = self.before if method == RECIPE else {}
        tuned = {**usual(self.protocol.simulation), **before, method: arguments}
        # The recipe's candidates share what they average.
        task: Task = dataclasses.replace(self.protocol.task(seed), tuned=tuned)
        name = LAST_STEP if method == RECIPE else method
        found, seconds = self.protocol.predicted(name, task, seed)
        worth = self.protocol.evaluate(found["response"], found["cost"], seed)
        figures = {"share": worth["share"], **self._estimate(found, seed)}
        return {**figures, "arguments": arguments, "seconds": seconds}

    def _estimate(self, found: dict[str, np.ndarray], seed: int) -> dict[str, float]:
        """The share by the validation users' own outcomes, and its standard error.

        Both are means over the budgets that the policy can keep: neighbouring budgets share their
        users, so that the mean has about the error of one.
        """
        fresh, mix, oracle = self.protocol.fresh(seed)
        shares, errors = [], []
        for budget, low, high in zip(self.protocol.budgets, mix, oracle, strict=True):
            outcome = policy_outcome(
                found["response"], found["cost"], fresh.data, budget=float(budget)
            )
            if outcome.feasible and to_be_had(low, high):
                shares.append((outcome.response - low) / (high - low))
                errors.append(outcome.response_stderr / (high - low))
        if not shares:
            return {"estimate": math.nan, "stderr": math.nan}
        return {"estimate": float(np.mean(shares)), "stderr": float(np.mean(errors))}


def _means(frame: pd.DataFrame) -> pd.DataFrame:
    """Share and estimate of each candidate, means over seeds; one row each."""
    groups = frame.groupby(["method", "candidate"], sort=False)
    means = groups.agg(
        share=("share", "mean"),
        sd=("share", "std"),
        estimate=("estimate", "mean"),
        stderr=("stderr", lambda x: float(np.sqrt(np.sum(x**2)) / len(x))),
        seconds=("seconds", "mean"),
        seeds=("seed", "count"),
        arguments=("arguments", "first"),
    )
    return means.reset_index()


def _best(runs: Runs) -> dict[str, int]:
    """The candidate of each method with the largest mean share, the earliest of equals.

    Compared on the seeds that all of them have: a study may have been stopped before it was through
    with a seed. One that was refused on a seed does not compete with those that were not.
    """
    refused = {(key["method"], key["candidate"]) for key, _ in runs.refused}
    best: dict[str, int] = {}
    for method, own in runs.frame().groupby("method", sort=False):
        shares = own.pivot(index="seed", columns="candidate", values="share")
        whole = [number for number in shares if (method, number) not in refused]
        best[str(method)] = int(tables.largest(shares[whole] if whole else shares))
    return best


def _chosen(runs: Runs) -> dict[str, dict[str, Any]]:
    """Arguments of each method's best candidate, {method: arguments}."""
    if not len(runs):
        return {}
    arguments = runs.frame().groupby(["method", "candidate"]).arguments.first()
    return {method: dict(arguments[method, best]) for method, best in _best(runs).items()}


def _table(runs: Runs, simulation: str) -> str:
    frame = runs.frame()
    means = _means(frame)
    best = _best(runs)
    columns = ["method", "candidate", "share", "estimate ± its error", "seconds"]
    rows: list[list[Any]] = []
    for each in means.to_dict("records"):
        shown = ", ".join(f"{name} {value}" for name, value in each["arguments"].items())
        known = not math.isnan(each["estimate"])
        rows.append(
            [
                each["method"],
                f"**{shown}**" if best[each["method"]] == each["candidate"] else shown,
                tables.spread(each["share"], each["sd"], digits=3),
                f"{each['estimate']:.3f} ± {each['stderr']:.3f}" if known else None,
                f"{each['seconds']:.1f}",
            ]
        )
    parts = [
        f"# Hyper-parameters on {simulation}",
        f"Seeds {frame.seed.min()} to {frame.seed.max()}. share: of perfect targeting, by the "
        "validation users' true values, mean over budgets and seeds ± standard deviation over "
        "seeds; its largest mean chooses (bold). estimate: the same by their sampled outcomes, "
        "with its standard error.",
        tables.markdown(columns, rows),
        *tables.refusals(runs.refused),
        tables.made_by(runs.provenance, runs.seconds),
    ]
    return "\n\n".join(parts) + "\n"
