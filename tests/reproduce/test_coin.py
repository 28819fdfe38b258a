"""The campaign at a reduced size: weight 0 is two-stage, the online test is honest, resumption."""

import dataclasses
import inspect
import math
import shutil

import keras
import numpy as np
import pandas as pd
import pytest
from matplotlib import image

import tfalloc
from tfalloc import datasets, export
from tfalloc.models import AllocationModel
from tfalloc.outcome import expected_outcome
from tfalloc.reproduce import coin, coin_report
from tfalloc.reproduce.runs import Runs

pytestmark = pytest.mark.slow

SEEDS = 1
FAST = dataclasses.replace(coin.FAST, rows=5_000, epochs=1, users=2_000, num_treatments=3)
WEIGHTS = (0, 10)
WHERE = {"settings": FAST, "weights": WEIGHTS, "deployed": None}


@pytest.fixture(scope="module")
def campaign():
    """One compiled model for all tests that train."""
    return coin.Campaign(FAST)


def online(goal_weight, seed, calibration):
    """Figures of an online test that nobody made."""
    rng = np.random.default_rng(seed)
    names = [
        f"{group}_{outcome}" for group in coin_report.GROUPS for outcome in ("response", "cost")
    ]
    figures = {name: 1.0 + 0.1 * rng.random() for name in names}
    return {**figures, **{f"{name}_stderr": 0.01 for name in names}}


@pytest.fixture(scope="module")
def made(campaign, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "coin"
    with pytest.MonkeyPatch.context() as patch:
        # Exports take longer than trainings; they have tests of their own below.
        patch.setattr(campaign, "_online", online)
        patch.setattr(coin, "Campaign", lambda settings: campaign)
        return folder, coin.study(folder, seeds=SEEDS, command="typed", **WHERE)


def test_every_weight_and_seed_is_run_once(made):
    offline = made[1].frame(part="offline")
    assert sorted(zip(offline.goal_weight, offline.seed, strict=True)) == [
        (weight, seed) for weight in WEIGHTS for seed in range(SEEDS)
    ]


def test_responses_lie_between_treating_all_alike_and_perfect_targeting(made):
    offline = made[1].frame(part="offline")
    assert (offline.response < offline.oracle).all() and (offline.mix < offline.oracle).all()
    # Two epochs do not make a good model, but none can be worse than the arm without coins.
    assert (offline.response > 0.02).all()
    error = offline.estimate_stderr
    assert (abs(offline.estimate - offline.response) < 5 * error).all()


def test_the_weight_of_the_online_test_is_chosen_by_the_estimate(made):
    runs = made[1]
    offline, online = runs.frame(part="offline"), runs.frame(part="online")
    best = offline[offline.goal_weight > 0].groupby("goal_weight").estimate.mean().idxmax()
    assert online.goal_weight.unique().tolist() == [best]
    done = list(zip(online.seed, online.calibration, strict=True))
    assert done == [(s, name) for s in range(SEEDS) for name in ("predicted", "trial")]


def test_table_has_the_numbers_of_the_runs(made):
    folder, runs = made
    text = (folder / "table.md").read_text()
    offline, online = runs.frame(part="offline"), runs.frame(part="online")
    at = offline[offline.goal_weight == 10].response
    assert f"| 10 | {at.mean():.5f} |" in text
    for _, found in online.groupby("calibration"):
        for name in ("two_stage_cost", "end_to_end_response"):
            assert f"| {found[name].mean():.5f} |" in text
            first = found[found.seed == 0].iloc[0]
            low = first[name] - 1.96 * first[f"{name}_stderr"]
            assert f"| {first[name]:.5f} ({low:.5f} … " in text
    assert "-0.369%" in text and "+1.240%" in text and "`typed`" in text


def test_a_calibration_that_was_refused_is_left_out(made, tmp_path):
    kept = made[1]
    runs = Runs(tmp_path / "runs.json", kept.settings)
    for row in kept.frame(part="offline").to_dict("records"):
        key = {name: row[name] for name in ("part", "goal_weight", "seed")}
        runs.add(key, kept.figures(key), 1.0)
    weight = coin_report.best_weight(kept, SEEDS)
    key = {"part": "online", "calibration": "trial", "goal_weight": weight, "seed": 0}
    runs.add({**key, "seed": 1}, kept.figures(key), 1.0)
    coin_report.write(tmp_path, runs, 2, weight, chosen=True)
    text = (tmp_path / "table.md").read_text()
    assert "predicted costs |" not in text
    assert "| cost | a second trial | -0.369% | - | - | - |" in text, "seed 0 was not run"


def test_figure_is_drawn(made):
    picture = image.imread(made[0] / "figure.png")
    assert min(picture.shape[:2]) > 400 and picture[..., :3].std() > 0.05


def test_the_second_call_trains_nothing(made, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(coin.Campaign, "run", refuse)
    before = (made[0] / "runs.json").read_text()
    coin.study(made[0], seeds=SEEDS, **WHERE)
    assert (made[0] / "runs.json").read_text() == before
    with pytest.raises(ValueError, match="heads='independent', now heads='marginal'"):
        coin.study(made[0], settings=dataclasses.replace(FAST, heads="marginal"))


def test_a_learner_trains_what_a_model_of_its_own_would(campaign):
    """Weight 0 after another weight is the two-stage model of the same seed.

    Preprocessing is that of the reference rows, here the training rows themselves.
    """
    train, learner = campaign._draw(10_000, coin.REFERENCE).data, campaign.learner
    learner.fit(train, goal_weight=50.0, seed=1, epochs=1)
    shared = learner.fit(train, goal_weight=0.0, seed=3, epochs=2)
    alone = tfalloc.AllocationModel(3, heads="independent", backbone="small", seed=3)
    alone.compile(keras.optimizers.Adam(3e-4), jit_compile=False)
    alone.fit(train, epochs=2, validation_split=0.0, early_stopping=False, verbose=0)
    found, expected = (x.predict(train, verbose=0) for x in (shared, alone))
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6)


def model_of(data, layer):
    """A model of a trial's features, all but one of which it ignores."""
    features = {
        name: keras.Input((), name=name, dtype="string" if x.dtype == object else "float32")
        for name, x in data.features.items()
    }
    return keras.Model(features, layer(keras.ops.expand_dims(features["u0"], 1)))


class Cheap(keras.layers.Layer):
    """Predicts a cost of .3 for the dearest arm, far below the truth, and some order of users."""

    def call(self, inputs):
        zero = 0.0 * inputs[:, :1]
        gain = 0.03 * keras.ops.sigmoid(inputs[:, :1])
        v = keras.ops.concatenate([zero + 0.02, gain + 0.02], axis=1)
        return {"response": v, "cost": keras.ops.concatenate([zero, zero + 0.3], axis=1)}


def test_a_budget_kept_by_a_second_trial_is_kept_in_truth(monkeypatch, tmp_path):
    campaign = coin.Campaign(dataclasses.replace(FAST, num_treatments=2, rows=20_000, users=20_000))
    model = model_of(campaign._trial(0)[0], Cheap())
    monkeypatch.setattr(campaign, "_fit", lambda *_: model)
    monkeypatch.setattr(coin, "GROUP", coin.GROUP[:1] * 2)  # the second export is the first
    saved = {}

    def save(model, path, **options):
        key = options["calibration"]
        if key not in saved:
            export_save(model, path, **options)
            saved[key] = shutil.copytree(path, tmp_path / key)
        else:
            shutil.copytree(saved[key], path)

    export_save = export.save
    monkeypatch.setattr(export, "save", save)
    spent = {name: campaign.run("online", 1.0, 0, name) for name in ("predicted", "trial")}
    assert spent["predicted"]["two_stage_cost"] > 1.5 * coin.BUDGET, "everybody gets 29 coins"
    found = spent["trial"]
    # The trial that sets the price is as large as the group, and half of it is matched.
    error = np.sqrt(3) * found["two_stage_cost_stderr"]
    assert abs(found["two_stage_cost"] - coin.BUDGET) < 4 * error
    assert found["end_to_end_cost"] == found["two_stage_cost"], "the same users and policy"


class Reversed:
    """Stands for a model that takes the dearest arm for the cheapest: 29 coins for all."""

    def predict(self, x, verbose):
        return {name: np.tile(arms, (len(x), 1)) for name, arms in self.arms.items()}

    arms = {"response": [0.02, 0.05], "cost": [0.3, 0.0]}


def test_no_credit_for_money_that_was_not_there(monkeypatch):
    campaign = coin.Campaign(dataclasses.replace(FAST, num_treatments=2))
    monkeypatch.setattr(campaign, "_fit", lambda *_: Reversed())
    found = campaign.run("offline", 1.0, 0)
    fresh = campaign._fresh(0)
    (v0, v1), (_, c1) = fresh.true_response.mean(axis=0), fresh.true_cost.mean(axis=0)
    assert c1 > 1.2 * coin.BUDGET
    assert found["response"] == pytest.approx(v0 + coin.BUDGET / c1 * (v1 - v0), rel=1e-5)
    assert np.isnan(found["estimate"]) and np.isnan(found["estimate_stderr"])


def test_a_weight_without_a_policy_on_some_seed_is_not_chosen(tmp_path):
    runs = Runs(tmp_path / "runs.json", {})
    estimates = {0: (0.5, 0.5), 10: (0.4, np.nan), 1000: (0.1, 0.2)}
    for weight, own in estimates.items():
        for seed, estimate in enumerate(own):
            key = {"part": "offline", "goal_weight": weight, "seed": seed}
            runs.add(key, {"estimate": estimate}, 1.0)
    assert coin_report.best_weight(runs, 2) == 1000.0
    assert coin_report.best_weight(runs, 1) == 10.0
    runs.add({"part": "offline", "goal_weight": 1000, "seed": 1}, {"estimate": np.nan}, 1.0)
    with pytest.raises(ValueError, match="no goal_weight above 0 .* keeps the budget"):
        coin_report.best_weight(runs, 2)


class Oracle(keras.layers.Layer):
    """Predicts that arm 0 and the dearest arm bring what they bring, whatever the features."""

    def call(self, inputs):
        one = keras.ops.ones_like(inputs[:, :1])
        v = keras.ops.concatenate([0.02 * one, 0.05 * one], axis=1)
        c = keras.ops.concatenate([0.0 * one, 1.2 * one], axis=1)
        return {"response": v, "cost": c}


def test_served_users_respond_as_the_truth_says(tmp_path):
    """A policy that gives everybody the dearest arm: its outcomes are known."""
    group = datasets.produce_coin(40_000, 6, 2)
    model = model_of(group.data, Oracle())
    export.save(model, tmp_path / "policy", population=group.data.take(range(500)))
    response, cost = coin.serve(str(tmp_path / "policy"), group, seed=1)
    np.testing.assert_array_equal(cost, 29.0 * response)
    truth = group.true_response[:, 1].mean()
    assert abs(response.mean() - truth) < 4 * np.sqrt(truth * (1 - truth) / len(response))


def test_relative_difference_has_the_error_of_two_samples():
    """Against many repetitions of the same test."""
    rng = np.random.default_rng(0)
    drawn = rng.normal([[2.0], [2.2]], [[1.0], [1.5]], (1000, 2, 400))
    means, errors = drawn.mean(-1), drawn.std(-1, ddof=1) / np.sqrt(drawn.shape[-1])
    found = [
        coin_report.relative(
            pd.Series(
                {
                    "two_stage_cost": mean[0],
                    "end_to_end_cost": mean[1],
                    "two_stage_cost_stderr": error[0],
                    "end_to_end_cost_stderr": error[1],
                }
            ),
            "cost",
        )
        for mean, error in zip(means, errors, strict=True)
    ]
    differences, stderrs = np.transpose(found)
    assert abs(differences.mean() - 0.1) < 4 * differences.std() / np.sqrt(len(found)) + 1e-3
    assert stderrs.mean() == pytest.approx(differences.std(), rel=0.1)


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="seeds=0"):
        coin.study(tmp_path, seeds=0)
    for weights in ((1, 2), (0,), (0, -1), (0, math.nan), (0, math.inf)):
        with pytest.raises(ValueError, match=r"weights=\[.*\]: expected 0"):
            coin.study(tmp_path, settings=FAST, weights=weights)
    with pytest.raises(ValueError, match="deployed=7 is not among weights"):
        coin.study(tmp_path, settings=FAST, weights=(0, 10), deployed=7)
    assert not list(tmp_path.iterdir())


def test_settings_are_the_papers(monkeypatch):
    """Section 4.1, 4.3 and 4.6 of Yan et al. 2023."""
    usual = coin.Settings()
    assert usual == coin.PAPER and usual.num_treatments == 30 and usual.epochs == 20
    assert (usual.backbone, usual.heads) == ("paper", "independent")
    assert (usual.learning_rate, usual.budgets, usual.test_share) == (3e-4, (1.0, 1.5), 0.2)
    assert coin.BUDGET == 1.2 and coin.DEPLOYED == 200
    assert coin.WEIGHTS == (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
    defaults = inspect.signature(coin.study).parameters
    assert defaults["seeds"].default == 4 and defaults["weights"].default == coin.WEIGHTS
    simulation = datasets.produce_coin(60_000, 0)
    data, given = simulation.data, np.asarray(simulation.data.treatment)
    shares = np.bincount(given, minlength=30) / len(data)
    np.testing.assert_allclose(shares, 1 / 30, atol=4 * np.sqrt(1 / 30 / len(data)))
    np.testing.assert_array_equal(data.cost, coin.coins_of(data)[given] * data.response)
    monkeypatch.setattr(AllocationModel, "adapt", lambda self, data: None)
    model = coin.Campaign(dataclasses.replace(usual, jit=False)).learner.model
    config = model.get_config()
    assert config["backbone"] == "paper" and config["heads"] == "independent"
    assert float(model.optimizer.learning_rate) == pytest.approx(3e-4)


def test_eighty_percent_are_trained_on_and_the_others_evaluate():
    campaign = coin.Campaign(FAST)
    train, test = campaign._trial(0)
    assert len(train) + len(test) == 5_000 and len(test) == pytest.approx(1_000, abs=4 * 29)
    fresh = coin.Campaign(dataclasses.replace(FAST, test_share=None))
    assert len(fresh._trial(0)[0]) == 5_000 and len(fresh._trial(0)[1]) == FAST.fresh


def test_the_estimate_is_q_by_bisection():
    rows = datasets.produce_coin(20_000, 3, 4)
    truth = rows.true_response, rows.true_cost
    data = rows.data
    found = coin.estimate(*truth, data)
    outcomes = data.treatment, data.response, data.cost
    q = expected_outcome(*truth, *outcomes, budget=1.2, method="bisection")
    assert found["estimate"] == float(q.response) and abs(float(q.cost) - 1.2) < 0.02
