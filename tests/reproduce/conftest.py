"""One run of the synthetic study by the command, for all tests that look at what it leaves."""

from pathlib import Path

import pytest

from tests.workspace import invoke

SEEDS = 2


@pytest.fixture(scope="session")
def synthetic_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its output, at a reduced size; nobody changes it."""
    folder = tmp_path_factory.mktemp("study") / "the results"
    result = invoke("reproduce", "synthetic", "--fast", "--seeds", SEEDS, "--output", folder)
    assert result.code == 0 and "| v_gt | 0.2123 |" in result.out
    return folder
