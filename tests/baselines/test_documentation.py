"""The snippets of docs/baselines.md run, in order, as one program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "baselines.md"


def test_snippets_run(capsys):
    pytest.importorskip("sklearn")
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(snippets) >= 3
    page = {"__name__": "page"}
    exec(compile("\n".join(snippets), str(PAGE), "exec"), page)
    assert "difference_low" in capsys.readouterr().out
    predicted = page["model"].predict(page["test"])
    assert predicted["cost"].shape == (len(page["test"]), 2)
