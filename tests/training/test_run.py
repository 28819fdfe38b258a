"""Recipes, runs and their config.json."""

import dataclasses
import inspect
import json

import numpy as np
import pandas as pd
import pytest

from tests.workspace import make_frame
from tfalloc.cli.options import parse_column_or_mapping, parse_list
from tfalloc.training import Columns, Recipe, Run, evaluate
from tfalloc.training.run import Mix, read_config


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"budget": -1.0}, "budget=-1.0: expected a finite cost"),
        ({"budget": (0.2, float("inf"))}, "finite"),
        ({"budget": (0.2, 0.1)}, "LOW <= HIGH"),
        ({"epochs": 0}, "epochs=0: expected at least 1"),
        ({"seed": 2**31}, "seed="),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"test_share": 1.0}, "test_share=1.0"),
        ({"goal_scale": "loud"}, "normalized, paper"),
    ],
)
def test_a_recipe_is_checked(values, expected):
    with pytest.raises(ValueError) as caught:
        Recipe(**{"budget": 0.1, **values})
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_every_option_is_described():
    from tfalloc.cli.options import _attributes

    names = {field.name for field in dataclasses.fields(Recipe)}
    assert set(_attributes(inspect.getdoc(Recipe))) == names


def _edits(config):
    """(where, a config.json with one key away, or of another type) for every key."""
    for key, value in config.items():
        if key != "mix":
            yield key, {name: x for name, x in config.items() if name != key}
        yield key, {**config, key: 7}
        if isinstance(value, dict):
            for inner, x in value.items():
                needed = key in ("data", "mix") and inner != "fingerprint"
                if needed or inner in ("treatment", "budget"):
                    yield inner, {**config, key: {n: y for n, y in value.items() if n != inner}}
                if key != "versions":
                    yield inner, {**config, key: {**value, inner: {"odd": [x]}}}


def test_a_damaged_config_is_one_line(workspace, tmp_path):
    config = json.loads((workspace.run / "config.json").read_text())
    path = tmp_path / "config.json"
    texts = [(place, json.dumps(edited)) for place, edited in _edits(config)]
    texts += [("", "{"), ("", "[]"), ("", "null"), ("", "\xff"), ("", "[" * 100_000)]
    for name in ("seed", "budget"):
        huge = {**config, "options": {**config["options"], name: 10**400}}
        texts.append((name, json.dumps(huge)))
    assert len(texts) > 60
    for place, text in texts:
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError) as caught:
            read_config(path)
        said = str(caught.value)
        assert "\n" not in said and place in said and str(path) in said, text[:300]
    old = {name: x for name, x in config.items() if name != "mix"}
    path.write_text(json.dumps({**old, "later": 1}))
    assert read_config(path).mix is None


def test_the_mix_is_that_of_the_training_rows(workspace):
    run = Run.read(workspace.run)
    data = run.columns.read(str(workspace.trial))
    rows, unseen = data.split([0.8, 0.2], run.config.options.seed)
    assert run.config.mix == Mix.of(rows) != Mix.of(unseen)
    model, budgets = run.model(), run.config.options.budget_points
    metrics = json.loads((workspace.run / "metrics.json").read_text())
    rows = [row for row in metrics["outcomes"] if row["model"] != "two-stage model"]
    mine = evaluate(model, unseen, budgets, run.config.mix)
    for name in ("difference", "difference_low", "response"):
        then = [row[name] if row[name] is not None else np.nan for row in rows]
        np.testing.assert_allclose(mine[name], then, rtol=1e-5, atol=1e-7, err_msg=name)


def test_labels_with_blanks_are_named(tmp_path):
    frame = make_frame(300).drop(columns="after")
    frame["arm"] = np.where(frame.arm == 1, " mail", "none,at all")
    frame.to_csv(tmp_path / "t.csv", index=False)
    treatments = parse_list('"none,at all", " mail"')
    costs = parse_column_or_mapping("--cost", '" mail"=0.5,"none,at all"=0')
    columns = Columns("arm", "bought", costs, treatments=treatments, features=["x"])
    data = columns.read(str(tmp_path / "t.csv"))
    assert data.treatment_names == ["none,at all", " mail"]
    assert sorted(set(data.cost)) == [0.0, 0.5]


def test_clusters_widen_the_intervals(workspace, tmp_path):
    """Every row four times, as a household of four: the intervals are those of single rows."""
    run = Run.read(workspace.run)
    single = pd.read_csv(workspace.trial)
    frame = single.loc[single.index.repeat(4)].assign(home=np.repeat(single.index, 4))
    data = {}
    for name, rows in (("single", single), ("home", frame), ("rows", frame.drop(columns="home"))):
        rows.to_parquet(tmp_path / f"{name}.parquet")
        columns = dataclasses.replace(run.columns, cluster="home" if name == "home" else None)
        data[name] = columns.read(str(tmp_path / f"{name}.parquet"))
    tables = {n: evaluate(run.model(), x, [0.4], run.config.mix) for n, x in data.items()}
    width = {n: (t.response_high - t.response_low)[0] for n, t in tables.items()}
    assert width["home"] == pytest.approx(width["single"], rel=0.01)
    assert width["rows"] == pytest.approx(width["single"] / 2, rel=0.01)
    parts = data["home"].split([0.5, 0.5], 0)
    assert not set(parts[0].cluster) & set(parts[1].cluster)
