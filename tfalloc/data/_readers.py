"""Files and tensorflow-datasets to frames or sources, with one-line errors."""

from __future__ import annotations

import csv
import os
import zlib
from typing import Any

import pandas as pd

from tfalloc.data import _schema
from tfalloc.data._block import Schema, concatenate
from tfalloc.data._errors import require_unique
from tfalloc.data._memory import MemorySource
from tfalloc.data._parquet import ParquetSource, ParquetTable

IN_MEMORY_BYTES = 2**30
"""Raw size below which `from_parquet` loads by default."""


def read_csv(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Returns a CSV file as a frame; refuses missing, empty, corrupt files and repeated columns."""
    text = os.fspath(path)
    if not os.path.isfile(text):
        raise FileNotFoundError(f"no CSV file at {text}; expected the path of a file.")
    try:
        # pandas would rename a second "a" to "a.1" without a word: read the header as data.
        header = pd.read_csv(text, header=None, nrows=1, dtype=str, keep_default_na=False)
        require_unique([str(name) for name in header.iloc[0]])
        return pd.read_csv(text)
    except pd.errors.EmptyDataError:
        raise ValueError(f"{text} is empty; expected a header line and rows.") from None
    except (
        pd.errors.ParserError,
        UnicodeDecodeError,
        EOFError,
        OSError,
        zlib.error,
        csv.Error,
    ) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"cannot read {text} as CSV ({reason}); expected comma-separated UTF-8 text: the file "
            "is probably corrupt or truncated."
        ) from error


def read_parquet(
    path: str | os.PathLike[str],
    in_memory: bool | None,
    *,
    treatment: str,
    response: str,
    cost: Any,
    features: Any = None,
    propensity: Any = None,
    sample_weight: str | None = None,
    treatments: Any = None,
    missing: str = "error",
) -> tuple[Schema, MemorySource | ParquetSource]:
    """Returns the schema and rows of Parquet files; arguments as `RCTData.from_parquet`."""
    table = ParquetTable(path)
    require_unique(table.columns)
    if table.num_rows == 0:
        raise ValueError(f"{table.path} is empty (0 rows); expected at least one row per arm.")
    roles, schema = _schema.build(
        table.columns,
        table.head(),
        table.chunks,
        treatment=treatment,
        response=response,
        cost=cost,
        features=features,
        propensity=propensity,
        sample_weight=sample_weight,
        treatments=treatments,
        missing=missing,
    )
    source = ParquetSource(table, roles, schema)
    if in_memory is None:
        in_memory = table.raw_bytes < IN_MEMORY_BYTES
    if not in_memory:
        return schema, source
    # Encoding while streaming keeps the peak near twice the packed size, whatever pandas needs.
    return schema, MemorySource(concatenate(list(source.blocks())))


def read_tfds(source: Any, split: str) -> pd.DataFrame:
    """Returns a TFDS name, builder or dataset of dicts as a frame."""
    import tensorflow as tf

    if isinstance(source, str):
        source = tfds_builder(source)
    if not isinstance(source, tf.data.Dataset):
        try:
            source.download_and_prepare()
            source = source.as_dataset(split=split)
        except Exception as error:  # tfds raises dozens of kinds, most of them about the network
            raise ValueError(
                f"tensorflow-datasets could not prepare {getattr(source, 'name', source)!r}, split "
                f"{split!r} ({_first_line(error)}); expected a network or prepared data: download "
                "the data elsewhere and pass its path."
            ) from error
    spec = source.element_spec
    if not isinstance(spec, dict):
        raise ValueError(
            f"the dataset yields {type(spec).__name__} elements; expected dicts of columns: do not "
            "use as_supervised."
        )
    ranks = {name: getattr(part, "shape", tf.TensorShape(None)).rank for name, part in spec.items()}
    if set(ranks.values()) == {0}:
        source = source.batch(65_536)
    elif set(ranks.values()) != {1}:
        raise ValueError(
            f"the dataset's columns have ranks {ranks}; expected scalars, or batches of scalars."
        )
    frames = [pd.DataFrame(batch) for batch in source.as_numpy_iterator()]
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(spec))
    for name, part in spec.items():
        if part.dtype == tf.string:
            frame[name] = [v.decode() if isinstance(v, bytes) else v for v in frame[name]]
    return frame


def tfds_builder(name: str, **options: Any) -> Any:
    """Returns a TFDS builder by name, or a ValueError that says what is absent."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(
            f"reading {name!r} needs tensorflow-datasets, which is not installed: "
            "pip install tensorflow-datasets, or pass a path."
        ) from error
    try:
        return tfds.builder(name, **options)
    except Exception as error:
        raise ValueError(
            f"tensorflow-datasets has no usable {name!r} ({_first_line(error)}); expected one of "
            "its data set names."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
