"""Quiet TensorFlow, repeatable property tests."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from hypothesis import settings

settings.register_profile("tfalloc", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("tfalloc")
