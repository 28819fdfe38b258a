"""Every refusal says what was passed, what was expected, and how to mend it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tfalloc.data import RCTData


def frame(**changes):
    base = {
        "age": [30.0, 41.0, 25.0, 60.0],
        "city": ["a", "b", "a", "c"],
        "arm": [0, 1, 0, 1],
        "y": [0, 1, 0, 0],
        "z": [0.0, 2.0, 0.0, 2.0],
    }
    base.update(changes)
    return pd.DataFrame(base)


def read(data=None, **options):
    options = {"treatment": "arm", "response": "y", "cost": "z", **options}
    return RCTData.from_frame(frame() if data is None else data, **options)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"treatment": "amr"}, "treatment column 'amr' is not in the data.*mean 'arm'"),
        ({}, {"cost": "price"}, "cost column 'price' is not in the data"),
        ({}, {"features": ["agee"]}, "feature column 'agee'.*mean 'age'"),
        ({}, {"features": ["age", "y"]}, "'y' is both a feature and a target"),
        ({}, {"response": "arm"}, "'arm' is the treatment and another target"),
        ({}, {"features": ["age", "age"]}, "'age' occurs more than once"),
        ({}, {"features": "age"}, "one string; expected a list"),
        ({}, {"features": []}, "no feature columns"),
        ({}, {"missing": "drop"}, "missing='drop'.*'error' or 'indicator'"),
        ({"age": [1, np.nan, 2, np.nan]}, {}, "'age' has 2 NaN value.*missing='indicator'"),
        ({"age": [1, np.inf, 2, 3]}, {}, "'age' has 1 infinite"),
        ({"age": [1, np.inf, 2, 3]}, {"missing": "indicator"}, "'age' has 1 infinite"),
        ({"age": [1, 1e39, 2, 3]}, {}, "'age' has 1 infinite.*float32"),
        ({"city": ["a", None, "b", "c"]}, {}, "'city' has 1 missing string"),
        ({"city": ["a", 1, "b", 2.5]}, {}, "'city' holds mixed"),
        ({"age": pd.to_datetime(["2020-01-01"] * 4)}, {}, "'age' has dtype datetime"),
        ({"arm": [0, 0.5, 1, 1]}, {}, "1 non-integer value.*0.5"),
        ({"arm": [0, -1, 1, 1]}, {}, "outside 0..1, for example -1"),
        ({"arm": [0, 2, 1, 1]}, {"treatments": ["no", "yes"]}, "outside 0..1, for example 2"),
        ({"arm": [0, 2, 0, 2]}, {}, r"treatment 1 \('1'\) has no rows"),
        ({"arm": [0, np.nan, 0, 2]}, {}, "treatment has missing values"),
        ({"arm": [0, 0, 0, 0]}, {}, "one treatment"),
        ({"arm": list("abax")}, {"treatments": ["a", "b"]}, "'x' is not among the treatments"),
        ({"arm": list("abab")}, {"treatments": ["a", "b", "c"]}, r"2 \('c'\) has no rows"),
        ({"arm": list("abab")}, {"treatments": ["a", "b", "a"]}, "repeat a label"),
        ({"arm": list("abab")}, {"cost": {"a": 0}}, "'b' is not among"),
        ({"arm": list("abab")}, {"cost": {"a": 0, "b": -1.0}}, "expected costs >= 0"),
        ({"z": [0, -1, 0, 1]}, {}, r"cost 'z' has 1 value\(s\) outside \[0, infinity\)"),
        ({"z": [0, np.nan, 0, 1]}, {}, "cost 'z' has 1 NaN"),
        ({"y": [0, np.nan, 0, 1]}, {}, "response 'y' has 1 NaN"),
        ({"y": ["a", "b", "a", "b"]}, {}, "response 'y' holds 'a'; expected numbers"),
        ({"p": [0.5, 0.0, 0.5, 1.0]}, {"propensity": "p"}, r"propensity 'p'.*outside \(0, 1\]"),
        ({"p": [0.5, 0.4, 0.5, 1.5]}, {"propensity": "p"}, r"propensity 'p'.*outside \(0, 1\]"),
        ({}, {"propensity": {0: 0.5, 1: 0.4}}, "sums to 0.9"),
        ({}, {"propensity": {0: 0.0, 1: 1.0}}, r"in \(0, 1\]"),
        ({}, {"propensity": {0: 1.0}}, "no entry for treatment '1'"),
        ({"w": [1, 0, 1, 1]}, {"sample_weight": "w"}, "sample_weight 'w'.*outside"),
    ],
)
def test_refusals(changes, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(frame(**changes), **options)
    assert "\n" not in str(caught.value)


def test_empty_and_duplicated_columns():
    with pytest.raises(ValueError, match="empty"):
        read(frame().iloc[:0])
    twice = pd.concat([frame(), frame()[["age"]]], axis=1)
    with pytest.raises(ValueError, match="'age' occurs more than once"):
        read(twice)


def test_identifier_as_feature():
    rows = 10_001
    data = pd.DataFrame(
        {"user": [f"u{i}" for i in range(rows)], "arm": np.arange(rows) % 2, "y": 0, "z": 0}
    )
    with pytest.raises(ValueError, match="'user' has more than 10,000 distinct"):
        read(data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"x": [1, 2, 3]}, [0, 1], [0, 1], [0, 1]), "'x' has 3 rows, treatment has 2"),
        ((np.zeros([2, 1]), [0, 1], [0, 1, 0], [0, 1]), "'response' has 3 rows"),
        ((np.zeros([2, 1, 1]), [0, 1], [0, 1], [0, 1]), "expected a matrix"),
        ((np.zeros([0, 1]), [], [], []), "empty"),
        (({}, [0, 1], [0, 1], [0, 1]), "empty dict"),
        (({"x": [[1], [2]]}, [0, 1], [0, 1], [0, 1]), "expected one dimension"),
    ],
)
def test_array_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        RCTData(*arguments)


def test_num_treatments_and_names():
    arrays = (np.zeros([2, 1]), [0, 1], [0, 1], [0, 1])
    with pytest.raises(ValueError, match="treatment 2 .* has no rows"):
        RCTData(*arrays, num_treatments=3)
    with pytest.raises(ValueError, match="num_treatments=3, but 2"):
        RCTData(*arrays, num_treatments=3, treatment_names=["a", "b"])
    assert RCTData(*arrays, treatment_names=["a", "b"]).treatment_names == ["a", "b"]


@pytest.mark.parametrize(
    ("response", "kind"), [([0, 1], "binary"), ([0, 2.5], "nonnegative"), ([-1, 0], "real")]
)
def test_response_kind(response, kind):
    assert RCTData(np.zeros([2, 1]), [0, 1], response, [0, 1]).response_kind == kind


def test_files(tmp_path):
    options = {"treatment": "arm", "response": "y", "cost": "z"}
    with pytest.raises(FileNotFoundError, match="no CSV file"):
        RCTData.from_csv(tmp_path / "absent.csv", **options)
    with pytest.raises(FileNotFoundError, match="no Parquet file"):
        RCTData.from_parquet(tmp_path / "absent*.parquet", **options)
    with pytest.raises(FileNotFoundError, match="no .*parquet file in the directory"):
        RCTData.from_parquet(tmp_path, **options)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match="empty"):
        RCTData.from_csv(tmp_path / "empty.csv", **options)
    (tmp_path / "header.csv").write_text("age,arm,y,z\n")
    with pytest.raises(ValueError, match="empty"):
        RCTData.from_csv(tmp_path / "header.csv", **options)
    (tmp_path / "twice.csv").write_text("age,age,arm,y,z\n1,1,0,0,0\n")
    with pytest.raises(ValueError, match="'age' occurs more than once"):
        RCTData.from_csv(tmp_path / "twice.csv", **options)
    frame().to_csv(tmp_path / "whole.csv.gz", index=False)
    whole = (tmp_path / "whole.csv.gz").read_bytes()
    assert len(RCTData.from_csv(tmp_path / "whole.csv.gz", **options)) == 4
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="corrupt or truncated"):
        RCTData.from_csv(tmp_path / "cut.csv.gz", **options)
    frame().to_parquet(tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    for in_memory in (True, False):
        (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match="corrupt or truncated"):
            RCTData.from_parquet(tmp_path / "cut.parquet", in_memory=in_memory, **options)
        (tmp_path / "cut.parquet").write_bytes(b"")
        with pytest.raises(ValueError, match="empty"):
            RCTData.from_parquet(tmp_path / "cut.parquet", in_memory=in_memory, **options)
        # Damaged pages behind a healthy footer show only when the rows are read.
        (tmp_path / "cut.parquet").write_bytes(whole[:4] + b"\xff" * 200 + whole[204:])
        with pytest.raises(ValueError, match="corrupt or truncated"):
            RCTData.from_parquet(tmp_path / "cut.parquet", in_memory=in_memory, **options)
        frame().iloc[:0].to_parquet(tmp_path / "none.parquet")
        with pytest.raises(ValueError, match="empty"):
            RCTData.from_parquet(tmp_path / "none.parquet", in_memory=in_memory, **options)
