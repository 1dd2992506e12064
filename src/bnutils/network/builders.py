"""Networks from a few words: `mlp` and `cnn`. Everything is checked before anything is built."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from bnutils.network.convolutions import (
    AveragePool2D,
    Conv2D,
    Flatten,
    GlobalAveragePool2D,
    MaxPool2D,
    Windows,
)
from bnutils.network.layers import Activation, Dense, Dropout
from bnutils.network.model import Network
from bnutils.network.norm_layers import Layer
from bnutils.network.norms import Norm
from bnutils.norm import BatchNorm as BatchNormLayer

__all__ = ["INITIALIZERS", "check_seeds", "cnn", "mlp"]

INITIALIZERS = {
    "he": lambda inputs, units: (2 / inputs) ** 0.5,
    "glorot": lambda inputs, units: (2 / (inputs + units)) ** 0.5,
    "lecun": lambda inputs, units: (1 / inputs) ** 0.5,
}


def mlp(
    widths: Sequence[int],
    *,
    seeds: ArrayLike,
    activation: str = "relu",
    initializer: str | ArrayLike = "he",
    norm: Norm | None = None,
    norm_position: str = "before",
    input_norm: Norm | None = None,
    output_norm: Norm | None = None,
    dropout: ArrayLike = 0.0,
    use_bias: bool | None = None,
    dtype: DTypeLike = np.float32,
) -> Network:
    """Build a multilayer perceptron, one copy for each run.

    Kernels are normal with mean 0, drawn from `np.random.default_rng(seed)` layer after layer,
    whatever the normalization; biases start at 0. The output is linear: the losses take logits.

    Args:
        widths: the number of inputs, of units in each hidden layer, and of outputs.
        seeds: sequence [runs] of integers. Runs with the same seed start from the same draws.
        activation: of the hidden layers: "relu", "sigmoid", "tanh" or "linear".
        initializer: the standard deviation of the kernels: "he" (sqrt(2 / inputs)), "glorot"
            (sqrt(2 / (inputs + units))), "lecun" (sqrt(1 / inputs)), a number, or one number for
            each run.
        norm: how every hidden layer is normalized: `BatchNorm()`, `GroupNorm(groups)`,
            `LayerNorm()`, `GhostBatchNorm(size)`, `BatchRenorm(r_max, d_max)`, or None.
        norm_position: whether `norm` stands "before" or "after" the activation.
        input_norm: how the input is normalized, or None.
        output_norm: how the output is normalized, or None.
        dropout: share of the units of each hidden layer that `Dropout` drops after the activation
            (and after a norm that follows it): a number, or one number for each run.
        use_bias: None gives a bias to each dense layer that no BN layer follows, since BN
            subtracts any bias again; True or False decides for all of them.
        dtype: np.float32 or np.float64.

    Returns:
        A `Network`.

    Raises:
        ValueError: if an argument is not one of the above, or a norm does not fit a layer.

    Example:
        >>> from bnutils.network import BatchNorm
        >>> mlp([64, 32, 10], seeds=range(5), norm=BatchNorm(momentum=0.9))
        Network(dense_1, bn_1, relu_1, dense_2; 5 runs)
    """
    widths = [int(w) for w in widths]
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"expected at least two positive widths, got {widths}")
    _check_norms(norm_position, norm=norm, input_norm=input_norm, output_norm=output_norm)
    stack = _Stack((widths[0],), seeds, initializer, dropout, use_bias, dtype)
    stack.normalize(0, input_norm, "the input")
    for i, units in enumerate(widths[1:-1], start=1):
        stack.dense(i, units, norm if norm_position == "before" else None)
        stack.finish(i, activation, norm, norm_position, f"dense_{i}")
    last = len(widths) - 1
    stack.dense(last, widths[-1], output_norm)
    stack.normalize(last, output_norm, f"dense_{last}")
    return stack.build()


def cnn(
    shape: tuple[int, int, int],
    *,
    filters: Sequence[int],
    outputs: int,
    seeds: ArrayLike,
    kernel_size: int | Sequence[int] = 3,
    strides: int | Sequence[int] = 1,
    padding: str = "same",
    pool: int | Sequence[int] = 2,
    pooling: str = "max",
    head: str = "average",
    activation: str = "relu",
    initializer: str | ArrayLike = "he",
    norm: Norm | None = None,
    norm_position: str = "before",
    input_norm: Norm | None = None,
    output_norm: Norm | None = None,
    dropout: ArrayLike = 0.0,
    use_bias: bool | None = None,
    dtype: DTypeLike = np.float32,
) -> Network:
    """Build a convolutional network, one copy for each run.

    Each convolution is followed by the norm, the activation and pooling; at the end stand an
    average over the image, or all its pixels in a row, and a dense layer. Kernels are drawn as in
    `mlp`; the inputs and units of the initial scale are the pixels of a kernel times the channels
    that enter and leave.

    Args:
        shape: rows, columns and channels of an image.
        filters: the number of channels that leave each convolution.
        outputs: the number of outputs.
        seeds: as for `mlp`.
        kernel_size: rows, and columns, of each kernel: a number, or one for each convolution.
        strides: steps of each kernel: a number, or one for each convolution.
        padding: of the convolutions, "same" or "valid".
        pool: rows, and columns, of each pooling window: a number, or one for each convolution; 1
            does not pool.
        pooling: "max" or "average".
        head: "average" (over the image) or "flatten", before the dense layer.
        activation: as for `mlp`.
        initializer: as for `mlp`.
        norm: how every convolution is normalized. BN takes the statistics of each channel over
            batch, rows and columns, `GroupNorm` and `LayerNorm` those of each example.
        norm_position: as for `mlp`.
        input_norm: as for `mlp`.
        output_norm: as for `mlp`.
        dropout: as for `mlp`; it follows pooling.
        use_bias: as for `mlp`.
        dtype: as for `mlp`.

    Returns:
        A `Network` for images [batch, rows, columns, channels], or with a runs axis before.

    Raises:
        ValueError: if an argument is not one of the above, a norm does not fit a layer, or an image
            has become smaller than a window.

    Example:
        >>> from bnutils.network import BatchNorm
        >>> cnn((8, 8, 1), filters=[8], outputs=10, seeds=range(5), norm=BatchNorm())
        Network(conv_1, bn_1, relu_1, pool_1, average, dense_2; 5 runs)
    """
    shape, filters = tuple(int(n) for n in shape), [int(n) for n in filters]
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"expected a shape of rows, columns and channels, got {shape}")
    if not filters or min(*filters, outputs) < 1:
        raise ValueError(f"expected positive filters and outputs, got {filters} and {outputs}")
    if pooling not in ("max", "average") or head not in ("average", "flatten"):
        raise ValueError(
            f"expected pooling 'max' or 'average' and head 'average' or 'flatten', "
            f"got {pooling!r} and {head!r}"
        )
    _check_norms(norm_position, norm=norm, input_norm=input_norm, output_norm=output_norm)
    sizes, steps, pools = (
        _for_each(value, len(filters), name)
        for value, name in ((kernel_size, "kernel_size"), (strides, "strides"), (pool, "pool"))
    )
    stack = _Stack(shape, seeds, initializer, dropout, use_bias, dtype)
    stack.normalize(0, input_norm, "the input")
    layers = zip(filters, sizes, steps, pools, strict=True)
    for i, (units, size, step, window) in enumerate(layers, start=1):
        followed_by = norm if norm_position == "before" else None
        stack.convolution(i, units, Windows(size, step, padding), followed_by)
        stack.finish(i, activation, norm, norm_position, f"conv_{i}", (window, pooling))
    stack.head(head)
    last = len(filters) + 1
    stack.dense(last, int(outputs), output_norm)
    stack.normalize(last, output_norm, f"dense_{last}")
    return stack.build()


class _Stack:
    """A plan of layers. It is checked while it grows; `build` then makes all of them.

    Attributes:
        shape: shape of one example behind the last layer.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        seeds: ArrayLike,
        initializer: str | ArrayLike,
        dropout: ArrayLike,
        use_bias: bool | None,
        dtype: DTypeLike,
    ) -> None:
        """Check what all layers share."""
        self.seeds, self.dtype = check_seeds(seeds), np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise ValueError(f"expected dtype float32 or float64, got {self.dtype}")
        self.runs = len(self.seeds)
        self._deviation = _deviation(initializer, self.runs)
        self._rates = np.asarray(dropout, dtype=float)
        if (
            self._rates.shape not in ((), (self.runs,))
            or not ((self._rates >= 0) & (self._rates < 1)).all()
        ):
            raise ValueError(
                f"expected dropout from 0 to below 1, one rate or {self.runs}, one for each run, "
                f"got {dropout!r}"
            )
        self._use_bias = use_bias
        self._input_shape = self.shape = shape
        self._plan: dict[str, Callable[[], Layer]] = {}
        self._generators: dict[int, np.random.Generator] = {}

    def dense(self, i: int, units: int, followed_by: Norm | None) -> None:
        """Plan a dense layer."""
        (inputs,) = self.shape
        deviation, biased = self._deviation(inputs, units), self._biased(followed_by)

        def make() -> Dense:
            bias = np.zeros((self.runs, 1, units), self.dtype) if biased else None
            return Dense(self._draw((inputs, units), deviation), bias)

        self.add(f"dense_{i}", make, (units,))

    def convolution(self, i: int, filters: int, windows: Windows, followed_by: Norm | None) -> None:
        """Plan a convolution."""
        shape = *windows.size, self.shape[-1], filters
        pixels = windows.size[0] * windows.size[1]
        deviation = self._deviation(pixels * self.shape[-1], pixels * filters)
        biased = self._biased(followed_by)

        def make() -> Conv2D:
            bias = np.zeros((self.runs, 1, filters), self.dtype) if biased else None
            kernel = self._draw(shape, deviation)
            return Conv2D(kernel, bias, windows.strides, windows.padding)

        self.add(f"conv_{i}", make, (*self._places(f"conv_{i}", windows), filters))

    def head(self, head: str) -> None:
        """Plan what makes a row of an image."""
        if head == "average":
            self.add("average", GlobalAveragePool2D, self.shape[-1:])
        else:
            self.add("flatten", Flatten, (math.prod(self.shape),))

    def _places(self, name: str, windows: Windows) -> tuple[int, int]:
        """Rows and columns behind a layer with windows."""
        try:
            return windows.places(self.shape[:2])
        except ValueError as error:
            raise ValueError(f"{error} before {name}") from None

    def normalize(self, i: int, norm: Norm | None, what: str) -> None:
        """Plan a normalization, if there is one, of a layer of that name."""
        if norm is not None:
            norm.check(what, self.shape)
            units = self.shape[-1]
            self.add(f"{norm.prefix}_{i}", lambda: norm.build(self.runs, units, self.dtype))

    def finish(
        self,
        i: int,
        activation: str,
        norm: Norm | None,
        position: str,
        what: str,
        pool: tuple[int, str] = (1, "max"),
    ) -> None:
        """Plan what follows a hidden layer: normalization, activation, pooling, dropout."""
        Activation(activation)
        if position == "before":
            self.normalize(i, norm, what)
        self.add(f"{activation}_{i}", lambda: Activation(activation))
        if position == "after":
            self.normalize(i, norm, what)
        size, pooling = pool
        if size > 1:
            kind = {"max": MaxPool2D, "average": AveragePool2D}[pooling]
            places = self._places(f"pool_{i}", Windows(size, size))
            self.add(f"pool_{i}", lambda: kind(size), (*places, self.shape[-1]))
        if self._rates.any():
            rate = np.broadcast_to(self._rates, self.runs).astype(self.dtype)
            self.add(f"dropout_{i}", lambda: Dropout(rate, self.seeds, i))

    def add(
        self, name: str, make: Callable[[], Layer], shape: tuple[int, ...] | None = None
    ) -> None:
        """Plan a layer, which may change the shape of an example."""
        self._plan[name] = make
        self.shape = shape or self.shape

    def build(self) -> Network:
        """Make all layers, kernels drawn in their order."""
        self._generators = {int(seed): np.random.default_rng(int(seed)) for seed in self.seeds}
        layers = [make() for make in self._plan.values()]
        return Network(layers, list(self._plan), self.seeds, self._input_shape, self.shape[-1])

    def _draw(self, shape: tuple[int, ...], deviation: ArrayLike) -> np.ndarray:
        """Draw a kernel of every run."""
        normals = {seed: rng.standard_normal(shape) for seed, rng in self._generators.items()}
        kernel = np.stack([normals[int(seed)] for seed in self.seeds])
        kernel *= np.reshape(deviation, (-1, *(1,) * len(shape)))
        return kernel.astype(self.dtype)

    def _biased(self, followed_by: Norm | None) -> bool:
        if self._use_bias is None:
            return followed_by is None or not followed_by.removes_bias
        return self._use_bias


def _check_norms(norm_position: str, **norms: Norm | None) -> None:
    """Raise ValueError for what is no normalization, and say what to write."""
    if norm_position not in ("before", "after"):
        raise ValueError(
            f"expected norm_position to be 'before' or 'after' the activation, "
            f"got {norm_position!r}"
        )
    for name, norm in norms.items():
        if norm is None or isinstance(norm, Norm):
            continue
        hint = "BatchNorm(), GroupNorm(groups), LayerNorm(), GhostBatchNorm(size) or BatchRenorm()"
        if isinstance(norm, type) and issubclass(norm, Norm):
            hint = f"{norm.__name__}(...), with parentheses"
        elif isinstance(norm, BatchNormLayer):
            hint = "network.BatchNorm(momentum=...), which describes layers; this is one layer"
        raise ValueError(
            f"expected {name} to be None or a normalization, got {norm!r}: pass {hint}"
        )


def _for_each(value: int | Sequence[int], count: int, name: str) -> list[int]:
    """One number for each convolution."""
    values = [int(v) for v in (value if np.ndim(value) else [value] * count)]
    if len(values) != count or min(values) < 1:
        raise ValueError(
            f"expected {name} to be one positive number or {count}, one for each convolution, "
            f"got {value!r}"
        )
    return values


def check_seeds(seeds: ArrayLike) -> np.ndarray:
    """Return seeds as an array.

    Args:
        seeds: sequence [runs] of integers of 0 or more.

    Returns:
        Array [runs].

    Raises:
        ValueError: if they are something else.
    """
    seeds = np.asarray(seeds)
    if seeds.ndim != 1 or seeds.size == 0 or seeds.dtype.kind not in "iu" or seeds.min() < 0:
        raise ValueError(f"expected seeds to be a sequence of integers >= 0, got {seeds!r}")
    return seeds


def _deviation(initializer: str | ArrayLike, runs: int) -> Callable[[int, int], ArrayLike]:
    """The standard deviation of a kernel as a function of its inputs and units."""
    if isinstance(initializer, str):
        if initializer not in INITIALIZERS:
            raise ValueError(
                f"expected initializer to be a number, an array or one of "
                f"{tuple(INITIALIZERS)}, got {initializer!r}"
            )
        return INITIALIZERS[initializer]
    scale = np.asarray(initializer, dtype=float)
    if scale.shape not in ((), (runs,)) or not (scale > 0).all():
        raise ValueError(
            f"expected initializer to be one positive number or {runs}, one for each run, "
            f"got {initializer!r}"
        )
    return lambda inputs, units: scale
