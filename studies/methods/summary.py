"""The study of methods over several simulations: shares and steps, a column for each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from studies.methods.controls import CONTROLS
from studies.methods.ours import LAST_STEPS
from studies.methods.report import STEPS, compared, step_differences
from studies.methods.study import METHODS
from tfalloc.reproduce import tables
from tfalloc.reproduce.runs import Runs


def summary(folders: Sequence[str | os.PathLike[str]]) -> str:
    """Markdown of several outputs of `methods.study`.

    Args:
      folders: outputs; runs.json in each is read, nothing is run.

    Returns:
      Two tables. Shares: mean over seeds of each method, the best control of a simulation in bold,
      and below them the differences between each of the last steps and that control. Steps:
      paired differences by seed.

    Raises:
      FileNotFoundError: a folder has no runs.json.
      ValueError: there are no folders, a file is damaged or of another study, or it has no run of a
        control.

    Example:
      >>> import tempfile
      >>> from studies.methods import study as methods
      >>> folder = tempfile.mkdtemp()
      >>> where = {"settings": methods.FAST, "methods": ["logistic"], "seeds": 1}
      >>> kept = methods.study(folder, "well_specified", first_seed=101, **where)
      >>> print(summary([folder]).splitlines()[0])
      | share of perfect targeting | well_specified |
    """
    if not folders:
        raise ValueError("folders is empty; expected at least one output of the study.")
    studies = [Runs.kept(Path(folder) / "runs.json") for folder in folders]
    for study in studies:
        if "simulation" not in study.settings or "candidates" in study.settings:
            raise ValueError(f"{study.path} is of another study; expected outputs of `methods`.")
        if not any(run["method"] in CONTROLS for run in study.frame().to_dict("records")):
            raise ValueError(f"{study.path} has no run of a control; expected one at least.")
    names = [str(study.settings["simulation"]) for study in studies]
    shares = tables.markdown(["share of perfect targeting", *names], _shares(studies))
    steps = tables.markdown(["step, paired by seed", *names], _steps(studies))
    return f"{shares}\n\n{steps}\n"


def _shares(studies: list[Runs]) -> list[list[Any]]:
    found = [compared(study.frame(), list(METHODS), CONTROLS) for study in studies]
    wide = [each.set_index("method") for each in found]
    rows: list[list[Any]] = []
    for method in METHODS:
        cells = []
        for table in wide:
            if method not in table.index:
                cells.append("-")
                continue
            mean = f"{table['mean'][method]:.3f}"
            cells.append(f"**{mean}**" if table["best"][method] else mean)
        if any(cell != "-" for cell in cells):
            rows.append([method, *cells])
    rows += [[f"*{step} - best control*", *_against(step, wide)] for step in LAST_STEPS]
    return [*rows, ["*seeds*", *(str(study.frame().seed.nunique()) for study in studies)]]


def _against(step: str, wide: list[pd.DataFrame]) -> list[str]:
    """Difference of a step to the best control of each simulation."""
    return [
        tables.difference(table.loc[step].to_dict(), digits=3) if step in table.index else "-"
        for table in wide
    ]


def _steps(studies: list[Runs]) -> list[list[Any]]:
    columns = [step_differences(study.frame()) for study in studies]
    return [
        [what, *("-" if pair is None else tables.difference(pair, digits=3) for pair in pairs)]
        for (_, _, what), *pairs in zip(STEPS, *columns, strict=True)
    ]
