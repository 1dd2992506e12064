"""What the studies of several chapters share: the parts of the data, and accuracy on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bnutils import network
from bnutils.data import Dataset

__all__ = ["DIGITS_OVERLAP", "MNIST_OVERLAP", "PARTS", "Settings", "accuracies", "pictures"]

PARTS = ["validation", "test"]
MNIST_OVERLAP = 500 / 4000  # test over training images
DIGITS_OVERLAP = 400 / 1097

Settings = Mapping[str, Any]


def pictures(x: np.ndarray) -> np.ndarray:
    """Rows of 64 pixels as images of 8 by 8 with one channel."""
    return x.reshape(-1, 8, 8, 1)


def accuracies(
    net: network.Network,
    dataset: Dataset,
    inputs: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> np.ndarray:
    """Accuracy on the validation and the test part.

    Args:
        net: a network of classes.
        dataset: the data.
        inputs: turns the rows of the data into what the network takes.

    Returns:
        Array [runs, 2].
    """
    parts = (getattr(dataset, part) for part in PARTS)
    return np.stack([network.accuracy(net, inputs(part.x), part.y) for part in parts], axis=1)
