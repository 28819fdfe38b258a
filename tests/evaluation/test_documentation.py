"""The snippets of docs/evaluation.md run, in order, as one program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_snippets_run(capsys):
    pytest.importorskip("matplotlib")
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(snippets) >= 4
    exec(compile("\n".join(snippets), str(PAGE), "exec"), {"__name__": "page"})
    assert "p_value" in capsys.readouterr().out
