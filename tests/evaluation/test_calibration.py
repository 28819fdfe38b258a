"""`calibration` against plain means and regressions, known slopes, coverage; its figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tfalloc.evaluation import calibration, plot_calibration


def make_trial(rng, rows, arms=2):
    """True uplift of arm j is j x / 2 for the response, j (1 + x) for the cost."""
    x, arm = rng.random(rows), rng.integers(0, arms, rows)
    noise = rng.normal(size=rows)
    trial = {
        "treatment": arm,
        "response": 0.3 * x + arm * x / 2 + 0.5 * noise,
        "cost": arm * (1 + x) * rng.choice([0.5, 1.5], rows),
    }
    j = np.arange(arms)
    return x, (j * x[:, None] / 2, j * (1 + x[:, None])), trial


def test_bins_are_plain_means():
    rng = np.random.default_rng(0)
    _, model, trial = make_trial(rng, 3000, 3)
    table = calibration(*model, trial, num_bins=5)
    assert len(table) == 2 * 2 * 5 and table.bin.tolist() == [1, 2, 3, 4, 5] * 4
    for (outcome, name), bins in table.groupby(["outcome", "treatment"]):
        arm, y = int(name), trial[outcome]
        predicted = model[0 if outcome == "response" else 1]
        uplift = predicted[:, arm] - predicted[:, 0]
        order = np.argsort(uplift).reshape(5, 600)
        for rows, line in zip(order, bins.itertuples(), strict=True):
            t, c = (y[rows][trial["treatment"][rows] == a] for a in (arm, 0))
            assert line.predicted == pytest.approx(uplift[rows].mean())
            assert line.observed == pytest.approx(t.mean() - c.mean())
            assert line.num_rows == t.size + c.size
            stderr = np.sqrt(t.var() / t.size + c.var() / c.size)
            assert line.observed_stderr == pytest.approx(stderr)
            assert line.observed_high - line.observed == pytest.approx(1.959964 * stderr)


def test_slope_is_the_interaction_of_a_regression():
    rng = np.random.default_rng(1)
    x, model, trial = make_trial(rng, 500)
    found = calibration(*model, trial).query("outcome == 'response'").iloc[0]
    t = trial["treatment"]
    design = np.stack([np.ones(500), x / 2, t, t * x / 2], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ trial["response"]
    residual = trial["response"] - design @ beta
    sandwich = inverse @ (design.T * residual**2 @ design) @ inverse
    assert found.slope == pytest.approx(beta[3])
    assert found.slope_stderr == pytest.approx(np.sqrt(sandwich[3, 3]))


def test_slopes_are_known_and_covered():
    """Predictions twice, once and minus the truth: slopes of .5, 1 and -1."""
    rng, hits, trials = np.random.default_rng(2), [], 120
    for _ in range(trials):
        _, (v, c), trial = make_trial(rng, 2000)
        found = [calibration(f * v, c, trial, num_bins=2) for f in (2, 1, -1)]
        errors = [
            (table.slope[0] - 1 / f) / table.slope_stderr[0]
            for f, table in zip((2, 1, -1), found, strict=True)
        ]
        cost, bins = found[1].iloc[-1], found[1].query("outcome == 'response'")
        truth = np.array([0.125, 0.375])
        inside = (bins.observed_low < truth) & (truth < bins.observed_high)
        hits.append([*(abs(e) < 1.96 for e in errors),
                     abs(cost.slope - 1) < 1.96 * cost.slope_stderr, inside.mean()])  # fmt: skip
    margin = 3 * np.sqrt(0.05 * 0.95 / trials)
    assert (np.abs(np.mean(hits, axis=0) - 0.95) < margin).all()


def test_weights_and_clusters():
    rng = np.random.default_rng(3)
    _, (v, c), trial = make_trial(rng, 400)
    times = rng.integers(1, 4, 400)
    rows = np.repeat(np.arange(400), times)
    # One bin: quantiles do not know weights.
    weighted = calibration(v, c, trial | {"sample_weight": times}, num_bins=1)
    copied = {k: x[rows] for k, x in trial.items()} | {"user": rows}
    clustered = calibration(v[rows], c[rows], copied, num_bins=1, cluster="user")
    columns = ["predicted", "observed", "observed_stderr", "slope", "slope_stderr"]
    pd.testing.assert_frame_equal(weighted[columns], clustered[columns])


def test_what_cannot_be_estimated_is_nan():
    trial = {"treatment": [0, 1, 1, 1], "response": [0, 1, 1, 0], "cost": [0, 1, 1, 1]}
    value = np.stack([np.zeros(4), [0.1, 0.2, 0.7, 0.8]], axis=1)
    table = calibration(value, np.tile([0.0, 1.0], (4, 1)), trial, num_bins=2)
    response = table.query("outcome == 'response'")
    assert response.observed.isna().tolist() == [False, True]
    cost = table.query("outcome == 'cost'")
    assert len(cost) == 1 and np.isnan(cost.slope).all()  # one value: one bin, no slope
    assert cost.observed.tolist() == [1.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uplifts_that_differ_by_rounding_have_no_slope(dtype):
    rng = np.random.default_rng(8)
    _, _, trial = make_trial(rng, 500)
    base = rng.random(500).astype(dtype)
    value = np.stack([base, base + np.asarray(0.1, dtype)], axis=1)
    assert np.ptp(value[:, 1].astype("f8") - value[:, 0]) > 0  # not constant to the last bit
    assert np.isnan(calibration(value, value, trial).slope).all()


def test_figure(tmp_path):
    pytest.importorskip("matplotlib")
    _, model, trial = make_trial(np.random.default_rng(4), 2000, 3)
    table = calibration(*model, trial)
    figure = plot_calibration(table, path=tmp_path / "a.png", percent=True, title="Calibration")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    labels = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert len(labels) == 2 and labels[0].startswith("1: slope ")
    flat = plot_calibration(table.assign(slope=np.nan, slope_stderr=np.nan)).axes[0]
    assert [t.get_text() for t in flat.get_legend().get_texts()] == ["1", "2"]
    assert plot_calibration(table, outcome="cost").axes[0].get_xlabel().endswith("cost")
    wide = [table.query("treatment == '1'").assign(treatment=str(arm)) for arm in range(1, 30)]
    figure = plot_calibration(pd.concat(wide), path=tmp_path / "many.png")
    assert len(figure.axes[0].get_legend().get_texts()) == 10
    assert figure.axes[0].get_position().height > 0.7  # the legend leaves room for the axes
    with pytest.raises(ValueError, match="expected 'response' or 'cost'"):
        plot_calibration(table, outcome="profit")
    with pytest.raises(ValueError, match="the result of calibration"):
        plot_calibration(table.drop(columns="slope"))


def test_errors():
    trial = {"treatment": [0, 1], "response": [0, 1], "cost": [0, 1]}
    with pytest.raises(ValueError, match="expected an integer of at least 1"):
        calibration(np.zeros((2, 2)), np.zeros((2, 2)), trial, num_bins=0)
    with pytest.raises(ValueError, match="num_bins='ten'; expected an integer"):
        calibration(np.zeros((2, 2)), np.zeros((2, 2)), trial, num_bins="ten")
    with pytest.raises(ValueError, match="two or more arms"):
        calibration(np.zeros((2, 1)), np.zeros((2, 1)), trial | {"treatment": [0, 0]})
    with pytest.raises(ValueError, match="one prediction for each row"):
        calibration(np.zeros((3, 2)), np.zeros((3, 2)), trial)
