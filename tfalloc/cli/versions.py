"""Starting TensorFlow quietly, and the versions that a run records."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext


def package_version() -> str:
    """Version of this package."""
    from tfalloc._version import __version__

    return __version__


def start_tensorflow(seed: int | None = None) -> None:
    """Imports TensorFlow without its C++ chatter and fixes all seeds.

    The log level must be in the environment before the import. A command's output is for people,
    so the "1" that importing this package sets is not quiet enough; another level that the user
    has chosen stays.

    Args:
      seed: of Python, NumPy and TensorFlow; None leaves them alone.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    # TensorFlow 2.21 greets on stderr at import whatever the level.
    with _silent_stderr() if os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3" else nullcontext():
        import keras
        import tensorflow  # noqa: F401
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if seed is not None:
        keras.utils.set_random_seed(seed)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Sends file descriptor 2 to nowhere: C++ does not know `sys.stderr`. Exceptions still rise."""
    try:
        kept = os.dup(2)
    except OSError:  # no stderr at all
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def versions() -> dict[str, str]:
    """Versions of the package and of what its numbers depend on."""
    import keras
    import numpy as np
    import tensorflow as tf

    return {
        "tfalloc": package_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
