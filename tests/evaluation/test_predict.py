"""Predictions of any rows are the model's own, and a trial on disk is judged as one in memory."""

import keras
import numpy as np
import pandas as pd
import pytest

from tfalloc import RCTData, evaluation
from tfalloc.data import build_preprocessor

N = 3000


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    arm = rng.integers(0, 2, N)
    age, shop = rng.normal(40.0, 10.0, N), rng.integers(0, 40, N)
    return pd.DataFrame(
        {
            "age": age,
            "city": np.array(["rome", "oslo"], object)[rng.integers(0, 2, N)],
            "arm": arm,
            "bought": (rng.random(N) < 0.1 + 0.2 * arm * (age > 40.0)).astype(int),
            "spent": arm * rng.random(N),
            "weight": rng.integers(1, 3, N).astype(float),
            "shop": [f"s{number}" for number in shop],
        }
    )


ROLES = {"treatment": "arm", "response": "bought", "cost": "spent", "sample_weight": "weight"}


@pytest.fixture(scope="module")
def trials(frame, tmp_path_factory):
    """The same rows in memory, and streamed from disk."""
    path = tmp_path_factory.mktemp("trial") / "trial.parquet"
    frame.to_parquet(path, row_group_size=500)
    return RCTData.from_frame(frame, **ROLES), RCTData.from_parquet(path, in_memory=False, **ROLES)


@pytest.fixture(scope="module")
def model(trials):
    keras.utils.set_random_seed(0)
    preprocessor = build_preprocessor(trials[0])
    hidden = keras.layers.Dense(4, activation="relu")(preprocessor.output)
    outputs = {
        "response": keras.layers.Dense(2, activation="sigmoid")(hidden),
        "cost": keras.layers.Dense(2, activation="softplus")(hidden),
    }
    return keras.Model(preprocessor.input, outputs)


def test_every_kind_of_rows_gets_the_same_predictions(frame, trials, model, tmp_path):
    wanted = evaluation.predict(model, trials[0])
    frame.to_csv(tmp_path / "rows.csv", index=False)
    frame.to_parquet(tmp_path / "rows.parquet")
    columns = {name: frame[name].to_numpy() for name in frame}
    for rows in (trials[1], frame, columns, tmp_path / "rows.csv", str(tmp_path / "rows.parquet")):
        found = evaluation.predict(model, rows, batch_size=700)
        assert [x.shape for x in found] == [(N, 2), (N, 2)]
        np.testing.assert_allclose(found.response, wanted.response, rtol=1e-5)
        np.testing.assert_allclose(found.cost, wanted.cost, rtol=1e-5)


def test_chunks_name_their_users(frame, model):
    parts = list(evaluation.predict_chunks(model, frame, batch_size=1300, id_column="shop"))
    assert [len(ids) for ids, _ in parts] == [1300, 1300, 400]
    assert np.concatenate([ids for ids, _ in parts]).tolist() == frame.shop.tolist()


def test_a_baseline_and_a_function_are_models_too(trials, model):
    class Learner:
        def predict(self, columns):
            assert isinstance(columns["age"], np.ndarray)
            return {name: np.stack([columns["age"]] * 2, 1) for name in ("response", "cost")}

    found = evaluation.predict(Learner(), trials[0])
    np.testing.assert_array_equal(found.cost[:, 1], trials[0].features["age"])
    function = evaluation.predict(lambda features: model(features), trials[0])
    np.testing.assert_allclose(function.cost, evaluation.predict(model, trials[0]).cost, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (None, {"age": [1.0]}, "expected a Keras model, a baseline, or a function"),
        (lambda x: x, {"age": [1.0]}, "does not say which features it takes"),
        (lambda x: [1.0], "trial", "expected a dict with 'response' and 'cost'"),
    ],
)
def test_what_is_no_model_is_refused(model, data, message, trials):
    with pytest.raises(ValueError, match=message):
        evaluation.predict(model, trials[0] if data == "trial" else data)


def test_a_trial_needs_outcomes(model, frame):
    with pytest.raises(ValueError, match="expected RCTData"):
        evaluation.predict_trial({"m": model}, frame)


def test_a_trial_on_disk_is_judged_as_one_in_memory(trials, model):
    """Every public function reads it by itself, and one pass for several models serves all."""
    memory, disk = trials
    pair = evaluation.predict(model, memory)
    predictions, outcomes = evaluation.predict_trial({"a": model, "b": model}, disk)
    np.testing.assert_allclose(predictions["b"].cost, pair.cost, rtol=1e-5)
    score = pair.response[:, 1] / pair.cost[:, 1]
    for judge in (
        lambda data: evaluation.policy_outcome(*pair, data, budget=0.2),
        lambda data: evaluation.outcome_curve(*pair, data, num_points=3),
        lambda data: evaluation.compare({"a": pair, "b": pair[::-1]}, data, budget=0.2),
        lambda data: evaluation.calibration(*pair, data, num_bins=2),
        lambda data: evaluation.aucc(score, data, num_thresholds=10).value,
        lambda data: evaluation.compare_aucc(
            {"a": score, "b": -score}, data, num_bootstrap=20, num_thresholds=10
        ),
        lambda data: evaluation.qini(score, data, num_bootstrap=20).stderr,
    ):
        wanted = judge(memory)
        for data in (disk, outcomes):
            found = judge(data)
            if isinstance(wanted, pd.DataFrame):
                pd.testing.assert_frame_equal(found, wanted)
            else:
                assert found == wanted
    # A feature names the clusters, in memory and on disk; or the trial knows them.
    near = [evaluation.policy_outcome(*pair, x, budget=0.2, cluster="shop") for x in trials]
    assert near[0] == near[1]
    assert (
        near[0].response_stderr
        != evaluation.policy_outcome(*pair, disk, budget=0.2).response_stderr
    )


def test_the_clusters_of_a_trial_are_used_unasked(frame, model, tmp_path):
    frame.to_parquet(tmp_path / "trial.parquet", row_group_size=500)
    roles = ROLES | {"cluster": "shop"}
    memory = RCTData.from_frame(frame, **roles)
    disk = RCTData.from_parquet(tmp_path / "trial.parquet", in_memory=False, **roles)
    pair = evaluation.predict(model, RCTData.from_frame(frame, **ROLES))
    _, outcomes = evaluation.predict_trial({}, disk)
    plain = frame.rename(columns={name: role for role, name in ROLES.items()})
    many = {"num_bootstrap": 20}
    score = pair.response[:, 1]
    for judge, what, options in (
        (evaluation.policy_outcome, pair, {"budget": 0.2}),
        (evaluation.outcome_curve, pair, {"num_points": 2}),
        (evaluation.compare, ({"a": pair, "b": pair[::-1]},), {"budget": 0.2}),
        (evaluation.calibration, pair, {"num_bins": 1}),
        (evaluation.aucc, (score,), many),
        (lambda *given, **more: evaluation.qini(*given, **more).stderr, (score,), many),
    ):
        wanted = judge(*what, memory, cluster=frame["shop"], **options)
        same = [judge(*what, data, **options) for data in (memory, disk, outcomes)]
        other = judge(*what, plain, **options)
        if isinstance(wanted, pd.DataFrame):
            assert all(found.equals(wanted) for found in same) and not other.equals(wanted)
        else:
            assert all(found == wanted for found in same) and other != wanted
