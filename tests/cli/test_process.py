"""The command as a process: signals, closed streams, and what they leave."""

import os
import signal
import subprocess
import sys

import pytest

from tests.workspace import COLUMNS, QUICK

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals and shells")

TFALLOC = [sys.executable, "-m", "tfalloc"]


def shell(line, tmp_path):
    """(exit code, stderr) of a line for the shell, in which $T is the command."""
    environment = {**os.environ, "T": " ".join(TFALLOC)}
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("$T --version >&-", 0, ""),
        ("$T --version >&- 2>&- <&-", 0, ""),
        ("$T train --help | head -n 1 >/dev/null; exit ${PIPESTATUS[0]}", {0, 1, 141}, ""),
        ("$T train --help >/dev/full", 2, "No space left on device"),
        ("$T train absent.csv 2>&-", 2, ""),
        ("$T train absent.csv 2>/dev/full", 2, ""),
        ("PYTHONIOENCODING=ascii $T train --help >/dev/null", 0, ""),
    ],
)
def test_streams_that_are_closed(tmp_path, line, code, said):
    found, err = shell(line, tmp_path)
    assert found == code if isinstance(code, int) else found in code
    assert said in err and "Traceback" not in err and "Exception ignored" not in err
    assert not said or len(err.splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_a_signal_in_the_first_second(tmp_path, workspace):
    # Ctrl-C takes the same way, and comes in the middle of training in test_commands.py.
    process = subprocess.Popen(
        [*TFALLOC, "train", str(workspace.trial), *COLUMNS, *QUICK, "--budget", "0.4",
         "--output", str(tmp_path / "run")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        assert "starting TensorFlow" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 143
    assert rest.splitlines()[-1] == "interrupted: no output was written."
    assert "Traceback" not in rest and not any(tmp_path.iterdir())
