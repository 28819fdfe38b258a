"""`compare`: layout, pairing in trivial cases, errors. Its sd is tested in test_coverage."""

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluation.trials import random_rows
from tfalloc.evaluation import compare, policy_outcome

RNG = np.random.default_rng(0)
VALUE, PRICE, TRIAL = random_rows(RNG, 600, 3)
OTHER = RNG.random((600, 3))
BUDGET = 0.6 * TRIAL["cost"].mean()


def test_rows_are_policy_outcomes_in_the_given_order():
    models = {"a": (VALUE, PRICE), "b": (OTHER, PRICE), "c": (VALUE, PRICE)}
    table = compare(models, TRIAL, budget=BUDGET, reference="b")
    assert table.index.tolist() == ["a", "b", "c"] and table.index.name == "model"
    for name, model in models.items():
        alone = policy_outcome(*model, TRIAL, budget=BUDGET)
        assert table.response[name] == alone.response
        assert table.response_stderr[name] == alone.response_stderr
    assert table.difference["a"] == table.response["a"] - table.response["b"]
    assert np.isnan(table.loc["b", ["difference", "p_value"]].astype(float)).all()


def test_equal_models_do_not_differ():
    table = compare({"a": (VALUE, PRICE), "b": (2 * VALUE, 2 * PRICE)}, TRIAL, budget=BUDGET)
    assert table.difference["b"] == 0 and table.difference_stderr["b"] == 0
    assert table.p_value["b"] == 1


def test_swapping_the_reference_changes_the_sign_only():
    models = {"a": (VALUE, PRICE), "b": (OTHER, PRICE)}
    one = compare(models, TRIAL, budget=BUDGET).loc["b"]
    two = compare(models, TRIAL, budget=BUDGET, reference="b").loc["a"]
    assert one.difference == -two.difference and one.p_value == two.p_value
    assert one.difference_low == pytest.approx(-two.difference_high)


def test_an_infeasible_budget_has_no_difference():
    table = compare({"a": (VALUE, PRICE), "b": (OTHER, PRICE)}, TRIAL, budget=-1.0)
    assert not table.feasible.any() and table.difference.isna().all()


def test_errors_name_the_model():
    with pytest.raises(ValueError, match="models is empty"):
        compare({}, TRIAL, budget=1.0)
    with pytest.raises(ValueError, match="reference='z' is not among"):
        compare({"a": (VALUE, PRICE)}, TRIAL, budget=1.0, reference="z")
    for nonsense in (VALUE, None, (VALUE,)):
        with pytest.raises(ValueError, match=r"model 'a': .* no pair; expected \(pred_response"):
            compare({"a": nonsense}, TRIAL, budget=1.0)
    with pytest.raises(ValueError, match="model 'b': predictions have 5 rows"):
        compare({"a": (VALUE, PRICE), "b": (VALUE[:5], PRICE[:5])}, TRIAL, budget=1.0)
