"""Many small networks that train as one array program, in plain NumPy.

Every parameter carries a leading *runs* axis: a kernel has the shape [runs, inputs, units]. A run
is one network with its own seed, learning rate or initial scale, and all runs take each step
together. A sweep of seeds x learning rates is then as easy to write as one training run, and quick.

Runs with the same seed start from the same weights and see the same mini-batches, whichever other
runs stand beside them, and whether or not the network has batch normalization (BN). Differences
between arms are therefore paired.

A run that diverges turns into NaN and stays so: its loss is NaN, it raises no warning, and the
other runs do not notice.

Example:
    >>> runs = grid(seed=range(3), learning_rate=[0.1, 1.0])
    >>> net = mlp([2, 16, 2], seeds=runs.seed, batch_norm=True)
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> y = (x[:, 0] > x[:, 1]).astype(int)
    >>> history = fit(net, x, y, loss=softmax_cross_entropy, optimizer=SGD(runs.learning_rate),
    ...               steps=20, batch_size=50)
    >>> history["loss"].shape, runs.reshape(accuracy(net, x, y)).shape
    ((6, 20), (3, 2))
"""

import itertools
import os
import sys
from contextlib import contextmanager
from functools import partial

import numpy as np
from tqdm import tqdm

from bnutils.norm import BatchNorm, batch_norm_grad
from bnutils.norm import batch_norm as normalize

__all__ = [
    "SGD",
    "Activation",
    "Adam",
    "BatchRenorm",
    "Dense",
    "Dropout",
    "GhostBatchNorm",
    "Grid",
    "GroupNorm",
    "History",
    "Network",
    "accuracy",
    "evaluate",
    "fit",
    "grid",
    "mlp",
    "sigmoid",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "squared_error",
]


# ------------------------------------------------------------------------------------------ grid


class Grid:
    """Every combination of some named values, flattened into one axis of runs.

    Made by `grid`. Each name is an attribute: an array [runs].

    Attributes:
        names: the names, in order, a tuple of strings.
        shape: how many values each name has, in the same order.
    """

    def __init__(self, values):
        """Lay out a dict from names to one-dimensional arrays; `grid` checks them first."""
        self.names = tuple(values)
        self.shape = tuple(len(value) for value in values.values())
        flat = np.meshgrid(*values.values(), indexing="ij")
        self.__dict__.update(zip(self.names, map(np.ravel, flat), strict=True))

    def __len__(self):
        """Count the runs."""
        return int(np.prod(self.shape))

    def __repr__(self):
        """Name the axes with their sizes."""
        sizes = ", ".join(f"{n}: {k}" for n, k in zip(self.names, self.shape, strict=True))
        return f"Grid({sizes}; {len(self)} runs)"

    def reshape(self, a):
        """Turn the runs axis of `a` back into one axis per name.

        Args:
            a: array [runs, ...].

        Returns:
            The same values, with one axis for each name in place of the runs axis.

        Raises:
            ValueError: if the first axis of `a` is not the runs axis.
        """
        a = np.asarray(a)
        if a.shape[:1] != (len(self),):
            raise ValueError(f"expected a first axis of {len(self)} runs, got the shape {a.shape}")
        return a.reshape(self.shape + a.shape[1:])


def grid(**values):
    """Lay out every combination of the given values as runs.

    Args:
        **values: one sequence of values for each name. The last name varies fastest.

    Returns:
        A `Grid`.

    Raises:
        ValueError: if no name is given, a sequence is empty or not one-dimensional, or a name is
            one that `Grid` uses itself.

    Example:
        >>> runs = grid(seed=range(10), learning_rate=[0.1, 1.0])
        >>> runs.learning_rate[:4], runs.shape
        (array([0.1, 1. , 0.1, 1. ]), (10, 2))
        >>> runs.reshape(np.zeros((20, 5))).shape
        (10, 2, 5)
    """
    if not values:
        raise ValueError("expected at least one name with its values, got none")
    arrays = {name: np.asarray(value) for name, value in values.items()}
    for name, array in arrays.items():
        if name in ("names", "shape", "reshape"):
            raise ValueError(f"{name!r} is an attribute of Grid, choose another name")
        if array.ndim != 1 or array.size == 0:
            raise ValueError(f"expected a non-empty sequence for {name!r}, got {values[name]!r}")
    return Grid(arrays)


# ---------------------------------------------------------------------------------------- layers


def sigmoid(x):
    """The logistic function 1 / (1 + exp(-x)), exact at both ends.

    Args:
        x: array of floats.

    Returns:
        Array like x, between 0 and 1.

    Example:
        >>> sigmoid(np.array([-1000.0, 0.0, 1000.0]))
        array([0. , 0.5, 1. ])
    """
    y = np.negative(x)
    with np.errstate(over="ignore"):  # exp(-x) = inf gives 1 / inf = 0, which is right
        np.exp(y, out=y)
    y += 1
    return np.reciprocal(y, out=y)


class Dense:
    """A fully connected layer for every run: y = x @ kernel + bias.

    Attributes:
        kernel: array [runs, inputs, units].
        bias: array [runs, 1, units], or None.
        dkernel: gradient of the kernel, after `backward`.
        dbias: gradient of the bias, after `backward`, or None.
    """

    def __init__(self, kernel, bias=None):
        """Make a layer of a kernel and a bias, which it keeps and does not copy."""
        self.kernel, self.bias = kernel, bias
        self.dkernel = np.empty_like(kernel)
        self.dbias = None if bias is None else np.empty_like(bias)
        self._x = None

    def __call__(self, x, training=False):
        """Apply the layer.

        Args:
            x: array [batch, inputs], shared by all runs, or [runs, batch, inputs].
            training: whether `backward` will follow.

        Returns:
            Array [runs, batch, units].
        """
        self._x = x if training else None
        y = np.matmul(x, self.kernel)
        if self.bias is not None:
            y += self.bias
        return y

    def backward(self, dy, input_gradient=True):
        """Set dkernel and dbias, and return the gradient of the input.

        Args:
            dy: array [runs, batch, units], the gradient of the output.
            input_gradient: whether the gradient of the input is wanted. The first layer of a
                network does not need it.

        Returns:
            Array [runs, batch, inputs], or None.
        """
        np.matmul(self._x.swapaxes(-1, -2), dy, out=self.dkernel)
        if self.bias is not None:
            # A product with ones: four times as fast as a sum over the middle axis.
            np.matmul(np.ones((1, dy.shape[1]), dy.dtype), dy, out=self.dbias)
        return np.matmul(dy, self.kernel.swapaxes(-1, -2)) if input_gradient else None


class Activation:
    """An elementwise function with its derivative: "relu", "sigmoid", "tanh" or "linear"."""

    NAMES = ("relu", "sigmoid", "tanh", "linear")

    def __init__(self, name):
        """Choose the function by its name."""
        if name not in self.NAMES:
            raise ValueError(f"expected an activation from {self.NAMES}, got {name!r}")
        self.name = name
        self._y = None

    def __call__(self, x, training=False):
        """Apply the function to an array of any shape."""
        match self.name:
            case "relu":
                y = np.maximum(x, 0)
            case "sigmoid":
                y = sigmoid(x)
            case "tanh":
                y = np.tanh(x)
            case _:
                y = x
        self._y = y if training else None
        return y

    def backward(self, dy):
        """Return the gradient of the input; every derivative is a function of the output."""
        y = self._y
        match self.name:
            case "relu":
                return dy * (y > 0)
            case "sigmoid":
                slope = 1 - y
                slope *= y
            case "tanh":
                slope = y * y
                np.subtract(1, slope, out=slope)
            case _:
                return dy
        slope *= dy
        return slope


class Dropout:
    """Inverted dropout: in training, each unit of each example is zero with probability `rate`.

    Srivastava et al. 2014, section 10. What is kept is divided by the keep rate 1 - rate, so the
    mean stays as it is, and inference changes nothing. The draws come from
    `np.random.default_rng([seed, 2, index])`: runs with the same seed drop the same units at the
    same rate, and what is dropped at a low rate is also dropped at a higher one.

    Args:
        rate: array [runs], from 0 to below 1.
        seeds: array [runs] of integers.
        index: tells the layers of a network apart.
    """

    def __init__(self, rate, seeds, index):
        """Make a layer of its rates."""
        self.rate = rate
        unique, self._which = np.unique(seeds, return_inverse=True)
        self._rngs = [np.random.default_rng([int(seed), 2, index]) for seed in unique]
        self._scale = None

    def __call__(self, x, training=False):
        """Apply the layer to an array [runs, batch, units]."""
        self._scale = None
        if not training:
            return x
        rate = self.rate[:, None, None]
        draws = np.stack([rng.random(x.shape[1:], dtype=x.dtype) for rng in self._rngs])
        self._scale = (draws[self._which] >= rate) / (1 - rate)
        return x * self._scale

    def backward(self, dy):
        """Return the gradient of the input."""
        return dy * self._scale


# --------------------------------------------------------------------- relatives of BN as layers


class GroupNorm:
    """Group normalization: statistics over the units of one example, group by group.

    Wu and He 2018, arXiv:1803.08494; with one group it is the layer normalization of Ba, Kiros and
    Hinton 2016, arXiv:1607.06450. An example never meets the others of its batch, so training and
    inference are the same and nothing is remembered.

    Args:
        gamma: array [runs, units], which the layer keeps and does not copy.
        beta: array [runs, units], likewise.
        groups: the number of groups of neighboring units; it divides the units.
        epsilon: added to the variance.

    Attributes:
        dgamma: gradient of gamma, after `backward`.
        dbeta: gradient of beta, after `backward`.
    """

    def __init__(self, gamma, beta, groups, epsilon=1e-3):
        """Make a layer of its parameters."""
        self.gamma, self.beta, self.groups, self.epsilon = gamma, beta, groups, epsilon
        self.dgamma = self.dbeta = self._kept = None

    def __call__(self, x, training=False):
        """Apply the layer to an array [runs, batch, units]; training prepares `backward`."""
        x_hat, cache = normalize(self._columns(x), None, None, epsilon=self.epsilon)
        x_hat = x_hat.T.reshape(x.shape)
        self._kept = (x_hat, cache) if training else None
        y = x_hat * self.gamma[:, None]
        y += self.beta[:, None]
        return y

    def backward(self, dy):
        """Set dgamma and dbeta, and return the gradient of the input."""
        x_hat, cache = self._kept
        self.dgamma = np.einsum("rbu,rbu->ru", dy, x_hat)
        self.dbeta = dy.sum(axis=1)
        dx, _, _ = batch_norm_grad(self._columns(dy * self.gamma[:, None]), cache)
        return dx.T.reshape(dy.shape)

    def _columns(self, a):
        """Make each group of each example a column: many short rows would be slow."""
        return np.ascontiguousarray(a.reshape(-1, a.shape[-1] // self.groups).T)


class GhostBatchNorm(BatchNorm):
    """BN in which sub-batches of each training batch have statistics of their own.

    Hoffer, Hubara and Soudry 2017, arXiv:1705.08741, call them ghost batches. The gradient is that
    of the whole batch. The moving statistics follow the mean and variance of the whole batch,
    merged from those of the ghost batches.

    Args:
        size: rows in a ghost batch, which follow each other.
        **options: of `BatchNorm`, for arrays [runs, batch, units].
    """

    def __init__(self, size, **options):
        """Set up the layer; its arrays are assigned before the first call."""
        super().__init__(axis=(0, -1), **options)
        self.size = size

    def __call__(self, x, training=False):
        """Normalize each ghost batch by itself (training), or all rows by the moving statistics.

        Args:
            x: array [runs, batch, units].
            training: as for `BatchNorm`.

        Raises:
            ValueError: as for `BatchNorm`; in training also if a ghost batch would be incomplete.
        """
        if not training:
            return super().__call__(x)
        rows = x.shape[1]
        if rows % self.size:
            raise ValueError(f"expected rows in ghost batches of {self.size}, got {rows} rows")
        ghosts = rows // self.size
        each = [np.repeat(p[:, None], ghosts, axis=1) for p in (self.gamma, self.beta)]
        y, self._cache = normalize(self._apart(x), *each, axis=(1, 2, 3), epsilon=self.epsilon)
        means, variances = self._cache.mean, self._cache.variance  # [runs, ghosts, units]
        new = 1 - self.momentum
        self.moving_mean = self.momentum * self.moving_mean + new * means.mean(axis=1)
        merged = variances.mean(axis=1) + means.var(axis=1)
        self.moving_variance = self.momentum * self.moving_variance + new * merged
        return self._together(y)

    def backward(self, dy):
        """Set dgamma and dbeta, and return the gradient of the input."""
        dx, dgamma, dbeta = batch_norm_grad(self._apart(dy), self._cache)
        self.dgamma, self.dbeta = dgamma.sum(axis=1), dbeta.sum(axis=1)
        return self._together(dx)

    def _apart(self, a):
        """Turn [runs, batch, units] into [size, runs, ghosts, units]; this order is fast."""
        return np.moveaxis(a.reshape(len(a), -1, self.size, a.shape[-1]), 2, 0)

    def _together(self, a):
        """Undo `_apart`."""
        return np.moveaxis(a, 0, 2).reshape(a.shape[1], -1, a.shape[-1])


class BatchRenorm(BatchNorm):
    """Batch renormalization: BN with its training output moved toward that of inference.

    Ioffe 2017, arXiv:1702.03275, Algorithm 1::

        y = gamma * (x_hat * r + d) + beta
        r = sd / moving_sd,  d = (mean - moving_mean) / moving_sd

    where sd is sqrt(variance + epsilon). The gradient takes r and d as constants. Without limits
    on them, training mode computes what inference with the moving statistics before the call does.
    Keras keeps a moving average of sd; this layer keeps that of the variance, as BN does.

    Args:
        r_max: r is limited to the range from 1 / r_max to r_max; at least 1.
        d_max: d is limited to the range from -d_max to d_max; at least 0.
        **options: of `BatchNorm`, for arrays [runs, batch, units].
    """

    def __init__(self, r_max, d_max, **options):
        """Set up the layer; its arrays are assigned before the first call."""
        super().__init__(axis=(0, -1), **options)
        self.r_max, self.d_max = r_max, d_max
        self._r = self._d = None

    def __call__(self, x, training=False):
        """Apply the layer to an array [runs, batch, units], as `BatchNorm` does."""
        if not training:
            return super().__call__(x)
        moving_mean, moving_variance = self.moving_mean, self.moving_variance
        y = super().__call__(x, training=True)
        moving_sd = np.sqrt(moving_variance + self.epsilon)
        sd = np.sqrt(self._cache.variance + self.epsilon)
        self._r = np.clip(sd / moving_sd, 1 / self.r_max, self.r_max)
        self._d = np.clip((self._cache.mean - moving_mean) / moving_sd, -self.d_max, self.d_max)
        y *= self._r[:, None]
        y += (self.gamma * self._d + self.beta * (1 - self._r))[:, None]
        return y

    def backward(self, dy):
        """Set dgamma and dbeta, and return the gradient of the input."""
        dx = super().backward(dy)
        dx *= self._r[:, None]
        self.dgamma = self._r * self.dgamma + self._d * self.dbeta
        return dx


_NORMALIZATIONS = (BatchNorm, GroupNorm)  # what does not take a run that has diverged


# --------------------------------------------------------------------------------------- network


class Network:
    """A stack of layers, for many runs at once. Made by `mlp`.

    Attributes:
        layers: the layers in order: `Dense`, `bnutils.norm.BatchNorm` or one of its relatives
            here, `Activation`, `Dropout`.
        names: a name for each layer, such as "dense_1", "bn_1", "relu_1". "bn_0" normalizes the
            input; "ln_1" is layer and "gn_1" group normalization.
        seeds: array [runs], the seed of each run.
        weights: array [runs, parameters]. The layers' parameters are views of it, so changing one
            changes the other.
        columns: dict from the name of each parameter, such as "dense_1/kernel", to the slice of
            the columns of `weights` that holds it.
        gradients: array like weights, filled by `backward`.
        dtype: float32 or float64.
    """

    def __init__(self, layers, names, seeds, inputs, outputs):
        """Join layers whose parameters exist; `mlp` makes them."""
        self.layers, self.names, self.seeds = layers, names, seeds
        self.inputs, self.outputs = inputs, outputs
        self._backward_ready = False
        self._join_parameters()

    def _join_parameters(self):
        """Move the parameters of all layers into one array, of which they become views."""
        found = [
            (layer, name, f"{layer_name}/{name}")
            for name in ("gamma", "beta", "kernel", "bias")
            for layer, layer_name in zip(self.layers, self.names, strict=True)
            if getattr(layer, name, None) is not None
        ]
        values = [getattr(layer, name) for layer, name, _ in found]
        self.dtype = values[0].dtype
        self._limit = np.finfo(self.dtype).max ** 0.6
        self.weights = np.concatenate([v.reshape(len(v), -1) for v in values], axis=1)
        self.gradients = np.zeros_like(self.weights)
        self._bn_gradients = []
        self._bn_weights = self.weights[:, :0]
        self.columns = {}
        start = 0
        for (layer, name, full_name), value in zip(found, values, strict=True):
            stop = start + value[0].size
            self.columns[full_name] = slice(start, stop)
            setattr(layer, name, self.weights[:, start:stop].reshape(value.shape, copy=False))
            gradient = self.gradients[:, start:stop].reshape(value.shape, copy=False)
            if isinstance(layer, _NORMALIZATIONS):  # backward makes a new array each time
                self._bn_gradients.append((gradient, layer, f"d{name}"))
                self._bn_weights = self.weights[:, :stop]
            else:
                setattr(layer, f"d{name}", gradient)
            start = stop

    def __setstate__(self, state):
        """Restore a copied or pickled network, whose arrays are no longer views of one."""
        self.__dict__.update(state)
        self._join_parameters()

    @property
    def runs(self):
        """The number of runs."""
        return len(self.weights)

    def __repr__(self):
        """Name the layers and count the runs."""
        return f"Network({', '.join(self.names)}; {self.runs} runs)"

    def __call__(self, x, training=False):
        """Compute the output of every run.

        Args:
            x: array [batch, inputs], shared by all runs, or [runs, batch, inputs].
            training: True normalizes with the statistics of this batch, updates the moving
                statistics, drops units and prepares `backward`; False uses the moving statistics.

        Returns:
            Array [runs, batch, outputs]. NaN for a run that has diverged.

        Raises:
            ValueError: if x has the wrong shape, is not finite, or in training has fewer than two
                rows for BN.
        """
        return self._forward(x, batch_statistics=training, keep=training)

    def activations(self, x, training=False):
        """Compute the output of every layer; unlike a call, this changes nothing, drops nothing.

        Args:
            x: array [batch, inputs] or [runs, batch, inputs].
            training: whether BN uses the statistics of x (True) or the moving statistics.

        Returns:
            A list of pairs (name, array [runs, batch, units]), one for each layer in order.
        """
        outputs = []
        with self._momentum(1.0):
            self._forward(x, batch_statistics=training, keep=False, outputs=outputs)
        return list(zip(self.names, outputs, strict=True))

    def backward(self, d_output):
        """Fill `gradients` from the gradient of the output of the latest training call.

        Args:
            d_output: array [runs, batch, outputs].

        Raises:
            ValueError: if the latest call was not a training call.
        """
        if not self._backward_ready:
            raise ValueError("expected a call with training=True before backward")
        with np.errstate(all="ignore"):
            for layer in reversed(self.layers):
                if isinstance(layer, _NORMALIZATIONS):
                    d_output = self._batch_norm(layer.backward, d_output)
                elif layer is self.layers[0]:
                    layer.backward(d_output, input_gradient=False)
                else:
                    d_output = layer.backward(d_output)
        for gradient, layer, name in self._bn_gradients:
            gradient[...] = getattr(layer, name)

    def kernel_gradients(self, x, y, loss):
        """Compute the gradient of every kernel on one batch in training mode.

        No weight and no moving statistic changes.

        Args:
            x: array [batch, inputs] or [runs, batch, inputs].
            y: targets, as `loss` takes them.
            loss: such as `softmax_cross_entropy`.

        Returns:
            A list of arrays [runs, inputs, units], one for each `Dense` layer in order.
        """
        with self._momentum(1.0):
            _, d_output = loss(self(x, training=True), y)
        self.backward(d_output)
        return [layer.dkernel.copy() for layer in self.layers if isinstance(layer, Dense)]

    def recalibrate(self, x):
        """Set the moving statistics of every BN layer to the exact statistics of x.

        Layer after layer: what a BN layer sees has passed the ones before it with their new
        statistics. Afterwards inference on x equals training mode on x, unless there are ghost
        batches: x is then taken as a whole.

        Args:
            x: array [rows, inputs] or [runs, rows, inputs], usually the whole training set.
        """
        with self._momentum(0.0):
            self._forward(x, batch_statistics=True, keep=False, whole=True)

    @property
    def batch_norms(self):
        """The BN layers, in order."""
        return [layer for layer in self.layers if isinstance(layer, BatchNorm)]

    @contextmanager
    def _momentum(self, momentum):
        """Give every BN layer another momentum for a while: 1 keeps, 0 replaces statistics."""
        before = [layer.momentum for layer in self.batch_norms]
        try:
            for layer in self.batch_norms:
                layer.momentum = momentum
            yield
        finally:
            for layer, value in zip(self.batch_norms, before, strict=True):
                layer.momentum = value

    def _check_input(self, x):
        """Return x as an array of the dtype of the network."""
        with np.errstate(over="ignore"):
            x = np.asarray(x, dtype=self.dtype)
        if (
            x.ndim not in (2, 3)
            or x.shape[:-2] not in ((), (self.runs,))
            or x.shape[-1] != self.inputs
        ):
            raise ValueError(
                f"expected x of the shape [rows, {self.inputs}] or "
                f"[{self.runs}, rows, {self.inputs}], got {x.shape}"
            )
        flat = x.reshape(-1)
        with np.errstate(all="ignore"):
            size = np.dot(flat, flat)
        if not size < self._limit:  # also where something is NaN
            raise ValueError(
                "expected x to be finite and of a size that can be squared, got values from "
                f"{x.min()} to {x.max()}"
            )
        return x

    def _forward(self, x, batch_statistics, keep, outputs=None, whole=False):
        """Pass x through the layers.

        Args:
            x: array [batch, inputs] or [runs, batch, inputs].
            batch_statistics: whether BN layers run in training mode.
            keep: whether the other layers keep what `backward` needs.
            outputs: a list to which the output of each layer is appended.
            whole: whether BN normalizes all rows by their own statistics even where it has ghost
                batches or batch renormalization.

        Returns:
            The output of the last layer.
        """
        x = self._check_input(x)
        if x.ndim == 2 and isinstance(self.layers[0], BatchNorm):
            x = np.broadcast_to(x, (self.runs, *x.shape))
        self._backward_ready = keep
        with np.errstate(all="ignore"):  # a run may diverge; its loss will tell
            self._diverged(self._bn_weights)
            for layer in self.layers:
                if isinstance(layer, _NORMALIZATIONS):
                    plain = whole and isinstance(layer, BatchNorm)
                    call = partial(BatchNorm.__call__, layer) if plain else layer
                    x = self._batch_norm(partial(call, training=batch_statistics), x)
                else:
                    x = layer(x, training=keep)
                if outputs is not None:
                    outputs.append(x)
        return x

    def _batch_norm(self, call, a):
        """Call a normalization, which refuses what is not finite, though runs may have diverged.

        Args:
            call: the layer, or its `backward`.
            a: array [runs, batch, units].

        Returns:
            call(a), with NaN for the runs that have diverged.
        """
        diverged = self._diverged(a.reshape(self.runs, -1))
        if not diverged.any():
            return call(a)
        a = np.array(a)
        # not constant along rows or columns, so epsilon may be 0
        a[diverged] = np.arange(a.shape[1])[:, None] + np.arange(a.shape[2])
        b = call(a)
        b[diverged] = np.nan
        return b

    def _diverged(self, a):
        """Find the runs that BN would refuse, and make them NaN for good.

        A run has diverged once the root of the sum of squares of what reaches BN, forward or
        backward, or of the BN parameters, exceeds 3e11 in float32, 1e92 in float64. What BN does
        with numbers below that stays finite. The limit looks at one run at a time, so no run's
        fate depends on another.

        Args:
            a: array [runs, values].

        Returns:
            Boolean array [runs].
        """
        diverged = ~(np.vecdot(a, a) < self._limit)
        if diverged.any():
            for layer in self.layers:
                if isinstance(layer, Dense):
                    layer.kernel[diverged] = np.nan
            self._bn_weights[diverged] = 0  # BN gets parameters that it accepts
        return diverged


INITIALIZERS = {
    "he": lambda inputs, units: (2 / inputs) ** 0.5,
    "glorot": lambda inputs, units: (2 / (inputs + units)) ** 0.5,
    "lecun": lambda inputs, units: (1 / inputs) ** 0.5,
}


def mlp(
    widths,
    *,
    seeds,
    activation="relu",
    initializer="he",
    batch_norm=False,
    input_batch_norm=False,
    output_batch_norm=False,
    momentum=0.99,
    epsilon=1e-3,
    ghost_size=None,
    renorm=None,
    normalization=None,
    groups=None,
    dropout=0.0,
    use_bias=None,
    dtype=np.float32,
):
    """Build a multilayer perceptron, one copy for each run.

    Kernels are normal with mean 0, drawn from `np.random.default_rng(seed)` layer after layer;
    biases start at 0. The output is linear: the losses take logits.

    Args:
        widths: the number of inputs, of units in each hidden layer, and of outputs.
        seeds: sequence [runs] of integers. Runs with the same seed start from the same draws.
        activation: of the hidden layers: "relu", "sigmoid", "tanh" or "linear".
        initializer: the standard deviation of the kernels: "he" (sqrt(2 / inputs)), "glorot"
            (sqrt(2 / (inputs + units))), "lecun" (sqrt(1 / inputs)), a number, or one number for
            each run.
        batch_norm: BN in every hidden layer: False, True (before the activation) or "after" it.
        input_batch_norm: whether to normalize the input.
        output_batch_norm: whether to normalize the output: False, True, or a dict with `center`
            and `scale`, as in `dict(center=False, scale=False)`.
        momentum, epsilon: of every BN layer, as in Keras; epsilon also of layer and group
            normalization.
        ghost_size: rows in each ghost batch of the hidden BN layers, see `GhostBatchNorm`; None
            takes the whole batch.
        renorm: a pair (r_max, d_max) makes the hidden BN layers `BatchRenorm`; None does not.
        normalization: "layer" or "group" normalizes in every hidden layer, before the activation,
            over the units of one example, in place of BN; see `GroupNorm`.
        groups: the number of groups for normalization="group".
        dropout: share of the units of each hidden layer that `Dropout` drops after the activation
            (and after a BN that follows it): a number, or one number for each run.
        use_bias: None gives a bias to each dense layer that no BN layer follows, since BN
            subtracts any bias again; True or False decides for all of them.
        dtype: np.float32 or np.float64.

    Returns:
        A `Network`.

    Raises:
        ValueError: if an argument is not one of the above.

    Example:
        >>> mlp([64, 32, 10], seeds=range(5), batch_norm=True)
        Network(dense_1, bn_1, relu_1, dense_2; 5 runs)
    """
    widths = [int(w) for w in widths]
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"expected at least two positive widths, got {widths}")
    seeds = _check_seeds(seeds)
    if batch_norm not in (False, True, "after"):
        raise ValueError(f"expected batch_norm to be False, True or 'after', got {batch_norm!r}")
    _check_relatives(widths, batch_norm, ghost_size, renorm, normalization, groups)
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"expected dtype float32 or float64, got {dtype}")
    runs = len(seeds)
    scales = _kernel_scales(initializer, widths, runs)
    rates = np.asarray(dropout, dtype=float)
    if rates.shape not in ((), (runs,)) or not ((rates >= 0) & (rates < 1)).all():
        raise ValueError(
            f"expected dropout from 0 to below 1, one rate or {runs}, one for each run, "
            f"got {dropout!r}"
        )
    output_options = output_batch_norm if isinstance(output_batch_norm, dict) else {}
    if not output_options.keys() <= {"center", "scale"}:
        raise ValueError(
            f"expected output_batch_norm to be a dict with 'center' and 'scale', "
            f"got {output_batch_norm!r}"
        )

    plain = hidden = partial(BatchNorm, axis=(0, -1))
    if ghost_size is not None:
        hidden = partial(GhostBatchNorm, ghost_size)
    elif renorm is not None:
        hidden = partial(BatchRenorm, *renorm)

    def bn(units, kind=plain, **options):
        layer = kind(momentum=momentum, epsilon=epsilon, **options)
        if layer.scale:
            layer.gamma = np.ones((runs, units), dtype)
        if layer.center:
            layer.beta = np.zeros((runs, units), dtype)
        layer.moving_mean = np.zeros((runs, units), dtype)
        layer.moving_variance = np.ones((runs, units), dtype)
        return layer

    draws = {int(seed): np.random.default_rng(int(seed)) for seed in seeds}
    layers = {"bn_0": bn(widths[0])} if input_batch_norm else {}
    last = len(widths) - 1
    for i in range(1, last + 1):
        shape = widths[i - 1], widths[i]
        normals = {seed: rng.standard_normal(shape) for seed, rng in draws.items()}
        kernel = np.stack([normals[int(seed)] for seed in seeds])
        kernel *= scales[i - 1]
        followed = bool(output_batch_norm) if i == last else batch_norm is True
        biased = not followed if use_bias is None else use_bias
        bias = np.zeros((runs, 1, widths[i]), dtype) if biased else None
        layers[f"dense_{i}"] = Dense(kernel.astype(dtype), bias)
        if followed:
            layers[f"bn_{i}"] = (
                bn(widths[i], **output_options) if i == last else bn(widths[i], hidden)
            )
        if i < last:
            if normalization is not None:
                gamma, beta = np.ones((runs, widths[i]), dtype), np.zeros((runs, widths[i]), dtype)
                layers[f"{normalization[0]}n_{i}"] = GroupNorm(gamma, beta, groups or 1, epsilon)
            layers[f"{activation}_{i}"] = Activation(activation)
            if batch_norm == "after":
                layers[f"bn_{i}"] = bn(widths[i], hidden)
            if rates.any():
                rate = np.broadcast_to(rates, runs).astype(dtype)
                layers[f"dropout_{i}"] = Dropout(rate, seeds, i)
    return Network(list(layers.values()), list(layers), seeds, widths[0], widths[-1])


def _check_relatives(widths, batch_norm, ghost_size, renorm, normalization, groups):
    """Raise ValueError for a choice of BN's relatives that is none, or does not fit the others."""
    if normalization not in (None, "layer", "group"):
        raise ValueError(
            f"expected normalization to be None, 'layer' or 'group', got {normalization!r}"
        )
    if normalization and batch_norm:
        raise ValueError(
            f"expected one normalization, got batch_norm={batch_norm!r} and "
            f"normalization={normalization!r}"
        )
    if (groups is None) == (normalization == "group"):
        raise ValueError(
            f"expected groups with normalization='group' and only there, got groups={groups!r} "
            f"and normalization={normalization!r}"
        )
    parts = groups or 1
    if normalization and (parts < 1 or any(w % parts or w < 2 * parts for w in widths[1:-1])):
        raise ValueError(
            f"expected groups of two or more units each in the hidden layers {widths[1:-1]}, "
            f"got {parts} groups"
        )
    if not batch_norm and (ghost_size is not None or renorm is not None):
        raise ValueError("expected batch_norm with ghost_size or renorm, got no batch_norm")
    if ghost_size is not None and renorm is not None:
        raise ValueError(f"expected ghost_size or renorm, got {ghost_size!r} and {renorm!r}")
    if ghost_size is not None and ghost_size < 2:
        raise ValueError(f"expected ghost_size of 2 or more rows, got {ghost_size!r}")
    if renorm is not None and not (len(renorm) == 2 and renorm[0] >= 1 and renorm[1] >= 0):
        raise ValueError(
            f"expected renorm to be (r_max, d_max) with r_max >= 1 and d_max >= 0, got {renorm!r}"
        )


def _check_seeds(seeds):
    seeds = np.asarray(seeds)
    if seeds.ndim != 1 or seeds.size == 0 or seeds.dtype.kind not in "iu" or seeds.min() < 0:
        raise ValueError(f"expected seeds to be a sequence of integers >= 0, got {seeds!r}")
    return seeds


def _kernel_scales(initializer, widths, runs):
    """The standard deviation of each kernel: a list of numbers or of arrays [runs, 1, 1]."""
    if isinstance(initializer, str):
        if initializer not in INITIALIZERS:
            raise ValueError(
                f"expected initializer to be a number, an array or one of "
                f"{tuple(INITIALIZERS)}, got {initializer!r}"
            )
        return [INITIALIZERS[initializer](*w) for w in itertools.pairwise(widths)]
    scale = np.asarray(initializer, dtype=float)
    if scale.shape not in ((), (runs,)) or not (scale > 0).all():
        raise ValueError(
            f"expected initializer to be one positive number or {runs}, one for each run, "
            f"got {initializer!r}"
        )
    return [scale.reshape(-1, 1, 1)] * (len(widths) - 1)


# ---------------------------------------------------------------------------------------- losses


def softmax_cross_entropy(logits, labels):
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


def sigmoid_cross_entropy(logits, labels):
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


def squared_error(outputs, targets):
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


def _targets(outputs, targets):
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


def accuracy(net, x, y):
    """Share of rows that each run classifies correctly, in inference mode.

    An output that is not a number predicts nothing and counts as wrong.

    Args:
        net: a `Network` whose outputs are the logits of the classes, or one logit.
        x: array [rows, inputs] or [runs, rows, inputs].
        y: integer labels, array [rows] or [runs, rows].

    Returns:
        Array [runs].
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


def evaluate(net, x, y, loss):
    """Mean loss of each run in inference mode.

    Args:
        net: a `Network`.
        x: array [rows, inputs] or [runs, rows, inputs].
        y: targets, as `loss` takes them.
        loss: such as `squared_error`; its root is then the RMSE.

    Returns:
        Array [runs], NaN for a run that has diverged.
    """
    return loss(net(x), y)[0]


# ------------------------------------------------------------------------------------ optimizers


class _Optimizer:
    """Learning rates, weight decay, and state of the shape of the weights."""

    slots = 0

    def __init__(self, learning_rate, weight_decay, not_decayed):
        self.learning_rate = np.asarray(learning_rate, dtype=float)
        if self.learning_rate.ndim > 1 or not (self.learning_rate > 0).all():
            raise ValueError(
                f"expected one positive learning rate, or one for each run, got {learning_rate!r}"
            )
        self.weight_decay = np.asarray(weight_decay, dtype=float)
        if self.weight_decay.ndim > 1 or not (self.weight_decay >= 0).all():
            raise ValueError(
                f"expected one weight_decay of 0 or more, or one for each run, got {weight_decay!r}"
            )
        if isinstance(not_decayed, str):
            raise ValueError(f"expected a sequence of texts in not_decayed, got {not_decayed!r}")
        self.not_decayed = tuple(not_decayed)
        self.iterations = 0
        self._weights = None

    def build(self, weights, columns=None):
        """Prepare the state for these weights; a second call with the same weights keeps it.

        Args:
            weights: array [runs, parameters].
            columns: `Network.columns`, from which weight decay learns what it leaves out.

        Raises:
            ValueError: if the number of learning rates or of weight decays is not the number of
                runs, there is weight decay without columns, or the optimizer has already trained
                another network.
        """
        if self._weights is weights:
            return
        if self._weights is not None:
            raise ValueError("this optimizer has trained another network: make a new one")
        for what in ("learning_rate", "weight_decay"):
            if getattr(self, what).shape not in ((), (len(weights),)):
                raise ValueError(
                    f"expected one {what.replace('_', ' ')} or {len(weights)}, one for each run, "
                    f"got {len(getattr(self, what))}"
                )
        if self.weight_decay.any() and columns is None:
            raise ValueError("expected the columns of the network, for weight decay")
        self._weights = weights
        self._rate = self.learning_rate.reshape(-1, 1).astype(weights.dtype)
        self._state = [np.zeros_like(weights) for _ in range(self.slots)]
        self._left = None
        if self.weight_decay.any():
            decay = np.zeros(weights.shape)
            for name, where in columns.items():
                if not any(text in name for text in self.not_decayed):
                    decay[:, where] = (self.learning_rate * self.weight_decay).reshape(-1, 1)
            self._left = (1 - decay).astype(weights.dtype)

    def _begin(self, weights):
        """Count a step, and shrink the weights by weight decay."""
        self.build(weights)
        self.iterations += 1
        if self._left is not None:
            weights *= self._left


class SGD(_Optimizer):
    """Gradient descent with momentum, as in Keras.

    velocity = momentum * velocity - learning_rate * gradient; weights = weights + velocity.

    Weight decay is decoupled from the gradient and scaled by the learning rate, as in Keras: each
    step begins with weights = weights - learning_rate * weight_decay * weights. Without momentum
    that is the same as a penalty weight_decay / 2 * (sum of squared weights) in the loss.

    Args:
        learning_rate: a positive number, or one for each run.
        momentum: from 0 to 1, 0 being plain gradient descent.
        weight_decay: a number of 0 or more, or one for each run.
        not_decayed: texts; a parameter whose name in `Network.columns`, such as "bn_1/gamma",
            contains one of them does not decay. By default only kernels do.
    """

    def __init__(
        self, learning_rate, momentum=0.0, weight_decay=0.0, not_decayed=("gamma", "beta", "bias")
    ):
        """Set the rule; `build` sizes the state."""
        super().__init__(learning_rate, weight_decay, not_decayed)
        if not 0 <= momentum < 1:
            raise ValueError(f"expected momentum from 0 to below 1, got {momentum!r}")
        self.momentum = momentum
        self.slots = 1 if momentum else 0

    def step(self, weights, gradients):
        """Change the weights [runs, parameters] in place; the gradients are used up."""
        self._begin(weights)
        gradients *= self._rate
        if self.momentum:
            (velocity,) = self._state
            velocity *= self.momentum
            velocity -= gradients
            weights += velocity
        else:
            weights -= gradients


class Adam(_Optimizer):
    """Adam (Kingma and Ba 2015, the formula just before their section 2.1), as in Keras.

    Args:
        learning_rate: a positive number, or one for each run.
        beta_1, beta_2: decay rates of the two moments.
        epsilon: added to the root of the second moment.
        weight_decay, not_decayed: as for `SGD`.
    """

    slots = 3

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        weight_decay=0.0,
        not_decayed=("gamma", "beta", "bias"),
    ):
        """Set the rule; `build` sizes the state."""
        super().__init__(learning_rate, weight_decay, not_decayed)
        if not (0 <= beta_1 < 1 and 0 <= beta_2 < 1):
            raise ValueError(f"expected betas from 0 to below 1, got {beta_1!r} and {beta_2!r}")
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def step(self, weights, gradients):
        """Change the weights [runs, parameters] in place; the gradients are used up."""
        self._begin(weights)
        m, v, scratch = self._state
        np.subtract(gradients, m, out=scratch)
        scratch *= 1 - self.beta_1
        m += scratch
        gradients *= gradients
        gradients -= v
        gradients *= 1 - self.beta_2
        v += gradients
        np.sqrt(v, out=scratch)
        scratch += self.epsilon
        np.divide(m, scratch, out=scratch)
        correction = (1 - self.beta_2**self.iterations) ** 0.5 / (1 - self.beta_1**self.iterations)
        scratch *= self._rate * self._rate.dtype.type(correction)
        weights -= scratch


# -------------------------------------------------------------------------------------- training


class History:
    """What `fit` recorded.

    `history["loss"]` is the mini-batch loss [runs, steps]; `history[name]` is what the record
    function of that name returned, [runs, times, ...].

    Attributes:
        steps: array [times], the number of steps taken when the record functions were called.
        names: "loss" and the names of the record functions.
    """

    def __init__(self, steps, values):
        """Keep the times and a dict from names to arrays."""
        self.steps = steps
        self._values = values
        self.names = tuple(values)

    def __getitem__(self, name):
        """Look a record up by its name."""
        if name not in self._values:
            raise ValueError(f"expected one of {self.names}, got {name!r}")
        return self._values[name]

    @property
    def diverged(self):
        """Whether the loss of each run was ever not a finite number, array [runs]."""
        return ~np.isfinite(self["loss"]).all(axis=1)


def fit(
    net,
    x,
    y,
    *,
    loss,
    optimizer,
    steps,
    batch_size,
    seeds=None,
    every=None,
    record=None,
    progress=None,
):
    """Train every run of a network.

    Mini-batches walk through a permutation of the rows, then through the next. What is left of a
    permutation that does not fill a batch is dropped, so every batch has `batch_size` rows and BN
    never meets a smaller one; the dropped rows come back with the next permutation. The order is
    drawn from `np.random.default_rng([seed, 1])`, anew in each call.

    A run that diverges turns into NaN and stays so, without a warning and without touching others.

    Args:
        net: a `Network`, changed in place.
        x: array [rows, inputs], shared by all runs, or [runs, rows, inputs].
        y: targets [rows, ...], shared by all runs, or [runs, rows, ...].
        loss: `softmax_cross_entropy`, `sigmoid_cross_entropy` or `squared_error`.
        optimizer: an `SGD` or `Adam`, new, or the one that has trained this network before.
        steps: how many updates to make.
        batch_size: rows in each mini-batch.
        seeds: sequence [runs] of integers for the order of the rows; by default those of `net`.
            Runs with the same seed see the same mini-batches.
        every: how many steps apart the record functions are called. They are always called before
            the first step and after the last.
        record: dict from names to functions of the network that return an array [runs, ...].
        progress: whether to show a progress bar. None shows one for long work in a terminal only.

    Returns:
        A `History`.

    Raises:
        ValueError: if an argument does not fit the others, before anything is changed.
    """
    x, y = net._check_input(x), np.asarray(y)
    seeds = net.seeds if seeds is None else _check_seeds(seeds)
    _check_fit(net, x, y, loss, seeds, steps, batch_size, every, record or {})
    optimizer.build(net.weights, net.columns)

    rows = x.shape[-2]
    unique, which = np.unique(seeds, return_inverse=True)
    orders = [_batches(seed, rows, batch_size) for seed in unique]
    losses = np.empty((net.runs, steps), net.dtype)
    times = [*range(0, steps, every or steps), steps]
    records = {name: [] for name in record or {}}

    def take_records():
        for name, values in records.items():
            value = np.asarray(record[name](net))
            if value.shape[:1] != (net.runs,):
                raise ValueError(
                    f"expected {name!r} to return an array with a first axis of {net.runs} runs, "
                    f"got the shape {value.shape}"
                )
            values.append(value)

    with _progress_bar(steps, progress) as bar:
        for start, stop in itertools.pairwise(times):
            take_records()
            for step in range(start, stop):
                batch = np.stack([next(order) for order in orders])[which]
                output = net(_rows(x, batch, shared=x.ndim == 2), training=True)
                targets = _rows(y, batch, shared=len(y) == rows)
                losses[:, step], d_output = loss(output, targets)
                net.backward(d_output)
                with np.errstate(all="ignore"):
                    optimizer.step(net.weights, net.gradients)
                bar.update()
        take_records()
    stacked = {name: np.stack(values, axis=1) for name, values in records.items()}
    return History(np.array(times), {"loss": losses, **stacked})


def _check_fit(net, x, y, loss, seeds, steps, batch_size, every, record):
    """Raise ValueError for whatever would fail, or mislead, in the middle of training."""
    rows = x.shape[-2]
    if y.shape[:1] != (rows,) and y.shape[:2] != (net.runs, rows):
        raise ValueError(
            f"expected y of the shape [{rows}, ...] or [{net.runs}, {rows}, ...], got {y.shape}"
        )
    if len(seeds) != net.runs:
        raise ValueError(f"expected {net.runs} seeds, one for each run, got {len(seeds)}")
    if steps < 1:
        raise ValueError(f"expected at least one step, got {steps}")
    if not 1 <= batch_size <= rows:
        raise ValueError(f"expected batch_size from 1 to {rows} rows, got {batch_size}")
    if batch_size == 1 and net.batch_norms:
        raise ValueError(
            "expected batch_size of 2 or more, got 1: with one row BN returns beta for any input"
        )
    for layer in net.layers:
        if isinstance(layer, GhostBatchNorm) and batch_size % layer.size:
            raise ValueError(
                f"expected batch_size to be a multiple of {layer.size}, the size of a ghost "
                f"batch, got {batch_size}"
            )
    if every is not None and every < 1:
        raise ValueError(f"expected every to be None or at least 1, got {every}")
    if "loss" in record:
        raise ValueError("'loss' is always recorded, choose another name")
    dry = np.zeros((1 if len(y) == rows else net.runs, rows, net.outputs), net.dtype)
    if not np.isfinite(loss(dry, y)[0]).all():
        raise ValueError("expected y to be finite, got NaN or infinity in it")


def _batches(seed, rows, batch_size):
    """Yield the rows of one mini-batch after the other, for ever, from whole permutations."""
    rng = np.random.default_rng([int(seed), 1])
    while True:
        order = rng.permutation(rows)
        for start in range(0, rows - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def _rows(a, batch, shared):
    """Pick rows [runs, batch] from an array [rows, ...] that runs share, or [runs, rows, ...]."""
    return a.take(batch, axis=0) if shared else a[np.arange(len(a))[:, None], batch]


PROGRESS_DELAY = 2  # seconds: shorter work shows no bar


def _progress_bar(steps, progress):
    """A tqdm bar, silent unless asked for or watched."""
    if progress is None:
        unwatched = "CI" in os.environ or "PYTEST_CURRENT_TEST" in os.environ
        progress = sys.stderr.isatty() and not unwatched
    return tqdm(total=steps, unit="step", delay=PROGRESS_DELAY, disable=not progress)
