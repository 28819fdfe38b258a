"""Loaders of public trials: Criteo Uplift and Hillstrom's e-mail challenge.

Neither is shipped: give the path of a file you downloaded, or let tensorflow-datasets fetch
Criteo (CC BY-NC-SA 4.0).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from tfalloc.data import RCTData
from tfalloc.data.tables import tfds_builder

CRITEO_URL = "https://ailab.criteo.com/criteo-uplift-prediction-dataset/"
HILLSTROM_URL = "https://blog.minethatdata.com/2008/03/minethatdata-e-mail-analytics-and-data.html"
CRITEO_FEATURES = [f"f{j}" for j in range(12)]
HILLSTROM_FEATURES = [
    "recency",
    "history_segment",
    "history",
    "mens",
    "womens",
    "zip_code",
    "newbie",
    "channel",
]
HILLSTROM_COST = {"No E-Mail": 0.0, "Womens E-Mail": 0.05, "Mens E-Mail": 0.10}


def criteo(
    path: str | os.PathLike[str] | None = None,
    *,
    response: str = "conversion",
    cost: str | Mapping[Any, float] = "visit",
    sha256: str | None = None,
    in_memory: bool | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> RCTData:
    """Loads Criteo Uplift v2.1 (13,979,592 rows; 15 % control, 85 % treated).

    Features are f0 … f11 only: `exposure`, and whichever of visit and conversion is not used,
    happen after the treatment.

    Args:
      path: the official CSV (also .gz), or Parquet (file, glob, directory). None asks
        tensorflow-datasets, which downloads 300 MB once and keeps them.
      response: response column.
      cost: cost column, or a mapping such as {0: 0.0, 1: 0.01}.
      sha256: expected checksum of the file at `path`.
      in_memory: as `RCTData.from_parquet`; for Parquet only.
      data_dir: where tensorflow-datasets keeps its data.

    Raises:
      FileNotFoundError: nothing at `path`.
      ValueError: a checksum differs, no network, or the file is not Criteo's.
    """
    columns: dict[str, Any] = {
        "treatment": "treatment",
        "response": response,
        "cost": cost,
        "features": CRITEO_FEATURES,
    }
    if path is None:
        if sha256 is not None:
            raise ValueError(
                "sha256 was given without path; expected both: tensorflow-datasets checks its own "
                "download."
            )
        return RCTData.from_tfds(_criteo_builder(data_dir), split="train", **columns)
    check_sha256(path, sha256)
    if ".csv" in os.path.basename(os.fspath(path)):
        return RCTData.from_csv(path, **columns)
    return RCTData.from_parquet(path, in_memory=in_memory, **columns)


def _criteo_builder(data_dir: str | os.PathLike[str] | None) -> Any:
    builder = tfds_builder("criteo", data_dir=data_dir)
    try:
        builder.download_and_prepare()
    except Exception as error:  # no network, no disk, a moved file: tfds raises many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ValueError(
            f"Criteo Uplift could not be downloaded ({reason}); expected a network: download it "
            f"from {CRITEO_URL} elsewhere and pass path=."
        ) from error
    return builder


def hillstrom(
    path: str | os.PathLike[str] | None = None,
    *,
    response: str = "visit",
    cost: str | Mapping[Any, float] | None = None,
    sha256: str | None = None,
) -> RCTData:
    """Loads Kevin Hillstrom's e-mail challenge of 2008 (64,000 rows, three arms of a third).

    Arms in order: No, Womens, Mens E-Mail. Features: recency, history_segment, history, mens,
    womens, zip_code, newbie, channel; visit, conversion and spend happen after the mail and are
    never features.

    Args:
      path: the CSV; see the message of the error when it is None for where to get it.
      response: "visit", "conversion" or "spend".
      cost: cost per mail. **The data have none**: the default, 0 / 0.05 / 0.10, is our
        assumption, chosen so that the better mail costs more.
      sha256: expected checksum of the file.

    Raises:
      FileNotFoundError: nothing at `path`.
      ValueError: no path, a checksum differs, or the file is not Hillstrom's.
    """
    if path is None:
        raise ValueError(
            f"hillstrom needs path=: download Hillstrom's CSV from {HILLSTROM_URL} and pass it."
        )
    check_sha256(path, sha256)
    return RCTData.from_csv(
        path,
        treatment="segment",
        response=response,
        features=HILLSTROM_FEATURES,
        cost=HILLSTROM_COST if cost is None else cost,
        treatments=list(HILLSTROM_COST),
    )


def check_sha256(path: str | os.PathLike[str], expected: str | None) -> None:
    """Raises ValueError unless the file's SHA-256 is `expected` (None: no check)."""
    if expected is None:
        return
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no file at {os.fspath(path)} to take the sha256 of.")
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(2**20), b""):
            digest.update(chunk)
    if digest.hexdigest() != expected.lower():
        raise ValueError(
            f"sha256 of {os.fspath(path)} is {digest.hexdigest()}; expected {expected}: the file "
            "is truncated or another version, download it again."
        )
