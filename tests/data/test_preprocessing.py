"""The preprocessor equals NumPy, and survives saving, export and unseen input."""

from __future__ import annotations

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tfalloc.data import RCTData, build_preprocessor


def data(missing="error", rows=200, seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "a/b": rng.normal(1000, 0.5, rows),
            "x y (z)": rng.normal(size=rows),
            "os": rng.choice(["web", "ios", "tv"], rows, p=[0.6, 0.3, 0.1]),
            "same": 7.123456,
            "tiny": rng.normal(0, 1e-9, rows),
            "arm": np.arange(rows) % 2,
            "y": 0,
        }
    )
    if missing == "indicator":
        frame.loc[::4, "a/b"] = np.nan
        frame.loc[::3, "os"] = None
    return RCTData.from_frame(
        frame, treatment="arm", response="y", cost={0: 0.0, 1: 1.0}, missing=missing
    )


def raw(trial):
    return next(iter(trial.batches(len(trial))))[0]


def expected(trial, normalize=True):
    features = trial.features
    parts, marks = [], []
    for name in ("a/b", "x y (z)", "same", "tiny"):
        x = features[name].astype("f8")
        missing = np.isnan(x)
        x = np.where(missing, x[~missing].mean(), x)
        if normalize:
            spread = x[~missing].std() if x.max() > x.min() else 1.0
            x = (x - x[~missing].mean()) / spread
        parts.append(x)
        if missing.any():
            marks.append(missing.astype("f8"))
    counts = pd.Series(features["os"]).value_counts()
    order = sorted(counts.index, key=lambda value: (-counts[value], value))
    hot = [np.zeros(len(trial)), *[(features["os"] == value).astype("f8") for value in order]]
    return np.stack([*parts, *marks, *hot], axis=1)


@pytest.mark.parametrize("missing", ["error", "indicator"])
@pytest.mark.parametrize("normalize", [False, True])
def test_equals_numpy(missing, normalize):
    trial = data(missing)
    found = build_preprocessor(trial, normalize=normalize)(raw(trial)).numpy()
    assert found.dtype == np.float32 and np.isfinite(found).all()
    # float32 input of size 1,000 and spread .5 resolves 1e-4 standard deviations.
    np.testing.assert_allclose(found, expected(trial, normalize), atol=3e-4)


# Loading warns that Keras would not take "a/b" as the name of an input.
@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
@pytest.mark.parametrize("missing", ["error", "indicator"])
def test_save_export_and_map(missing, tmp_path):
    trial = data(missing)
    model, features = build_preprocessor(trial), raw(trial)
    found = model(features).numpy()
    assert model.output_shape == (None, found.shape[1])
    model.save(tmp_path / "p.keras")
    again = keras.models.load_model(tmp_path / "p.keras")
    np.testing.assert_array_equal(again(features).numpy(), found)
    model.export(tmp_path / "saved", verbose=False)
    serve = tf.saved_model.load(tmp_path / "saved").signatures["serving_default"]
    (served,) = serve(**features).values()
    np.testing.assert_allclose(served.numpy(), found, atol=1e-6)
    mapped = trial.batches(50).map(lambda x, y: (model(x), y))
    together = np.concatenate([x.numpy() for x, _ in mapped])
    np.testing.assert_allclose(together, found, atol=1e-6)


def test_unseen_categories_and_new_gaps():
    trial = data("indicator")
    model = build_preprocessor(trial)
    row = {"a/b": [np.nan], "x y (z)": [0.0], "os": ["fridge"], "same": [np.nan], "tiny": [0.0]}
    found = model({k: tf.constant(v) for k, v in row.items()}).numpy()[0]
    assert np.isfinite(found).all()
    assert found[0] == found[2] == 0 and found[4] == 1  # means, and the indicator of a/b
    assert found[5] == 1 and found[6:].sum() == 0  # unknown category


def test_constant_columns_stay_small_on_other_values():
    trial = data()
    row = {"a/b": [1000.0], "x y (z)": [0.0], "os": ["web"], "same": [9.0], "tiny": [0.0]}
    found = build_preprocessor(trial)({k: tf.constant(v) for k, v in row.items()}).numpy()[0]
    assert found[2] == pytest.approx(9 - 7.123456, abs=1e-5)


def test_fitted_on_the_given_part_only():
    trial = data()
    train, _ = trial.split([0.5, 0.5], seed=0)
    found = build_preprocessor(train)(raw(train)).numpy()
    assert np.abs(found[:, 0].mean()) < 1e-3 and found[:, 0].std() == pytest.approx(1, abs=1e-3)
    text = {"s": ["seen"] * 4 + ["late"] * 2}
    whole = RCTData(text, [0, 1] * 3, np.zeros(6), np.zeros(6))
    assert build_preprocessor(whole.take(range(4))).output_shape == (None, 2)


def test_max_categories():
    trial = data()
    assert build_preprocessor(trial, max_categories=1).output_shape == (None, 6)
    with pytest.raises(ValueError, match="max_categories=0"):
        build_preprocessor(trial, max_categories=0)


def test_matrix_and_streamed(tmp_path):
    x = np.random.default_rng(0).normal(3, 2, (100, 4)).astype("f4")
    trial = RCTData(x, np.arange(100) % 2, np.zeros(100), np.zeros(100))
    model = build_preprocessor(trial)
    assert model.input_shape == (None, 4)
    np.testing.assert_allclose(model(x).numpy(), (x - x.mean(0)) / x.std(0), atol=1e-5)
    frame = pd.DataFrame(x, columns=list("abcd")).assign(arm=np.arange(100) % 2, y=0, z=0)
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=9)
    streamed = RCTData.from_parquet(
        tmp_path / "t.parquet", treatment="arm", response="y", cost="z", in_memory=False,
        features=list("abcd"),
    )  # fmt: skip
    np.testing.assert_allclose(
        build_preprocessor(streamed)(raw(streamed)).numpy(), model(x).numpy(), atol=1e-5
    )
