"""The table of bad input: what is called, and the line that must be printed.

A refused command ends with exit code 2, its last line on stderr is the only one that begins with
"error: ", there is no traceback, and the folder it worked in is as it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from tests.workspace import COLUMNS, QUICK, Workspace, invoke, make_frame

Files = Callable[[Path, Workspace], object]
USERS = "x,noise,city\n"


class Case(NamedTuple):
    """A call that is refused.

    Attributes:
      expected: part of the error.
      arguments: of the command; "{here}" is the folder, "{trial}", "{run}" and "{saved}" are files
        that are in order.
      files: what the folder holds before the call.
    """

    expected: str
    arguments: list[object]
    files: Files = lambda here, workspace: None


# Calls that are in order but for what a case changes ----------------------------------------------


def train(*more: object, data: str = "{trial}", output: str = "{here}/run") -> list[object]:
    return ["train", data, *COLUMNS, *QUICK, "--budget", 0.4, "--output", output, *more]


def evaluate(*more: object, model: str = "{run}", data: str = "{trial}") -> list[object]:
    return ["evaluate", model, data, *more]


def allocate(
    *more: object,
    model: str = "{run}",
    data: str = "{trial}",
    output: str = "{here}/plan.csv",
    budget: tuple[object, ...] = ("--budget", 0.4),
) -> list[object]:
    return ["allocate", model, data, *budget, "--output", output, *more]


def export(*more: object, population: str = "{trial}", output: str = "{here}/s") -> list[object]:
    return ["export", "{run}", output, "--population", population, *more]


# Files --------------------------------------------------------------------------------------------


def text(name: str, content: str | bytes) -> Files:
    data = content.encode() if isinstance(content, str) else content
    return lambda here, workspace: (here / name).write_bytes(data)


def table(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Files:
    """The trial with a change, 300 rows."""

    def write(here: Path, workspace: Workspace) -> None:
        frame = change(make_frame(300))
        if name.endswith(".parquet"):
            frame.to_parquet(here / name, index=False)
        else:
            frame.to_csv(here / name, index=False)

    return write


def put(column: str, value: object, row: int = 7) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Puts a value into one cell of a column of numbers, which is made if there is none."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        numbers = frame[column].astype(float) if column in frame else 0.5
        frame = frame.assign(**{column: numbers})
        frame.loc[row, column] = value
        return frame

    return change


def truncated(name: str, whole: Files, keep: float = 0.5) -> Files:
    def write(here: Path, workspace: Workspace) -> None:
        whole(here, workspace)
        data = (here / name).read_bytes()
        (here / name).write_bytes(data[: int(keep * len(data))])

    return write


def inside(folder: str, name: str) -> Files:
    """A file in a directory that somebody else has made."""

    def write(here: Path, workspace: Workspace) -> None:
        (here / folder).mkdir()
        (here / folder / name).write_text("{}")

    return write


def without(*keys: str) -> Callable[[Path], object]:
    """Takes a key out of a run's config.json."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        inner = config
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]
        (folder / "config.json").write_text(json.dumps(config))

    return change


def model(change: Callable[[Path], object], saved: bool = False) -> Files:
    """A copy of the run, or of its export, with a change: "{here}/model"."""

    def write(here: Path, workspace: Workspace) -> None:
        shutil.copytree(workspace.saved_model if saved else workspace.run, here / "model")
        change(here / "model")

    return write


def halved(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return change


def edited(name: str, change: Callable[[Any], Any]) -> Callable[[Path], object]:
    """Changes what a JSON file holds."""

    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(change(content)))

    return apply


def others(name: str) -> Files:
    """A directory that has a configuration, but not from tfalloc."""

    def write(here: Path, workspace: Workspace) -> None:
        (here / name).mkdir()
        (here / name / "config.json").write_text("{}")

    return write


def three_arms(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(arm=np.arange(len(frame)) % 3)


def both(name: str, case: Callable[[str], Case]) -> dict[str, Case]:
    """The same fault in CSV and in Parquet."""
    return {f"{name}, {suffix}": case(f"t.{suffix}") for suffix in ("csv", "parquet")}


def rows(
    name: str, change: Callable[[pd.DataFrame], pd.DataFrame], expected: str, *more: object
) -> dict[str, Case]:
    """A trial whose rows are refused."""
    options = ["--exclude", "after", *more]
    return both(
        name,
        lambda file: Case(expected, train(*options, data=f"{{here}}/{file}"), table(file, change)),
    )


def file(
    name: str, path: str, files: Files, expected: str, *, elsewhere: str = ""
) -> dict[str, Case]:
    """A file that no command can read; `elsewhere` is what the others than train say of it."""
    data = f"{{here}}/{path}"
    return {
        f"{name}, train": Case(expected, train(data=data), files),
        f"{name}, evaluate": Case(elsewhere, evaluate(data=data), files),
        f"{name}, allocate": Case(elsewhere, allocate(data=data), files),
        f"{name}, export": Case(elsewhere, export(population=data), files),
    }


def option(name: str, expected: str, *more: object) -> dict[str, Case]:
    return {f"option of train, {name}": Case(expected, train(*more))}


def directory(name: str, expected: str, files: Files, *, runs: bool = True) -> dict[str, Case]:
    """A model directory that is refused by allocate and, if it should be a run, by evaluate."""
    cases = {f"{name}, allocate": Case(expected, allocate(model="{here}/model"), files)}
    if runs:
        cases[f"{name}, evaluate"] = Case(expected, evaluate(model="{here}/model"), files)
    return cases


TABLE: dict[str, Case] = {
    # Rows of a trial.
    **rows("NaN feature", put("x", np.nan), "NaN"),
    **rows("infinite feature", put("x", np.inf), "infinite"),
    **rows("treatment below 0", put("arm", -1), "outside"),
    **rows("treatment beyond the labels", put("arm", 2), "outside", "--treatments", "none,mail"),
    **rows("treatment is no integer", put("arm", 0.5), "non-integer"),
    **rows("treatment is missing", put("arm", np.nan), "missing"),
    **rows("an arm without rows", put("arm", 3), "no rows"),
    **rows("negative cost", put("spent", -0.1), "spent"),
    **rows("infinite cost", put("spent", np.inf), "infinite"),
    **rows("NaN response", put("bought", np.nan), "NaN"),
    **rows("response of cross entropy", put("bought", 2), "0 or 1", "--response-head", "binary"),
    **rows("propensity of 0", put("share", 0.0), "share", "--propensity", "share"),
    **rows("propensity above 1", put("share", 1.5), "share", "--propensity", "share"),
    **rows("an empty table", lambda frame: frame.head(0), "empty"),
    # Files.
    **file("missing CSV", "absent.csv", lambda *_: None, "no CSV file"),
    **file("missing Parquet", "absent.parquet", lambda *_: None, "no Parquet file"),
    **file("no suffix", "trial.xls", text("trial.xls", "a"), "neither"),
    **file("empty CSV", "a.csv", text("a.csv", ""), "empty"),
    **file("empty Parquet", "a.parquet", text("a.parquet", ""), "empty"),
    **file(
        "ragged CSV", "a.csv", text("a.csv", "arm,x,bought,spent\n0,1,0,0\n1,1,1,1,9\n"), "a.csv"
    ),
    **file("binary CSV", "a.csv", text("a.csv", b"\xff\xfe\x00\x01"), "CSV"),
    **file("truncated gzip", "a.csv.gz", text("a.csv.gz", b"\x1f\x8b\x08"), "corrupt"),
    **file("corrupt Parquet", "a.parquet", text("a.parquet", b"PAR1 not really"), "corrupt"),
    **file(
        "truncated Parquet",
        "a.parquet",
        truncated("a.parquet", table("a.parquet", lambda frame: frame), 0.9),
        "corrupt",
    ),
    "truncated zip": Case(
        "a.csv.zip",
        allocate(data="{here}/a.csv.zip"),
        truncated("a.csv.zip", table("a.csv.zip", lambda frame: frame)),
    ),
    "truncated xz": Case(
        "a.csv.xz",
        allocate(data="{here}/a.csv.xz"),
        truncated("a.csv.xz", table("a.csv.xz", lambda frame: frame)),
    ),
    "longer rows than the header": Case(
        "4 fields", allocate(data="{here}/a.csv"), text("a.csv", USERS + "1,2,Ulm\n1,2,Ulm,3\n")
    ),
    "a field that is no number": Case(
        "'x'", allocate(data="{here}/a.csv"), text("a.csv", USERS + "ten,2,Ulm\n")
    ),
    "a date for a number": Case(
        "'x'", allocate(data="{here}/a.csv"), text("a.csv", USERS + "2020-01-01,2,Ulm\n")
    ),
    "an integer of 401 digits": Case(
        "'x'", allocate(data="{here}/a.csv"), text("a.csv", USERS + "9" * 401 + ",2,Ulm\n")
    ),
    "a column twice": Case(
        "'x'", allocate(data="{here}/a.csv"), text("a.csv", "x,x,noise,city\n1,1,2,Ulm\n")
    ),
    **rows("a treatment of 2^40", put("arm", 2**40), "renumber"),
    # Options of train.
    **option("unknown treatment", "Did you mean 'arm'", "--treatment", "amr"),
    **option("unknown response", "'sold'", "--response", "sold"),
    **option("unknown cost", "'spend'", "--cost", "spend"),
    **option("unknown feature", "'y'", "--features", "x,y"),
    **option("unknown excluded", "'after'", "--exclude", "afterr"),
    **option("unknown weight", "'w'", "--weight", "w"),
    **option("unknown propensity", "'p'", "--propensity", "p"),
    **option("all excluded", "feature", "--features", "x", "--exclude", "x"),
    **option("empty entry in features", "empty entry", "--features", "x,,noise"),
    **option("negative cost", ">= 0", "--cost", "0=-1,1=2"),
    **option("cost of an unknown arm", "'2'", "--cost", "0=0,2=1"),
    **option("cost lacks an arm", "no entry", "--cost", "0=0"),
    **option("cost is no number", "not a number", "--cost", "0=0,1=ten"),
    **option("cost twice", "twice", "--cost", "0=0,0=1"),
    **option("cost without a label", "TREATMENT=NUMBER", "--cost", "0=0,=1"),
    **option("shares do not sum to 1", "sum", "--propensity", "0=0.5,1=0.6"),
    **option("shares of 0", "(0, 1]", "--propensity", "0=0,1=1"),
    **option(
        "budget is infeasible",
        "infeasible: giving everyone the cheapest treatment ('0') costs 0.1",
        "--budget",
        0.05,
    ),
    **option("part of the budget is infeasible", "infeasible", "--budget", "0.05:0.5"),
    **option("budget is negative", "not negative", "--budget", "-1"),
    **option("budget is NaN", "finite", "--budget", "nan"),
    **option("budget is infinite", "finite", "--budget", "0.1:inf"),
    **option("budget is text", "'cheap' is not a number", "--budget", "cheap"),
    **option("budget upside down", "LOW <= HIGH", "--budget", "0.5:0.1"),
    **option("budget of three", "LOW:HIGH", "--budget", "1:2:3"),
    **option("gradient", "expected one of finite-difference", "--gradient", "magic"),
    **option("backbone", "'huge'", "--backbone", "huge"),
    **option("missing", "'ignore'", "--missing", "ignore"),
    **option("goal weight", "--goal-weight", "--goal-weight", -1),
    **option("learning rate", "--learning-rate", "--learning-rate", 0),
    **option("epochs", "--epochs", "--epochs", 0),
    **option("batch size", "--batch-size", "--batch-size", 0),
    **option("batch size of 401 digits", "below 2^31", "--batch-size", 10**400),
    **option("epochs of 401 digits", "below 2^31", "--epochs", 10**400),
    **option("budget of 401 digits", "finite", "--budget", 10**400),
    **option("test share", "--test-share", "--test-share", 1),
    **option("validation share", "--validation-share", "--validation-share", 0),
    **option("seed", "--seed", "--seed", -1),
    **option("epochs is text", "--epochs", "--epochs", "many"),
    **option("unknown option", "--epoch", "--epoch", 3),
    **option("response head", "'odd'", "--response-head", "odd"),
    **option("heads", "'many'", "--heads", "many"),
    **option("cost amounts are text", "'five' is not a number", "--cost-amounts", "0,five"),
    **option("cost head without amounts", "cost_amounts", "--cost-head", "on_response"),
    # Outputs.
    "run is there": Case("exists", train(), lambda here, _: (here / "run").mkdir()),
    "run is a file": Case("exists", train(), text("run", "")),
    "run in a file": Case("cannot write", train(output="{here}/f/run"), text("f", "")),
    "plan is there": Case("exists", allocate(), text("plan.csv", "")),
    "plan is a directory": Case(
        "is a directory", allocate("--overwrite"), lambda here, _: (here / "plan.csv").mkdir()
    ),
    "plan is a text": Case(".csv or .parquet", allocate(output="{here}/plan.txt")),
    "plan in a file": Case("cannot write", allocate(output="{here}/f/plan.csv"), text("f", "")),
    "export is there": Case("exists", export(), lambda here, _: (here / "s").mkdir()),
    "a directory of others": Case("did not write", train("--overwrite"), others("run")),
    "a bucket": Case("remote", export(output="gs://nowhere/policy")),
    "demo is there": Case(
        "exists", ["demo", "--output", "{here}/d"], lambda here, _: (here / "d").mkdir()
    ),
    "run is remote": Case("remote", train(output="gs://bucket/run")),
    "plan is remote": Case("remote", allocate(output="s3://bucket/plan.csv")),
    "export is remote": Case("remote", export(output="gs://bucket/s")),
    "demo is remote": Case("remote", ["demo", "--output", "gs://bucket/d"]),
    "numbers are remote": Case("remote", evaluate("--output", "gs://bucket/n.json")),
    "run of others": Case("did not write", train("--overwrite"), inside("run", "config.json")),
    "export of others": Case("did not write", export("--overwrite"), inside("s", "saved_model.pb")),
    "demo of others": Case(
        "did not write",
        ["demo", "--overwrite", "--output", "{here}/d"],
        inside("d", "config.json"),
    ),
    "work of others": Case("in the way", train("--restart"), inside("run.partial", "output")),
    # Models.
    **directory("absent model", "no directory", lambda *_: None),
    **directory("empty model", "not a model directory", lambda here, _: (here / "model").mkdir()),
    **directory("model is a file", "not a model directory", text("model", "a")),
    **directory(
        "run without a model", "model.keras", model(lambda f: (f / "model.keras").unlink())
    ),
    **directory("half a model", "corrupt", model(halved("model.keras"))),
    **directory(
        "config is no JSON", "damaged", model(lambda f: (f / "config.json").write_text("{"))
    ),
    **directory("config without data", "data: ", model(without("data"))),
    **directory("config without rows", "data.rows: ", model(without("data", "rows"))),
    **directory("config without a cost", "columns.cost: ", model(without("columns", "cost"))),
    **directory("config without a budget", "budget: ", model(without("options", "budget"))),
    **directory("config is empty", "config.json", model(edited("config.json", lambda c: {}))),
    **directory(
        "config without columns",
        "config.json",
        model(edited("config.json", lambda c: {k: x for k, x in c.items() if k != "columns"})),
    ),
    **directory(
        "config with a mistyped part",
        "config.json",
        model(edited("config.json", lambda c: {**c, "data": [1]})),
    ),
    **directory(
        "half a SavedModel", "damaged", model(halved("saved_model.pb"), saved=True), runs=False
    ),
    **directory(
        "SavedModel of others",
        "tfalloc export",
        model(lambda f: shutil.rmtree(f / "assets.extra"), saved=True),
        runs=False,
    ),
    # Evaluations.
    "evaluate another file, held out": Case(
        "not the file",
        evaluate("--held-out", data="{here}/t.csv"),
        table("t.csv", lambda frame: frame),
    ),
    "evaluate at an infinite budget": Case("finite", evaluate("--budget", "inf")),
    "evaluate an unknown response": Case("'reply'", evaluate("--response", "reply")),
    "evaluate on more arms": Case("", evaluate(data="{here}/t.csv"), table("t.csv", three_arms)),
    # The demo and the command itself.
    "demo of few rows": Case("--rows", ["demo", "--rows", 10, "--output", "{here}/d"]),
    "demo without epochs": Case("--epochs", ["demo", "--epochs", 0, "--output", "{here}/d"]),
    "demo of a negative seed": Case("--seed", ["demo", "--seed", -1, "--output", "{here}/d"]),
    "no such command": Case("tarin", ["tarin"]),
    "train without data": Case("DATA", ["train"]),
}

# Allocations, by a run and by a SavedModel.
for _model in ("{run}", "{saved}"):
    _of = _model.strip("{}")
    TABLE |= {
        f"NaN user, {_of}": Case(
            "NaN", allocate(model=_model, data="{here}/u.csv"), table("u.csv", put("x", np.nan))
        ),
        f"column is absent, {_of}": Case(
            "'noise'",
            allocate(model=_model, data="{here}/u.csv"),
            table("u.csv", lambda frame: frame.drop(columns="noise")),
        ),
        f"no user, {_of}": Case(
            "empty",
            allocate(model=_model, data="{here}/u.csv"),
            table("u.csv", lambda frame: frame.head(0)),
        ),
        f"missing is bogus, {_of}": Case("bogus", allocate("--missing", "bogus", model=_model)),
        f"unknown id, {_of}": Case("'uid'", allocate("--id", "uid", model=_model)),
        f"id named as the plan's column, {_of}": Case(
            "rename it", allocate("--id", "cost", model=_model)
        ),
        f"unknown cluster, {_of}": Case("", allocate("--cluster", "home", model=_model)),
        f"bogus missing, {_of}": Case("'bogus'", allocate("--missing", "bogus", model=_model)),
        f"infeasible plan, {_of}": Case(
            "infeasible", allocate(model=_model, budget=("--budget", 0.01))
        ),
        f"no budget, {_of}": Case("exactly one", allocate(model=_model, budget=())),
        f"two budgets, {_of}": Case(
            "exactly one", allocate(model=_model, budget=("--budget", 1, "--total-budget", 1))
        ),
        f"budget is NaN, {_of}": Case("finite", allocate(model=_model, budget=("--budget", "nan"))),
        f"total is negative, {_of}": Case(
            "not negative", allocate(model=_model, budget=("--total-budget", -3))
        ),
    }


@pytest.mark.parametrize("name", TABLE)
def test_is_refused(tmp_path: Path, workspace: Workspace, name: str) -> None:
    case = TABLE[name]
    case.files(tmp_path, workspace)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    places = {
        "{here}": tmp_path,
        "{trial}": workspace.trial,
        "{run}": workspace.run,
        "{saved}": workspace.saved_model,
    }
    arguments = [str(argument) for argument in case.arguments]
    for sign, place in places.items():
        arguments = [argument.replace(sign, str(place)) for argument in arguments]
    result = invoke(*arguments)
    assert result.code == 2, result.err
    lines = result.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and lines[-1] == errors[0], result.err
    assert case.expected in errors[0]
    assert "Traceback" not in result.err
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
