"""`Average`: the mean of two-stage and Keras members, fitted to the same rows."""

import numpy as np
import pytest

import tfalloc
from tests.baselines.trials import known_trial
from tfalloc import baselines

pytest.importorskip("sklearn")


def test_mean_of_members_of_both_kinds(capsys):
    data, held = (known_trial(1_000, 3, seed=seed).data for seed in (0, 1))
    network = tfalloc.AllocationModel(3, "small", seed=2)
    network.compile(jit_compile=False)
    members = [baselines.per_arm_logistic(), network]
    model = baselines.Average(members)
    fitted = model.fit(data, validation_data=held, epochs=1, batch_size=500)
    assert fitted is model and capsys.readouterr().out == ""
    found = baselines.Average([model]).predict(held)  # one of them is the same
    alone = members[0].predict(held), members[1].predict(held, verbose=0)
    for name in ("response", "cost"):
        expected = (alone[0][name] + alone[1][name]) / 2
        np.testing.assert_allclose(found[name], expected, rtol=1e-12)
    assert abs(alone[0]["response"] - alone[1]["response"]).max() > 1e-3, "members differ"
    assert network.history.params["epochs"] == 1


@pytest.mark.parametrize("members", [[], [baselines.TwoStage], [object()]])
def test_what_is_no_model_is_refused(members):
    with pytest.raises(ValueError, match="expected (at least one model|models with fit)"):
        baselines.Average(members)


def test_members_of_other_arms_are_refused():
    trials = [known_trial(500, arms, seed=0).data for arms in (2, 3)]
    members = [baselines.per_arm_logistic().fit(trial) for trial in trials]
    with pytest.raises(
        ValueError, match=r"members\[1\] predicts \(500, 3\).*the same rows and arms"
    ):
        baselines.Average(members).predict(trials[0])


def test_options_that_no_member_takes_are_refused():
    members = [baselines.per_arm_logistic(), baselines.Average([baselines.per_arm_logistic()])]
    with pytest.raises(ValueError, match=r"\['epochs'\]: no member is a Keras model"):
        baselines.Average(members).fit(known_trial(500).data, epochs=3)
