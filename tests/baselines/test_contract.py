"""One contract for all baselines: fit, predict, score, and what takes their predictions."""

import keras
import numpy as np
import pandas as pd
import pytest

from tests.baselines.trials import known_trial
from tfalloc import baselines, evaluation, mckp

linear = pytest.importorskip("sklearn.linear_model")

ROWS = 1500
CHECKED = range(50)


def quick(model, **options):
    model.compile(jit_compile=False, **options)
    return model


BASELINES = {
    "per_arm_logistic": lambda arms: baselines.per_arm_logistic(),
    "spline_logistic": lambda arms: baselines.spline_logistic(),
    "single": lambda arms: baselines.TwoStage(
        linear.LogisticRegression(), linear.Ridge(), per="single"
    ),
    "ordered": lambda arms: baselines.gradient_boosting(per="ordered", max_iter=5),
    "drp": lambda arms: quick(baselines.DRP(arms)),
    "direct_rank": lambda arms: quick(baselines.DirectRank(arms)),
    "dfcl": lambda arms: quick(baselines.DFCL(arms, "small", loss="pl"), budget=0.4),
    "average": lambda arms: baselines.Average([baselines.per_arm_logistic(C) for C in (0.1, 1.0)]),
}
CASES = [
    *(("per_arm_logistic", arms) for arms in (2, 3)),
    ("direct_rank", 2),
    *((name, 3) for name in ("spline_logistic", "single", "ordered", "drp", "dfcl", "average")),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def fitted(request):
    name, arms = request.param
    data = known_trial(ROWS, arms, weighted=True).data
    model = BASELINES[name](arms)
    options = {}
    if isinstance(model, keras.Model):
        options = {"epochs": 1, "batch_size": 500, "verbose": 0}
    model.fit(data, validation_data=known_trial(500, arms, seed=1, weighted=True).data, **options)
    return model, data, outcomes(model, data)


def outcomes(model, x):
    return model.predict(x, **({"verbose": 0} if isinstance(model, keras.Model) else {}))


def test_predictions_and_scores(fitted):
    model, data, predicted = fitted
    arms = data.num_treatments
    assert sorted(predicted) == ["cost", "response"]
    for each in predicted.values():
        assert each.shape == (ROWS, arms) and np.all(np.isfinite(each))
    assert np.all(predicted["cost"] >= 0)
    score = model.score(data)
    assert score.shape == ((ROWS,) if arms == 2 else (ROWS, arms - 1))
    expected = baselines.upgrade_prices(predicted["response"], predicted["cost"])
    np.testing.assert_array_equal(score, expected)


def test_raw_features_of_any_kind(fitted):
    model, data, predicted = fitted
    expected = predicted["response"][CHECKED]
    frame = pd.DataFrame(data.features).iloc[CHECKED]
    columns = {name: column[CHECKED] for name, column in data.features.items()}
    batches = data.batches(20).take(3)
    kinds = (frame, batches) if isinstance(model, keras.Model) else (frame, columns, batches)
    for features in kinds:
        found = outcomes(model, features)["response"][: len(CHECKED)]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_predictions_allocate_and_are_judged(fitted):
    _, data, predicted = fitted
    pair = predicted["response"], predicted["cost"]
    budget = float(pair[1].mean())
    assert mckp.solve(*pair, budget=budget).cost <= budget + 1e-9
    blind = tuple(np.tile(x.mean(axis=0), (ROWS, 1)) for x in pair)
    table = evaluation.compare({"model": pair, "blind": blind}, data, budget=0.4)
    assert table.feasible.all() and np.isfinite(table.response).all()
    assert len(evaluation.outcome_curve(*pair, data, num_points=5)) == 5


def test_saved_and_loaded(fitted, tmp_path):
    model, data, predicted = fitted
    if not isinstance(model, keras.Model):
        import pickle

        loaded = pickle.loads(pickle.dumps(model))
    else:
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        configs = [each.get_config() for each in (model, loaded)]
        for config in configs:
            assert config.pop("preprocessor")["class_name"] == "Preprocessor"
        assert type(loaded) is type(model) and configs[0] == configs[1]
        assert loaded._objective.to_config() == model._objective.to_config()
    found = outcomes(loaded, data)
    for name, expected in predicted.items():
        np.testing.assert_array_equal(found[name], expected)
