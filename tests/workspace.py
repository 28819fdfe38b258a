"""A small trial on disk, one trained run and its export, and a way to call the command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

ROWS = 1500
COLUMNS = ["--treatment", "arm", "--response", "bought", "--cost", "spent"]
QUICK = ["--epochs", "2", "--backbone", "small", "--batch-size", "300", "--no-jit"]


@dataclass
class Result:
    """What a call of the command left."""

    code: int
    out: str
    err: str


def invoke(*arguments: object) -> Result:
    """Runs the command in this process."""
    from tfalloc.cli.app import app

    try:
        runner = CliRunner(mix_stderr=False)  # Click before 8.2
    except TypeError:
        runner = CliRunner()
    result = runner.invoke(app, [str(argument) for argument in arguments], prog_name="tfalloc")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Result(result.exit_code, result.stdout, result.stderr)


def make_frame(rows: int = ROWS, seed: int = 0) -> pd.DataFrame:
    """A trial of two arms: the dear one helps users with a large x."""
    rng = np.random.default_rng(seed)
    x, arm = rng.normal(size=rows), rng.integers(0, 2, rows)
    return pd.DataFrame(
        {
            "x": x,
            "noise": rng.normal(size=rows),
            "city": rng.choice(["Ulm", "Jena"], rows),
            "arm": arm,
            "bought": (rng.random(rows) < 0.2 + 0.4 * arm * (x > 0)).astype(int),
            "spent": 0.1 + arm * rng.uniform(0.5, 1.5, rows),
            "after": rng.integers(0, 2, rows),
        }
    )


@dataclass(frozen=True)
class Workspace:
    """Files that all tests of a session read and none changes."""

    trial: Path
    run: Path
    saved_model: Path
    out: str


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A trial, a run trained on it and its export."""
    return make_workspace(tmp_path_factory.mktemp("workspace"))


def make_workspace(folder: Path) -> Workspace:
    """Writes a trial into a folder, trains on it and exports the run."""
    trial = folder / "trial.csv"
    make_frame().to_csv(trial, index=False)
    trained = invoke(
        "train",
        trial,
        *COLUMNS,
        *QUICK,
        "--budget",
        "0.2:0.6",
        "--exclude",
        "after",
        "--output",
        folder / "run",
        "--compare-two-stage",
    )
    assert trained.code == 0, trained.err
    exported = invoke("export", folder / "run", folder / "saved_model", "--population", trial)
    assert exported.code == 0, exported.err
    return Workspace(trial, folder / "run", folder / "saved_model", trained.out + exported.out)
