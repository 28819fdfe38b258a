"""The search: control, record, resumption, failures, honesty of the best, the lambda curve."""

import sys
import tempfile
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tests.models.conftest import make_trial
from tfalloc import tuning
from tfalloc.evaluation import compare, policy_outcome
from tfalloc.gradients import Integrated
from tfalloc.tuning import results, search
from tfalloc.tuning.space import Prepared, merge, prepare

optuna = pytest.importorskip("optuna")

BUDGET = 0.3
SMALL = {
    "backbone": "small",
    "epochs": 2,
    "batch_size": 600,
    "jit_compile": False,
    "gradient": Integrated(),
}


def weights(trial):
    return {
        "goal_weight": trial.suggest_float("goal_weight", 0.1, 10.0, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True),
    }


def run(data, **options):
    """What the search says of small data is noise, so it warns; that is tested by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return tuning.study(data, **{"budget": BUDGET, "space": weights, **SMALL, **options})


@pytest.fixture(scope="module")
def data():
    return make_trial(4000)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    return run(data, trials=2, storage=tmp_path_factory.mktemp("whole"), holdout=0.2)


class TestTable:
    def test_the_control_comes_first(self, whole):
        control = whole.trials.loc[0]
        assert whole.control == 0 and control.control and control.goal_weight == 0.0
        assert not whole.trials.control[1:].any() and (whole.trials.goal_weight[1:] > 0).all()

    def test_outcomes_are_those_of_evaluation_on_rows_nobody_trained_on(self, whole, data):
        rows = data.split([0.55, 0.25, 0.2], seed=0)[1]
        pairs = {}
        for number in whole.trials.index:
            predicted = whole.model(number).predict(rows, verbose=0)
            pairs[number] = predicted["response"], predicted["cost"]
        expected = compare(pairs, rows, budget=BUDGET, reference=0)
        for ours, theirs in results.OUTCOME.items():
            np.testing.assert_allclose(whole.trials[theirs], expected[ours], atol=1e-6)
        one = policy_outcome(*pairs[1], rows, budget=BUDGET)
        record = whole.trials.loc[1]
        assert (record.val_goal_low, record.val_goal_high) == pytest.approx(
            (one.response_low, one.response_high), abs=1e-6
        )
        # The price is estimated: holding it fixed would give another, wider interval.
        assert one.marginal_response > 0.0

    def test_the_best_and_its_confirmation(self, whole, data):
        assert whole.best == whole.trials.val_goal.idxmax() and whole.best_two_stage == 0
        fresh = whole.confirm(data.split([0.55, 0.25, 0.2], seed=0)[2])
        pd.testing.assert_frame_equal(fresh, whole.holdout)
        assert fresh.trial["two-stage"] == 0 and fresh.trial.iloc[-1] == whole.best

    def test_a_model_that_is_not_there(self, whole):
        with pytest.raises(ValueError, match=r"trial 7 has no model; expected one of \[0, 1\]"):
            whole.model(7)


class Quick:
    """In the place of a model: no training, and predictions that its settings decide."""

    def __init__(self, settings):
        self.rate = settings.get("learning_rate", 1e-3)
        self.weight = settings.get("goal_weight", 0.0)

    def fit(self, train, callbacks, verbose, **options):
        for callback in callbacks[1:]:
            callback.on_epoch_end(0, {"val_goal": self.weight})
        return SimpleNamespace(history={"loss": [np.nan if self.rate > 1 else 0.5]}, epoch=[0])

    def predict(self, features):
        x = features["x1"] if isinstance(features, dict) else features[:, 1]
        gain = 0.3 * (x > 0) + self.rate * self.weight * np.cos(x)
        return {
            "response": np.stack([0.2 + 0 * gain, 0.2 + gain], 1),
            "cost": np.tile([0.0, 1.0], (len(x), 1)),
        }

    def save(self, path):
        path.write_text("a model")


@pytest.fixture
def quick(monkeypatch):
    def prepare(settings, **options):
        return Prepared(Quick(settings), {})

    monkeypatch.setattr(search, "prepare", prepare)


@pytest.mark.usefixtures("quick")
class TestResume:
    def test_continues_as_if_never_stopped(self, data, tmp_path):
        whole = run(data, trials=4, storage=tmp_path / "whole")
        run(data, trials=2, storage=tmp_path / "killed")
        resumed = run(data, trials=4, storage=tmp_path / "killed")
        pd.testing.assert_frame_equal(
            resumed.trials.drop(columns="seconds"), whole.trials.drop(columns="seconds")
        )
        assert whole.trials.learning_rate[1:].nunique() == 3
        again = run(data, trials=3, storage=tmp_path / "killed")
        assert len(again.trials) == 4

    def test_a_control_killed_in_the_middle_is_done_anew(self, data, tmp_path):
        record = optuna.create_study(
            storage=f"sqlite:///{tmp_path / 'study.db'}", study_name="tfalloc", direction="maximize"
        )
        record.enqueue_trial({}, user_attrs={"control": True})
        record.ask()
        record._storage.remove_session()
        result = run(data, trials=1, storage=tmp_path)
        assert result.trials.state.tolist() == ["RUNNING", "COMPLETE"] and result.control == 1

    def test_other_rows_are_refused(self, data, tmp_path):
        run(data, trials=1, storage=tmp_path)
        for options, message in (
            ({"seed": 1}, "holds a study with seed 0, not 1"),
            ({"budget": (0.1, 0.3)}, "with budget 0.3, not 0.2"),
        ):
            with pytest.raises(ValueError, match=message):
                run(data, trials=3, storage=tmp_path, **options)
        with pytest.raises(ValueError, match="with validation response"):
            run(make_trial(4000, seed=1), trials=3, storage=tmp_path)


@pytest.mark.usefixtures("quick")
class TestFiles:
    def test_damaged_and_foreign_folders_are_refused(self, data, tmp_path):
        file, damaged, foreign = tmp_path / "file", tmp_path / "damaged", tmp_path / "foreign"
        file.write_text("")
        for folder in (damaged, foreign):
            folder.mkdir()
        (damaged / "study.db").write_bytes(b"no database" * 1000)
        (foreign / "trial_0.keras").write_text("precious")
        for folder, message in (
            (file, "is a file; expected a folder"),
            (damaged, r"study.db cannot be read as a study \(DatabaseError\)"),
            (foreign, "holds trial_0.keras but no study"),
        ):
            with pytest.raises(ValueError, match=message):
                run(data, trials=1, storage=folder)
        assert (foreign / "trial_0.keras").read_text() == "precious"

    def test_a_study_of_another_program(self, data, tmp_path):
        record = optuna.create_study(
            storage=f"sqlite:///{tmp_path / 'study.db'}", study_name="tfalloc", direction="maximize"
        )
        record.set_user_attr("rows", "many")
        record._storage.remove_session()
        with pytest.raises(ValueError, match="holds a study with seed None, not 0"):
            run(data, trials=1, storage=tmp_path)

    def test_damaged_files_of_a_trial(self, data, tmp_path):
        result = run(data, trials=2, storage=tmp_path)
        with pytest.raises(ValueError, match="trial_0.keras is missing or damaged"):
            result.model(0)  # Quick's are no models
        (tmp_path / "trial_1.npz").write_bytes((tmp_path / "trial_1.npz").read_bytes()[:100])
        with pytest.raises(ValueError, match="trial_1.npz is missing or damaged"):
            run(data, trials=2, storage=tmp_path)
        (tmp_path / "trial_1.npz").unlink()
        with pytest.raises(ValueError, match="trial_1.npz is missing or damaged"):
            run(data, trials=2, storage=tmp_path)


class TestFailures:
    def test_a_diverged_trial_is_recorded(self, data, monkeypatch):
        """By a real model: outside XLA the goal refuses what NaN predictions give."""

        def prepare_quick_control(settings, **options):
            quick = not settings["goal_weight"]
            return Prepared(Quick(settings), {}) if quick else prepare(settings, **options)

        monkeypatch.setattr(search, "prepare", prepare_quick_control)

        def space(trial):
            rate = trial.suggest_categorical("learning_rate", [1e-3, 1e30])
            return {"goal_weight": 1.0, "learning_rate": rate}

        result = run(data, trials=2, space=space, first=[{"learning_rate": 1e30}])
        assert result.trials.state.tolist() == ["COMPLETE", "FAIL"]
        assert "NaN" in result.trials.failure[1] and np.isnan(result.trials.val_goal[1])
        assert result.best == 0

    @pytest.mark.usefixtures("quick")
    def test_the_search_goes_on(self, data):
        def space(trial):
            return {"learning_rate": trial.suggest_categorical("learning_rate", [1e-3, 1e30])}

        first = [{"learning_rate": 1e30}, {"learning_rate": 1e-3}]
        result = run(data, trials=3, space=space, first=first)
        assert result.trials.state.tolist() == ["COMPLETE", "FAIL", "COMPLETE"]
        assert result.best in (0, 2)

    @pytest.mark.usefixtures("quick")
    def test_when_the_control_fails(self, data):
        def space(trial):
            return {"goal_weight": 1.0}

        with pytest.warns(UserWarning, match="the loss became NaN"):
            result = tuning.study(
                data, budget=BUDGET, trials=1, space=space, learning_rate=1e30, **SMALL
            )
        assert (result.control, result.best) == (None, None)
        with pytest.raises(ValueError, match="the two-stage control failed"):
            result.confirm(data)

    @pytest.mark.usefixtures("quick")
    def test_a_budget_that_no_policy_keeps(self, monkeypatch):
        trial = make_trial(2000)
        dear = type(trial)(trial.features, trial.treatment, trial.response, trial.cost + 1.0)
        predict = Quick.predict

        def predict_dear(self, *arguments, **options):
            found = predict(self, *arguments, **options)
            return {**found, "cost": found["cost"] + 1.0}

        monkeypatch.setattr(Quick, "predict", predict_dear)
        result = run(dear, trials=1, budget=0.5)
        assert result.trials.state.tolist() == ["FAIL"]
        assert "cheapest assignment costs 1" in result.trials.failure[0]

    @pytest.mark.usefixtures("quick")
    def test_a_pruner_ends_trials_but_never_the_control(self, data):
        class Always(optuna.pruners.BasePruner):
            def prune(self, study, trial):
                return True

        result = run(data, trials=2, pruner=Always())
        assert result.trials.state.tolist() == ["COMPLETE", "PRUNED"]


class TestWarning:
    """`results._warn_of_noise`: p-values are multiplied by the number of trials compared."""

    def study(self, p_value, count, goal_weight=1.0):
        table = pd.DataFrame(
            {"state": "COMPLETE", "goal_weight": goal_weight, "p_value": p_value, "failure": ""},
            index=range(count),
        ).assign(difference=0.1, difference_low=0.0, difference_high=0.2)
        return results.Study(table, 0, 0, 1, BUDGET, None)

    @pytest.mark.parametrize(("count", "warns"), [(2, False), (4, False), (8, True)])
    def test_the_same_lead_among_more_trials_is_noise(self, count, warns):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results._warn_of_noise(self.study(0.01, count))
        assert [("within noise" in str(w.message)) for w in caught] == [True] * warns

    def test_a_best_that_is_two_stage(self):
        with pytest.warns(UserWarning, match="trial, 1, is two-stage itself"):
            results._warn_of_noise(self.study(0.001, 3, goal_weight=0.0))


class TestSettings:
    def test_the_default_space_makes_models(self):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        seen = set()
        while len(seen) < 16:  # heads by linear path by three gradients and two-stage
            trial = study.ask()
            settings = merge(tuning.default_space(trial), {"epochs": 1})
            made = prepare(settings, 2, (0.2, 0.4), 0.3, seed=5)
            assert trial.number < 60
            assert made.fit == {"epochs": 1} and made.model.seed == 5
            assert made.model._objective.validation_budgets == (0.3,)
            assert float(made.model.optimizer.weight_decay) == pytest.approx(
                settings["weight_decay"]
            )
            assert ("goal_weight" in trial.params) == (settings["goal_weight"] > 0)
            assert made.model.bins == trial.params["bins"]
            seen.add((made.model.heads, made.model.linear, trial.params.get("gradient")))

    def test_the_default_space_leaves_out_what_is_fixed(self):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        fixed = {"heads": "spline", "backbone": (8,), "bins": 4, "gradient": Integrated()}
        seen = set()
        for _ in range(20):
            trial = study.ask()
            settings = merge(tuning.default_space(trial, fixed), fixed)
            model = prepare(settings, 3, 0.4, 0.4, seed=0).model
            assert (model.heads, model.backbone, model.bins) == ("spline", (8,), 4)
            seen |= set(trial.params)
        searched = {"learning_rate", "weight_decay", "through_allocation", "goal_weight"}
        assert seen == searched

    def test_a_backbone_starts_each_trial_with_the_weights_passed(self):
        import keras

        backbone = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
        one, two = (
            prepare({"backbone": backbone}, 2, 0.3, 0.3, 0).model.backbone for _ in range(2)
        )
        assert one is not backbone and one is not two
        np.testing.assert_array_equal(one.get_weights()[0], backbone.get_weights()[0])

    @pytest.mark.parametrize("name", ["warm_start", "doubly_robust"])
    def test_what_needs_a_goal_is_left_out_without_one(self, name):
        settings = {name: True, "goal_weight": 0.0}
        assert prepare(settings, 2, 0.3, 0.3, 0).fit == {}
        assert prepare({**settings, "goal_weight": 1.0}, 2, 0.3, 0.3, 0).fit == {name: True}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"epoch": 3}, "setting 'epoch' is not known"),
            ({"goal_weight": 1.0}, "the control has 0"),
            ({"trials": 0}, "trials=0: expected an integer of at least 1"),
            ({"first": [{"gaol_weight": 1.0}]}, "the space may not draw 'gaol_weight'"),
            ({"first": [{"goal_weight": 1.0}], "space": None}, "may not draw 'goal_weight'"),
            ({"budget": None}, "expected one cost per user, or a range"),
            ({"validation": 0.9, "holdout": 0.2}, "shares of the data that leave some"),
            ({"validation": 0.0}, "shares of the data that leave some"),
            # Before anything is trained.
            ({"learning_rate": 1e-3, "trials": 1}, "'learning_rate' is fixed and searched"),
            ({"space": lambda trial: {"goal_weight": float}, "trials": 1}, "expected a number"),
            ({"space": lambda trial: {"heads": "round"}, "trials": 1}, "heads='round'"),
        ],
    )
    def test_bad_arguments(self, data, options, message, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with pytest.raises(ValueError, match=message):
            run(data, **{"trials": 1, **options})
        assert not list(tmp_path.glob("tfalloc-*"))

    def test_data_that_are_no_trial(self):
        with pytest.raises(ValueError, match="data is a dict; expected RCTData"):
            run({"x": [1.0]})

    def test_without_optuna(self, data, monkeypatch):
        monkeypatch.setitem(sys.modules, "optuna", None)
        with pytest.raises(ImportError, match=r"pip install tfalloc\[tuning\]"):
            run(data)


class TestLambdaCurve:
    def test_table(self, whole):
        curve = tuning.lambda_curve(whole)
        assert curve.goal_weight.is_monotonic_increasing and curve.control.tolist()[0]
        chosen = whole.trials.loc[curve.trial]
        np.testing.assert_array_equal(curve.response, chosen.val_goal)
        np.testing.assert_array_equal(curve.difference_high, chosen.difference_high)

    @pytest.mark.parametrize("paired", [False, True])
    def test_figure(self, whole, paired, tmp_path):
        pytest.importorskip("matplotlib")
        curve = tuning.lambda_curve(whole)
        path = tmp_path / "curve.png"
        axes = tuning.plot_lambda_curve(curve, paired=paired, path=path, title="T").axes[0]
        assert path.read_bytes().startswith(b"\x89PNG")
        assert axes.get_xscale() == "symlog" and axes.get_xlim()[0] < 0 < axes.get_xlim()[1]
        drawn = axes.lines[0].get_xydata()
        name = "difference" if paired else "response"
        np.testing.assert_allclose(drawn, curve[["goal_weight", name]][1:])
        assert [text.get_text() for text in axes.texts] == ["two-stage"]

    def test_other_tables_are_refused(self):
        with pytest.raises(ValueError, match="expected the result of lambda_curve"):
            tuning.plot_lambda_curve(pd.DataFrame({"goal_weight": [1.0]}))
