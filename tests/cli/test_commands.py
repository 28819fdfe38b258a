"""The commands do what they say, on a small trial."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.workspace import COLUMNS, QUICK, Workspace, invoke, make_frame


def test_train_leaves_a_complete_run(workspace: Workspace) -> None:
    left = {str(p.relative_to(workspace.run)) for p in workspace.run.rglob("*") if p.is_file()}
    assert left == {
        ".tfalloc",
        "model.keras",
        "metrics.json",
        "config.json",
        "history.csv",
        "outcome_curve.csv",
        "plots/outcome_curve.png",
        "plots/training.png",
        "plots/treatment_mix.png",
    }
    config = json.loads((workspace.run / "config.json").read_text())
    assert config["columns"]["features"] == ["x", "noise", "city"]
    assert config["data"]["rows"] == 1500
    assert config["options"]["seed"] == 0
    assert {"tfalloc", "tensorflow", "keras", "python"} <= set(config["versions"])
    metrics = json.loads((workspace.run / "metrics.json").read_text())
    assert {row["budget"] for row in metrics["outcomes"]} == {0.4, 0.2, 0.6}
    assert len(metrics["versus_two_stage"]) == 3
    assert "randomisation" in workspace.out and "versus two-stage" in workspace.out
    siblings = {path.name for path in workspace.run.parent.iterdir()}
    assert siblings == {"trial.csv", "run", "saved_model"}


def test_the_same_seed_gives_the_same_weights(tmp_path: Path, workspace: Workspace) -> None:
    import keras

    def weights(run: Path) -> list[np.ndarray]:
        return keras.saving.load_model(run / "model.keras").get_weights()

    train = [
        "train",
        workspace.trial,
        *COLUMNS,
        *QUICK,
        "--budget",
        "0.2:0.6",
        "--exclude",
        "after",
    ]
    for name, seed in (("same", 0), ("other", 4)):
        goal = [] if name == "same" else ["--goal-weight", 0]
        done = invoke(*train, *goal, "--seed", seed, "--output", tmp_path / name)
        assert done.code == 0, done.err
    first = weights(workspace.run)
    assert all(np.array_equal(x, y) for x, y in zip(first, weights(tmp_path / "same"), strict=True))
    assert not all(
        np.array_equal(x, y) for x, y in zip(first, weights(tmp_path / "other"), strict=True)
    )
    # Comparing with two-stage, as the workspace's run does, changes nothing.
    for name in ("history.csv", "outcome_curve.csv"):
        assert (tmp_path / "same" / name).read_text() == (workspace.run / name).read_text()


def test_train_with_marginal_monotone_heads(tmp_path: Path, workspace: Workspace) -> None:
    options = ["--heads", "marginal", "--monotone", "--goal-weight", 0, "--jit"]
    run = tmp_path / "run"
    result = invoke(
        "train", workspace.trial, *COLUMNS, *QUICK, *options, "--budget", 0.4, "--output", run
    )
    assert result.code == 0, result.err
    settings = json.loads((run / "config.json").read_text())["options"]
    assert settings["heads"] == "marginal" and settings["monotone"] is True
    result = invoke("evaluate", run, workspace.trial)
    assert result.code == 0, result.err


def test_evaluate_takes_columns_from_the_run(tmp_path: Path, workspace: Workspace) -> None:
    output = tmp_path / "numbers.json"
    seen = invoke("evaluate", workspace.run, workspace.trial, "--budget", "0.3,0.5")
    assert seen.code == 0 and "optimistic" in seen.err
    done = invoke(
        "evaluate",
        workspace.run,
        workspace.trial,
        "--held-out",
        "--budget",
        "0.2:0.6",
        "--output",
        output,
    )
    assert done.code == 0, done.err
    assert "optimistic" not in done.err
    # The same rows, hence the same numbers, as at the end of training.
    again, before = (
        pd.DataFrame(json.loads(path.read_text())["outcomes"])
        for path in (output, workspace.run / "metrics.json")
    )
    columns = ["budget", "response", "response_low", "cost"]
    mine = [table[table.model == "this model"][columns].to_numpy() for table in (again, before)]
    np.testing.assert_allclose(*mine, rtol=1e-5)


def test_held_out_rows_are_known_by_their_content(tmp_path: Path, workspace: Workspace) -> None:
    copy, changed = tmp_path / "copy.csv", tmp_path / "changed.csv"
    shutil.copy(workspace.trial, copy)
    pd.read_csv(workspace.trial).iloc[::-1].to_csv(changed, index=False)
    run = tmp_path / "run"
    shutil.copytree(workspace.run, run)
    config = json.loads((run / "config.json").read_text())
    config["data"]["path"] = str(changed)
    (run / "config.json").write_text(json.dumps(config))
    refused = invoke("evaluate", run, changed, "--held-out")
    assert refused.code == 2 and "has changed since" in refused.err
    done = invoke("evaluate", run, copy, "--held-out")
    assert done.code == 0, done.err


@pytest.mark.parametrize(("suffix", "total"), [(".csv", False), (".parquet", True)])
def test_allocate_keeps_to_the_budget(
    tmp_path: Path, workspace: Workspace, suffix: str, total: bool
) -> None:
    users = make_frame(400, seed=5)[["x", "noise", "city"]]
    users.insert(0, "user", [f"u{i}" for i in range(len(users))])
    users.to_csv(tmp_path / "users.csv", index=False)
    budget = ["--total-budget", 160] if total else ["--budget", 0.4]
    output = tmp_path / f"plan{suffix}"
    done = invoke(
        "allocate",
        workspace.run,
        tmp_path / "users.csv",
        *budget,
        "--id",
        "user",
        "--output",
        output,
    )
    assert done.code == 0, done.err
    plan = pd.read_csv(output) if suffix == ".csv" else pd.read_parquet(output)
    assert list(plan.columns) == ["user", "treatment", "treatment_index", "response", "cost"]
    assert plan.user.tolist() == users.user.tolist()
    assert plan.cost.sum() <= 160 * (1 + 1e-5)
    assert "upper bound" in done.out and "alpha" in done.out


def test_a_saved_model_allocates_as_it_serves(tmp_path: Path, workspace: Workspace) -> None:
    output = tmp_path / "plan.csv"
    done = invoke(
        "allocate", workspace.saved_model, workspace.trial, "--budget", 0.4, "--output", output
    )
    assert done.code == 0, done.err
    plan = pd.read_csv(output)
    assert plan.row.tolist() == list(range(1500))
    assert plan.cost.mean() <= 0.4 * (1 + 1e-6)  # the population is these users
    assert plan.cost.mean() > 0.35
    assert {"alpha", "clamped"} <= set(plan.columns)


def test_export_says_how_to_ask(tmp_path: Path, workspace: Workspace) -> None:
    assert "allocate_for_budget" in workspace.out and "curl" in workspace.out
    assert "saved_model_cli show" in workspace.out
    done = invoke(
        "export",
        workspace.run,
        tmp_path / "saved",
        "--population",
        workspace.trial,
        "--calibration",
        "trial",
    )
    assert done.code == 0, done.err


def test_overwrite_replaces_a_run_and_nothing_else(tmp_path: Path, workspace: Workspace) -> None:
    quick = [*QUICK, "--goal-weight", 0]
    train = ["train", workspace.trial, *COLUMNS, *quick, "--budget", 5, "--overwrite"]
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("ten years")
    refused = invoke(*train, "--output", precious)
    assert refused.code == 2 and "did not write" in refused.err
    assert (precious / "thesis.tex").exists()
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")  # anybody's
    refused = invoke(*train, "--output", run)
    assert refused.code == 2 and "did not write" in refused.err
    (run / ".tfalloc").write_text((workspace.run / ".tfalloc").read_text())
    done = invoke(*train, "--output", run)
    assert done.code == 0 and "does not bind" in done.err
    assert (run / "model.keras").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"precious", "run"}


def test_demo_tells_the_truth(tmp_path: Path) -> None:
    done = invoke("demo", "--output", tmp_path / "demo", "--rows", 6000, "--epochs", 1, "--no-jit")
    assert done.code == 0, done.err
    for part in ("two-stage", "end-to-end", "oracle", "truth", "reloaded SavedModel"):
        assert part in done.out
    for name in ("plots/outcome_curve.png", "savedmodel/saved_model.pb", "allocation.csv"):
        assert (tmp_path / "demo" / name).is_file()
    assert len(pd.read_csv(tmp_path / "demo/allocation.csv")) == 6000


def test_help_is_quick_and_imports_no_tensorflow() -> None:
    code = (
        "import sys; from tfalloc.cli.app import app\n"
        "try: app(['train', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'tensorflow' not in sys.modules and 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_failure_of_the_real_command_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tfalloc", "train", "absent.csv", *COLUMNS, "--budget", "1",
         "--output", str(tmp_path / "run")],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: no CSV file at absent.csv")
    assert "Traceback" not in done.stderr and not any(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_leaves_nothing(tmp_path: Path, workspace: Workspace) -> None:
    # A background job ignores SIGINT, and so would its children: while there is a handler, they do
    # not inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "tfalloc", "train", str(workspace.trial), *COLUMNS, *QUICK[2:],
         "--epochs", "100000", "--patience", "0", "--budget", "0.4",
         "--output", str(tmp_path / "deep" / "run")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    assert process.stderr is not None
    try:
        deadline = time.monotonic() + 100
        for line in process.stderr:  # until the first epoch is over
            if "epoch 1/" in line or time.monotonic() > deadline:
                break
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert rest.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in rest
    # Whether there was a checkpoint yet depends on how long that took.
    left = {path.name for path in tmp_path.rglob("*")}
    assert not left or ({"deep", "run.partial", "kept"} <= left and "run" not in left)
