"""A stack of layers that is many networks at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from bnutils.network.layers import Dropout
from bnutils.network.losses import Loss, check_loss
from bnutils.network.norm_layers import GroupNormLayer, Layer
from bnutils.norm import BatchNorm

__all__ = ["Network"]

_NORMALIZATIONS = (BatchNorm, GroupNormLayer)  # what does not take a run that has diverged


class Network:
    """A stack of layers, for many runs at once. Made by `mlp` or `cnn`.

    Attributes:
        layers: the layers in order.
        names: a name for each layer, such as "dense_1", "bn_1", "relu_1". "bn_0" normalizes the
            input; "ln_1" is layer and "gn_1" group normalization.
        seeds: array [runs], the seed of each run.
        input_shape: shape of one example, (inputs,) or (rows, columns, channels).
        outputs: the number of outputs.
        weights: array [runs, parameters]. The layers' parameters are views of it, so changing one
            changes the other.
        columns: dict from the name of each parameter, such as "dense_1/kernel", to the slice of
            the columns of `weights` that holds it.
        gradients: array like weights, filled by `backward`.
        dtype: float32 or float64.
    """

    def __init__(
        self,
        layers: list[Layer],
        names: list[str],
        seeds: np.ndarray,
        input_shape: tuple[int, ...],
        outputs: int,
    ) -> None:
        """Join layers whose parameters exist; `mlp` and `cnn` make them."""
        self.layers, self.names, self.seeds = layers, names, seeds
        self.input_shape, self.outputs = tuple(input_shape), outputs
        self._backward_ready = False
        self._join_parameters()

    def _join_parameters(self) -> None:
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
        self._norm_gradients = []
        self._norm_weights = self.weights[:, :0]
        self.columns = {}
        start = 0
        for (layer, name, full_name), value in zip(found, values, strict=True):
            stop = start + value[0].size
            self.columns[full_name] = slice(start, stop)
            setattr(layer, name, self.weights[:, start:stop].reshape(value.shape, copy=False))
            gradient = self.gradients[:, start:stop].reshape(value.shape, copy=False)
            if isinstance(layer, _NORMALIZATIONS):  # backward makes a new array each time
                self._norm_gradients.append((gradient, layer, f"d{name}"))
                self._norm_weights = self.weights[:, :stop]
            else:
                setattr(layer, f"d{name}", gradient)
            start = stop

    def __setstate__(self, state: dict) -> None:
        """Restore a copied or pickled network, whose arrays are no longer views of one."""
        self.__dict__.update(state)
        self._join_parameters()

    @property
    def runs(self) -> int:
        """The number of runs."""
        return len(self.weights)

    @property
    def batch_norms(self) -> list[BatchNorm]:
        """The layers with moving statistics (BN, ghost and renormalized), in order."""
        return [layer for layer in self.layers if isinstance(layer, BatchNorm)]

    @property
    def _kernels(self) -> list[tuple[str, Layer]]:
        """The layers with a kernel, dense and convolutional, with their names."""
        named = zip(self.names, self.layers, strict=True)
        return [(name, layer) for name, layer in named if hasattr(layer, "kernel")]

    def __repr__(self) -> str:
        """Name the layers and count the runs."""
        return f"Network({', '.join(self.names)}; {self.runs} runs)"

    def __call__(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        """Compute the output of every run.

        Args:
            x: array [batch, ...], shared by all runs, or [runs, batch, ...], where ... is the
                shape of one example: inputs, or rows, columns and channels.
            training: True normalizes with the statistics of this batch, updates the moving
                statistics, drops units and prepares `backward`; False uses the moving statistics.

        Returns:
            Array [runs, batch, outputs]. NaN for a run that has diverged.

        Raises:
            ValueError: if x has the wrong shape, is not finite, or in training has fewer than two
                values for BN to average over.
        """
        return self._forward(x, batch_statistics=training, keep=training)

    def activations(self, x: ArrayLike, training: bool = False) -> list[tuple[str, np.ndarray]]:
        """Compute the output of every layer; unlike a call, this changes nothing, drops nothing.

        Args:
            x: array [batch, ...] or [runs, batch, ...].
            training: whether BN uses the statistics of x (True) or the moving statistics.

        Returns:
            A list of pairs (name, array [runs, batch, ...]), one for each layer in order.
        """
        outputs = []
        with self._momentum(1.0):
            self._forward(x, batch_statistics=training, keep=False, outputs=outputs)
        return list(zip(self.names, outputs, strict=True))

    def backward(self, d_output: np.ndarray) -> None:
        """Fill `gradients` from the gradient of the output of the latest training call.

        Args:
            d_output: array [runs, batch, outputs].

        Raises:
            ValueError: if the latest call was not a training call.
        """
        self._backward(d_output)

    def _backward(self, d_output: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """Do what `backward` says, and return the gradient of each kernel's output."""
        if not self._backward_ready:
            raise ValueError("expected a call with training=True before backward")
        d, seen = d_output, []
        with np.errstate(all="ignore"):
            for name, layer in zip(reversed(self.names), reversed(self.layers), strict=True):
                if isinstance(layer, _NORMALIZATIONS):
                    d = self._normalize(layer.backward, d)
                elif hasattr(layer, "kernel"):
                    seen.append((name, d))
                    d = layer.backward(d, input_gradient=layer is not self.layers[0])
                else:
                    d = layer.backward(d)
        for gradient, layer, name in self._norm_gradients:
            gradient[...] = getattr(layer, name)
        return seen[::-1]

    def kernel_gradients(self, x: ArrayLike, y: ArrayLike, loss: Loss) -> list[np.ndarray]:
        """Compute the gradient of every kernel on one batch in training mode.

        Only `gradients` changes: no weight, no moving statistic, and no draw of dropout.

        Args:
            x: array [batch, ...] or [runs, batch, ...].
            y: targets, as `loss` takes them.
            loss: such as `softmax_cross_entropy`.

        Returns:
            A list of arrays like the kernels, [runs, inputs, units] for a dense layer, one for each
            dense or convolutional layer in order.
        """
        self._look(x, y, loss)
        return [layer.dkernel.copy() for _, layer in self._kernels]

    def signal_gradients(
        self, x: ArrayLike, y: ArrayLike, loss: Loss
    ) -> list[tuple[str, np.ndarray]]:
        """Compute the gradient of the loss by the output z of every kernel, in training mode.

        z is what enters the normalization, or the activation where there is none; `activations`
        returns it under the same name. The loss is the mean over the batch, so an entry is 1/batch
        of the gradient of one example's loss. Only `gradients` changes, as in `kernel_gradients`.

        Args:
            x: array [batch, ...] or [runs, batch, ...].
            y: targets, as `loss` takes them.
            loss: such as `softmax_cross_entropy`.

        Returns:
            A list of pairs (name, array [runs, batch, ..., units]), one for each dense or
            convolutional layer in order.
        """
        return self._look(x, y, loss)

    def _look(self, x: ArrayLike, y: ArrayLike, loss: Loss) -> list[tuple[str, np.ndarray]]:
        """Pass one batch forth and back, leaving moving statistics and dropout as they were."""
        check_loss(loss)
        dropouts = [layer for layer in self.layers if isinstance(layer, Dropout)]
        draws = [layer.draws() for layer in dropouts]
        try:
            with self._momentum(1.0):
                _, d_output = loss(self(x, training=True), y)
        finally:
            for layer, state in zip(dropouts, draws, strict=True):
                layer.rewind(state)
        return self._backward(d_output)

    def recalibrate(self, x: ArrayLike) -> None:
        """Set the moving statistics of every BN layer to the exact statistics of x.

        Layer after layer: what a BN layer sees has passed the ones before it with their new
        statistics. Afterwards inference on x equals training mode on x, unless there are ghost
        batches: x is then taken as a whole.

        Args:
            x: array [rows, ...] or [runs, rows, ...], usually the whole training set.
        """
        with self._momentum(0.0):
            self._forward(x, batch_statistics=True, keep=False, whole=True)

    @contextmanager
    def _momentum(self, momentum: float) -> Iterator[None]:
        """Give every BN layer another momentum for a while: 1 keeps, 0 replaces statistics."""
        before = [layer.momentum for layer in self.batch_norms]
        try:
            for layer in self.batch_norms:
                layer.momentum = momentum
            yield
        finally:
            for layer, value in zip(self.batch_norms, before, strict=True):
                layer.momentum = value

    def is_shared(self, x: np.ndarray) -> bool:
        """Whether an input lacks the runs axis, so that all runs share it."""
        return x.ndim == 1 + len(self.input_shape)

    def check_input(self, x: ArrayLike) -> np.ndarray:
        """Return x as an array of the dtype of the network.

        Args:
            x: array [rows, ...] or [runs, rows, ...].

        Returns:
            Array of the same shape.

        Raises:
            ValueError: if x has the wrong shape or is not finite.
        """
        with np.errstate(over="ignore"):
            x = np.asarray(x, dtype=self.dtype)
        axes = len(self.input_shape)
        runs, ends = x.shape[: -axes - 1], x.shape[-axes:]
        if x.ndim <= axes or ends != self.input_shape or runs not in ((), (self.runs,)):
            one = ", ".join(map(str, self.input_shape))
            raise ValueError(
                f"expected x of the shape [rows, {one}] or [{self.runs}, rows, {one}], "
                f"got {x.shape}"
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

    def _forward(
        self,
        x: ArrayLike,
        batch_statistics: bool,
        keep: bool,
        outputs: list[np.ndarray] | None = None,
        whole: bool = False,
    ) -> np.ndarray:
        """Pass x through the layers.

        Args:
            x: array [batch, ...] or [runs, batch, ...].
            batch_statistics: whether BN layers run in training mode.
            keep: whether the other layers keep what `backward` needs.
            outputs: a list to which the output of each layer is appended.
            whole: whether BN normalizes all rows by their own statistics even where it has ghost
                batches or batch renormalization.

        Returns:
            The output of the last layer.
        """
        x = self.check_input(x)
        if self.is_shared(x) and not hasattr(self.layers[0], "kernel"):
            x = np.broadcast_to(x, (self.runs, *x.shape))
        self._backward_ready = keep
        with np.errstate(all="ignore"):  # a run may diverge; its loss will tell
            self._diverged(self._norm_weights)
            for layer in self.layers:
                if isinstance(layer, _NORMALIZATIONS):
                    plain = whole and isinstance(layer, BatchNorm)
                    call = partial(BatchNorm.__call__, layer) if plain else layer
                    x = self._normalize(partial(call, training=batch_statistics), x)
                else:
                    x = layer(x, training=keep)
                if outputs is not None:
                    outputs.append(x)
        return x

    def _normalize(self, call: Callable[[np.ndarray], np.ndarray], a: np.ndarray) -> np.ndarray:
        """Call a normalization, which refuses what is not finite, though runs may have diverged.

        Args:
            call: the layer, or its `backward`.
            a: array [runs, batch, ..., units].

        Returns:
            call(a), with NaN for the runs that have diverged.
        """
        diverged = self._diverged(a.reshape(self.runs, -1))
        if not diverged.any():
            return call(a)
        a = np.array(a)
        # not constant along any axis, so epsilon may be 0
        a[diverged] = sum(np.ix_(*map(np.arange, a.shape[1:])))
        b = call(a)
        b[diverged] = np.nan
        return b

    def _diverged(self, a: np.ndarray) -> np.ndarray:
        """Find the runs that a normalization would refuse, and make them NaN for good.

        A run has diverged once the root of the sum of squares of what reaches a normalization,
        forward or backward, or of its parameters, exceeds 3e11 in float32, 1e92 in float64. What
        BN does with numbers below that stays finite. The limit looks at one run at a time, so no
        run's fate depends on another.

        Args:
            a: array [runs, values].

        Returns:
            Boolean array [runs].
        """
        diverged = ~(np.vecdot(a, a) < self._limit)
        if diverged.any():
            for _, layer in self._kernels:
                layer.kernel[diverged] = np.nan
            self._norm_weights[diverged] = 0  # normalizations get parameters that they accept
        return diverged
