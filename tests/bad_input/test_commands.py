"""Every bad input: exit code 2, one line that names the trouble, and nothing left behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.workspace import COLUMNS, QUICK, Workspace, invoke, make_frame


def _refused(folder: Path, expected: str, *arguments: object) -> None:
    """Runs the command and checks how it fails; `folder` must stay as it is."""
    before = sorted(path.name for path in folder.iterdir())
    result = invoke(*arguments)
    assert result.code == 2, result.err
    lines = result.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and lines[-1] == errors[0], result.err
    assert expected in errors[0]
    assert "Traceback" not in result.err
    assert sorted(path.name for path in folder.iterdir()) == before


Change = Callable[[pd.DataFrame], pd.DataFrame]


def _set(column: str, value: object, row: int = 7) -> Change:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame[column] = frame[column].astype(float)
        frame.loc[row, column] = value
        return frame

    return change


def _shares(value: float) -> Change:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame["share"] = 0.5
        frame.loc[3, "share"] = value
        return frame

    return change


BAD_ROWS: dict[str, tuple[Change, list[object], str]] = {
    "NaN feature": (_set("x", np.nan), [], "NaN"),
    "infinite feature": (_set("x", np.inf), [], "infinite"),
    "treatment below 0": (_set("arm", -1), [], "outside"),
    "treatment beyond the labels": (_set("arm", 2), ["--treatments", "none,mail"], "outside"),
    "treatment is no integer": (_set("arm", 0.5), [], "non-integer"),
    "treatment is missing": (_set("arm", np.nan), [], "missing"),
    "negative cost": (_set("spent", -0.1), [], "spent"),
    "infinite cost": (_set("spent", np.inf), [], "infinite"),
    "NaN response": (_set("bought", np.nan), [], "NaN"),
    "response of cross entropy": (
        _set("bought", 2),
        ["--response-head", "binary"],
        "0 or 1",
    ),
    "propensity of 0": (_shares(0.0), ["--propensity", "share"], "share"),
    "propensity above 1": (_shares(1.5), ["--propensity", "share"], "share"),
    "an arm without rows": (_set("arm", 3), [], "no rows"),
    "an empty table": (lambda frame: frame.head(0), [], "empty"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_bad_rows(tmp_path: Path, case: str, suffix: str) -> None:
    change, extra, expected = BAD_ROWS[case]
    frame = change(make_frame(300))
    path = tmp_path / f"trial{suffix}"
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path, index=False)
    arguments = [*COLUMNS, *QUICK, "--budget", 0.4, "--exclude", "after", *extra]
    _refused(tmp_path, expected, "train", path, *arguments, "--output", tmp_path / "run")


BAD_OPTIONS: dict[str, tuple[list[object], str]] = {
    "unknown treatment": (["--treatment", "amr"], "Did you mean 'arm'"),
    "unknown response": (["--response", "sold"], "'sold'"),
    "unknown cost": (["--cost", "spend"], "'spend'"),
    "unknown feature": (["--features", "x,y"], "'y'"),
    "unknown excluded": (["--exclude", "afterr"], "'after'"),
    "unknown weight": (["--weight", "w"], "'w'"),
    "unknown propensity": (["--propensity", "p"], "'p'"),
    "all excluded": (["--features", "x", "--exclude", "x"], "feature"),
    "empty entry in features": (["--features", "x,,noise"], "empty entry"),
    "negative cost": (["--cost", "0=-1,1=2"], ">= 0"),
    "cost of an unknown arm": (["--cost", "0=0,2=1"], "'2'"),
    "cost lacks an arm": (["--cost", "0=0"], "no entry"),
    "cost is no number": (["--cost", "0=0,1=ten"], "not a number"),
    "cost twice": (["--cost", "0=0,0=1"], "twice"),
    "cost without a label": (["--cost", "0=0,=1"], "TREATMENT=NUMBER"),
    "shares do not sum to 1": (["--propensity", "0=0.5,1=0.6"], "sum"),
    "shares of 0": (["--propensity", "0=0,1=1"], "(0, 1]"),
    "budget is infeasible": (
        ["--budget", 0.05],
        "infeasible: giving everyone the cheapest treatment ('0') costs 0.1",
    ),
    "part of the budget is infeasible": (["--budget", "0.05:0.5"], "infeasible"),
    "budget is negative": (["--budget", "-1"], "not negative"),
    "budget is NaN": (["--budget", "nan"], "finite"),
    "budget is infinite": (["--budget", "0.1:inf"], "finite"),
    "budget is text": (["--budget", "cheap"], "'cheap' is not a number"),
    "budget upside down": (["--budget", "0.5:0.1"], "LOW <= HIGH"),
    "budget of three": (["--budget", "1:2:3"], "LOW:HIGH"),
    "gradient": (["--gradient", "magic"], "expected one of finite-difference"),
    "backbone": (["--backbone", "huge"], "'huge'"),
    "missing": (["--missing", "ignore"], "'ignore'"),
    "goal weight": (["--goal-weight", -1], "--goal-weight"),
    "learning rate": (["--learning-rate", 0], "--learning-rate"),
    "epochs": (["--epochs", 0], "--epochs"),
    "batch size": (["--batch-size", 0], "--batch-size"),
    "test share": (["--test-share", 1], "--test-share"),
    "validation share": (["--validation-share", 0], "--validation-share"),
    "seed": (["--seed", -1], "--seed"),
    "epochs is text": (["--epochs", "many"], "--epochs"),
    "unknown option": (["--epoch", 3], "--epoch"),
    "response head": (["--response-head", "odd"], "'odd'"),
    "heads": (["--heads", "many"], "'many'"),
    "cost amounts are text": (["--cost-amounts", "0,five"], "'five' is not a number"),
    "cost head without amounts": (["--cost-head", "on_response"], "cost_amounts"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options(tmp_path: Path, workspace: Workspace, case: str) -> None:
    options, expected = BAD_OPTIONS[case]
    arguments = [*COLUMNS, *QUICK, "--budget", 0.4, "--output", tmp_path / "run", *options]
    _refused(tmp_path, expected, "train", workspace.trial, *arguments)


def _corrupt(path: Path, workspace: Workspace) -> None:
    path.write_bytes(b"PAR1 not really")


def _truncated(path: Path, workspace: Workspace) -> None:
    make_frame(300).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-200])


BAD_FILES: dict[str, tuple[str, Callable[[Path, Workspace], object], str]] = {
    "missing CSV": ("absent.csv", lambda path, _: None, "no CSV file"),
    "missing Parquet": ("absent.parquet", lambda path, _: None, "no Parquet file"),
    "no suffix": ("trial.xls", lambda path, _: path.write_text("a"), "neither"),
    "empty CSV": ("a.csv", lambda path, _: path.write_text(""), "empty"),
    "empty Parquet": ("a.parquet", lambda path, _: path.write_bytes(b""), "empty"),
    "ragged CSV": ("a.csv", lambda path, _: path.write_text("arm,x\n0,1\n0,1,2,3\n"), "corrupt"),
    "binary CSV": ("a.csv", lambda path, _: path.write_bytes(b"\xff\xfe\x00\x01"), "CSV"),
    "truncated gzip": ("a.csv.gz", lambda path, _: path.write_bytes(b"\x1f\x8b\x08"), "corrupt"),
    "corrupt Parquet": ("a.parquet", _corrupt, "corrupt"),
    "truncated Parquet": ("a.parquet", _truncated, "corrupt"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(tmp_path: Path, workspace: Workspace, case: str) -> None:
    name, write, expected = BAD_FILES[case]
    path = tmp_path / name
    write(path, workspace)
    train = ["train", path, *COLUMNS, "--budget", 0.4, "--output", tmp_path / "run"]
    _refused(tmp_path, expected, *train)
    _refused(tmp_path, "", "evaluate", workspace.run, path)
    plan = ["--budget", 0.4, "--output", tmp_path / "plan.csv"]
    _refused(tmp_path, "", "allocate", workspace.run, path, *plan)
    _refused(tmp_path, "", "export", workspace.run, tmp_path / "s", "--population", path)


def test_bad_outputs(tmp_path: Path, workspace: Workspace) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "there").mkdir()
    train = ["train", workspace.trial, *COLUMNS, *QUICK, "--budget", 0.4, "--output"]
    _refused(tmp_path, "exists", *train, tmp_path / "there")
    _refused(tmp_path, "exists", *train, tmp_path / "file")
    _refused(tmp_path, "cannot write", *train, tmp_path / "file" / "run")
    plan = ["allocate", workspace.run, workspace.trial, "--budget", 0.4, "--output"]
    _refused(tmp_path, "exists", *plan, tmp_path / "file")
    _refused(tmp_path, "is a directory", *plan, tmp_path / "there", "--overwrite")
    _refused(tmp_path, ".csv or .parquet", *plan, tmp_path / "plan.txt")
    _refused(tmp_path, "cannot write", *plan, tmp_path / "file" / "plan.csv")
    export = ["export", workspace.run, "--population", workspace.trial]
    _refused(tmp_path, "exists", *export, tmp_path / "there")
    _refused(tmp_path, "exists", "demo", "--output", tmp_path / "there")


def test_bad_models(tmp_path: Path, workspace: Workspace) -> None:
    (tmp_path / "empty").mkdir()
    half, corrupt, edited, saved, foreign = (
        tmp_path / name for name in ("half", "corrupt", "edited", "saved", "foreign")
    )
    for copy in (half, corrupt, edited):
        shutil.copytree(workspace.run, copy)
    (half / "model.keras").unlink()
    model = (corrupt / "model.keras").read_bytes()
    (corrupt / "model.keras").write_bytes(model[: len(model) // 2])
    (edited / "config.json").write_text("{")
    shutil.copytree(workspace.saved_model, saved)
    (saved / "saved_model.pb").write_bytes(b"half")
    shutil.copytree(workspace.saved_model, foreign)
    shutil.rmtree(foreign / "assets.extra")
    plan = ["--budget", 0.4, "--output", tmp_path / "plan.csv"]
    for path, expected in (
        (tmp_path / "absent", "no directory"),
        (tmp_path / "empty", "not a model directory"),
        (half, "model.keras"),
        (corrupt, "corrupt"),
        (edited, "damaged"),
        (workspace.trial, "not a model directory"),
        (saved, "damaged"),
        (foreign, "tfalloc export"),
    ):
        _refused(tmp_path, expected, "allocate", path, workspace.trial, *plan)
        if path not in (saved, foreign):
            _refused(tmp_path, expected, "evaluate", path, workspace.trial)


def test_bad_users_and_budgets_of_an_allocation(tmp_path: Path, workspace: Workspace) -> None:
    users = make_frame(100)
    good, nan, lacking, empty = (tmp_path / f"{n}.csv" for n in ("good", "nan", "lacking", "empty"))
    users.to_csv(good, index=False)
    users.drop(columns="noise").to_csv(lacking, index=False)
    users.head(0).to_csv(empty, index=False)
    users.loc[3, "x"] = np.nan
    users.to_csv(nan, index=False)
    output = ["--output", tmp_path / "plan.csv"]
    for model in (workspace.run, workspace.saved_model):
        plan = ["allocate", model]
        _refused(tmp_path, "NaN", *plan, nan, "--budget", 0.4, *output)
        _refused(tmp_path, "'noise'", *plan, lacking, "--budget", 0.4, *output)
        _refused(tmp_path, "empty", *plan, empty, "--budget", 0.4, *output)
        _refused(tmp_path, "'uid'", *plan, good, "--budget", 0.4, "--id", "uid", *output)
        _refused(tmp_path, "infeasible", *plan, good, "--budget", 0.01, *output)
        _refused(tmp_path, "exactly one", *plan, good, *output)
        both = ["--budget", 1, "--total-budget", 1]
        _refused(tmp_path, "exactly one", *plan, good, *both, *output)
        _refused(tmp_path, "finite", *plan, good, "--budget", "nan", *output)
        _refused(tmp_path, "not negative", *plan, good, "--total-budget", -3, *output)


def test_bad_evaluations(tmp_path: Path, workspace: Workspace) -> None:
    evaluate = ["evaluate", workspace.run]
    other = tmp_path / "other.csv"
    frame = make_frame(300)
    frame.to_csv(other, index=False)
    _refused(tmp_path, "not the file", *evaluate, other, "--held-out")
    _refused(tmp_path, "finite", *evaluate, other, "--budget", "inf")
    _refused(tmp_path, "'reply'", *evaluate, other, "--response", "reply")
    frame["arm"] = np.arange(300) % 3
    frame.to_csv(other, index=False)
    _refused(tmp_path, "", *evaluate, other)


def test_bad_demo(tmp_path: Path) -> None:
    output = ["--output", tmp_path / "demo"]
    _refused(tmp_path, "--rows", "demo", "--rows", 10, *output)
    _refused(tmp_path, "--epochs", "demo", "--epochs", 0, *output)
    _refused(tmp_path, "--seed", "demo", "--seed", -1, *output)


def test_no_such_command(tmp_path: Path) -> None:
    _refused(tmp_path, "tarin", "tarin")
    _refused(tmp_path, "DATA", "train")
