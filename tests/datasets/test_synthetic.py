"""`datasets.synthetic` is Section 4.1 of Yan et al. 2023."""

import numpy as np
import pytest

from tfalloc import datasets
from tfalloc.data import build_preprocessor


@pytest.fixture(scope="module")
def made():
    return datasets.synthetic(100_000, seed=3)


def test_a_trial_without_features(made):
    data = datasets.synthetic().data
    assert len(data) == 10_000 and data.num_treatments == 4 and data.feature_names == []
    assert datasets.synthetic(num_treatments=5).true_cost[0].tolist() == [1, 2, 3, 4, 5]
    features, targets = next(iter(data.batches(7)))
    assert features.shape == (7, 0) and targets["treatment"].shape == (7,)
    with pytest.raises(ValueError, match="the trial has no features; expected at least one"):
        build_preprocessor(data)


def test_truth_is_drawn_as_published(made):
    v = made.true_response.astype("f8")
    k = np.diff(v, axis=1)
    assert (
        v[:, 0].min() >= 0
        and v[:, 0].max() <= 0.1
        and v[:, 0].mean() == pytest.approx(0.05, abs=4 * 0.1 / np.sqrt(12 * len(v)))
    )
    assert (k[:, :-1] >= k[:, 1:] - 1e-6).all() and k.min() > -1e-6 and k.max() < 0.2 + 1e-6
    # Means of three draws of U[0, .2] in descending order.
    np.testing.assert_allclose(k.mean(axis=0), [0.15, 0.1, 0.05], atol=1e-3)
    assert abs(np.corrcoef(v[:, 0], k[:, 0])[0, 1]) < 4 / np.sqrt(len(v))


def test_the_trial_is_randomised_and_draws_responses_from_the_truth(made):
    data, rows = made.data, np.arange(len(made))
    treatment = np.asarray(data.treatment)
    shares = np.bincount(treatment) / len(data)
    np.testing.assert_allclose(shares, 0.25, atol=4 * np.sqrt(0.25 * 0.75 / len(data)))
    np.testing.assert_array_equal(data.cost, treatment + 1.0)
    p = made.true_response[rows, treatment]
    y = np.asarray(data.response)
    assert set(np.unique(y)) == {0.0, 1.0}
    z = (y - p).sum() / np.sqrt((p * (1 - p)).sum())
    assert abs(z) < 4


def test_same_seed_same_data_and_a_start_of_its_own():
    one, again, other = (datasets.synthetic(1_000, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.true_response, again.true_response)
    assert not np.array_equal(one.true_response, other.true_response)
    start = datasets.synthetic_start(1_000, 1)
    assert start.shape == (1_000, 4) and not np.isin(start, one.true_response).any()


def test_refusals():
    for arguments, message in (((3,), "num_rows=3"), ((100, 0, 1), "num_treatments=1")):
        with pytest.raises(ValueError, match=message):
            datasets.synthetic(*arguments)
