"""`tfalloc reproduce`: from a command to files, and one-line errors."""

import json

import pytest

from tests.workspace import invoke
from tfalloc.reproduce import synthetic


def test_files_are_left(synthetic_folder):
    assert sorted(path.name for path in synthetic_folder.iterdir()) == [
        *("figure.png", "runs.json", "table.md", "truth.png")
    ]
    kept = json.loads((synthetic_folder / "runs.json").read_text())
    (maker,) = kept["makers"]
    assert (
        maker["command"]
        == f"tfalloc reproduce synthetic --fast --seeds 2 --output '{synthetic_folder}'"
    )
    assert {run["key"]["seed"] for run in kept["runs"]} == {0, 1}


def test_interrupted_it_says_what_is_kept(synthetic_folder, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic.Laboratory, "run", interrupt)
    options = ["reproduce", "synthetic", "--fast", "--output"]
    result = invoke(*options, synthetic_folder, "--seeds", 3)
    assert result.code == 130 and result.err.endswith(
        f"interrupted: finished runs are in {synthetic_folder / 'runs.json'}: "
        "the same command goes on from there.\n"
    )
    result = invoke(*options, synthetic_folder, "--restart")
    assert result.err.endswith("the same command without --restart goes on from there.\n")
    result = invoke(*options, tmp_path / "new")
    assert result.code == 130 and result.err.endswith("interrupted: no output was written.\n")
    assert not (tmp_path / "new").exists()


def test_other_sizes_are_refused_in_one_line(synthetic_folder):
    result = invoke(
        "reproduce", "synthetic", "--fast", "--rows", 2000, "--output", synthetic_folder
    )
    assert result.code == 2 and result.err.count("\n") == 1
    assert "rows=1000, now rows=2000" in result.err and "--restart" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["synthetic", "--seeds", 0], "--seeds 0: expected at least 1"),
        (["coin", "--rows", -1], "--rows -1: expected at least 1"),
        (["coin", "--net", "two"], "--net two: expected one of"),
        (["coin", "--deploy", "much"], "--deploy much: expected a goal_weight or best"),
        (["coin", "--deploy", "7"], "deployed=7.0 is not among weights"),
        (["criteo", "--methods", "TSM-SL;best"], "methods=['best'] are not known"),
        (["criteo", "--data", "none.csv"], "none.csv: No such file or directory"),
        (["criteo", "--data", "x.csv", "--rows", 10], "leave one out"),
        (["criteo", "--learning-rate", -0.1], "--learning-rate -0.1: expected a number above 0"),
        (["coin", "--weights", "0,much"], "--weights 0,much: expected numbers with commas"),
        (["coin", "--weights", "1,2"], "weights=[1.0, 2.0]: expected 0"),
        # What only the rows show is said once, before any run.
        (["synthetic", "--fast", "--rows", 3], "num_rows=3; expected an integer of at least 50"),
        (["coin", "--fast", "--rows", 10], "num_rows=10; expected an integer of at least 80"),
    ],
)
def test_bad_options_are_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("reproduce", *arguments)
    assert result.code == 2 and message in result.err and result.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_file_without_the_columns_is_refused_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    result = invoke("reproduce", "criteo", "--fast", "--data", "other.csv")
    assert result.code == 2 and result.err.count("\n") == 1
    assert "treatment column 'treatment' is not in the data" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["other.csv"]


def test_help_names_the_studies():
    result = invoke("reproduce", "--help")
    assert result.code == 0 and all(x in result.out for x in ("synthetic", "coin", "criteo"))
