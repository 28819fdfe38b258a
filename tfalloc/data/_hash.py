"""Stateless random numbers for rows: the same row gets the same number however it is read.

A split decided by a generator depends on how many rows were read before; a split decided by a
hash of (seed, row number) does not, so streaming and in-memory data are split identically.
"""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """The SplitMix64 finaliser (Steele, Lea and Flood 2014), elementwise on uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def key(seed: int, depth: int) -> int:
    """Returns the key of one split: `depth` counts the splits above it.

    Depth is part of the key so that splitting a part again with the same seed is independent of
    the split that made the part.
    """
    with np.errstate(over="ignore"):
        state = np.array([seed % 2**64], np.uint64) * _GOLDEN + np.uint64(1)
        return int(_mix(_mix(state) + np.uint64(depth + 1) * _GOLDEN)[0])


def uniform(row: np.ndarray, split_key: int) -> np.ndarray:
    """Returns a number in [0, 1) for each row number.

    Args:
        row: row numbers in the original trial, int64 [N].
        split_key: from `key`.

    Returns:
        float64 [N].

    Example:
        >>> import numpy as np
        >>> whole, part = (uniform(np.arange(a, 9), key(0, 0)) for a in (0, 3))
        >>> bool((whole[3:] == part).all())
        True
    """
    with np.errstate(over="ignore"):
        mixed = _mix(_mix(row.astype(np.uint64) * _GOLDEN + np.uint64(split_key)) + _GOLDEN)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
