"""`TwoStage` and its ready-made controls against the learners themselves and known truth."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from tests.baselines.trials import known_trial
from tfalloc import baselines
from tfalloc.baselines.learners import OrderedArms
from tfalloc.data import RCTData
from tfalloc.data.preprocessing import build_preprocessor
from tfalloc.models import AllocationModel
from tfalloc.models.imitation import rows_in_memory
from tfalloc.models.matrix_batches import as_batches, joined

linear = pytest.importorskip("sklearn.linear_model")


def test_per_arm_equals_the_learner_fitted_by_hand():
    data = known_trial(weighted=True).data
    model = baselines.TwoStage(linear.LogisticRegression(C=2.0), linear.LinearRegression())
    predicted = model.fit(data).predict(data)
    preprocessor = build_preprocessor(data)
    matrix, _, weights = joined(as_batches(data, preprocessor, 1000))
    for arm in range(2):
        own = data.treatment == arm
        weight = data.sample_weight[own]
        by_hand = linear.LogisticRegression(C=2.0).fit(matrix[own], data.response[own], weight)
        np.testing.assert_allclose(
            predicted["response"][:, arm], by_hand.predict_proba(matrix)[:, 1], rtol=1e-6
        )
        by_hand = linear.LinearRegression().fit(matrix[own], data.cost[own], weight)
        np.testing.assert_allclose(predicted["cost"][:, arm], by_hand.predict(matrix), rtol=1e-4)
    np.testing.assert_array_equal(weights, data.sample_weight)


def test_the_learner_given_is_left_alone():
    learner = linear.LogisticRegression()
    baselines.TwoStage(learner, linear.Ridge()).fit(known_trial().data)
    assert not hasattr(learner, "coef_")


@pytest.mark.parametrize("per", ["single", "ordered", "spline"])
def test_one_learner_for_all_arms(per):
    known = known_trial(arms=4, rows=8000)
    model = baselines.TwoStage(linear.LogisticRegression(), linear.LinearRegression(), per=per)
    predicted = model.fit(known.data).predict(known.data)
    for name, truth in (("response", known.response), ("cost", known.cost)):
        errors = predicted[name] - truth
        # The S-learner without interactions still fits the arms' means.
        assert np.all(np.abs(errors.mean(axis=0)) < 0.03)
        if per == "spline":
            assert np.sqrt(np.mean(errors**2)) < 0.04
    odds = np.log(predicted["response"] / (1 - predicted["response"]))
    parallel = np.ptp(odds[:, 1] - odds[:, 0]) < 1e-3
    assert parallel == (per != "spline")


def test_columns_of_ordered_arms_are_steps_of_cost():
    matrix = np.arange(6.0, dtype=np.float32).reshape(3, 2)
    design = OrderedArms().fit(np.array([2.0, 0.0, 1.0]))
    expected = [[0, 1, 1, 1], [2, 3, 0, 0], [4, 5, 1, 0]]
    np.testing.assert_array_equal(design(matrix, np.array([0, 1, 2])), expected)


def test_spline_of_as_many_columns_as_arms_has_a_curve_through_every_arm():
    design = baselines.SplineArms(num_knots=20).fit(np.array([0.0, 1.0, 3.0, 4.0, 9.0]))
    assert design.basis.shape == (5, 5) and np.linalg.matrix_rank(design.basis) == 5
    matrix = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    columns = design(matrix, np.array([1, 4]))
    expected = [
        np.kron(design.basis[arm], [1, *row]) for arm, row in zip((1, 4), matrix, strict=True)
    ]
    np.testing.assert_allclose(columns, expected, rtol=1e-6)


def test_two_arms_are_ranked_by_the_ratio_of_uplifts():
    """Yan et al. 2023, Section 4.3, what Table 1 calls TSM-SL."""
    known = known_trial(2_000)
    model = baselines.per_arm_logistic().fit(known.data)
    uplift = {name: np.diff(x)[:, 0] for name, x in model.predict(known.data).items()}
    dearer = uplift["cost"] > 0  # else see `mckp.upgrade_prices`
    assert dearer.mean() > 0.9
    ratio = (uplift["response"] / uplift["cost"])[dearer]
    np.testing.assert_allclose(model.score(known.data)[dearer], ratio)


def test_known_costs_are_not_learned():
    known = known_trial(arms=3, cost="fixed")
    predicted = baselines.per_arm_logistic().fit(known.data).predict(known.data)
    np.testing.assert_allclose(predicted["cost"], known.cost, rtol=1e-6)


def test_cost_on_response():
    known = known_trial(arms=3, cost="on_response")
    model = baselines.spline_logistic(cost_amounts=[0, 2, 4]).fit(known.data)
    predicted = model.predict(known.data)
    np.testing.assert_allclose(predicted["cost"], predicted["response"] * [0, 2, 4])
    with pytest.raises(ValueError, match="cost_amounts: in the trial treatment"):
        baselines.per_arm_logistic(cost_amounts=[0, 2, 9]).fit(known.data)
    with pytest.raises(ValueError, match="cost_amounts has 2 entries"):
        baselines.per_arm_logistic(cost_amounts=[0, 2]).fit(known.data)


@pytest.mark.parametrize("cost", ["binary", "random"])
def test_gradient_boosting_finds_the_uplift(cost):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    known = known_trial(rows=8000, cost=cost)
    # Its threads wait for each other actively, which is slow where others compute.
    with threadpoolctl.threadpool_limits(1):
        model = baselines.gradient_boosting(max_iter=25, max_leaf_nodes=6).fit(known.data)
        predicted = model.predict(known.data)
    uplift = predicted["response"][:, 1] - predicted["response"][:, 0]
    assert np.corrcoef(uplift, known.response[:, 1] - known.response[:, 0])[0, 1] > 0.7


def test_an_arm_without_any_response_is_predicted_0():
    data = known_trial(rows=1000).data
    y = data.response * (data.treatment == 1)
    data = RCTData(data.features, data.treatment, y, data.cost)
    predicted = baselines.per_arm_logistic().fit(data).predict(data)
    assert np.all(predicted["response"][:, 0] == 0) and np.ptp(predicted["response"][:, 1]) > 0


def test_streamed_rows_give_the_same(tmp_path):
    data = known_trial(rows=1000).data
    data.frame().to_parquet(tmp_path / "trial.parquet")
    streamed = RCTData.from_parquet(
        tmp_path / "trial.parquet",
        treatment="treatment",
        response="response",
        cost="cost",
        propensity="propensity",
        in_memory=False,
    )
    assert streamed.streaming
    one, two = (baselines.per_arm_logistic().fit(x).predict(data) for x in (data, streamed))
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-4)


def test_raw_features_of_odd_kinds_give_what_the_trial_s_rows_give():
    rng, n = np.random.default_rng(0), 400
    columns = {
        "x0": rng.normal(size=n),
        "flag": pd.array(rng.choice([True, False, None], n), dtype="boolean"),
        "town": rng.choice(np.array(["a", "b", None], object), n),
        3: rng.integers(0, 5, n),
        "paid": [Decimal(int(x)) for x in rng.integers(0, 4, n)],
    }
    frame = pd.DataFrame(columns).assign(t=np.arange(n) % 2, y=rng.integers(0, 2, n))
    frame["z"] = frame["t"] * rng.random(n)
    data = RCTData.from_frame(frame, treatment="t", response="y", cost="z", missing="indicator")
    model = baselines.per_arm_logistic().fit(data)
    expected = model.predict(data)["response"]
    assert np.ptp(expected) > 0.05
    other = frame[list(columns)[::-1]].assign(id=np.arange(n))
    other.insert(0, "extra", 1.0)
    for features in (frame[list(columns)], other, {name: other[name] for name in other}):
        np.testing.assert_array_equal(model.predict(features)["response"], expected)
    # Imitation takes the same way.
    student = AllocationModel(2, "small")
    student.adapt(data)
    for one, two in zip(*(rows_in_memory(student, x) for x in (data, other)), strict=True):
        np.testing.assert_array_equal(one, two)


class Rates:
    """No relation of scikit-learn's; fits the mean and takes no weights."""

    def fit(self, matrix, outcome):
        self.mean = outcome.mean()
        return self

    def predict(self, matrix):
        return np.full((len(matrix), 1), self.mean)


class Flags(Rates):
    """Raises the flag of an invalid operation, as BLAS may with finite numbers."""

    def fit(self, matrix, outcome):
        assert np.isnan(np.array([np.inf]) @ np.array([0.0]))
        return super().fit(matrix, outcome)

    def predict(self, matrix):
        assert np.isnan(np.array([np.inf]) @ np.array([0.0]))
        return super().predict(matrix)


class Lost(Rates):
    """Predicts NaN for one row."""

    def predict(self, matrix):
        found = super().predict(matrix)
        found[7] = np.nan
        return found


def test_flags_of_matrix_products_are_no_warning_but_lost_numbers_are_refused():
    data = known_trial(rows=1000).data
    with pytest.warns(RuntimeWarning, match="invalid value encountered in matmul"):
        Flags().fit(np.zeros((2, 1)), np.zeros(2))
    found = baselines.TwoStage(Flags()).fit(data).predict(data)
    expected = baselines.TwoStage(Rates()).fit(data).predict(data)
    np.testing.assert_array_equal(found["response"], expected["response"])
    with pytest.raises(ValueError, match="response=Lost predicts nan for row 7; expected finite"):
        baselines.TwoStage(Lost()).fit(data).predict(data)


def test_any_object_with_fit_and_predict():
    data = known_trial(rows=1000).data
    predicted = baselines.TwoStage(Rates()).fit(data).predict(data)
    rate = data.response[data.treatment == 1].mean()
    np.testing.assert_allclose(predicted["response"][:, 1], rate, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: baselines.TwoStage(linear.LogisticRegression), "made and not its class"),
        (lambda: baselines.TwoStage(Rates(), "free"), "cost='free' is not known"),
        (lambda: baselines.TwoStage(Rates(), "on_response"), "together with cost='on_response'"),
        (lambda: baselines.TwoStage(Rates(), cost_amounts=[0, 1]), "together with"),
        (lambda: baselines.TwoStage((Rates(),)), "tuple of 1"),
        (lambda: baselines.TwoStage(Rates(), per="user"), "per='user' is not known"),
        (lambda: baselines.SplineArms(num_knots=1), "expected integers, at least 2"),
        (lambda: baselines.SplineArms(num_knots=2.5), "num_knots=2.5"),
        (lambda: baselines.per_arm_logistic(C=0), "C=0: expected a finite number above 0"),
        (lambda: baselines.per_arm_logistic(cost_amounts=[0, np.nan]), "expected some finite"),
        (lambda: baselines.per_arm_logistic(cost_amounts=[0, -1]), "are not negative"),
        (lambda: baselines.TwoStage(Rates(), per=baselines.SplineArms), "is not known"),
        (lambda: baselines.TwoStage(Rates()).predict(known_trial().data), "not fitted yet"),
        (lambda: baselines.TwoStage(Rates()).fit([[1.0]]), "expected RCTData"),
        (
            lambda: baselines.TwoStage(linear.LogisticRegression()).fit(known_trial().data),
            "pass a regressor as cost=",
        ),
        (
            lambda: baselines.TwoStage(Rates()).fit(known_trial(weighted=True).data),
            "takes no sample_weight",
        ),
        (
            lambda: baselines.spline_logistic(positions=[1, 1]).fit(known_trial().data),
            "expected 2 distinct numbers",
        ),
        (
            lambda: baselines.TwoStage(Rates()).fit(known_trial().data.take(range(1))),
            "has no rows",
        ),
        (
            lambda: baselines.TwoStage(linear.RidgeClassifier()),
            "RidgeClassifier predicts classes without probabilities",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_without_scikit_learn_the_module_imports_and_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"pip install 'tfalloc\[baselines\]'"):
        baselines.per_arm_logistic()
    data = known_trial(rows=1000).data
    assert baselines.TwoStage(Rates()).fit(data).predict(data)["cost"].shape == (1000, 2)
