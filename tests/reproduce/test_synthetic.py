"""The synthetic study at a reduced size: known truths, resumption, table and figure."""

import numpy as np
import pytest
from matplotlib import image

from tfalloc import datasets
from tfalloc.evaluation import oracle_curve
from tfalloc.reproduce import synthetic

pytestmark = pytest.mark.slow

SEEDS = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "synthetic"
    return folder, synthetic.study(folder, seeds=SEEDS, settings=synthetic.FAST, command="typed")


def test_q_of_the_true_responses_is_the_papers_within_its_error(made):
    sample = made[1].frame(method="sample")
    assert len(sample) == SEEDS
    error = sample.q_truth_stderr / np.sqrt(SEEDS)
    assert abs(sample.q_truth.mean() - 0.2123) < 4 * error.mean()
    # The same users by their true responses: no outcome is drawn.
    for seed, found in zip(sample.seed, sample.true_truth, strict=True):
        simulation = datasets.synthetic(synthetic.FAST.rows, seed=seed)
        best = oracle_curve(simulation.true_response, simulation.true_cost, synthetic.BUDGET)
        assert found == pytest.approx(best.response[0])


def test_the_start_is_worth_what_the_papers_is():
    """The deviation of the start was set for that, on users that no test or study uses."""
    trial = synthetic._Trial(50_000, seed=987_654)
    assert abs(trial.true_value(trial.start) - 0.1996) < 4 * 0.0015


def test_ascents_begin_where_the_sample_says_and_climb_on_their_own_trial(made):
    runs = made[1]
    sample = runs.frame(method="sample").set_index("seed")
    for method in synthetic.ASCENTS:
        found = runs.frame(method=method).set_index("seed")
        # The gradient's Q takes v as float32, like `expected_outcome`: the same to the last row.
        np.testing.assert_allclose(found.q_start, sample.q_start, atol=1e-6)
        np.testing.assert_allclose(found.true_start, sample.true_start, atol=1e-12)
        assert (found.q_end - found.q_start).mean() > 0
        assert found.q.map(len).tolist() == [synthetic.FAST.steps + 1] * SEEDS
        assert (found.true_end < sample.true_truth).all(), "nothing beats the true responses"


def test_cosine_rises_with_the_number_of_directions(made):
    cosines = np.array(made[1].frame(method="cosine").cosine.tolist())
    assert cosines.shape == (SEEDS, 3)
    assert cosines[:, -1].mean() > cosines[:, 0].mean() > 0


def test_the_second_call_does_nothing_and_more_seeds_go_on(made, tmp_path, monkeypatch):
    kept = (made[0] / "runs.json").read_text()
    (tmp_path / "runs.json").write_text(kept)
    done, figures = [], made[1].figures({"method": "sample", "seed": 0})
    monkeypatch.setattr(synthetic.Laboratory, "run", lambda _, **key: done.append(key) or figures)
    synthetic.study(tmp_path, seeds=SEEDS, settings=synthetic.FAST)
    assert done == [] and (tmp_path / "runs.json").read_text() == kept
    monkeypatch.setattr(synthetic.synthetic_report, "write", lambda folder, runs: None)
    synthetic.study(tmp_path, seeds=SEEDS + 1, settings=synthetic.FAST)
    assert [key["seed"] for key in done] == [SEEDS] * 4


def test_table_has_the_numbers_of_the_runs(made):
    folder, runs = made
    text = (folder / "table.md").read_text()
    sample, climbed = runs.frame(method="sample"), runs.frame(method="NES")
    for values in (sample.q_truth, sample.true_start, climbed.q_end, climbed.true_end):
        assert f"{values.mean():.4f} ± {values.std():.4f}" in text
    gain = (climbed.q_end - climbed.q_start).mean()
    assert f"| NES | 0.0145 | {gain:+.5f} (" in text
    assert "`typed`" in text and "| Q(v_gt) | 0.2123 |" in text


def test_figure_is_drawn(made):
    picture = image.imread(made[0] / "figure.png")
    assert min(picture.shape[:2]) > 500 and picture[..., :3].std() > 0.05


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="seeds=0: expected at least 1"):
        synthetic.study(tmp_path, seeds=0)
