"""Training over several replicas gives what one device gives on the same global batches."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.replica_trainings import TRAININGS
from tfalloc.models import AllocationModel
from tfalloc.models.networks import build_network

# Step functions of the predictions: rounding may move the row whose price is alpha across it.
AT_A_STEP = ("goal", "matched", "val_alpha")
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}


@pytest.fixture(scope="module")
def on_two_devices():
    """Devices are configured before TensorFlow starts: another process."""
    program = [sys.executable, "-m", "tests.models.replica_trainings"]
    done = subprocess.run(program, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def assert_same(actual, expected, where=""):
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), where
        for name in expected:
            assert_same(actual[name], expected[name], f"{where}.{name}")
    elif where.endswith(("weights", "norms")):
        assert len(actual) == len(expected)
        for mine, theirs in zip(actual, expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5, err_msg=where)
    elif any(name in where for name in AT_A_STEP):
        np.testing.assert_allclose(actual, expected, rtol=0.05, atol=1e-5, err_msg=where)
    else:
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5, err_msg=where)


@pytest.mark.filterwarnings("ignore:the expected outcome of a batch rests on")
@pytest.mark.parametrize("name", TRAININGS)
def test_two_devices_give_what_one_gives(on_two_devices, name):
    assert "error" not in on_two_devices[name], on_two_devices[name]["error"]
    expected = TRAININGS[name](tf.distribute.get_strategy())
    assert_same(on_two_devices[name], expected, name)


def test_one_device_pays_nothing():
    network = build_network(3, 4, "small", seed=0)
    norms = [network.get_layer("trunk_norm_0"), network.get_layer("heads").norm]
    assert not any(layer.synchronized for layer in norms)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def test_two_processes_give_what_one_gives(tmp_path):
    def start(*more):
        program = [sys.executable, ROOT / "examples/multi_worker.py", "--gradient", "integrated"]
        size = ["--rows", "2000", "--batch-size", "800", "--epochs", "2"]
        return subprocess.Popen(
            [*program, *size, *more],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(process):
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err[-3000:]
        return json.loads(out)

    workers = ",".join(f"127.0.0.1:{port}" for port in free_ports(2))
    output = str(tmp_path / "model.keras")
    pair = [
        start("--workers", workers, "--index", str(index), "--output", output) for index in (0, 1)
    ]
    try:
        first, second = [finish(process) for process in pair]
    finally:
        for process in pair:
            process.kill()
    alone = finish(start("--output", str(tmp_path / "alone.keras")))
    assert first == second
    assert_same(first, alone)
    for mine, theirs in zip(
        keras.models.load_model(output).get_weights(),
        keras.models.load_model(tmp_path / "alone.keras").get_weights(),
        strict=True,
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)


def test_gradient_clipping_over_replicas_is_refused(monkeypatch):
    model = AllocationModel(2, backbone="small", seed=1)
    monkeypatch.setattr("tfalloc.models.replicas.count", lambda: 2)
    with pytest.raises(ValueError, match="clipnorm=1.0.* each replica"):
        model.compile(keras.optimizers.SGD(clipnorm=1.0))
