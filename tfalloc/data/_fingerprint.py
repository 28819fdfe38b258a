"""A short name for exactly these rows, in this order."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from tfalloc.data._block import Schema
from tfalloc.data._memory import MemorySource
from tfalloc.data._parquet import ParquetSource
from tfalloc.data._stats import TrialStats


def fingerprint(schema: Schema, source: MemorySource | ParquetSource, stats: TrialStats) -> str:
    """Returns what `RCTData.fingerprint` documents."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(repr((schema.kinds, schema.categories, schema.arms.names)).encode())
    digest.update(repr((schema.missing, schema.matrix, schema.weighted)).encode())
    if isinstance(source, MemorySource):
        for field in dataclasses.fields(source.block):
            column = getattr(source.block, field.name)
            if column is not None:
                digest.update(np.ascontiguousarray(column).reshape(-1).view(np.uint8).data)
    else:
        digest.update(repr((source.table.group_rows, source.parts)).encode())
        for moments in (stats.rows, stats.w, stats.wy, stats.w2yy, stats.wz, stats.w2zz):
            digest.update(moments.tobytes())
        digest.update(stats.feature_mean.tobytes() + stats.feature_variance.tobytes())
        digest.update(repr([counts.tolist() for counts in stats.counts]).encode())
    return digest.hexdigest()
