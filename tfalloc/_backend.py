"""Keras must run on TensorFlow: said in one line where Keras is first needed."""

from __future__ import annotations

import os


def require_tensorflow() -> None:
    """Raises ImportError unless Keras computes with TensorFlow.

    Keras chooses its backend once, when it is first imported, from `KERAS_BACKEND` or else from
    `~/.keras/keras.json`.
    """
    try:
        import keras
    except ImportError as error:
        wanted = os.environ.get("KERAS_BACKEND", "tensorflow")
        if wanted == "tensorflow":
            raise
        raise ImportError(_message(wanted)) from error
    if keras.backend.backend() != "tensorflow":
        raise ImportError(_message(keras.backend.backend()))


def _message(backend: str) -> str:
    return (
        f"tfalloc needs Keras to run on TensorFlow, but its backend is {backend!r}: set the "
        "environment variable KERAS_BACKEND=tensorflow before the first import of keras."
    )
