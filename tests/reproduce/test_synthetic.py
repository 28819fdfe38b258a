"""The synthetic study at a reduced size: known truths, resumption, table and figures."""

import numpy as np
import pytest
from matplotlib import image

from tests.reproduce.conftest import SEEDS
from tfalloc import datasets
from tfalloc.datasets import synthetic_start
from tfalloc.evaluation import oracle_curve
from tfalloc.gradients import NES, FiniteDifference
from tfalloc.reproduce import Runs, synthetic


@pytest.fixture(scope="module")
def made(synthetic_folder):
    return synthetic_folder, Runs.kept(synthetic_folder / "runs.json")


def test_settings_are_the_papers():
    """Section 4.1 and 4.3 of Yan et al. 2023."""
    usual = synthetic.Settings()
    assert (usual.rows, usual.steps) == (10_000, 100)
    assert (synthetic.BUDGET, synthetic.LEARNING_RATE) == (2.0, 0.005)
    assert synthetic.ARMS[0] == datasets.synthetic(100).data.num_treatments == 4
    # Not told for this study: those of its Criteo study, which are the gradients' own defaults.
    assert NES().sigma == synthetic.SIGMA == 1e-3
    assert FiniteDifference().step == synthetic.STEP == 3e-4


def test_costs_are_known_and_the_start_is_drawn_anew():
    trial = synthetic.Trial(5_000, seed=7)
    cost, _, _, spent = (x.numpy() for x in trial.tensors)
    assert (cost == [1, 2, 3, 4]).all() and set(spent) == {1, 2, 3, 4}
    np.testing.assert_array_equal(trial.start, synthetic_start(5_000, 7))
    # Independent of the truth: sqrt(n) r is about standard normal.
    for own, true in zip(trial.start.T, trial.true_response.T, strict=True):
        assert abs(np.corrcoef(own, true)[0, 1]) * np.sqrt(5_000) < 4


def test_q_of_the_true_responses_and_of_the_start_are_what_others_found():
    """By an independent simulation of Section 4.1: .2166 and .1832 in truth."""
    trial = synthetic.Trial(50_000, seed=1)
    assert trial.true_value(trial.true_response) == pytest.approx(0.2166, abs=1e-3)
    assert trial.true_value(trial.start) == pytest.approx(0.1832, abs=1e-3)
    q, stderr = trial.q(trial.true_response)
    assert abs(q - 0.2166) < 4 * stderr + 1e-3


def test_the_truth_is_that_of_the_same_users(made):
    sample = made[1].frame(method="sample", arms=4)
    for seed, found in zip(sample.seed, sample.true_truth, strict=True):
        simulation = datasets.synthetic(synthetic.FAST.rows, seed=seed)
        best = oracle_curve(simulation.true_response, simulation.true_cost, synthetic.BUDGET)
        assert found == pytest.approx(best.response[0])


def test_ascents_begin_where_the_sample_says_and_climb_on_their_own_trial(made):
    runs = made[1]
    sample = runs.frame(method="sample", arms=4).set_index("seed")
    found = runs.frame(method="ascent")
    assert found.groupby("directions").size().to_dict() == {0: SEEDS, 20: SEEDS}
    for each in found.itertuples():
        # The gradient's Q takes v as float32, like `expected_outcome`: the same to the last row.
        assert each.q_start == pytest.approx(sample.q_start[each.seed], abs=1e-6)
        assert each.true_start == pytest.approx(sample.true_start[each.seed], abs=1e-12)
        assert len(each.q) == synthetic.FAST.steps + 1
        assert each.true_end < sample.true_truth[each.seed], "nothing beats the true responses"
    exact = found[found.directions == synthetic.EXACT]
    assert (exact.q_end - exact.q_start).mean() > 0


def test_cosine_rises_with_the_number_of_directions(made):
    cosine = made[1].frame(method="cosine").iloc[0]
    assert cosine.directions == [20, 40, 80] and cosine.entries == 4_000 > cosine.nonzero > 0
    assert cosine.cosine[-1] > cosine.cosine[0]


def test_curves_start_at_the_dearest_arm_and_pass_the_budget(made):
    curves = made[1].frame(method="curves").iloc[0]
    assert curves.arm_cost == [1, 2, 3, 4] and len(curves.truth) == synthetic.CURVE
    cost, response = np.transpose(curves.truth)
    assert cost[0] == 4.0 and cost[-1] < 2.0
    assert response[0] == pytest.approx(curves.arm_response[-1], abs=1e-5)


def test_the_second_call_does_nothing_and_more_seeds_go_on(made, tmp_path, monkeypatch):
    kept = (made[0] / "runs.json").read_text()
    (tmp_path / "runs.json").write_text(kept)
    done, figures = [], made[1].figures({"method": "sample", "arms": 4, "seed": 0})
    monkeypatch.setattr(synthetic.Laboratory, "run", lambda _, **key: done.append(key) or figures)
    monkeypatch.setattr(synthetic.synthetic_report, "write", lambda folder, runs: None)
    synthetic.study(tmp_path, seeds=SEEDS, settings=synthetic.FAST)
    assert done == [] and (tmp_path / "runs.json").read_text() == kept
    synthetic.study(tmp_path, seeds=SEEDS + 1, settings=synthetic.FAST)
    assert [key["seed"] for key in done] == [SEEDS] * 4


def test_table_and_figures_have_the_numbers_of_the_runs(made):
    folder, runs = made
    text = (folder / "table.md").read_text()
    sample = runs.frame(method="sample", arms=5)
    assert f"{sample.q_start.mean():.4f} ± {sample.q_start.std():.4f}" in text
    first = runs.frame(method="ascent", directions=20, seed=0).q_end.item()
    assert f"| after 10 steps, NES, N' = 20 | 0.2141 | {first:.4g} |" in text
    assert "`tfalloc reproduce synthetic --fast --seeds 2" in text and "| v_gt | 0.2123 |" in text
    for name in ("figure.png", "truth.png"):
        picture = image.imread(folder / name)
        assert min(picture.shape[:2]) > 400 and picture[..., :3].std() > 0.05


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="seeds=0: expected at least 1"):
        synthetic.study(tmp_path, seeds=0)
