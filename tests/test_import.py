"""`import tfalloc` says nothing and names what it offers."""

import os
import re
import subprocess
import sys

import pytest

import tfalloc


def run(code, check=True, **variables):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**environment, **variables},
        check=check,
    )


def test_import_is_quiet_and_lazy():
    result = run("import sys, tfalloc; print('tensorflow' in sys.modules)")
    assert (result.stdout, result.stderr) == ("False\n", "")


def test_first_use_adds_nothing_to_the_notes_of_tensorflow():
    result = run("import tfalloc; tfalloc.AllocationModel; tfalloc.mckp.solve")
    # TensorFlow logs some notes before its log level is read; nobody can silence them.
    own = [
        line
        for line in result.stderr.splitlines()
        if not re.match(r"[IWE]0000 |\d{4}-\d\d-\d\d .*: [IWE] |WARNING: All log messages", line)
    ]
    assert (result.stdout, own) == ("", [])


@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_another_backend_of_keras_is_refused_in_one_line(backend):
    # NumPy is there and Keras starts on it; JAX is most likely absent and Keras does not start.
    result = run("import tfalloc; tfalloc.AllocationModel", check=False, KERAS_BACKEND=backend)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("ImportError: tfalloc needs Keras to run on TensorFlow"), last
    assert repr(backend) in last and "KERAS_BACKEND=tensorflow" in last


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="has no attribute 'AlocationModel'"):
        tfalloc.AlocationModel  # noqa: B018


def test_dir_lists_the_public_names():
    assert set(dir(tfalloc)) == set(tfalloc.__all__)
