"""Tries damaged files, odd options and odd arguments, for as long as it is told to.

    python -m tests.bad_input.fuzz --seconds 60 [--seed 0] [--only NAME]

A command must end with exit code 0 and its output, or with 2, one line that begins with "error: ",
no traceback and nothing left behind. A function must return, or raise ValueError, TypeError or
OSError. What breaks that is printed with the arguments that show it again; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import decimal
import gzip
import io
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pandas as pd

from tests.workspace import COLUMNS, Workspace, invoke, make_frame, make_workspace

ROWS = 60
QUICK = ["--epochs", 1, "--backbone", "small", "--no-jit", "--goal-weight", 0, "--no-warm-start"]

CELLS = (
    *(
        "",
        " ",
        "nan",
        "NaN",
        "None",
        "NULL",
        "NA",
        "inf",
        "-inf",
        "-1",
        "-0",
        "0.5",
        "1e400",
        "1e-400",
    ),
    *("9" * 401, str(2**40), str(2**63), "0x10", "1_000", "1,5", "true", "Yes", "no", "2020-01-01"),
    *(
        " Ulm",
        "Ulm ",
        "ü",
        "\x00",
        '"',
        "'",
        "=1+1",
        "$5 $10",
        "a\tb",
        "{}",
        "[red]",
        "\ufeff",
        "é" * 300,
    ),
)
NAMES = (
    *("", " ", "arm", "x", "X", "arm ", "missing", "matrix", "impute", "standardize", "features"),
    *("response", "cost", "treatment", "policy_budget", "policy_alpha", "alpha", "clamped", "id"),
    *("0", "a,b", "a=b", "$x$", "naïve", "x" * 300, "a/b", "self", "name", "user"),
)
VALUES = (
    *(
        "",
        " ",
        "0",
        "-1",
        "1e400",
        "nan",
        "inf",
        "1:",
        ":1",
        "1:2:3",
        "0:0",
        "a=b",
        "0=0,1=1",
        "0=,1=2",
    ),
    *(
        "=",
        ",",
        ",,",
        "none",
        "\x00",
        "1e-320",
        "9" * 30,
        "0.4",
        "0.5,0.5",
        "x",
        "x,x",
        "arm",
        "é",
        "{}",
    ),
)


def strategies_of_text() -> st.SearchStrategy[str]:
    return st.one_of(st.sampled_from(CELLS), st.text(max_size=8))


@st.composite
def csv_bytes(draw: Any, frame: pd.DataFrame) -> bytes:
    """A CSV file of the frame with up to three faults in its cells, its lines or its bytes."""
    lines = [line.split(",") for line in frame.to_csv(index=False).splitlines()]
    for _ in range(draw(st.integers(0, 3))):
        row = draw(st.integers(0, min(len(lines) - 1, 12))) if lines else 0
        column = draw(st.integers(0, len(frame.columns) - 1))
        fault = draw(st.sampled_from(["cell", "name", "more", "fewer", "twice", "none", "column"]))
        if not lines:
            break
        if fault == "cell" and column < len(lines[row]):
            lines[row][column] = draw(strategies_of_text())
        elif fault == "name":
            lines[0][min(column, len(lines[0]) - 1)] = draw(st.sampled_from(NAMES))
        elif fault == "more":
            lines[row].append(draw(strategies_of_text()))
        elif fault == "fewer" and len(lines[row]) > 1:
            lines[row].pop()
        elif fault == "twice":
            lines.append(list(lines[row]))
        elif fault == "none":
            lines = lines[: draw(st.integers(0, 2))]
        elif fault == "column":
            odd = draw(strategies_of_text())
            for line in lines[1:]:
                if column < len(line):
                    line[column] = odd
    text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join(",".join(line) for line in lines)
    data = text.encode("utf-8", "surrogatepass")
    return draw(damaged(data)) if draw(st.integers(0, 3)) == 0 else data


@st.composite
def damaged(draw: Any, data: bytes) -> bytes:
    """The bytes cut off, with some overwritten or some put in between."""
    if not data:
        return data
    at = draw(st.integers(0, len(data) - 1))
    fault = draw(st.sampled_from(["cut", "over", "between"]))
    if fault == "cut":
        return data[:at]
    some = draw(st.binary(min_size=1, max_size=6))
    return data[:at] + some + data[at + (len(some) if fault == "over" else 0) :]


@st.composite
def odd_frame(draw: Any, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with a column of another kind, and maybe another name, order or index."""
    frame = frame.copy()
    name = draw(st.sampled_from(list(frame.columns)))
    values = list(frame[name])
    kinds: dict[str, Callable[[], Any]] = {
        "same": lambda: frame[name],
        "boolean": lambda: pd.array([i % 2 == 0 for i in range(len(values))], dtype="boolean"),
        "missing": lambda: [None, *values[1:]],
        "nullable": lambda: pd.array([1] * (len(values) - 1) + [None], dtype="Int64"),
        "decimal": lambda: [decimal.Decimal("1.5")] * len(values),
        "date": lambda: pd.to_datetime(["2020-01-01"] * len(values)),
        "time": lambda: [datetime.timedelta(days=1)] * len(values),
        "category": lambda: pd.Categorical([str(x) for x in values]),
        "list": lambda: [[1, 2]] * len(values),
        "bytes": lambda: [b"ab"] * len(values),
        "mixed": lambda: [1, "a"] * (len(values) // 2) + [None] * (len(values) % 2),
        "complex": lambda: np.full(len(values), 1 + 2j),
        "huge": lambda: [2**40] * len(values),
        "infinite": lambda: [float("inf"), *[0.0] * (len(values) - 1)],
        "text": lambda: [str(x) for x in values],
        "half": lambda: np.full(len(values), 0.5, np.float16),
    }
    frame[name] = kinds[draw(st.sampled_from(sorted(kinds)))]()
    more = draw(
        st.sampled_from(["", "rename", "twice", "reverse", "index", "number", "head", "extra"])
    )
    if more == "rename":
        frame = frame.rename(columns={name: draw(st.sampled_from(NAMES))})
    elif more == "twice":
        frame = pd.concat([frame, frame[[name]]], axis=1)
    elif more == "reverse":
        frame = frame[list(frame.columns)[::-1]]
    elif more == "index":
        frame.index = pd.Index(range(5, 5 + len(frame)))
    elif more == "number":
        frame.columns = [*frame.columns[:-1], 7]
    elif more == "head":
        frame = frame.head(draw(st.integers(0, 2)))
    elif more == "extra":
        frame["another"] = 1.0
    return frame


@st.composite
def odd_json(draw: Any, data: Any) -> Any:
    """A JSON value with one entry, at any depth, taken out or put as another kind."""
    if isinstance(data, dict) and data and draw(st.integers(0, 4)):
        name = draw(st.sampled_from(sorted(data)))
        if draw(st.integers(0, 2)) == 0:
            return {key: value for key, value in data.items() if key != name}
        return {**data, name: draw(odd_json(data[name]))}
    if isinstance(data, list) and data and draw(st.booleans()):
        at = draw(st.integers(0, len(data) - 1))
        return [*data[:at], draw(odd_json(data[at])), *data[at + 1 :]]
    return draw(st.sampled_from([None, 0, -1, 1.5, "", "x", [], {}, [1], {"a": 1}, True, 10**40]))


OPTIONS = {
    "train": [
        "--treatment",
        "--response",
        "--cost",
        "--budget",
        "--features",
        "--exclude",
        "--treatments",
        "--propensity",
    ]
    + [
        "--weight",
        "--missing",
        "--goal-weight",
        "--gradient",
        "--backbone",
        "--heads",
        "--response-head",
        "--cost-head",
    ]
    + [
        "--cost-amounts",
        "--batch-size",
        "--learning-rate",
        "--validation-share",
        "--test-share",
        "--patience",
        "--seed",
    ],
    "evaluate": [
        "--budget",
        "--treatment",
        "--response",
        "--cost",
        "--propensity",
        "--weight",
        "--output",
    ],
    "allocate": ["--budget", "--total-budget", "--id", "--missing"],
    "export": ["--calibration", "--budget", "--population"],
}


def odd_options(command: str) -> st.SearchStrategy[list[str]]:
    one = st.tuples(
        st.sampled_from(OPTIONS[command]), st.one_of(st.sampled_from(VALUES), st.text(max_size=6))
    )
    return st.lists(one, max_size=1).map(lambda pairs: [text for pair in pairs for text in pair])


class Broken(Exception):
    """What must hold does not."""


def run(folder: Path, output: Path, *arguments: object) -> None:
    """Calls the command and checks how it ends."""
    before = {path: path.stat().st_size for path in folder.rglob("*")}
    result = invoke(*arguments)
    shown = f"tfalloc {' '.join(map(repr, map(str, arguments)))}\n{result.err[-3000:]}"
    if result.code == 0:
        if not output.exists():
            raise Broken(f"exit code 0 without output: {shown}")
        return
    lines = result.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if result.code != 2 or len(errors) != 1 or lines[-1] != errors[0] or "Traceback" in result.err:
        raise Broken(f"exit code {result.code}: {shown}")
    left = {path: path.stat().st_size for path in folder.rglob("*")}
    if left != before:
        raise Broken(f"left behind {sorted(map(str, left.keys() ^ before.keys()))}: {shown}")


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        yield Path(name)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


class Cases:
    """One method a surface; each is given drawn data and raises `Broken`.

    Args:
      workspace: a trial, a run and a SavedModel, which none of them changes.
    """

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.trial = make_frame(ROWS, seed=3)
        self.users = self.trial.drop(columns=["arm", "bought", "spent", "after"])
        self.users.insert(0, "user", [f"{i:03d}" for i in range(ROWS)])

    def _file(self, data: st.DataObject, folder: Path, frame: pd.DataFrame) -> Path:
        kind = data.draw(st.sampled_from([".csv", ".csv", ".csv.gz", ".parquet", ".zip"]))
        if kind == ".parquet":
            buffer = io.BytesIO()
            try:
                data.draw(odd_frame(frame)).to_parquet(buffer)
            except Exception:  # pyarrow has no such column
                hypothesis.reject()
            raw = buffer.getvalue()
            return write(
                folder / "a.parquet",
                data.draw(damaged(raw)) if data.draw(st.integers(0, 4)) == 0 else raw,
            )
        raw = data.draw(csv_bytes(frame))
        if kind == ".csv.gz" and data.draw(st.booleans()):
            (folder / "a.csv.gz").write_bytes(data.draw(damaged(gzip.compress(raw))))
            return folder / "a.csv.gz"
        return write(folder / ("a.csv.zip" if kind == ".zip" else f"a{kind}"), raw)

    def allocate(self, data: st.DataObject) -> None:
        with scratch() as folder:
            path = self._file(data, folder, self.users)
            model = data.draw(st.sampled_from([self.workspace.run, self.workspace.saved_model]))
            out = folder / data.draw(
                st.sampled_from(["plan.csv", "plan.parquet", "plan.csv", "plan"])
            )
            more = data.draw(odd_options("allocate"))
            ids = ["--id", "user"] if data.draw(st.booleans()) else []
            budget = [] if {"--budget", "--total-budget"} & set(more) else ["--budget", 0.5]
            run(folder, out, "allocate", model, path, *budget, *ids, *more, "--output", out)

    def evaluate(self, data: st.DataObject) -> None:
        with scratch() as folder:
            path = self._file(data, folder, self.trial)
            out = folder / "numbers.json"
            more = data.draw(odd_options("evaluate").filter(lambda x: "--output" not in x))
            run(folder, out, "evaluate", self.workspace.run, path, *more, "--output", out)

    def train(self, data: st.DataObject) -> None:
        with scratch() as folder:
            path = self._file(data, folder, self.trial)
            out, more = folder / "run", data.draw(odd_options("train"))
            arguments = [*COLUMNS, *QUICK, "--budget", 0.4, *more, "--output", out]
            run(folder, out, "train", path, *arguments)

    def export(self, data: st.DataObject) -> None:
        with scratch() as folder:
            path = self._file(data, folder, self.trial)
            out, more = folder / "policy", data.draw(odd_options("export"))
            run(folder, out, "export", self.workspace.run, out, "--population", path, *more)

    def model_directory(self, data: st.DataObject) -> None:
        with scratch() as folder:
            source = data.draw(st.sampled_from([self.workspace.run, self.workspace.saved_model]))
            copy = folder / "model"
            shutil.copytree(source, copy)
            files = sorted(path for path in copy.rglob("*") if path.is_file())
            victim = data.draw(
                st.sampled_from([*[p for p in files if p.suffix == ".json"], *files])
            )
            if victim.suffix == ".json" and data.draw(st.integers(0, 3)):
                victim.write_text(json.dumps(data.draw(odd_json(json.loads(victim.read_text())))))
            elif data.draw(st.booleans()):
                victim.unlink()
            else:
                victim.write_bytes(data.draw(damaged(victim.read_bytes())))
            users = write(folder / "users.csv", self.users.to_csv(index=False).encode())
            out = folder / "plan.csv"
            run(folder, out, "allocate", copy, users, "--budget", 0.5, "--output", out)

    def frame(self, data: st.DataObject) -> None:
        import tfalloc

        frame = data.draw(odd_frame(self.trial))
        options = {"treatment": "arm", "response": "bought", "cost": "spent"}
        odd = st.sampled_from(
            [None, 1, "x", "arm", ["x"], [], {"0": 1.0}, {0: 0.1, 1: 0.2}, object, float("nan")]
        )
        names = [*options, "features", "propensity", "sample_weight", "treatments", "missing"]
        if data.draw(st.booleans()):
            options[data.draw(st.sampled_from(names))] = data.draw(odd)
        with self._allowed(f"RCTData.from_frame(**{options}) of\n{frame.dtypes}"):
            rows = tfalloc.RCTData.from_frame(frame, **options)
            rows.summary(lambda text: None)

    def numerics(self, data: st.DataObject) -> None:
        from tfalloc import mckp, outcome

        def array(*shape: int) -> Any:
            numbers = st.sampled_from(
                [0.0, 0.1, 0.3, 1.0, -1.0, 1e30, 1e-30, float("nan"), float("inf")]
            )
            size = int(np.prod(shape))
            flat = data.draw(st.lists(numbers, min_size=size, max_size=size))
            dtype = data.draw(st.sampled_from(["float32", "float64", "int64", "object", "U8"]))
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    return np.array(flat).reshape(shape).astype(dtype)
                except (ValueError, OverflowError):
                    return np.array(flat).reshape(shape)

        n, k = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 3))
        v, c = array(n, k), array(n, data.draw(st.sampled_from([k, k, k, k + 1])))
        budget = data.draw(
            st.sampled_from([0.0, 0.1, 0.4, -1.0, 1e30, float("nan"), None, "1", [0.1]])
        )
        said = f"{v!r}, {c!r}, budget={budget!r}"
        with self._allowed(f"mckp.solve({said})"):
            mckp.solve(v, c, budget=budget)
        t, y, z = (
            data.draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n)),
            array(n),
            array(n),
        )
        with self._allowed(f"expected_outcome({said}, {t}, {y!r}, {z!r})"):
            outcome.expected_outcome(v, c, np.array(t, "int32"), y, z, budget=budget)

    @contextlib.contextmanager
    def _allowed(self, shown: str) -> Iterator[None]:
        from tensorflow.errors import InvalidArgumentError

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except (ValueError, TypeError, OSError, InvalidArgumentError) as error:
            if not str(error).strip():
                raise Broken(f"{type(error).__name__} without a word: {shown}") from error
        except Exception as error:
            trace = "".join(traceback.format_exception(error)[-3:])
            raise Broken(f"{shown}\n{trace}") from error


# What costs little is tried more often: examples drawn in one turn.
TURNS = {
    "numerics": 40,
    "frame": 25,
    "allocate": 8,
    "evaluate": 6,
    "model_directory": 4,
    "export": 3,
    "train": 3,
}


def main() -> int:
    """Returns 1 if something broke."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(TURNS))
    options = parser.parse_args()
    with scratch() as folder:
        cases = Cases(make_workspace(folder))
        counts = dict.fromkeys(TURNS if options.only is None else [options.only], 0)
        broken: dict[str, str] = {}
        end, turn = time.monotonic() + options.seconds, 0
        while time.monotonic() < end:
            for name in counts:
                if time.monotonic() >= end:
                    break
                for shown in _turn(cases, name, options.seed + turn, counts):
                    broken.setdefault(
                        _kind(shown), f"[{name}, --seed {options.seed + turn}] {shown}"
                    )
            turn += 1
    print("tried " + ", ".join(f"{count} of {name}" for name, count in counts.items()))
    for shown in broken.values():
        print(f"\n{'-' * 80}\n{shown}", file=sys.stderr)
    print(f"{len(broken)} kinds of faults")
    return 1 if broken else 0


def _turn(cases: Cases, name: str, seed: int, counts: dict[str, int]) -> list[str]:
    """What broke in one turn; drawing goes on after a fault."""
    found: list[str] = []

    def example(data: st.DataObject) -> None:
        counts[name] += 1
        try:
            getattr(cases, name)(data)
        except Broken as error:
            found.append(str(error))

    quiet = hypothesis.settings(
        max_examples=TURNS[name],
        deadline=None,
        database=None,
        derandomize=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.seed(seed)(quiet(hypothesis.given(st.data())(example)))()
    return found


def _kind(shown: str) -> str:
    """Faults with the same last line and the same place are one kind."""
    lines = [line.strip() for line in shown.splitlines() if line.strip()]
    places = [line for line in lines if line.startswith("File ")]
    return (places[-1] if places else "") + lines[-1][:60]


if __name__ == "__main__":
    sys.exit(main())
