"""AUCC against its definition written out, closed forms, published facts and repeated trials."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from tfalloc.datasets import criteo_like
from tfalloc.evaluation import aucc, aucc_score, compare_aucc


def by_the_definition(score, trial, q):
    """Row by row, no ties; pseudo-rows of all neighbouring arms; `method="paper"`."""
    arm, n_of = trial["treatment"], np.bincount(trial["treatment"])
    score = score.reshape(len(arm), -1)
    rows = []
    for i, t in enumerate(arm):
        for j in range(score.shape[1]):
            if t in (j, j + 1):
                sign = (1 if t == j + 1 else -1) / n_of[t]
                rows.append((-score[i, j], sign * trial["cost"][i], sign * trial["response"][i]))
    cost, response, costs, responses = 0.0, 0.0, [], []
    for _, c, r in sorted(rows):
        cost, response = cost + c, response + r
        costs.append(cost)
        responses.append(response)
    points = [0.0]
    for k in range(1, q):
        reached = next(i for i, c in enumerate(costs) if c >= cost * k / q - 1e-12)
        points.append(responses[reached])
    return (sum(points) + response) / (response * (q + 1)), np.array(points) / response


def make_trial(rng, rows, arms=2, share=None):
    """Costs and responses learned from noisy rows; both rise with the arm, by amounts that vary."""
    x, worth = rng.random((2, rows))
    arm = rng.choice(arms, rows, p=share)
    cost = arm * (0.5 + x) * rng.choice([0.5, 1.5], rows) + rng.random(rows)
    response = (rng.random(rows) < 0.2 + 0.6 * worth * (0.5 + x) * arm / arms).astype(float)
    return worth, {"treatment": arm, "cost": cost, "response": response}


@pytest.mark.parametrize("arms", [2, 3, 4])
@pytest.mark.parametrize("q", [2, 7, 20])
def test_is_the_definition(arms, q):
    worth, trial = make_trial(np.random.default_rng(arms), 1500, arms)
    score = np.random.default_rng(q).normal(worth[:, None], 0.3, (1500, arms - 1))
    found = aucc(score, trial, num_thresholds=q)
    expected, points = by_the_definition(score, trial, q)
    assert found.value == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(found.curve.response[:-1], points, rtol=1e-9)
    assert float(found) == found.value and np.isnan(found.stderr) and found.random == 0.5


def test_trapezoid_is_the_area_under_the_curve():
    worth, trial = make_trial(np.random.default_rng(1), 2000)
    order = np.argsort(-worth)
    side = (
        np.where(trial["treatment"] == 1, 1, -1)
        / np.bincount(trial["treatment"])[trial["treatment"]]
    )
    cost, response = (
        np.append(0.0, np.cumsum((side * trial[c])[order])) for c in ("cost", "response")
    )
    area = np.sum(np.diff(cost) * (response[1:] + response[:-1])) / 2
    found = aucc(worth, trial, method="trapezoid")
    assert found.value == pytest.approx(area / (cost[-1] * response[-1]), rel=1e-9)
    assert found.cost_uplift == pytest.approx(cost[-1])
    assert found.response_uplift == pytest.approx(response[-1])


def test_depends_on_the_order_of_scores_only():
    worth, trial = make_trial(np.random.default_rng(2), 3000)
    score = np.round(worth, 1)
    shuffle = np.random.default_rng(3).permutation(3000)
    shuffled = {k: v[shuffle] for k, v in trial.items()}
    for method in ("paper", "trapezoid"):
        one = aucc(score, trial, method=method).value
        assert aucc(score[shuffle], shuffled, method=method).value == pytest.approx(one, rel=1e-9)
        assert aucc(np.exp(5 * score), trial, method=method).value == pytest.approx(one, rel=1e-9)


def test_ties_are_the_mean_over_random_orders():
    rng = np.random.default_rng(4)
    worth, trial = make_trial(rng, 4000)
    score = np.round(2 * worth)
    tied = aucc(score, trial, num_thresholds=20).value
    broken = [
        aucc(score + 1e-3 * rng.random(4000), trial, num_thresholds=20).value for _ in range(60)
    ]
    assert abs(np.mean(broken) - tied) < 3 * np.std(broken) / np.sqrt(60) + 0.002


def test_a_score_of_one_value_or_of_noise_is_random():
    rng = np.random.default_rng(5)
    _, trial = make_trial(rng, 2000)
    for method in ("paper", "trapezoid"):
        constant = aucc(np.zeros(2000), trial, method=method).value
        assert constant == pytest.approx(0.5, abs=1e-3)  # 2,000 rows in 200 steps: no remainder
        noise = [
            aucc(rng.random(2000), trial, method=method, num_thresholds=20).value
            for _ in range(200)
        ]
        # The first prefix to reach a step may overshoot it by a row: the last term.
        assert abs(np.mean(noise) - 0.5) < 3 * np.std(noise) / np.sqrt(200) + 0.005


def test_integer_weights_are_repeated_rows():
    rng = np.random.default_rng(6)
    worth, trial = make_trial(rng, 800, 3)
    score = rng.random((800, 2)) + worth[:, None]
    times = rng.integers(1, 4, 800)
    weighted = aucc(score, trial | {"sample_weight": times}, method="trapezoid")
    repeated = aucc(
        np.repeat(score, times, 0), {k: np.repeat(v, times) for k, v in trial.items()},
        method="trapezoid",
    )  # fmt: skip
    assert weighted.value == pytest.approx(repeated.value, rel=1e-9)


def test_propensities_that_vary_undo_the_imbalance():
    """Users of high worth treated more often: a biased total without weights."""
    rng = np.random.default_rng(7)
    worth = rng.random(40_000)
    chance = 0.2 + 0.6 * worth
    arm = (rng.random(40_000) < chance).astype(int)
    trial = {"treatment": arm, "cost": arm * 1.0, "response": 1.0 * (rng.random(40_000) < worth)}
    trial["propensity"] = np.where(arm == 1, chance, 1 - chance)
    # Nobody responds to treatment, except by the selection that the weights remove.
    trial["response"] += 0.5 * arm * worth
    found = aucc(worth, trial, num_thresholds=20)
    assert found.response_uplift == pytest.approx(0.25, abs=0.02)
    assert found.value == pytest.approx(2 / 3, abs=0.03)


def test_published_facts_of_the_simulation_after_criteo():
    """The AUCC of .80 that `criteo_like` promises: of the population, then as a trial finds it."""
    simulation = criteo_like(400_000, seed=3, features=False)
    score = aucc_score(simulation.true_response, simulation.true_cost)
    # Expected outcomes as if everybody had been in both arms: no noise but that of 400,000 users.
    users = np.arange(len(simulation))
    both = {
        "treatment": np.repeat([0, 1], len(users)),
        "response": simulation.true_response.T.ravel(),
        "cost": simulation.true_cost.T.ravel(),
    }
    population = aucc(np.tile(score, 2), both)
    assert population.value == pytest.approx(0.798, abs=0.005)
    found = aucc(score, simulation.data, num_bootstrap=60)
    assert abs(found.value - population.value) < 3 * found.stderr
    assert 0.02 < found.stderr < 0.12
    assert found.low < found.value < found.high


@pytest.fixture(scope="module")
def repeated():
    """Estimates, and bootstrap standard errors, of two scores in repeated 70/30 trials."""
    rng, results = np.random.default_rng(8), []
    for _ in range(120):
        rows = 3000
        worth = rng.random(rows)
        arm = (rng.random(rows) < 0.7).astype(int)
        trial = {"treatment": arm, "cost": arm * (0.5 + rng.random(rows))}
        trial["response"] = (rng.random(rows) < 0.1 + 0.6 * worth * arm).astype(float)
        scores = {"worth": worth, "noisy": worth + 0.3 * rng.normal(size=rows)}
        table = compare_aucc(scores, trial, num_bootstrap=60, num_thresholds=50)
        noisy = table.loc["noisy"]
        results.append(
            (table.aucc["worth"], table.stderr["worth"], noisy.difference, noisy.difference_stderr)
        )
    return np.array(results).T


def test_the_bootstrap_knows_the_spread(repeated):
    value, stderr, gap, gap_stderr = repeated
    # The sd of 120 estimates has a relative standard error of 1 / sqrt(240).
    assert abs(value.std() / stderr.mean() - 1) < 3 / np.sqrt(240)
    assert abs(gap.std() / gap_stderr.mean() - 1) < 3 / np.sqrt(240)
    assert gap_stderr.mean() < 0.7 * np.sqrt(2) * stderr.mean()  # pairing pays


def test_bootstrap_intervals_cover(repeated):
    value, stderr, *_ = repeated
    # dC is a straight line, dR(s) / dR = 2 s - s^2: 2/3.
    covered = np.mean(np.abs(value - 2 / 3) < 1.96 * stderr)
    assert abs(covered - 0.95) < 3 * np.sqrt(0.05 * 0.95 / 120)


@pytest.mark.filterwarnings("ignore:the response uplift")
def test_the_bootstrap_of_several_arms_knows_the_spread():
    """A row stands on two sides of the pooled problem: replicates must count it once."""
    rng, found = np.random.default_rng(14), []
    for _ in range(100):
        worth, trial = make_trial(rng, 1500, 3, [0.2, 0.5, 0.3])
        score = np.stack([worth, worth], axis=1)
        result = aucc(score, trial, method="trapezoid", num_bootstrap=40)
        found.append((result.value, result.stderr))
    value, stderr = np.array(found).T
    assert abs(value.std() / stderr.mean() - 1) < 3 / np.sqrt(200)


def test_cluster_bootstrap_of_repeated_rows_is_that_of_rows():
    rng = np.random.default_rng(9)
    worth, trial = make_trial(rng, 1000)
    once = aucc(worth, trial, num_thresholds=20, num_bootstrap=400)
    order = rng.permutation(np.repeat(np.arange(1000), 9))
    many = {k: v[order] for k, v in trial.items()}
    naive = aucc(worth[order], many, num_thresholds=20, num_bootstrap=400)
    aware = aucc(worth[order], many, num_thresholds=20, num_bootstrap=400, cluster=order)
    # A standard error from 400 replicates has a relative one of 1 / sqrt(800).
    assert aware.stderr == pytest.approx(once.stderr, rel=0.15)
    assert naive.stderr < 0.6 * aware.stderr


def test_a_weak_uplift_is_named_by_what_the_clusters_tell():
    """40 clusters of 100 rows, whose means vary: as rows they would show an effect."""
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(40), 100)
    arm = cluster % 2
    response = 0.3 * rng.normal(size=40)[cluster] + 0.15 * arm + rng.normal(0, 0.2, 4000)
    trial = {"treatment": arm, "cost": arm, "response": response}
    score = rng.random(4000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aucc(score, trial, num_thresholds=20)
    with pytest.warns(UserWarning, match="response uplift of arm '1'.*within 4 standard errors"):
        aucc(score, trial, num_thresholds=20, cluster=cluster)


def test_replicates_without_an_arm_are_left_out():
    """Clusters of one arm each: some replicates draw no treated one, and have no curve."""
    worth, trial = make_trial(np.random.default_rng(15), 400)
    cluster = np.arange(400) % 6
    trial["treatment"] = (cluster < 2).astype(int)
    trial["cost"] = trial["treatment"] * 1.0
    trial["response"] = trial["treatment"] * worth
    with pytest.warns(UserWarning, match="6 clusters") as caught:
        found = aucc(worth, trial, num_thresholds=20, num_bootstrap=100, cluster=cluster)
    assert [x for x in caught if x.category is not UserWarning] == []
    assert 0 < found.stderr < 0.3


def test_rows_without_outcomes_may_be_drawn_together():
    """The short cut for equal weights gives the standard error of drawing every row."""
    rng = np.random.default_rng(10)
    worth = rng.random(20_000)
    arm = (rng.random(20_000) < 0.7).astype(int)
    visit = rng.random(20_000) < 0.02 + 0.03 * arm
    response = visit & (rng.random(20_000) < 0.3 + 0.5 * worth * arm)
    trial = {"treatment": arm, "cost": visit.astype(float), "response": response.astype(float)}
    options = {"num_thresholds": 20, "num_bootstrap": 400}
    together = aucc(worth, trial, **options).stderr
    # Weights that differ by nothing that matters forbid the short cut.
    weight = 1 + 1e-6 * rng.random(20_000)
    single = aucc(worth, trial | {"sample_weight": weight}, **options).stderr
    assert together == pytest.approx(single, rel=0.15)


def test_compare_is_aucc_side_by_side():
    rng = np.random.default_rng(11)
    worth, trial = make_trial(rng, 3000)
    scores = {"noise": rng.random(3000), "good": worth, "same": 2 * worth}
    table = compare_aucc(scores, trial, reference="good", num_thresholds=50, num_bootstrap=50)
    assert table.index.tolist() == list(scores) and table.index.name == "model"
    for name, score in scores.items():
        alone = aucc(score, trial, num_thresholds=50, num_bootstrap=50)
        assert table.aucc[name] == alone.value
        assert table.stderr[name] == pytest.approx(alone.stderr)  # the same seed, the same draws
    assert table.difference["same"] == 0 and table.difference_stderr["same"] == 0
    assert table.p_value["same"] == 1
    assert table.difference["noise"] < 0 and np.isnan(table.difference["good"])
    again = compare_aucc(scores, trial, reference="good", num_thresholds=50, num_bootstrap=50)
    assert table.equals(again)


@pytest.mark.filterwarnings("ignore:the response uplift")
def test_small_data_and_weak_signals_are_named():
    worth, trial = make_trial(np.random.default_rng(12), 150)
    with pytest.warns(UserWarning, match=r"of 200 cost thresholds fall on rows that others"):
        aucc(worth, trial)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*thresholds fall on rows")
        aucc(worth, trial, num_thresholds=5)
    flat = {"treatment": np.tile([0, 1], 75), "cost": np.tile([0.0, 1.0], 75)}
    flat["response"] = (np.arange(150) // 2 % 3 == 0) * 1.0
    flat["response"][3] = 1.0  # one treated response more than control responses
    with pytest.warns(UserWarning, match="response uplift of arm '1'.*within 4 standard errors"):
        aucc(worth, flat, num_thresholds=5)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"cost": [1, 0, 1, 0]}, {}, "cost per user is -1.*expected a positive difference"),
        ({"response": [1, 1, 1, 1]}, {}, "response per user is 0.*expected a positive difference"),
        ({"treatment": [1, 1, 1, 1]}, {}, "no row received arm '0'"),
        ({"treatment": [0, 1, 2, 1]}, {}, r"score has 1 columns and data 3 arms"),
        ({}, {"method": "mean"}, "expected one of"),
        ({}, {"num_thresholds": 1}, "expected an integer of at least 2"),
        ({}, {"num_thresholds": None}, "num_thresholds=None; expected an integer"),
        ({}, {"num_bootstrap": "many"}, "num_bootstrap='many'; expected 0 or at least 20"),
        ({}, {"num_bootstrap": 5}, "expected 0 or at least 20"),
        ({}, {"confidence": 95}, r"in \(0, 1\)"),
        ({"score": [1.0, np.nan, 0.0, 0.0]}, {}, "score is NaN, first in row 1"),
        ({"score": ["high", "low"] * 2}, {}, "score is not numeric"),
        ({"score": [1.0, 2.0]}, {}, "one score for each row"),
        ({"score": np.zeros((4, 2))}, {}, "no row received arm '2'"),
        ({"score": np.zeros((4, 0))}, {}, r"expected \[rows\] for two arms"),
    ],
)
def test_errors_say_what_was_expected(change, options, message):
    trial = {"treatment": [0, 1, 0, 1], "response": [0, 1, 0, 0], "cost": [0, 1, 0, 1]}
    score = change.pop("score", [4.0, 3.0, 2.0, 1.0])
    with pytest.raises(ValueError, match=message) as caught:
        aucc(score, trial | change, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:the response uplift")
def test_errors_of_the_comparison_name_the_score():
    worth, trial = make_trial(np.random.default_rng(13), 200)
    with pytest.raises(ValueError, match="scores is empty"):
        compare_aucc({}, trial)
    with pytest.raises(ValueError, match="reference='z' is not among"):
        compare_aucc({"a": worth}, trial, reference="z")
    with pytest.raises(ValueError, match="score 'b': score has 5 rows"):
        compare_aucc({"a": worth, "b": worth[:5]}, trial, num_thresholds=5)
    with pytest.raises(ValueError, match="expected at least 20"):
        compare_aucc({"a": worth}, trial, num_bootstrap=0)
