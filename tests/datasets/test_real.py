"""Loaders of public trials, on the files themselves where they are at hand."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tfalloc import datasets
from tfalloc.data import RCTData, build_preprocessor

FOLDER = Path(
    os.environ.get(
        "TFALLOC_SHARED_DATA", Path(__file__).resolve().parents[2].parent / "shared/data"
    )
)
AFTER_TREATMENT = {"visit", "conversion", "exposure", "spend", "treatment", "segment"}


def shared(name):
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"{name} is not at hand; set TFALLOC_SHARED_DATA to its folder")
    return path


def fake_criteo(rows=40):
    columns = {f"f{j}": np.arange(rows) * 1.0 for j in range(12)}
    rest = {"treatment": [0, 1], "conversion": [0, 0], "visit": [0, 1], "exposure": [0, 1]}
    return pd.DataFrame({**columns, **{name: v * (rows // 2) for name, v in rest.items()}})


def test_criteo_from_csv_with_checksum(tmp_path):
    path = tmp_path / "criteo-research-uplift-v2.1.csv.gz"
    fake_criteo().to_csv(path, index=False)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    data = datasets.criteo(path, sha256=digest.upper())
    assert len(data) == 40 and data.feature_names == [f"f{j}" for j in range(12)]
    with pytest.raises(ValueError, match="sha256 of .*expected 0000.*download it again"):
        datasets.criteo(path, sha256="0000")
    with pytest.raises(ValueError, match="sha256 was given without path"):
        datasets.criteo(sha256=digest)
    with pytest.raises(FileNotFoundError):
        datasets.criteo(tmp_path / "absent.csv", sha256=digest)
    mapped = datasets.criteo(path, response="visit", cost={0: 0.0, 1: 0.25})
    assert mapped.cost[:2].tolist() == [0.0, 0.25] and mapped.response.tolist()[:2] == [0, 1]


def test_criteo_without_network(monkeypatch):
    class Builder:
        def download_and_prepare(self):
            raise OSError("no route to host")

    monkeypatch.setattr("tfalloc.datasets.public_trials.tfds_builder", lambda *_, **__: Builder())
    with pytest.raises(ValueError, match="no route to host.*pass path="):
        datasets.criteo()


def test_criteo_through_tfds(monkeypatch):
    tf = pytest.importorskip("tensorflow")
    asked = {}

    class Builder:
        def download_and_prepare(self):
            pass

        def as_dataset(self, **options):
            asked.update(options)
            frame = fake_criteo()
            return tf.data.Dataset.from_tensor_slices({n: frame[n].to_numpy() for n in frame})

    monkeypatch.setattr("tfalloc.datasets.public_trials.tfds_builder", lambda *_, **__: Builder())
    data = datasets.criteo()
    # Supervised elements would leave all features in one dict, `exposure` among them.
    assert asked == {"split": "train"}
    assert not AFTER_TREATMENT & set(data.feature_names)


def test_criteo_mocked_by_tfds():
    tf = pytest.importorskip("tensorflow")
    tfds = pytest.importorskip("tensorflow_datasets")

    def rows(self, *_, **__):
        # The mock's own random numbers are no treatments; the columns are the real builder's.
        frame = fake_criteo()
        assert set(frame) == set(self.info.features)
        return tf.data.Dataset.from_tensor_slices({n: frame[n].to_numpy() for n in frame})

    with tfds.testing.mock_data(as_dataset_fn=rows):
        data = datasets.criteo()
    assert data.num_rows == 40 and data.feature_names == [f"f{j}" for j in range(12)]


def test_hillstrom_needs_a_path():
    with pytest.raises(ValueError, match="download Hillstrom's CSV from https"):
        datasets.hillstrom()


def test_criteo_sample():
    path = shared("criteo_uplift_140k.parquet")
    data = datasets.criteo(path)
    assert len(data) == 140_000 and data.feature_names == [f"f{j}" for j in range(12)]
    control, treated = data.describe().arms
    assert control.share == pytest.approx(0.15, abs=0.005)
    assert (control.cost, treated.cost) == pytest.approx((0.0385, 0.0491), abs=1e-4)
    streamed = datasets.criteo(path, in_memory=False)
    train, test = streamed.split([0.7, 0.3], seed=0)
    assert len(train) + len(test) == 140_000
    matrix = build_preprocessor(train)(next(iter(test.batches(5000, shuffle=True)))[0])
    assert np.isfinite(matrix.numpy()).all() and np.abs(matrix.numpy().mean()) < 0.2


def test_criteo_csv_sample_never_yields_exposure():
    data = datasets.criteo(shared("criteo_uplift_10k.csv"))
    assert len(data) == 10_000 and not AFTER_TREATMENT & set(data.feature_names)


def test_hillstrom_sample():
    data = datasets.hillstrom(shared("hillstrom.csv"))
    assert len(data) == 64_000
    assert data.treatment_names == ["No E-Mail", "Womens E-Mail", "Mens E-Mail"]
    assert not AFTER_TREATMENT & set(data.feature_names)
    assert [arm.response for arm in data.describe().arms] == pytest.approx(
        [0.106, 0.151, 0.183], abs=1e-3
    )
    assert [arm.cost for arm in data.describe().arms] == pytest.approx([0, 0.05, 0.10])
    assert not data.describe().warnings
    assert datasets.hillstrom(shared("hillstrom.csv"), response="spend").response_kind == (
        "nonnegative"
    )


def test_donations_with_cost_on_response():
    path = shared("karlan_list_2007.csv")
    frame = pd.read_csv(path)[["freq", "HPA", "years", "female", "ratio", "gave", "amount"]]
    frame["match"] = frame["ratio"] * frame["amount"]
    data = RCTData.from_frame(
        frame, treatment="ratio", response="gave", cost="match", missing="indicator",
        features=["freq", "HPA", "years", "female"],
    )  # fmt: skip
    assert data.num_treatments == 4
    assert (data.cost[data.response == 0] == 0).all()
