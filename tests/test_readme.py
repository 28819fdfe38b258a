"""What the README shows runs: its Python as one program, its commands on files it names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

README = (Path(__file__).parents[1] / "README.md").read_text()
QUICK = ["--epochs", "1", "--no-jit", "--goal-weight", "0"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.filterwarnings("ignore:the expected outcome of a batch rests on")
def test_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    arm = np.arange(400) % 3
    users = pd.DataFrame({"age": rng.normal(40, 9, 400), "city": rng.choice(["Ulm", "Jena"], 400)})
    spent = arm * rng.uniform(0.5, 1.5, 400)
    trial = users.assign(arm=arm, visited=rng.random(400) < 0.2 + 0.2 * arm, spent=spent)
    monkeypatch.chdir(tmp_path)
    users.to_parquet("users.parquet")
    trial.to_parquet("trial.parquet")
    # Two things that only take time here: more epochs than prove the point, and compiling.
    code = "\n".join(blocks("python"))
    quick = code.replace("warm_start=True)", "warm_start=True, epochs=1, verbose=0)")
    quick = quick.replace("goal_weight=0.3,", "goal_weight=0.3, jit_compile=False,")
    assert quick.count("epochs=1") == quick.count("jit_compile=False") == 1
    exec(compile(quick, "README.md", "exec"), page := {"__name__": "page"})
    assert page["plan"].treatment.shape == (400,)
    assert page["plan"].cost <= 1.0 + 1e-9 and page["plan"].value <= page["plan"].upper_bound + 1e-9
    assert "response_low" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:the expected outcome of a batch rests on")
def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tfalloc.cli.app import app

    rng = np.random.default_rng(0)
    arms = np.array(["No E-Mail", "Womens E-Mail", "Mens E-Mail"])
    visit = (rng.random(600) < 0.3).astype(int)
    frame = pd.DataFrame(
        {
            "recency": rng.integers(1, 13, 600),
            "channel": rng.choice(["Web", "Phone"], 600),
            "segment": arms[np.arange(600) % 3],
            "visit": visit,
            "conversion": visit * (rng.random(600) < 0.2),
            "spend": visit * 3.5,
        }
    )
    monkeypatch.chdir(tmp_path)
    frame.to_csv("hillstrom.csv", index=False)
    shell = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line) for line in shell if line.startswith("tfalloc ")]
    assert [command[1] for command in commands] == ["train", "allocate", "export"]
    for command in commands:
        quick = QUICK if command[1] == "train" else []
        result = CliRunner().invoke(app, [*command[1:], *quick], prog_name="tfalloc")
        assert result.exit_code == 0, result.output
    assert len(pd.read_csv("who.csv")) == 600
    assert Path("policy/saved_model.pb").exists()
