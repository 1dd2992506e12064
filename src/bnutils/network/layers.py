"""Dense layers, activations and dropout, for every run at once.

Arrays are [runs, batch, units]; activations and dropout also take images,
[runs, batch, rows, columns, channels].
"""

from __future__ import annotations

import numpy as np

__all__ = ["Activation", "Dense", "Dropout", "sigmoid"]


def sigmoid(x: np.ndarray) -> np.ndarray:
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

    def __init__(self, kernel: np.ndarray, bias: np.ndarray | None = None) -> None:
        """Make a layer of a kernel and a bias, which it keeps and does not copy."""
        self.kernel, self.bias = kernel, bias
        self.dkernel = np.empty_like(kernel)
        self.dbias = None if bias is None else np.empty_like(bias)
        self._x = None

    def __call__(self, x: np.ndarray, training: bool = False) -> np.ndarray:
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

    def backward(self, dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
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

    def __init__(self, name: str) -> None:
        """Choose the function by its name."""
        if name not in self.NAMES:
            raise ValueError(f"expected an activation from {self.NAMES}, got {name!r}")
        self.name = name
        self._y = None

    def __call__(self, x: np.ndarray, training: bool = False) -> np.ndarray:
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

    def backward(self, dy: np.ndarray) -> np.ndarray:
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

    def __init__(self, rate: np.ndarray, seeds: np.ndarray, index: int) -> None:
        """Make a layer of its rates."""
        self.rate = rate
        unique, self._which = np.unique(seeds, return_inverse=True)
        self._rngs = [np.random.default_rng([int(seed), 2, index]) for seed in unique]
        self._scale = None

    def __call__(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Apply the layer to an array [runs, batch, ..., units]."""
        self._scale = None
        if not training:
            return x
        rate = self.rate.reshape(-1, *(1,) * (x.ndim - 1))
        draws = np.stack([rng.random(x.shape[1:], dtype=x.dtype) for rng in self._rngs])
        self._scale = (draws[self._which] >= rate) / (1 - rate)
        return x * self._scale

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Return the gradient of the input."""
        return dy * self._scale

    def draws(self) -> list[dict]:
        """Where the random numbers stand, for `rewind`."""
        return [rng.bit_generator.state for rng in self._rngs]

    def rewind(self, draws: list[dict]) -> None:
        """Go back to where `draws` was asked."""
        for rng, state in zip(self._rngs, draws, strict=True):
            rng.bit_generator.state = state
