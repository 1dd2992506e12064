"""Many small networks that train as one array program, in plain NumPy.

Every parameter carries a leading *runs* axis: a kernel has the shape [runs, inputs, units]. A run
is one network with its own seed, learning rate or initial scale, and all runs take each step
together. A sweep of seeds x learning rates is then as easy to write as one training run, and quick.

Runs with the same seed start from the same weights and see the same mini-batches, whichever other
runs stand beside them, and whatever normalization the network has. Differences between arms are
therefore paired.

A run that diverges turns into NaN and stays so: its loss is NaN, it raises no warning, and the
other runs do not notice.

Example:
    >>> import numpy as np
    >>> runs = grid(seed=range(3), learning_rate=[0.1, 1.0])
    >>> net = mlp([2, 16, 2], seeds=runs.seed, norm=BatchNorm(momentum=0.9))
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> y = (x[:, 0] > x[:, 1]).astype(int)
    >>> history = fit(net, x, y, loss=softmax_cross_entropy, optimizer=SGD(runs.learning_rate),
    ...               steps=20, batch_size=50)
    >>> history["loss"].shape, runs.reshape(accuracy(net, x, y)).shape
    ((6, 20), (3, 2))

`mlp` builds dense and `cnn` convolutional networks, `norm=` says how they are normalized, and `fit`
trains them.
`REVISION` is raised whenever the numbers that this engine computes change. What was measured with
it keeps the number, so that it can be told whether it would come out again.
"""

from bnutils.network.builders import cnn, mlp
from bnutils.network.convolutions import (
    AveragePool2D,
    Conv2D,
    Flatten,
    GlobalAveragePool2D,
    MaxPool2D,
)
from bnutils.network.grid import Grid, grid
from bnutils.network.layers import Activation, Dense, Dropout, sigmoid
from bnutils.network.losses import (
    accuracy,
    evaluate,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    squared_error,
)
from bnutils.network.model import Network
from bnutils.network.norms import (
    BatchNorm,
    BatchRenorm,
    GhostBatchNorm,
    GroupNorm,
    InferenceBatchNorm,
    LayerNorm,
    Norm,
)
from bnutils.network.optimizers import SGD, Adam, Optimizer
from bnutils.network.training import History, fit

__all__ = [
    "REVISION",
    "SGD",
    "Activation",
    "Adam",
    "AveragePool2D",
    "BatchNorm",
    "BatchRenorm",
    "Conv2D",
    "Dense",
    "Dropout",
    "Flatten",
    "GhostBatchNorm",
    "GlobalAveragePool2D",
    "Grid",
    "GroupNorm",
    "History",
    "InferenceBatchNorm",
    "LayerNorm",
    "MaxPool2D",
    "Network",
    "Norm",
    "Optimizer",
    "accuracy",
    "cnn",
    "evaluate",
    "fit",
    "grid",
    "mlp",
    "sigmoid",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "squared_error",
]

REVISION: int = 2
"""Raised whenever the numbers that the engine computes change."""
