"""The snippet of docs/reproduce.md runs."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reproduce.md"


def test_snippet_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(snippets) == 1
    exec(compile(snippets[0], str(PAGE), "exec"), {"__name__": "page"})
    assert (tmp_path / "out" / "runs.json").exists() and "p_value" in capsys.readouterr().out
