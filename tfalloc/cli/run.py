"""A run's directory: what `train` leaves and the other commands read."""

from __future__ import annotations

import dataclasses
import json
import math
import zipfile
from pathlib import Path
from typing import Any

from tfalloc.cli.trial import Columns

MODEL, CONFIG, METRICS = "model.keras", "config.json", "metrics.json"
HISTORY, CURVE, PLOTS = "history.csv", "outcome_curve.csv", "plots"


def write_json(path: Path, content: Any) -> None:
    """Writes JSON; what is not finite becomes null, because JSON has no NaN."""
    path.write_text(json.dumps(_plain(content), indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_config(directory: Path) -> dict[str, Any]:
    """Reads a run's config.json.

    Raises:
      ValueError: the directory is not a run, or its config is damaged.
    """
    if not directory.exists():
        raise FileNotFoundError(f"no directory {directory}; expected what `tfalloc train` left.")
    for name in (CONFIG, MODEL):
        if not (directory / name).is_file():
            raise ValueError(
                f"{directory} is not a model directory: it has no {name}; expected what `tfalloc "
                "train --output` left."
            )
    try:
        config = json.loads((directory / CONFIG).read_text("utf-8"))
        columns_of(config)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"cannot read {directory / CONFIG} ({error}); expected the file that `tfalloc train` "
            "wrote: it is damaged or was edited."
        ) from error
    return config


def columns_of(config: dict[str, Any]) -> Columns:
    """The trial's columns, as the run resolved them."""
    return Columns(**config["columns"])


def load_model(directory: Path) -> Any:
    """Loads a run's model.

    Raises:
      ValueError: the file is damaged.
    """
    import keras

    import tfalloc.models  # noqa: F401  (registers AllocationModel with Keras)

    path = directory / MODEL
    if not zipfile.is_zipfile(path):
        raise ValueError(f"cannot read {path}: it is corrupt or truncated; train it again.")
    try:
        return keras.saving.load_model(path)
    # Keras raises whatever the damaged part happens to hit: zip, HDF5, JSON, type errors.
    except Exception as error:
        raise ValueError(
            f"cannot load {path} ({type(error).__name__}: {str(error)[:200]}); expected a model "
            "that `tfalloc train` saved: it is corrupt, or of another version."
        ) from error


def record(columns: Columns) -> dict[str, Any]:
    """Columns as JSON."""
    return dataclasses.asdict(columns)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
