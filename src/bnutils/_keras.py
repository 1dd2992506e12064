"""Keras on TensorFlow, started without TensorFlow's greeting on stderr. Import keras from here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _silent_stderr() -> Iterator[None]:
    screen = os.dup(2)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)


# TensorFlow's first messages come before it reads any setting, straight to file descriptor 2.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with _silent_stderr():
    import keras
    import tensorflow as tf

if (backend := keras.backend.backend()) in ("jax", "numpy", "openvino", "torch"):
    raise ImportError(
        f"expected Keras to run on TensorFlow, but its backend is {backend!r}: "
        "set KERAS_BACKEND=tensorflow before keras is imported"
    )

__all__ = ["keras", "tf"]
