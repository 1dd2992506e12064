"""Networks from a few words: `mlp` and `cnn`. Everything is checked before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from bnutils.network.layers import Activation, Dense, Dropout
from bnutils.network.model import Network
from bnutils.network.norm_layers import Layer
from bnutils.network.norms import Norm
from bnutils.norm import BatchNorm as BatchNormLayer

__all__ = ["INITIALIZERS", "check_seeds", "mlp"]

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
        widths: The number of inputs, of units in each hidden layer, and of outputs.
        seeds: Sequence [runs] of integers. Runs with the same seed start from the same draws.
        activation: Of the hidden layers: "relu", "sigmoid", "tanh" or "linear".
        initializer: The standard deviation of the kernels: "he" (sqrt(2 / inputs)), "glorot"
            (sqrt(2 / (inputs + units))), "lecun" (sqrt(1 / inputs)), a number, or one number for
            each run.
        norm: How every hidden layer is normalized: `BatchNorm()`, `GroupNorm(groups)`,
            `LayerNorm()`, `GhostBatchNorm(size)`, `BatchRenorm(r_max, d_max)`, or None.
        norm_position: Whether `norm` stands "before" or "after" the activation.
        input_norm: How the input is normalized, or None.
        output_norm: How the output is normalized, or None.
        dropout: Share of the units of each hidden layer that `Dropout` drops after the activation
            (and after a norm that follows it): a number, or one number for each run.
        use_bias: None gives a bias to each dense layer that no BN layer follows, since BN
            subtracts any bias again; True or False decides for all of them.
        dtype: np.float32 or np.float64.

    Returns:
        A `Network`.

    Raises:
        ValueError: If an argument is not one of the above, or a norm does not fit a layer.

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


class _Stack:
    """A plan of layers. It is checked while it grows; `build` then makes all of them.

    Attributes:
        shape: Shape of one example behind the last layer.
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

    def normalize(self, i: int, norm: Norm | None, what: str) -> None:
        """Plan a normalization, if there is one, of a layer of that name."""
        if norm is not None:
            norm.check(what, self.shape)
            units = self.shape[-1]
            self.add(f"{norm.prefix}_{i}", lambda: norm.build(self.runs, units, self.dtype))

    def finish(self, i: int, activation: str, norm: Norm | None, position: str, what: str) -> None:
        """Plan what follows a hidden layer: normalization, activation, dropout."""
        Activation(activation)
        if position == "before":
            self.normalize(i, norm, what)
        self.add(f"{activation}_{i}", lambda: Activation(activation))
        if position == "after":
            self.normalize(i, norm, what)
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


def check_seeds(seeds: ArrayLike) -> np.ndarray:
    """Return seeds as an array.

    Args:
        seeds: Sequence [runs] of integers of 0 or more.

    Returns:
        Array [runs].

    Raises:
        ValueError: If they are something else.
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
