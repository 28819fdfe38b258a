"""One way from raw features to a model's columns, however they come."""

from __future__ import annotations

import decimal

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tfalloc.data import FeatureSchema, RCTData, build_preprocessor, feature_chunks

KINDS = {"age": "numeric", "flag": "numeric", "price": "numeric", "city": "string", "7": "numeric"}
SCHEMA = FeatureSchema(kinds=KINDS, missing="indicator")
EXPECTED = {
    "age": [30.0, np.nan, 25.0],
    "flag": [1.0, np.nan, 0.0],
    "price": [0.5, 2.0, np.nan],
    "city": ["rome", "", "oslo"],
    "7": [1.0, 2.0, 3.0],
}
FRAME = pd.DataFrame(
    {
        "more": [9, 9, 9],
        "city": ["rome", None, "oslo"],
        "price": [decimal.Decimal("0.5"), decimal.Decimal(2), None],
        7: [1, 2, 3],
        "flag": pd.array([True, None, False], dtype="boolean"),
        "age": pd.array([30, None, 25], dtype="Int64"),
    }
)


def plain(columns):
    return {name: column.tolist() for name, column in columns.items()}


WAYS = {
    "frame": FRAME,
    "objects": FRAME.astype(object),
    "categorical": FRAME.assign(city=pd.Categorical(["rome", None, "oslo"])),
    "another order": FRAME[[7, "age", "city", "price", "flag", "more"]],
    "NaN for text": FRAME.assign(city=np.array(["rome", np.nan, "oslo"], object)),
    "lists": {
        "age": [30, None, 25],
        "flag": [True, None, False],
        "price": [0.5, 2, float("nan")],
        "city": ["rome", float("nan"), "oslo"],
        7: [1, 2, 3],
    },
    "arrays": {
        "age": np.array([30, np.nan, 25]),
        "flag": np.array([1.0, np.nan, 0.0]),
        "price": np.array([0.5, 2.0, np.nan], "f4"),
        "city": np.array([b"rome", b"", b"oslo"]),
        "7": np.array([1, 2, 3], "i1"),
    },
    "tensors": {
        "age": tf.constant([30, np.nan, 25]),
        "flag": tf.constant([1, np.nan, 0]),
        "price": tf.constant([0.5, 2, np.nan]),
        "city": tf.constant(["rome", "", "oslo"]),
        "7": tf.constant([1, 2, 3]),
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_same_columns(way):
    found = SCHEMA.columns(WAYS[way])
    assert list(found) == list(KINDS)
    np.testing.assert_equal(plain(found), EXPECTED)
    assert {found[name].dtype for name in SCHEMA.numeric} == {np.dtype("f4")}


def test_a_file_gives_the_same_columns_as_memory(tmp_path):
    FRAME.set_axis([str(name) for name in FRAME], axis=1).astype({"price": float}).to_parquet(
        tmp_path / "t.parquet"
    )
    FRAME.to_csv(tmp_path / "t.csv", index=False)
    trial = RCTData(SCHEMA.columns(FRAME), [0, 1, 0], [0, 1, 1], [0, 1, 0], missing="indicator")
    sources = [tmp_path / "t.parquet", tmp_path / "t.csv", FRAME, trial, WAYS["tensors"]]
    sources.append(tf.data.Dataset.from_tensor_slices(WAYS["tensors"]).batch(2))
    for source in sources:
        for rows in (1, 2, 50):
            parts = list(feature_chunks(source, SCHEMA, rows=rows))
            assert all(len(ids) <= rows for ids, _ in parts)
            assert np.concatenate([ids for ids, _ in parts]).tolist() == [0, 1, 2]
            joined = {n: np.concatenate([c[n] for _, c in parts]).tolist() for n in KINDS}
            np.testing.assert_equal(joined, EXPECTED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": None}, "'age'"),
        ({"age": ["a", "b", "c"]}, "'age' is text .*expected numbers"),
        ({"age": ["1", "2", "3"]}, "'age' is text"),
        ({"age": pd.to_datetime(["2020-01-01"] * 3)}, "'age' has dtype datetime"),
        ({"age": [1, np.inf, 2]}, "'age' has 1 infinite"),
        ({"age": [10**401, 1, 2]}, "'age' holds 1000"),
        ({"age": [1, 2]}, "different lengths"),
        ({"age": [[1], [2], [3]]}, "expected one dimension"),
        ({"city": [1, 2, 3]}, "'city' is numbers .*expected text"),
        ({"city": ["a", 1, 2.5]}, "'city' holds mixed"),
        ({7: [1, 2, 3], "7": [1, 2, 3]}, "'7' occurs more than once"),
    ],
)
def test_refusals(change, message):
    columns = {**WAYS["lists"], **change}
    columns = {name: column for name, column in columns.items() if column is not None}
    for read in (SCHEMA.columns, lambda c: list(feature_chunks(c, SCHEMA))):
        with pytest.raises(ValueError, match=message) as caught:
            read(columns)
        assert "\n" not in str(caught.value)


def test_more_refusals():
    twice = pd.concat([FRAME, FRAME[["age"]]], axis=1)
    with pytest.raises(ValueError, match="'age' occurs more than once"):
        SCHEMA.columns(twice)
    strict = FeatureSchema(kinds=KINDS)
    with pytest.raises(ValueError, match="NaN value.*missing='indicator'"):
        strict.columns(FRAME)
    with pytest.raises(ValueError, match="no rows of features"):
        SCHEMA.columns(FRAME.iloc[:0])
    with pytest.raises(ValueError, match="one array of shape"):
        SCHEMA.columns(np.zeros([3, 5]))
    with pytest.raises(ValueError, match="id column 'user' is not in the data"):
        list(feature_chunks(FRAME, SCHEMA, id_column="user"))
    with pytest.raises(ValueError, match="has no ids"):
        list(feature_chunks(np.zeros([3, 2]), FeatureSchema.of_matrix(2), id_column="user"))
    with pytest.raises(ValueError, match="'bogus'"):
        FeatureSchema(kinds=KINDS, missing="bogus")


def test_matrices():
    schema = FeatureSchema.of_matrix(2)
    x = np.arange(6).reshape(3, 2)
    for features in (x, x.astype("f8"), x.tolist(), pd.DataFrame(x), x.astype(object)):
        np.testing.assert_array_equal(schema.columns(features), x.astype("f4"))
    found = list(feature_chunks(x, schema, rows=2))
    np.testing.assert_array_equal(np.concatenate([columns for _, columns in found]), x)
    for bad, message in (
        (np.zeros([3, 3]), r"expected \[rows, 2\]"),
        (np.full([3, 2], np.nan), "'0' has 3 NaN"),
        ({"a": [1]}, "takes one matrix"),
    ):
        with pytest.raises(ValueError, match=message):
            schema.columns(bad)


def test_schema_of_a_model():
    trial = RCTData(SCHEMA.columns(FRAME), [0, 1, 0], [0, 1, 1], [0, 1, 0], missing="indicator")
    assert FeatureSchema.of_model(build_preprocessor(trial)) == SCHEMA
    inputs = {"x": keras.Input((), name="x")}
    wide = keras.layers.Reshape((1,))(inputs["x"])
    found = FeatureSchema.of_model(keras.Model(inputs, wide))
    assert (found.kinds, found.missing) == ({"x": "numeric"}, "error")
    filled = keras.ops.where(keras.ops.isnan(wide), 0.0, wide)
    assert FeatureSchema.of_model(keras.Model(inputs, filled)).missing == "indicator"
    matrix = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    assert FeatureSchema.of_model(matrix) == FeatureSchema.of_matrix(3)
    block = {"x": keras.Input((2,), name="x")}
    schema = FeatureSchema.of_model(keras.Model(block, block["x"] + 1.0))
    assert schema.columns({"x": [[1, 2], [3, 4]]})["x"].tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match=r"expected \[rows, 2\]"):
        schema.columns({"x": [1, 2]})


def test_symbolic_tensors_are_chosen_by_name():
    model = build_preprocessor(
        RCTData(SCHEMA.columns(FRAME), [0, 1, 0], [0, 1, 1], [0, 1, 0], missing="indicator")
    )
    direct = model(FRAME).numpy()
    traced = tf.function(lambda columns: model({"aaa": columns["age"], **columns}))
    np.testing.assert_array_equal(traced(SCHEMA.tensors(FRAME)).numpy(), direct)
    with pytest.raises(ValueError, match="'city' has dtype.*expected text"):
        traced({**SCHEMA.tensors(FRAME), "city": tf.constant([1.0, 2.0, 3.0])})
