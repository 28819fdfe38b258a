"""Piecewise-linear encoding: edges, values, and the networks that use it."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import tfalloc
from tfalloc.models.encoding import PiecewiseLinear, quantile_edges
from tfalloc.models.networks import build_network, encoding_of


def encoded(column, edges):
    """The definition, a number and a bin at a time."""
    rows = []
    for x in column:
        bins = []
        for low, high in itertools.pairwise(edges):
            bins.append(0.0 if high == low else min(max((x - low) / (high - low), 0.0), 1.0))
        rows.append(bins)
    return np.array(rows)


@settings(max_examples=100, deadline=None)
@given(
    arrays(np.float32, st.integers(1, 60), elements=st.integers(-4, 4).map(float)),
    st.integers(2, 7),
)
def test_edges_span_the_column_and_ascend(column, bins):
    edges = quantile_edges(column, bins)
    assert edges.shape == (bins + 1,) and np.all(np.diff(edges) >= 0)
    assert edges[0] == column.min() and edges[-1] == column.max()
    assert set(edges) <= set(column)
    if len(np.unique(column)) <= bins + 1:
        assert set(edges) == set(column)


def test_a_mode_leaves_the_bins_to_the_rest():
    rest = np.arange(1.0, 101.0)
    edges = quantile_edges(np.concatenate([np.zeros(900), rest]), 10)
    assert edges[0] == 0 and len(np.unique(edges)) >= 10
    counts = np.histogram(rest, edges[1:])[0]
    assert counts.max() <= 2 * counts.min()


def test_layer_is_the_definition():
    rng = np.random.default_rng(0)
    matrix = np.stack([rng.normal(size=500), rng.integers(0, 2, 500), np.ones(500)], 1)
    layer = PiecewiseLinear(5)
    layer.build((None, 3))
    assert not layer.fitted
    layer.fit(matrix)
    found = layer(matrix.astype("float32")).numpy().reshape(500, 3, 5)
    for j in range(3):
        edges = quantile_edges(matrix[:, j], 5)
        np.testing.assert_allclose(found[:, j], encoded(matrix[:, j], edges), atol=2e-6)
    assert np.all(found[:, 2] == 0)  # a constant says nothing


@pytest.mark.parametrize("bins", [1, 2.5, True, "many", float("nan"), float("inf"), [4]])
def test_bins_are_checked(bins):
    with pytest.raises(ValueError, match="bins="):
        tfalloc.AllocationModel(2, bins=bins)


def test_widths_are_checked():
    with pytest.raises(ValueError, match=r"backbone=\(True,\) is not known"):
        build_network(3, 2, (True,))


def test_linear_path_starts_at_nothing_and_is_a_regression():
    plain = build_network(3, 2, (4,), seed=0)
    wide = build_network(3, 2, (4,), linear=True, seed=0)
    x = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    np.testing.assert_array_equal(plain(x), wide(x))
    kernel = np.arange(6.0).reshape(3, 2)
    wide.get_layer("linear").set_weights([kernel, np.ones(2)])
    np.testing.assert_allclose(wide(x) - plain(x), x @ kernel + 1, atol=1e-5)


def test_a_backbone_of_ones_own_is_told_the_width_with_bins():
    own = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    with pytest.raises(ValueError, match=r"backbone takes 3 features.*15 after.*bins=4"):
        build_network(3, 2, own, bins=4)


@pytest.mark.parametrize("name", ["features", "encoding", "encoded", "heads", "linear", "raw"])
def test_a_backbone_may_have_any_name(name):
    own = keras.Sequential([keras.Input((15,)), keras.layers.Dense(4)], name=name)
    network = build_network(3, 2, own, bins=4, linear=True)
    assert network(np.zeros((2, 3))).shape == (2, 2)
    assert isinstance(encoding_of(network), PiecewiseLinear)
    own = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)], name=name)
    assert encoding_of(build_network(3, 2, own)) is None


def test_the_paper_s_network():
    """Yan et al. 2023, Section 4.3: 512-256-128-64, heads 32-1, ReLU then batch norm, He."""
    network = build_network(20, 4, "paper", seed=0)
    layers = network.layers[1:]
    assert [layer.name for layer in layers] == [
        *(f"trunk{part}_{i}" for i in range(4) for part in ("", "_norm")),
        "heads",
    ]
    heads = layers[-1]
    dense = [*layers[:-1:2], heads.hidden]
    assert [layer.units for layer in dense] == [512, 256, 128, 64, 4 * 32]
    widths = [20, 512, 256, 128, 64]
    for layer, width in zip(dense, widths, strict=True):
        assert layer.activation is keras.activations.relu
        assert np.std(layer.kernel) == pytest.approx(np.sqrt(2 / width), rel=0.05)
        assert not np.any(layer.bias)
    for layer in [*layers[1:-1:2], heads.norm]:
        assert isinstance(layer, keras.layers.BatchNormalization)
    # The departure: the last layer is small, so that predictions start at the trial's rates.
    assert heads.kernel.shape == (4, 32) and np.std(heads.kernel) == pytest.approx(0.002, rel=0.2)


@pytest.fixture(scope="module")
def steps():
    """A trial whose response depends on a threshold in one feature."""
    rng = np.random.default_rng(1)
    x, arm = rng.random(8_000), rng.integers(0, 2, 8_000)
    response = (rng.random(8_000) < 0.2 + 0.5 * arm * (np.abs(x - 0.5) < 0.2)).astype(int)
    return tfalloc.RCTData({"x": x}, arm, response, arm.astype(float))


def test_model_with_bins_is_fitted_saved_and_copied(steps, tmp_path):
    model = tfalloc.AllocationModel(2, (8,), bins=8, linear=True, seed=0)
    model.compile(keras.optimizers.Adam(3e-3), jit_compile=False)
    model.fit(steps, epochs=1, batch_size=500, verbose=0)
    encoding = encoding_of(model.network)
    assert encoding.fitted
    edges = encoding.edges.numpy()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config()["bins"] == 8 and loaded.get_config()["linear"]
    np.testing.assert_array_equal(
        model.predict(steps, verbose=0)["response"], loaded.predict(steps, verbose=0)["response"]
    )
    np.testing.assert_array_equal(encoding_of(model.two_stage_copy(1).network).edges.numpy(), edges)
    model.adapt(steps.take(np.arange(100)))  # edges belong to the weights by now
    np.testing.assert_array_equal(encoding.edges.numpy(), edges)


def test_bins_see_a_threshold_that_a_linear_path_cannot():
    """Least squares on a response that depends on a threshold in one feature."""
    x = np.random.default_rng(1).random((8_000, 1)).astype("float32")
    middle = np.abs(x[:, 0] - 0.5) < 0.2
    layer = PiecewiseLinear(16)
    layer.build((None, 1))
    layer.fit(x)
    rise = []
    for columns in (x, layer(x).numpy()):
        design = np.concatenate([np.ones((len(x), 1)), columns], axis=1)
        found = design @ np.linalg.lstsq(design, middle * 1.0, rcond=None)[0]
        rise.append(found[middle].mean() - found[~middle].mean())
    assert rise[1] > 0.8 and rise[0] < 0.1
