"""The snippets of docs/baselines.md run, in order, as one program, on fewer rows."""

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
    program = "\n".join(snippets)
    for shown, quick in (
        ("criteo_like(40_000)", "criteo_like(4_000)"),
        ("drp.fit(train, ", "drp.fit(train, epochs=1, "),
    ):
        assert shown in program
        program = program.replace(shown, quick)
    page = {"__name__": "page"}
    exec(compile(program, str(PAGE), "exec"), page)
    assert "difference_low" in capsys.readouterr().out
    predicted = page["model"].predict(page["test"])
    assert predicted["cost"].shape == (len(page["test"]), 2)
