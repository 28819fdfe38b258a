"""Qini and AUUC against the definitions of scikit-uplift and causalml, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from tfalloc.evaluation import aucc, auuc, qini
from tfalloc.evaluation.ranking.order import tie_groups
from tfalloc.mckp import upgrade_prices


def curves_by_rows(score, y, t):
    """Points (k, Q, G) after each distinct score, best first: loops over rows."""
    points = [(0, 0.0, 0.0)]
    for s in sorted(set(score), reverse=True):
        first = score >= s
        n_t, n_c = (first & (t == 1)).sum(), (first & (t == 0)).sum()
        y_t, y_c = y[first & (t == 1)].sum(), y[first & (t == 0)].sum()
        ratio = y_c / n_c if n_c else 0.0
        points.append(
            (first.sum(), y_t - ratio * n_t, ((y_t / n_t if n_t else 0.0) - ratio) * first.sum())
        )
    return np.array(points).T


def area(x, y):
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)


def make_trial(seed, rows, decimals=None):
    rng = np.random.default_rng(seed)
    worth = rng.random(rows) if decimals is None else np.round(rng.random(rows), decimals)
    arm = (rng.random(rows) < 0.7).astype(int)
    response = (rng.random(rows) < 0.1 + 0.4 * worth * arm).astype(float)
    return worth, {"treatment": arm, "response": response, "cost": arm}


def test_scores_that_differ_by_rounding_tie():
    """Uplifts of .1, .2 and .3 as float32 predictions make them: ranked by noise, if by bits."""
    rng = np.random.default_rng(5)
    _, trial = make_trial(5, 3000)
    uplift, base = rng.choice([0.1, 0.2, 0.3], 3000), rng.random(3000, np.float32) * 0.6
    noisy = (base + uplift).astype(np.float32) - base
    assert len(np.unique(noisy)) > 3
    for metric in (qini, auuc, aucc):
        wanted = pytest.approx(metric(uplift, trial).value, rel=1e-12)
        assert metric(noisy, trial).value == wanted
    ratio = upgrade_prices(
        np.stack([base, base * np.float32(1.1)], 1), np.stack([0 * base, base * np.float32(0.3)], 1)
    )
    assert len(np.unique(ratio)) > 20
    assert qini(ratio, trial).value == pytest.approx(0.0, abs=1e-12)
    assert aucc(ratio, trial, method="trapezoid").value == pytest.approx(0.5)


def test_distinct_scores_stay_distinct_and_dense_ones_are_not_all_one_group():
    rng = np.random.default_rng(6)
    for keys in (rng.random(500), rng.normal(size=500) * 1e-6, np.exp(3 * rng.normal(size=500))):
        assert tie_groups(np.sort(keys)[::-1])[-1] > 480
    dense = tie_groups(np.linspace(1.0, 0.0, 3_000_000))
    assert dense[-1] > 500_000 and np.bincount(dense).max() < 20
    assert (np.diff(dense) >= 0).all() and tie_groups(np.empty(0)).size == 0


@pytest.mark.parametrize("decimals", [None, 1])
def test_are_the_definitions(decimals):
    score, trial = make_trial(0, 400, decimals)
    y, t = trial["response"], trial["treatment"]
    k, q, g = curves_by_rows(score, y, t)
    n = len(y)
    # causalml: areas over k / n of the curves divided by their ends; Qini less its random line.
    assert qini(score, trial).value == pytest.approx(area(k, q) / (n * q[-1]) - 0.5, rel=1e-9)
    assert auuc(score, trial).value == pytest.approx(area(k, g) / (n * g[-1]), rel=1e-9)
    # scikit-uplift: area above the diagonal over that of the perfect curve.
    _, best, _ = perfect = curves_by_rows(y * t - y * (1 - t), y, t)
    expected = (area(k, q) - n * q[-1] / 2) / (area(perfect[0], best) - n * q[-1] / 2)
    assert qini(score, trial, normalize="perfect").value == pytest.approx(expected, rel=1e-9)
    few = ((y == 1) & (t == 0)).sum() > ((y == 0) & (t == 1)).sum()
    ideal = curves_by_rows(2 * (y == t) + (y if few else t), y, t)
    expected = (area(k, g) - n * g[-1] / 2) / (area(ideal[0], ideal[2]) - n * g[-1] / 2)
    assert auuc(score, trial, normalize="perfect").value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("metric", [qini, auuc])
def test_costs_do_not_matter_and_need_not_be_there(metric):
    score, trial = make_trial(2, 300)
    without = {name: trial[name] for name in ("treatment", "response")}
    unknown = {**without, "cost": np.full(300, np.nan)}
    found = [metric(score, rows, num_bootstrap=50) for rows in (without, trial, unknown)]
    assert len({(x.value, x.low, x.high) for x in found}) == 1


def test_the_perfect_ranking_has_one():
    _, trial = make_trial(1, 500)
    y, t = trial["response"], trial["treatment"]
    assert qini(y * (2 * t - 1), trial, normalize="perfect").value == pytest.approx(1.0)


def test_figures_of_scikit_uplift():
    """`qini_auc_score` and `uplift_auc_score` of scikit-uplift 0.5.1 on these eight rows."""
    arm = [1, 0, 1, 1, 0, 1, 0, 0]
    trial = {"treatment": arm, "response": [1, 0, 1, 0, 1, 0, 0, 0], "cost": arm}
    score = [0.9, 0.8, 0.7, 0.7, 0.4, 0.3, 0.2, 0.1]
    assert qini(score, trial, normalize="perfect").value == pytest.approx(1 / 3)
    assert auuc(score, trial, normalize="perfect").value == pytest.approx(0.19047619047619047)


def test_closed_forms():
    """Uplift a s of a uniform score s, nobody responds untreated: G(x) = a (x - x^2 / 2)."""
    score, trial = make_trial(2, 300_000)
    stderr = {"num_bootstrap": 20}
    for metric, truth in ((auuc, 2 / 3), (qini, 1 / 6)):
        found = metric(score, trial, **stderr)
        assert abs(found.value - truth) < 3.5 * found.stderr
        assert found.stderr < 0.005
        middle = found.curve.response[100]
        assert middle == pytest.approx(0.75, abs=0.02)
    noise = np.random.default_rng(3).random(300_000)
    assert abs(qini(noise, trial).value) < 0.015
    assert auuc(noise, trial).value == pytest.approx(0.5, abs=0.015)


def test_the_bootstrap_knows_the_spread():
    found = {qini: [], auuc: []}
    for seed in range(120):
        score, trial = make_trial(100 + seed, 2000)
        for metric, results in found.items():
            result = metric(score, trial, num_bootstrap=40)
            results.append((result.value, result.stderr))
    for metric, truth in ((qini, 1 / 6), (auuc, 2 / 3)):
        value, stderr = np.array(found[metric]).T
        assert abs(value.std() / stderr.mean() - 1) < 3 / np.sqrt(240)
        assert abs(value.mean() - truth) < 3 * value.std() / np.sqrt(120)


def test_order_ties_weights_and_clusters():
    score, trial = make_trial(4, 1000, decimals=1)
    rng = np.random.default_rng(5)
    shuffle = rng.permutation(1000)
    times = rng.integers(1, 4, 1000)
    for metric in (qini, auuc):
        for normalize in ("end", "perfect"):
            options = {"normalize": normalize}
            one = metric(score, trial, **options).value
            mixed = {k: v[shuffle] for k, v in trial.items()}
            assert metric(score[shuffle], mixed, **options).value == pytest.approx(one, rel=1e-9)
            weighted = metric(score, trial | {"sample_weight": times}, **options)
            repeated = metric(
                np.repeat(score, times), {k: np.repeat(v, times) for k, v in trial.items()},
                **options,
            )  # fmt: skip
            assert weighted.value == pytest.approx(repeated.value, rel=1e-9)
    twice = np.repeat(np.arange(1000), 4)
    many = {k: v[twice] for k, v in trial.items()} | {"user": twice}
    once = qini(score, trial, num_bootstrap=300).stderr
    aware = qini(score[twice], many, num_bootstrap=300, cluster="user").stderr
    assert aware == pytest.approx(once, rel=0.17)


def test_rewards_that_are_not_binary():
    score, trial = make_trial(6, 5000)
    paid = trial | {"response": 20.0 * trial["response"]}
    assert qini(score, paid).value == pytest.approx(qini(score, trial).value)
    with pytest.raises(ValueError, match="expected those, or normalize='end'"):
        qini(score, paid, normalize="perfect")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"normalize": "sum"}, "expected one of"),
        ({}, {"num_bootstrap": 3}, "expected 0 or at least 20"),
        ({"response": [1, 1, 1, 1]}, {}, "the arms respond alike"),
        ({"treatment": [1, 1, 1, 1]}, {}, "no row received arm '0'"),
    ],
)
def test_errors(change, options, message):
    trial = {"treatment": [0, 1, 0, 1], "response": [0, 1, 0, 0], "cost": [0, 1, 0, 1]}
    with pytest.raises(ValueError, match=message):
        qini([4.0, 3.0, 2.0, 1.0], trial | change, **options)
    with pytest.raises(ValueError, match="two arms only"):
        auuc(np.zeros((4, 2)), trial)
    with pytest.raises(ValueError, match="data 3 arms.*qini is defined for two arms only"):
        qini(np.zeros(4), trial | {"treatment": [0, 1, 2, 1]})


@pytest.mark.parametrize("metric", [qini, auuc])
def test_an_interval_around_a_ratio_to_noise_is_named(metric):
    rng = np.random.default_rng(3)
    arm = np.arange(400) % 2
    trial = {"treatment": arm, "response": rng.random(400) < 0.5 + 0.1 * arm, "cost": arm}
    with pytest.warns(UserWarning, match="is within 4 standard errors"):
        metric(rng.random(400), trial, num_bootstrap=20)
