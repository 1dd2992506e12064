"""How far the outputs of two models are from each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnutils._keras import tf

__all__ = ["difference", "largest", "largest_difference", "numbers", "values"]


def values(tensor: Any) -> np.ndarray:
    """The values of a tensor, of a sparse or a ragged one with its zeros."""
    if isinstance(tensor, tf.SparseTensor):
        tensor = tf.sparse.to_dense(tensor)
    elif isinstance(tensor, tf.RaggedTensor):
        tensor = tensor.to_tensor()
    return tf.convert_to_tensor(tensor).numpy()


def numbers(tensor: Any) -> np.ndarray:
    """The values of a tensor; numbers in float64."""
    found = values(tensor)
    return found if found.dtype == object else found.astype(np.float64)


def difference(expected: np.ndarray, found: np.ndarray) -> float:
    """The largest difference; infinite where shapes, text or what is not finite differ."""
    if expected.shape != found.shape:
        return np.inf
    same = expected == found
    if same.all() or expected.dtype == object:
        return 0.0 if same.all() else np.inf
    both = np.isnan(expected) & np.isnan(found)
    gaps = np.where(same | both, 0.0, np.abs(expected - np.where(both, 0, found)))
    return float(np.nan_to_num(gaps, nan=np.inf).max(initial=0))


def largest(array: np.ndarray) -> float:
    """The largest magnitude, of what is finite; 1 for text."""
    if array.dtype == object:
        return 1.0
    return np.abs(array).max(initial=0, where=np.isfinite(array))


def largest_difference(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
    """That of several outputs, each in units of its own largest one: the largest of all."""
    tiny = np.finfo(np.float64).tiny
    pairs = zip(before, after, strict=True)
    return float(max(difference(a, b) / max(largest(a), tiny) for a, b in pairs))
