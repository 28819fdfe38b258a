"""`tfalloc reproduce`: from a command to files, and one-line errors."""

import json

import pytest

from tests.cli.conftest import invoke
from tfalloc.reproduce import synthetic


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command") / "the results"
    result = invoke("reproduce", "synthetic", "--fast", "--seeds", 1, "--output", folder)
    assert result.code == 0 and "Q(v_gt)" in result.out
    return folder


def test_files_are_left(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["figure.png", "runs.json", "table.md"]
    kept = json.loads((folder / "runs.json").read_text())
    (maker,) = kept["makers"]
    assert maker["command"] == f"tfalloc reproduce synthetic --fast --seeds 1 --output '{folder}'"
    assert {run["key"]["seed"] for run in kept["runs"]} == {0}


def test_interrupted_it_says_what_is_kept(folder, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic.Laboratory, "run", interrupt)
    options = ["reproduce", "synthetic", "--fast", "--output"]
    result = invoke(*options, folder, "--seeds", 2)
    assert result.code == 130 and result.err.endswith(
        f"interrupted: finished runs are in {folder / 'runs.json'}: "
        "the same command goes on from there.\n"
    )
    result = invoke(*options, folder, "--restart")
    assert result.err.endswith("the same command without --restart goes on from there.\n")
    result = invoke(*options, tmp_path / "new")
    assert result.code == 130 and result.err.endswith("interrupted: no output was written.\n")
    assert not (tmp_path / "new").exists()


def test_other_sizes_are_refused_in_one_line(folder):
    result = invoke("reproduce", "synthetic", "--fast", "--rows", 2000, "--output", folder)
    assert result.code == 2 and result.err.count("\n") == 1
    assert "rows=1000, now rows=2000" in result.err and "--restart" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["synthetic", "--seeds", 0], "--seeds 0: expected at least 1"),
        (["coin", "--rows", -1], "--rows -1: expected at least 1"),
        (["coin", "--heads", "two"], "heads='two' is not known"),
        (["criteo", "--methods", "TSM-SL;best"], "methods=['best'] are not known"),
        (["criteo", "--data", "none.csv"], "none.csv: No such file or directory"),
        (["criteo", "--data", "x.csv", "--rows", 10], "leave one out"),
    ],
)
def test_bad_options_are_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("reproduce", *arguments)
    assert result.code == 2 and message in result.err and result.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_names_the_studies():
    result = invoke("reproduce", "--help")
    assert result.code == 0 and all(
        x in result.out for x in ("synthetic", "coin", "criteo", "methods")
    )
