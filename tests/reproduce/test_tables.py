"""Means, paired differences and tables, against SciPy; the look of figures."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib import image
from scipy import stats

from tfalloc.reproduce import comparison, figures, markdown, paired_difference
from tfalloc.reproduce.tables import difference, made_by, student_t_quantile, student_t_tail


@pytest.mark.parametrize("degrees", [1, 2, 5, 19, 200])
def test_students_t_is_scipys(degrees):
    for t in (0.0, 0.3, 2.0, 9.0):
        np.testing.assert_allclose(student_t_tail(t, degrees), stats.t.sf(t, degrees), rtol=1e-9)
    for level in (0.6, 0.95, 0.975, 0.9995):
        np.testing.assert_allclose(
            student_t_quantile(level, degrees), stats.t.ppf(level, degrees), rtol=1e-8
        )


@pytest.mark.parametrize("n", [2, 3, 20])
def test_paired_difference_is_scipys_test(n):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(2, n))
    found, known = paired_difference(x, y, confidence=0.9), stats.ttest_rel(x, y)
    interval = known.confidence_interval(0.9)
    expected = (np.mean(x - y), interval.low, interval.high, known.pvalue)
    np.testing.assert_allclose(
        (found.mean, found.low, found.high, found.p_value), expected, rtol=1e-8
    )
    assert found.count == n


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    pairs = [paired_difference(rng.normal(0.3, 1, 4), np.zeros(4)) for _ in range(300)]
    covered = np.mean([pair.low <= 0.3 <= pair.high for pair in pairs])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 300)


def test_degenerate_differences():
    same = paired_difference([1.0, 2.0], [1.0, 2.0])
    assert (same.mean, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert paired_difference([2.0, 3.0], [1.0, 2.0]).p_value == 0.0
    one = paired_difference([2.0, math.nan], [1.0, 1.0])
    assert (one.mean, one.count) == (1.0, 1) and math.isnan(one.low)
    assert math.isnan(paired_difference([], []).mean)
    with pytest.raises(ValueError, match=r"shape \(2,\) and reference \(1,\)"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="confidence=95"):
        paired_difference([1.0], [1.0], confidence=95)


def test_comparison_pairs_by_seed_whatever_the_order_of_the_runs():
    rng = np.random.default_rng(1)
    runs = pd.DataFrame(
        [
            {"method": method, "seed": seed, "x": seed + k + rng.normal() / 10}
            for k, method in enumerate(["base", "better", "best"])
            for seed in range(5)
        ]
    )
    runs = runs.drop(runs.index[(runs.method == "best") & (runs.seed == 3)])
    shuffled = pd.concat([runs.iloc[:1], runs.iloc[1:].sample(frac=1, random_state=0)])
    table = comparison(shuffled, "x", reference="base").set_index("method")
    x = runs.pivot(index="seed", columns="method", values="x")
    assert table.loc["best", "count"] == table.loc["best", "pairs"] == 4
    np.testing.assert_allclose(table["mean"], x.mean()[table.index])
    np.testing.assert_allclose(table["sd"], x.std()[table.index])
    for method in ("better", "best"):
        pairs = x[[method, "base"]].dropna()
        known = stats.ttest_rel(pairs[method], pairs["base"])
        np.testing.assert_allclose(table.loc[method, "p_value"], known.pvalue, rtol=1e-6)
        np.testing.assert_allclose(
            table.loc[method, "difference"], (pairs[method] - pairs["base"]).mean()
        )
    assert math.isnan(table.loc["base", "difference"])


def test_comparison_refuses_what_it_cannot_pair():
    runs = pd.DataFrame({"method": ["a", "a"], "seed": [0, 0], "x": [1, 2]})
    with pytest.raises(ValueError, match="two runs of one seed"):
        comparison(runs, "x")
    with pytest.raises(ValueError, match=r"no column \['y'\]"):
        comparison(runs, "y")
    with pytest.raises(ValueError, match="reference='b'"):
        comparison(runs[:1], "x", reference="b")


def test_markdown():
    with pytest.raises(ValueError, match="1 cells; expected 2"):
        markdown(["a", "b"], [["x"]])
    table = markdown(["a", "b", "c"], [["x", 12345, None], ["y", 0.000123456, True]])
    assert table.splitlines()[2:] == ["| x | 12,345 | - |", "| y | 0.0001235 | True |"]


def test_difference_of_a_row_of_comparison():
    runs = pd.DataFrame({"method": ["a", "b"] * 2, "seed": [0, 0, 1, 1], "x": [1.0, 2, 1, 4]})
    base, other = comparison(runs, "x").to_dict("records")
    assert difference(base) == "-"
    assert difference(other, 1).startswith("+2.0 (-10.7 … +14.7), p = 0.3")


def test_made_by_names_command_and_versions():
    from tfalloc._files import versions

    machine = {**versions(), "machine": "x86_64", "cores": 2}
    first = {"command": "tfalloc reproduce coin", **machine}
    second = {**first, "command": "tfalloc reproduce coin --seeds 9"}
    text = made_by([first, second, {**machine, "keras": "4"}])
    assert text.startswith(
        "`tfalloc reproduce coin`\n`tfalloc reproduce coin --seeds 9`\n(tfalloc "
    )
    assert text.count("Keras") == 2 and "Keras 4," in text
    assert "together" not in text
    assert made_by([first], 5400.0).endswith(
        "\n\nAll runs together: 1.5 hours; what several build on is counted in each."
    )
    assert "together: 1.5 minutes;" in made_by([first], 90.0)


def test_labels_stay_on_the_page_when_ticks_grow(tmp_path):
    """The legend leaves the axes another height than they began with, so other ticks."""
    axes = figures.panels(2, 2)
    for panel, lines in zip(axes, (5, 0, 3, 3), strict=True):
        panel.plot([0, 10], [-0.0019, 0.0145])
        for line in range(lines):
            panel.plot([0, 10], [0, 0.01], label=f"line {line}")
        figures.name(panel, "title", "x", "response per user")
        if lines:
            figures.legend(panel)
    figures.write(axes, tmp_path / "figure.png")
    picture = image.imread(tmp_path / "figure.png")[..., :3]
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert (edge == 1.0).all()
