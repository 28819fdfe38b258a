"""Simulations: stated marginals within four standard errors; truth known; seeds repeat."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tfalloc import datasets
from tfalloc.data import RCTData
from tfalloc.datasets import criteo_simulations


@functools.cache
def criteo_file():
    """A file with Criteo's columns, made; others must be ignored."""
    path = Path(tempfile.mkdtemp()) / "criteo.parquet"
    table = pd.DataFrame(datasets.criteo_like(40_000, seed=9).data.features)
    table.assign(visit=1, exposure=0).to_parquet(path)
    return path


MAKERS = {
    "five_arms": lambda seed=0: datasets.five_arms(10_000, seed),
    "criteo_like": lambda seed=0: datasets.criteo_like(100_000, seed),
    "produce_coin": lambda seed=0: datasets.produce_coin(30_000, seed, num_treatments=10),
    "criteo_outcomes": lambda seed=0: datasets.criteo_outcomes(criteo_file(), seed),
    "well_specified": lambda seed=0: datasets.well_specified(20_000, seed),
}


def within(sample, truth, errors=4.0):
    """Whether a sample's mean agrees with a known mean."""
    return abs(sample.mean() - truth) < errors * sample.std() / np.sqrt(len(sample)) + 1e-7


@pytest.fixture(scope="module", params=list(MAKERS))
def made(request):
    return request.param, MAKERS[request.param]()


def test_shapes_and_bounds(made):
    _, simulation = made
    data = simulation.data
    shape = (len(data), data.num_treatments)
    assert simulation.true_response.shape == simulation.true_cost.shape == shape
    assert simulation.true_response.min() >= 0 and simulation.true_response.max() <= 1
    assert simulation.true_cost.min() >= 0
    assert data.response_kind == "binary" and data.propensity_source == "mapping"


def test_outcomes_agree_with_the_truth_in_every_arm(made):
    _, simulation = made
    data = simulation.data
    for arm in range(data.num_treatments):
        mine = data.treatment == arm
        assert within(data.response[mine] - simulation.true_response[mine, arm], 0)
        assert within(data.cost[mine] - simulation.true_cost[mine, arm], 0)


def test_propensities_are_unbiased_and_unrelated_to_features(made):
    _, simulation = made
    data = simulation.data
    for arm in range(data.num_treatments):
        share = data.propensity[data.treatment == arm][0]
        assert within((data.treatment == arm).astype("f8"), share)
    assert not data.describe().warnings


def test_inverse_propensity_estimates_a_policy(made):
    """The value of a policy that uses the truth, from trial rows alone."""
    _, simulation = made
    data = simulation.data
    policy = np.argmax(simulation.true_response - 0.01 * simulation.true_cost, axis=1)
    truth = np.take_along_axis(simulation.true_response, policy[:, None], 1)[:, 0]
    estimate = (policy == data.treatment) / data.propensity * data.response
    assert within(estimate - truth, 0)


def test_seeds_repeat(made):
    name, simulation = made
    again, other = MAKERS[name](0), MAKERS[name](1)
    np.testing.assert_array_equal(simulation.data.response, again.data.response)
    np.testing.assert_array_equal(simulation.true_cost, again.true_cost)
    for column in simulation.data.feature_names:
        np.testing.assert_array_equal(simulation.data.features[column], again.data.features[column])
    if name != "criteo_outcomes":  # its features, hence the truth, are those of the file
        assert (simulation.true_response != other.true_response).any()
    assert (simulation.data.response != other.data.response).any()


def best_value(value, cost, budget):
    """Value at a budget by bisection on the price; exact but for one user."""
    low, high = 0.0, 10.0
    rows = np.arange(len(value))
    for _ in range(30):
        price = (low + high) / 2
        arm = np.argmax(value - price * cost, axis=1)
        low, high = (price, high) if cost[rows, arm].mean() > budget else (low, price)
    arm = np.argmax(value - high * cost, axis=1)
    return value[rows, arm].mean()


def test_the_best_of_five_arms_is_worth_what_the_module_says():
    simulation = datasets.five_arms(200_000, seed=3)
    value, cost = simulation.true_response.astype("f8"), simulation.true_cost
    assert (np.diff(value, axis=1) >= 0).all()  # equal where float32 saturates
    assert best_value(value, cost, 2.0) == pytest.approx(0.2123, abs=0.001)
    assert value.mean() < 0.18  # arms at random cost 2.0 too


@functools.cache
def large_criteo_like():
    return datasets.criteo_like(300_000, seed=1)


def test_criteo_like_marginals():
    simulation = large_criteo_like()
    data = simulation.data
    # Criteo Uplift v2.1 as published: visit .0382 / .0485, conversion .00194 / .00309.
    for arm, visit, conversion in ((0, 0.0382, 0.00194), (1, 0.0485, 0.00309)):
        assert within(simulation.true_cost[:, arm], visit)
        assert within(simulation.true_response[:, arm], conversion)
    assert within(data.cost, 0.0470) and within(data.response, 0.00292)
    assert (data.cost >= data.response).all()  # conversion only on a visit
    assert (simulation.true_response[:, 1] > simulation.true_response[:, 0]).all()
    ties = [0.264, 0.987, 0.522, 0.817, 0.956, 0.946, 0.264, 0.946, 0.522, 0.794, 0.956, 0.986]
    for name, share in zip(data.feature_names, ties, strict=True):
        _, counts = np.unique(data.features[name], return_counts=True)
        assert counts.max() / len(data) == pytest.approx(share, abs=0.005)


def aucc(score, cost_uplift, response_uplift):
    order = np.argsort(-score, kind="stable")
    x = np.concatenate([[0], np.cumsum(cost_uplift[order])])
    y = np.concatenate([[0], np.cumsum(response_uplift[order])])
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum() / (x[-1] * y[-1]))


def test_criteo_like_rewards_more_than_a_linear_score():
    simulation = large_criteo_like()
    cost = np.diff(simulation.true_cost.astype("f8"), axis=1)[:, 0]
    response = np.diff(simulation.true_response.astype("f8"), axis=1)[:, 0]
    ratio = response / cost
    assert aucc(ratio, cost, response) == pytest.approx(0.80, abs=0.01)
    design = np.stack(list(simulation.data.features.values()), 1).astype("f8")
    design = np.concatenate([design, np.ones([len(design), 1])], 1)
    fitted = design @ np.linalg.lstsq(design, np.log(ratio), rcond=None)[0]
    assert aucc(fitted, cost, response) < 0.72


def test_criteo_like_without_features():
    simulation = datasets.criteo_like(1000, features=False)
    assert simulation.data.feature_names == ["one"]


def test_criteo_like_parquet_has_the_same_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(criteo_simulations, "CHUNK_ROWS", 4000)
    monkeypatch.setattr(criteo_simulations, "ROW_GROUP", 1500)
    path = datasets.criteo_like_parquet(tmp_path / "c.parquet", 10_000, seed=4, truth=True)
    assert [file.name for file in tmp_path.iterdir()] == ["c.parquet"]
    assert pq.ParquetFile(path).num_row_groups == 8
    simulation = datasets.criteo_like(10_000, seed=4)
    table = pq.read_table(path).to_pandas()
    np.testing.assert_array_equal(table["true_response_1"], simulation.true_response[:, 1])
    data = datasets.criteo(path, in_memory=False)
    assert data.streaming and data.feature_names == [f"f{j}" for j in range(12)]
    _, targets = next(iter(data.batches(10_000)))
    np.testing.assert_array_equal(targets["cost"], simulation.data.cost)


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(criteo_simulations, "draw", fail)
    with pytest.raises(KeyboardInterrupt):
        datasets.criteo_like_parquet(tmp_path / "c.parquet", 1000)
    assert not list(tmp_path.iterdir())


def test_produce_coin_is_increasing_but_not_concave():
    simulation = datasets.produce_coin(30_000, seed=5)
    value = simulation.true_response.astype("f8")
    assert simulation.data.num_treatments == 30
    assert (np.diff(value, axis=1) >= 0).all()
    assert (np.diff(value, n=2, axis=1) > 1e-4).any(axis=1).mean() > 0.9
    assert simulation.true_cost[:, 14].mean() == pytest.approx(1.2, abs=0.1)
    data = simulation.data
    assert (data.cost[data.response == 0] == 0).all()
    assert data.feature_kinds["platform"] == "string"


def test_halves_of_criteo_outcomes_are_disjoint_and_whole():
    whole = datasets.criteo_outcomes(criteo_file(), seed=3)
    halves = [datasets.criteo_outcomes(criteo_file(), seed=3, part=part) for part in (0, 1)]
    assert sum(map(len, halves)) == len(whole)
    assert abs(len(halves[0]) / len(whole) - 0.5) < 0.01
    both = np.concatenate([half.true_cost for half in halves])
    np.testing.assert_array_equal(np.sort(both, axis=0), np.sort(whole.true_cost, axis=0))
    with pytest.raises(ValueError, match="part=2"):
        datasets.criteo_outcomes(criteo_file(), part=2)
    with pytest.raises(FileNotFoundError):
        datasets.criteo_outcomes("nowhere.csv")


def test_criteo_outcomes_segments():
    """A reacts at any voucher, B at the largest only, C redeems and buys no more than others."""
    x = np.zeros((12, 4))
    x[0, 0], x[2, 1], x[9, 2] = 0.5, 0.5, 0.6
    response, cost = criteo_simulations.voucher_outcomes(x)
    gain = (response - response[:, :1]) / (1 - response[:, :1])
    np.testing.assert_allclose(gain[0], [0, 0.054, 0.063, 0.072], atol=1e-12)
    np.testing.assert_allclose(gain[1], [0, 0.004, 0.022, 0.082], atol=1e-12)
    np.testing.assert_allclose(gain[2], gain[3])
    assert np.all(cost[2, 1:] > 1.9 * cost[3, 1:]) and np.all(cost[:, 0] == 0)


def test_well_specified_is_logistic_in_every_arm():
    simulation = datasets.well_specified(5_000, seed=1)
    design = np.stack([*simulation.data.features.values(), np.ones(5_000)], 1).astype("f8")
    for truth in (simulation.true_response, simulation.true_cost[:, 1:] / [1.0, 2.0]):
        logit = np.log(truth / (1 - truth)).astype("f8")
        fitted = design @ np.linalg.lstsq(design, logit, rcond=None)[0]
        np.testing.assert_allclose(fitted, logit, atol=1e-4)


def test_refusals():
    with pytest.raises(ValueError, match="num_rows=3"):
        datasets.five_arms(3)
    with pytest.raises(ValueError, match="num_treatments=1"):
        datasets.produce_coin(num_treatments=1)
    with pytest.raises(ValueError, match="num_rows=10"):
        datasets.criteo_like(10)


def test_simulations_are_trials():
    assert isinstance(datasets.five_arms(1000).data, RCTData)
