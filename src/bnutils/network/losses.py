"""Losses with their gradients, and how well a network does.

A loss is a function of the outputs, [runs, batch, k], and the targets. It returns the mean loss of
each run, [runs], and its gradient for the outputs, [runs, batch, k].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from bnutils.network.layers import sigmoid

if TYPE_CHECKING:
    from bnutils.network.model import Network

__all__ = [
    "Loss",
    "accuracy",
    "check_loss",
    "evaluate",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "squared_error",
]

Loss = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

_SOFTMAX = "network.softmax_cross_entropy, which takes logits and integer labels"
_SIGMOID = "network.sigmoid_cross_entropy, which takes one logit and labels 0 and 1"
_SQUARED = "network.squared_error"
_ELSEWHERE = {
    "mse": _SQUARED,
    "mean_squared_error": _SQUARED,
    "mseloss": _SQUARED,
    "sparse_categorical_crossentropy": _SOFTMAX,
    "categorical_crossentropy": _SOFTMAX,
    "crossentropyloss": _SOFTMAX,
    "cross_entropy": _SOFTMAX,
    "binary_crossentropy": _SIGMOID,
    "bcewithlogitsloss": _SIGMOID,
    "bce": _SIGMOID,
}


def check_loss(loss: Loss) -> None:
    """Refuse what is no loss, and say which one is meant.

    Args:
        loss: what was given as a loss.

    Raises:
        ValueError: if it is not a function.
    """
    if callable(loss):
        return
    meant = _ELSEWHERE.get(str(loss).lower().replace(" ", "_").replace("-", "_"))
    known = "network.softmax_cross_entropy, network.sigmoid_cross_entropy or network.squared_error"
    raise ValueError(f"expected loss to be a function, got {loss!r}: pass {meant or known}")


def softmax_cross_entropy(logits: np.ndarray, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Mean cross-entropy of softmax(logits) for each run.

    Args:
        logits: array [runs, batch, classes].
        labels: integer array [batch], shared by all runs, or [runs, batch], from 0 to classes - 1.

    Returns:
        The loss, array [runs], and its gradient for the logits, array [runs, batch, classes].

    Raises:
        ValueError: if a shape does not fit, or a label is no class.
    """
    runs, batch, classes = logits.shape
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.shape not in ((batch,), (runs, batch)):
        raise ValueError(
            f"expected integer labels of the shape {(batch,)} or {(runs, batch)}, "
            f"got {labels.dtype} of the shape {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"expected labels from 0 to {classes - 1}, got {labels.min()} to {labels.max()}"
        )
    labels = np.broadcast_to(labels, (runs, batch))[:, :, None]
    with np.errstate(all="ignore"):
        z = logits - logits.max(axis=-1, keepdims=True)
        d = np.exp(z)
        total = d.sum(axis=-1, keepdims=True)
        loss = (np.log(total) - np.take_along_axis(z, labels, -1)).mean(axis=(1, 2))
        d /= total
        np.put_along_axis(d, labels, np.take_along_axis(d, labels, -1) - 1, -1)
        d /= batch
    return loss, d


def sigmoid_cross_entropy(logits: np.ndarray, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Mean cross-entropy of sigmoid(logit) for each run, in two classes.

    Args:
        logits: array [runs, batch, 1].
        labels: array of 0 and 1, [batch] or [runs, batch]; a last axis of length 1 may follow.

    Returns:
        The loss, array [runs], and its gradient for the logits, array [runs, batch, 1].

    Raises:
        ValueError: if a shape does not fit, or a label is neither 0 nor 1.
    """
    if logits.shape[-1] != 1:
        raise ValueError(f"expected one logit for each row, got the shape {logits.shape}")
    labels = np.asarray(labels)
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError(
            f"expected labels 0 and 1, got values from {labels.min()} to {labels.max()}"
        )
    t = _targets(logits, labels)
    with np.errstate(all="ignore"):
        # log(1 + exp(z)) - z t, without overflow
        terms = np.maximum(logits, 0) - logits * t + np.log1p(np.exp(-np.abs(logits)))
        d = sigmoid(logits)
        d -= t
        d /= logits.shape[1]
        return terms.mean(axis=(1, 2)), d


def squared_error(outputs: np.ndarray, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared error for each run, over rows and outputs, as in Keras.

    Args:
        outputs: array [runs, batch, k].
        targets: array [batch, k], shared by all runs, or [runs, batch, k]; where k is 1, the last
            axis may be missing.

    Returns:
        The loss, array [runs], and its gradient for the outputs, array [runs, batch, k].

    Raises:
        ValueError: if the shape of the targets does not fit.
    """
    with np.errstate(all="ignore"):
        d = outputs - _targets(outputs, targets)
        loss = np.einsum("rbk,rbk->r", d, d) / d[0].size
        d *= 2 / d[0].size
    return loss, d


def _targets(outputs: np.ndarray, targets: ArrayLike) -> np.ndarray:
    """Bring targets to a shape that broadcasts against outputs [runs, batch, k]."""
    targets = np.asarray(targets, dtype=outputs.dtype)
    runs, batch, k = outputs.shape
    if k == 1 and targets.shape in ((batch,), (runs, batch)):
        targets = targets[..., None]
    if targets.shape not in ((batch, k), (runs, batch, k)):
        raise ValueError(
            f"expected targets of the shape {(batch, k)} or {(runs, batch, k)}, got {targets.shape}"
        )
    return targets


def accuracy(net: Network, x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Share of rows that each run classifies correctly, in inference mode.

    An output that is not a number predicts nothing and counts as wrong.

    Args:
        net: a `Network` whose outputs are the logits of the classes, or one logit.
        x: array [rows, ...], shared by all runs, or [runs, rows, ...].
        y: integer labels, array [rows] or [runs, rows].

    Returns:
        Array [runs].

    Raises:
        ValueError: if the labels don't fit the rows.
    """
    logits = net(x)
    y = np.asarray(y)
    if y.shape not in (logits.shape[1:2], logits.shape[:2]):
        raise ValueError(
            f"expected labels of the shape {logits.shape[1:2]} or {logits.shape[:2]}, got {y.shape}"
        )
    predicted = logits[..., 0] > 0 if logits.shape[-1] == 1 else logits.argmax(axis=-1)
    right = (predicted == y) & ~np.isnan(logits).any(axis=-1)
    return right.mean(axis=1)


def evaluate(net: Network, x: ArrayLike, y: ArrayLike, loss: Loss) -> np.ndarray:
    """Mean loss of each run in inference mode.

    Args:
        net: a `Network`.
        x: array [rows, ...], shared by all runs, or [runs, rows, ...].
        y: targets, as `loss` takes them.
        loss: such as `squared_error`; its root is then the RMSE.

    Returns:
        Array [runs], NaN for a run that has diverged.
    """
    check_loss(loss)
    return loss(net(x), y)[0]
