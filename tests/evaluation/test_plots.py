"""Figures: what is drawn, that labels keep apart, that files appear whole or not at all."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from tfalloc.evaluation import plot_calibration, plot_outcome_curves, plot_treatment_mix

pytest.importorskip("matplotlib")

COST = np.linspace(0.0, 1.0, 5)


def curve(top):
    response = 0.1 + top * np.sqrt(COST)
    table = pd.DataFrame({"budget": COST, "cost": COST, "response": response})
    table["response_low"], table["response_high"] = response - 0.01, response + 0.01
    table["share_none"], table["share_coupon"] = 1 - COST, COST
    return table


def test_curves_bands_and_files(tmp_path):
    target = tmp_path / "new" / "curves.png"
    figure = plot_outcome_curves(
        {"one": curve(0.1), "two": curve(0.1)}, truth={"oracle": curve(0.2), "one": curve(0.11)},
        budget=0.5, path=target, percent=True, title="Title",
    )  # fmt: skip
    assert target.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in target.parent.iterdir()] == ["curves.png"]
    axes = figure.axes[0]
    assert len(axes.collections) == 2  # bands
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    names = [text.get_text() for text in axes.texts]
    assert {"one", "two", "oracle", "budget 0.5", "dashed: truth"} == set(names)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
    assert axes.yaxis.get_major_formatter()(0.25, 0) == "25%"


@pytest.mark.parametrize("label", ["$5 or $10", "$x_{$", "_none", "a_b^c", "100 %", r"\$5 \frac$"])
def test_labels_of_users_are_drawn_as_they_are(label, tmp_path):
    """Labels hold prices here: two dollars are no formula, and no legend leaves one out."""
    table = curve(0.1).rename(columns={"share_coupon": f"share_{label}"})
    bins = pd.DataFrame({"outcome": "response", "treatment": label, "predicted": [0.1, 0.2]})
    bins["observed"] = bins["observed_low"] = bins["observed_high"] = bins["predicted"]
    bins["slope"] = bins["slope_stderr"] = np.nan
    figures = [
        plot_outcome_curves({label: table}, truth={label: table, "truth": table}, title=label),
        plot_treatment_mix(table, title=label),
        plot_calibration(bins, title=label),
    ]
    for figure in figures:
        figure.savefig(tmp_path / "figure.png")
        axes = figure.axes[0]
        legend = axes.get_legend()
        drawn = [*axes.texts, axes.title, axes._left_title, *(legend.get_texts() if legend else [])]
        texts = [text._preprocess_math(text.get_text()) for text in drawn]
        assert [text.strip() for text, is_math in texts if is_math is not False] == []
        assert [text.strip() for text, _ in texts].count(label) == 2


def test_many_models_keep_their_labels_apart():
    figure = plot_outcome_curves({f"model {i}": curve(0.1) for i in range(9)})
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 9
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_mix_of_two_and_of_thirty_arms(tmp_path):
    figure = plot_treatment_mix(curve(0.1), budget=0.0, path=tmp_path / "mix.svg", title="Mix")
    assert b"<svg" in (tmp_path / "mix.svg").read_bytes()
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ["coupon", "none"]
    wide = pd.DataFrame({f"share_{i}": np.full(5, 1 / 30) for i in range(30)})
    wide["budget"] = COST
    legend = plot_treatment_mix(wide).axes[0].get_legend()
    assert len(legend.get_texts()) == 10


def test_draws_on_given_axes():
    from matplotlib.figure import Figure

    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot_outcome_curves({"a": curve(0.1)}, ax=left) is figure
    assert plot_treatment_mix(curve(0.1), ax=right) is figure


def test_a_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "curves.nonsense"
    target.write_text("old")
    with pytest.raises(ValueError, match="nonsense"):
        plot_outcome_curves({"a": curve(0.1)}, path=target)
    assert target.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_curve_without_a_finite_point_is_an_empty_plot(tmp_path):
    empty = curve(0.1) * np.nan
    plot_outcome_curves({"a": empty}, path=tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 1000


def test_errors():
    with pytest.raises(ValueError, match="curves is empty"):
        plot_outcome_curves({})
    with pytest.raises(ValueError, match="expected 'cost' among them"):
        plot_outcome_curves({"a": pd.DataFrame({"x": [1]})})
    with pytest.raises(ValueError, match=r"expected 'share_\.\.\.' columns"):
        plot_treatment_mix(pd.DataFrame({"budget": [1.0]}))


def test_matplotlib_is_not_needed_to_import_and_missed_with_advice():
    script = """
import sys
sys.modules["matplotlib"] = sys.modules["matplotlib.figure"] = None
import pandas as pd
from tfalloc.evaluation import plot_outcome_curves
try:
    plot_outcome_curves({"a": pd.DataFrame({"cost": [0.0], "response": [0.0]})})
except ImportError as error:
    assert "pip install tfalloc[plots]" in str(error)
else:
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
