"""Update rules: gradient descent with momentum, and Adam, as in Keras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["SGD", "Adam", "Optimizer", "check_optimizer"]


class Optimizer:
    """Learning rates, weight decay, and state of the shape of the weights.

    A rule of your own derives from this one or another, and changes `step`.

    Attributes:
        learning_rate: array [] or [runs].
        weight_decay: array [] or [runs].
        not_decayed: texts that mark the names of the parameters that do not decay.
        iterations: how many steps were taken.
    """

    slots = 0

    def __init__(
        self, learning_rate: ArrayLike, weight_decay: ArrayLike, not_decayed: Sequence[str]
    ) -> None:
        """Check and keep the settings; `build` sizes the state."""
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

    def check(self, weights: np.ndarray) -> None:
        """Refuse weights that this optimizer can't train; changes nothing.

        Args:
            weights: array [runs, parameters].

        Raises:
            ValueError: if the number of learning rates or of weight decays is not the number of
                runs, or the optimizer has already trained another network.
        """
        if self._weights is not None and self._weights is not weights:
            raise ValueError("this optimizer has trained another network: make a new one")
        for what in ("learning_rate", "weight_decay"):
            if getattr(self, what).shape not in ((), (len(weights),)):
                raise ValueError(
                    f"expected one {what.replace('_', ' ')} or {len(weights)}, one for each run, "
                    f"got {len(getattr(self, what))}"
                )

    def build(self, weights: np.ndarray, columns: Mapping[str, slice] | None = None) -> None:
        """Prepare the state for these weights; a second call with the same weights keeps it.

        Args:
            weights: array [runs, parameters].
            columns: `Network.columns`, from which weight decay learns what it leaves out.

        Raises:
            ValueError: as for `check`, or if there is weight decay without columns.
        """
        if self._weights is weights:
            return
        self.check(weights)
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

    def step(self, weights: np.ndarray, gradients: np.ndarray) -> None:
        """Change the weights [runs, parameters] in place; the gradients are used up."""
        raise NotImplementedError

    def _begin(self, weights: np.ndarray) -> None:
        """Count a step, and shrink the weights by weight decay."""
        self.build(weights)
        self.iterations += 1
        if self._left is not None:
            weights *= self._left


class SGD(Optimizer):
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

    Raises:
        ValueError: if a number lies outside its range.

    Example:
        >>> w = np.array([[1.0, 2.0]])
        >>> SGD(0.5).step(w, np.array([[1.0, -1.0]]))
        >>> w
        array([[0.5, 2.5]])
    """

    def __init__(
        self,
        learning_rate: ArrayLike,
        momentum: float = 0.0,
        weight_decay: ArrayLike = 0.0,
        not_decayed: Sequence[str] = ("gamma", "beta", "bias"),
    ) -> None:
        """Set the rule; `build` sizes the state."""
        super().__init__(learning_rate, weight_decay, not_decayed)
        if not 0 <= momentum < 1:
            raise ValueError(f"expected momentum from 0 to below 1, got {momentum!r}")
        self.momentum = momentum
        self.slots = 1 if momentum else 0

    def step(self, weights: np.ndarray, gradients: np.ndarray) -> None:
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


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, the formula just before their section 2.1), as in Keras.

    Args:
        learning_rate: a positive number, or one for each run.
        beta_1: decay rate of the first moment.
        beta_2: decay rate of the second moment.
        epsilon: added to the root of the second moment.
        weight_decay: as for `SGD`.
        not_decayed: as for `SGD`.

    Raises:
        ValueError: if a number lies outside its range.
    """

    slots = 3

    def __init__(
        self,
        learning_rate: ArrayLike = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: ArrayLike = 0.0,
        not_decayed: Sequence[str] = ("gamma", "beta", "bias"),
    ) -> None:
        """Set the rule; `build` sizes the state."""
        super().__init__(learning_rate, weight_decay, not_decayed)
        if not (0 <= beta_1 < 1 and 0 <= beta_2 < 1):
            raise ValueError(f"expected betas from 0 to below 1, got {beta_1!r} and {beta_2!r}")
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def step(self, weights: np.ndarray, gradients: np.ndarray) -> None:
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


def check_optimizer(optimizer: Any) -> None:
    """Refuse what is no optimizer, and say what to pass.

    Args:
        optimizer: what was given as one.

    Raises:
        ValueError: if it is not an `Optimizer`.
    """
    if isinstance(optimizer, Optimizer):
        return
    known = {"adam": "network.Adam(learning_rate)", "sgd": "network.SGD(learning_rate)"}
    name = optimizer.__name__ if isinstance(optimizer, type) else str(optimizer)
    meant = known.get(name.lower(), " or ".join(known.values()))
    raise ValueError(f"expected an optimizer, got {optimizer!r}: pass {meant}")
