"""`tfalloc train` killed, and given again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from tests.workspace import COLUMNS, QUICK, invoke, make_frame

pytestmark = pytest.mark.slow


def arguments(trial, output, *options):
    return [
        "train", trial, *COLUMNS, *QUICK, "--budget", "0.5", "--exclude", "after",
        "--output", output, *options,
    ]  # fmt: skip


def start(*command):
    process = subprocess.Popen(
        [sys.executable, "-m", "tfalloc", *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), True)
    return process


def states(partial):
    return {str(path) for path in partial.rglob("state-*.npz")}


def kill_after_a_state(command, partial, wait):
    """Lets a process keep a state of its own, and kills it `wait` seconds later."""
    before = states(partial)
    process = start(*command)
    try:
        deadline = time.monotonic() + 120
        while process.poll() is None and not states(partial) - before:
            assert time.monotonic() < deadline, "no state was kept"
            time.sleep(0.005)
        time.sleep(wait)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return process.returncode


def test_killed_ends_with_the_same_metrics(tmp_path):
    trial = tmp_path / "trial.csv"
    make_frame(4000).to_csv(trial, index=False)
    options = ("--epochs", "6", "--patience", "0", "--compare-two-stage", "--batch-size", "100")
    whole = invoke(*arguments(trial, tmp_path / "whole", *options))
    assert whole.code == 0, whole.err
    output, partial = tmp_path / "run", tmp_path / "run.partial"
    command = arguments(trial, output, *options)
    # Several kills: tests/models/test_resume.py. This is the command and its files.
    assert kill_after_a_state(command, partial, wait=0.2) == -signal.SIGKILL
    assert not output.exists()
    last = invoke(*command)
    assert last.code == 0, last.err
    assert "resuming at epoch" in last.err
    for name in ("metrics.json", "history.csv", "outcome_curve.csv"):
        assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert {path.name for path in tmp_path.iterdir()} == {"trial.csv", "whole", "run"}


@pytest.fixture(scope="module")
def died(workspace, tmp_path_factory):
    """Partial directory of a run that died after its training."""
    from tfalloc.training import pipeline

    folder = tmp_path_factory.mktemp("died")

    def dies(*arguments):
        raise OSError(5, "Input/output error", "disk")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "_judge", dies)
        result = invoke(*arguments(workspace.trial, folder / "run", "--compare-two-stage"))
    assert result.code == 2 and result.err.splitlines()[-1] == "error: disk: Input/output error."
    assert "run.partial: the same command goes on from there" in " ".join(result.err.split())
    return folder / "run.partial"


@pytest.fixture
def stopped(workspace, died, tmp_path):
    """(command, partial directory) of a run that died after its training."""
    shutil.copytree(died, tmp_path / "run.partial")
    command = arguments(workspace.trial, tmp_path / "run", "--compare-two-stage")
    return command, tmp_path / "run.partial"


def test_goes_on_after_its_training(stopped, workspace):
    command, partial = stopped
    assert {path.name for path in partial.iterdir()} == {"kept", ".tfalloc"}
    result = invoke(*command)
    assert result.code == 0 and "this model: trained already" in result.err
    assert not partial.exists() and (partial.parent / "run" / "model.keras").exists()


def test_restart_and_other_settings(stopped):
    command, partial = stopped
    other = [*command, "--learning-rate", "0.01"]
    refused = invoke(*other)
    assert refused.code == 2 and len(refused.err.splitlines()[-1]) < 400
    assert "learning_rate=" in refused.err and "pass --restart" in refused.err
    assert states(partial)
    result = invoke(*other, "--restart")
    assert result.code == 0 and "trained already" not in result.err
    assert not partial.exists()


def test_metrics_are_not_empty(workspace):
    # What the comparison of killed runs compares.
    assert json.loads((workspace.run / "metrics.json").read_text())["outcomes"]
    assert len(pd.read_csv(workspace.run / "history.csv"))
