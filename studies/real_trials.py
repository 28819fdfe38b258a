"""What do methods bring on real trials? Cross-fitted, doubly robust, paired by row.

    python -m studies.real_trials [--hillstrom FILE] [--criteo FILE] [--karlan FILE]

Each file is learned from in folds: every row is predicted by models that have not seen it, and the
policies of all rows are evaluated on their own outcomes at one budget, by the doubly robust
estimator with the cross-fitted logistic regression as model of outcomes, the same for all methods.
Differences to that logistic regression are paired by row. No settings are chosen here: they are
the usual ones, `studies.methods.settings.usual("trial")`.

    hillstrom   64,000 customers, three arms; visits; 5 and 10 cents a mail are assumed
    criteo      a sample of Criteo Uplift, two arms; visits; one cent a treated user is assumed
    karlan      Karlan and List 2007, four arms: matching gifts 1:1 to 3:1; gifts; cost is the match

The files are not shipped: blog.minethatdata.com, Criteo AI Lab, and the authors' replication data.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import tfalloc
from studies.methods.settings import usual
from studies.methods.study import METHODS
from studies.methods.task import Settings, Task
from tfalloc import RCTData, evaluation
from tfalloc.baselines.scores import predictions

CHOSEN = (
    "logistic",
    "boosting, single",
    "our network, goal_weight 0",
    "averaged",
    "imitated",
    "imitated, two-stage",
    "imitated, smoothed",
)
REFERENCE = CHOSEN[0]


def hillstrom(path: Path) -> tuple[RCTData, float]:
    """The trial, and a budget per user."""
    return tfalloc.datasets.hillstrom(path), 0.05


def criteo(path: Path) -> tuple[RCTData, float]:
    """The trial, and a budget per user."""
    features = [f"f{j}" for j in range(12)]
    read = RCTData.from_csv if ".csv" in path.name else RCTData.from_parquet
    cost = {"0": 0.0, "1": 0.01}
    data = read(path, treatment="treatment", response="visit", cost=cost, features=features)
    return data, 0.003


def karlan(path: Path) -> tuple[RCTData, float]:
    """The trial, and a budget per user."""
    table = pd.read_csv(path)
    table["match"] = table["ratio"] * table["amount"]
    known = ["freq", "HPA", "years", "couple", "female", "redcty", "bluecty", "dormant", "MRM2"]
    data = RCTData.from_frame(
        table,
        treatment="ratio",
        response="gave",
        cost="match",
        features=[name for name in known if name in table],
        missing="indicator",
    )
    return data, 1.0


TRIALS: dict[str, Callable[[Path], tuple[RCTData, float]]] = {
    "hillstrom": hillstrom,
    "criteo": criteo,
    "karlan": karlan,
}


def cross_fitted(data: RCTData, budget: float, folds: int, settings: Settings) -> dict[str, dict]:
    """Out-of-fold predictions of every method, {method: {"response", "cost"}}, each [N, K]."""
    fold = np.random.default_rng(0).permutation(len(data)) % folds
    found = {
        name: {part: np.empty((len(data), data.num_treatments)) for part in ("response", "cost")}
        for name in CHOSEN
    }
    for k in range(folds):
        own = np.flatnonzero(fold == k)
        train = data.take(np.flatnonzero(fold != k))
        task = Task("trial", train, (0.5 * budget, 1.5 * budget), None, settings, usual("trial"))
        for name in CHOSEN:
            start = time.perf_counter()
            predicted = predictions(METHODS[name](task, k), data.take(own))
            for part, values in predicted.items():
                found[name][part][own] = values
            print(f"  fold {k}, {name}: {time.perf_counter() - start:.0f} s", flush=True)
    return found


def evaluated(found: dict[str, dict], data: RCTData, budget: float) -> pd.DataFrame:
    """Response per user at the budget, and paired differences to the reference."""
    model = found[REFERENCE]["response"], found[REFERENCE]["cost"]
    pairs = {name: (each["response"], each["cost"]) for name, each in found.items()}
    options: dict[str, Any] = {"estimator": "doubly_robust", "outcome_model": model}
    options["reference"] = REFERENCE
    table = evaluation.compare(pairs, data, budget=budget, **options)
    columns = ["response", "stderr", "cost", "difference", "difference_low", "difference_high"]
    return table[[x for x in [*columns, "p_value"] if x in table]]


def main() -> None:
    """Runs the trials whose files are given, prints tables, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in TRIALS:
        parser.add_argument(f"--{name}", type=Path, default=None, metavar="FILE")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    given = {name: getattr(options, name) for name in TRIALS if getattr(options, name)}
    if not given:
        parser.error(f"name a file: {', '.join(f'--{name} FILE' for name in TRIALS)}")
    kept = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    for name, path in given.items():
        data, budget = TRIALS[name](path)
        print(f"{name}: {len(data):,} rows, {data.num_treatments} arms, budget {budget:g}")
        found = cross_fitted(data, budget, options.folds, Settings(epochs=options.epochs))
        table = evaluated(found, data, budget)
        with pd.option_context("display.width", 200):
            print(table.to_string(float_format="{:.5f}".format), "\n")
        kept[name] = {
            "rows": len(data),
            "budget": budget,
            "folds": options.folds,
            "methods": json.loads(table.to_json(orient="index")),
        }
        if options.json:
            partial = options.json.with_suffix(".tmp")
            partial.write_file(json.dumps(kept, indent=1) + "\n")
            os.replace(partial, options.json)


if __name__ == "__main__":
    main()
