"""Arm statistics against closed forms; the randomisation check against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from tfalloc.data import RCTData
from tfalloc.data.summary import chi_square_tail


def trial(rows, seed, confounded=0.0, arms=2, weight=None):
    rng = np.random.default_rng(seed)
    x = np.stack([rng.standard_normal(rows), rng.exponential(size=rows) ** 2], 1)
    city = rng.choice(["a", "b", "c"], rows)
    score = confounded * x[:, :1] * np.arange(arms)
    treatment = np.argmax(score + rng.gumbel(size=(rows, arms)), axis=1)
    features = {"x": x[:, 0], "heavy": x[:, 1], "city": city}
    return RCTData(
        features, treatment, (rng.random(rows) < 0.2).astype(float), rng.random(rows),
        sample_weight=weight,
    )  # fmt: skip


@pytest.mark.parametrize("degrees", [1, 2, 7, 60, 1000])
def test_chi_square_tail(degrees):
    for quantile in (0.01, 0.3, 0.5, 0.95, 0.9999, 1 - 1e-12):
        x = scipy_stats.chi2.ppf(quantile, degrees)
        expected = scipy_stats.chi2.sf(x, degrees)
        assert chi_square_tail(x, degrees) == pytest.approx(expected, rel=1e-8, abs=1e-13)
    assert chi_square_tail(0.0, degrees) == 1.0
    # Far tails underflow to 0 rather than fail.
    assert 0.0 <= chi_square_tail(1e5, degrees) < 1e-300


def test_arm_statistics():
    data = trial(3000, 0, arms=3)
    summary = data.describe()
    for k, arm in enumerate(summary.arms):
        y, z = data.response[data.treatment == k], data.cost[data.treatment == k]
        assert arm.rows == len(y)
        assert arm.response == pytest.approx(y.mean(), rel=1e-5)
        assert arm.response_error == pytest.approx(y.std(ddof=1) / np.sqrt(len(y)), rel=1e-5)
        assert arm.cost == pytest.approx(z.mean(), rel=1e-5)
        assert arm.cost_error == pytest.approx(z.std(ddof=1) / np.sqrt(len(z)), rel=1e-5)
    base, other = summary.arms[0], summary.arms[2]
    assert other.response_uplift == pytest.approx(other.response - base.response)
    assert other.cost_uplift_error == pytest.approx(math.hypot(other.cost_error, base.cost_error))
    assert base.cost_uplift == base.cost_uplift_error == 0


def test_weights_enter_means_and_observed_shares():
    weight = np.random.default_rng(5).uniform(0.5, 3, 2000)
    data = trial(2000, 1, weight=weight)
    summary = data.describe()
    for k, arm in enumerate(summary.arms):
        mine = data.treatment == k
        mean = np.average(data.response[mine], weights=weight[mine])
        assert arm.response == pytest.approx(mean, rel=1e-5)
        assert arm.share == pytest.approx(weight[mine].sum() / weight.sum(), rel=1e-5)
        assert data.propensity[mine][0] == pytest.approx(arm.share, rel=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_joint_test_keeps_its_level(weighted):
    weight = np.random.default_rng(9).uniform(0.5, 3, 1500) if weighted else None
    p = [trial(1500, seed, arms=3, weight=weight).describe().balance_p_value for seed in range(60)]
    # Uniform under the null: mean 1/2 with standard error .29 / sqrt(60); four of them.
    assert abs(np.mean(p) - 0.5) < 4 * 0.289 / np.sqrt(60)
    assert np.mean(np.array(p) < 0.1) < 0.1 + 4 * 0.3 / np.sqrt(60)


def test_differences_match_their_definition():
    data = trial(4000, 2, confounded=0.4)
    x, t = data.features["x"], data.treatment
    pooled = np.sqrt((x[t == 0].var() + x[t == 1].var()) / 2)
    expected = abs(x[t == 0].mean() - x[t == 1].mean()) / pooled
    assert data.describe().differences["x"] == pytest.approx(expected, rel=1e-4)


def test_warning_only_when_randomisation_is_broken():
    lines = []
    trial(5000, 3).summary(print_fn=lines.append)
    assert "WARNING" not in lines[0] and "p = " in lines[0] and "uplift" in lines[0]
    lines.clear()
    trial(5000, 3, confounded=0.3).summary(print_fn=lines.append)
    assert lines[0].count("WARNING") == 1 and "features predict the treatment" in lines[0]
    assert "x, 0." in lines[0]


def test_complete_separation_and_constant_features():
    rows = 400
    t = np.arange(rows) % 2
    data = RCTData({"same": np.ones(rows), "arm": t * 1.0}, t, np.zeros(rows), np.zeros(rows))
    summary = data.describe()
    assert summary.balance_p_value < 1e-20 and summary.differences["same"] == 0
    constant = RCTData(np.ones([rows, 1]), t, np.zeros(rows), np.zeros(rows)).describe()
    assert math.isnan(constant.balance_p_value) and not constant.warnings
    assert "no joint test" in str(constant)


def test_arm_sizes_against_a_mapping():
    rows = 10_000
    t = (np.random.default_rng(0).random(rows) < 0.5).astype(int)
    arrays = (np.zeros([rows, 1]), t, np.zeros(rows), np.zeros(rows))
    assert not RCTData(*arrays, propensity={0: 0.5, 1: 0.5}).describe().warnings
    wrong = RCTData(*arrays, propensity={0: 0.4, 1: 0.6}).describe()
    assert "arm sizes differ" in wrong.warnings[0]
