"""One batch normalization layer between the conventions of Keras and of PyTorch, on arrays.

The two compute the same function and write it down differently:

=====================  ===========================  ==================================
what                   Keras                        PyTorch
=====================  ===========================  ==================================
scale, shift           `gamma`, `beta`              `weight`, `bias`
mean for inference     `moving_mean`                `running_mean`
variance               `moving_variance`            `running_var`
one update             `m * old + (1 - m) * batch`  `(1 - a) * old + a * batch`
its weight             `momentum = m = 0.99`        `momentum = a = 0.1`, so a = 1 - m
variance of a batch    biased, divided by n         unbiased, divided by n - 1
added to the variance  `epsilon = 1e-3`             `eps = 1e-5`
=====================  ===========================  ==================================

Both normalize a training batch with its biased variance; they differ in what they store of it.
Sources: `keras.layers.BatchNormalization` of Keras 3 on TensorFlow, and the documentation of
`torch.nn.BatchNorm2d`. Neither framework is needed here.

Example:
    >>> import numpy as np
    >>> from bnutils import conventions
    >>> state = {"running_mean": np.zeros(2), "running_var": np.ones(2)}
    >>> layer = conventions.from_pytorch(**state, momentum=0.1, eps=1e-5)
    >>> layer["momentum"], layer["epsilon"]
    (0.9, 1e-05)
"""

import math
import operator
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["from_pytorch", "to_pytorch"]


def to_pytorch(
    *,
    moving_mean: ArrayLike,
    moving_variance: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    momentum: float = 0.99,
    epsilon: float = 1e-3,
    count: int | None = None,
) -> dict[str, Any]:
    """Turn the parameters and settings of a Keras layer into those of a PyTorch layer.

    Args:
        moving_mean: float array of shape [channels].
        moving_variance: float array of the same shape, not negative.
        gamma: the same; None for a layer with `scale=False`.
        beta: the same; None for a layer with `center=False`.
        momentum: weight of the old value in one update, from 0 to 1.
        epsilon: added to the variance, at least 0.
        count: number of values in each channel of a training batch (for images: batch × height
            × width), at least 2. None, the default, copies the variance, so that both layers give
            the same outputs at inference. With a count n it is multiplied by n / (n - 1): the
            variance that PyTorch would have stored from the same batches. That is exact if all
            batches had n values per channel, but for the initial value, which is 1 in both and
            still weighs momentum^updates. Choose it to go on training under the other convention.

    Returns:
        A dict with `weight`, `bias`, `running_mean`, `running_var` (new arrays, each in the
        dtype it came in), `momentum` and `eps`. Without gamma and beta, `weight` and
        `bias` are None, which is `affine=False`. With one of the two, the other is ones or
        zeros, since PyTorch has both or none: the outputs are equal, but PyTorch would train it.

    Raises:
        ValueError: an array that is not of floating point, finite and of shape [channels]; arrays
            of different shapes; a negative variance, or one that does not fit its dtype after the
            change; or a setting out of its range.

    Example:
        >>> layer = to_pytorch(moving_mean=np.zeros(2), moving_variance=np.ones(2), momentum=0.99)
        >>> layer["momentum"], layer["eps"], layer["weight"]
        (0.01, 0.001, None)
        >>> to_pytorch(moving_mean=np.zeros(2), moving_variance=np.ones(2), count=4)["running_var"]
        array([1.33333333, 1.33333333])
    """
    momentum, epsilon = _setting(momentum, "momentum", 1), _setting(epsilon, "epsilon", math.inf)
    count = _count(count)
    arrays = _arrays(
        moving_mean=moving_mean, moving_variance=moving_variance, gamma=gamma, beta=beta
    )
    weight, bias = arrays["gamma"], arrays["beta"]
    if weight is None and bias is not None:
        weight = np.ones_like(bias)
    elif bias is None and weight is not None:
        bias = np.zeros_like(weight)
    variance = arrays["moving_variance"]
    return {
        "weight": weight,
        "bias": bias,
        "running_mean": arrays["moving_mean"],
        "running_var": variance if count is None else _unbiased(variance, count),
        "momentum": _complement(momentum),
        "eps": epsilon,
    }


def from_pytorch(
    *,
    running_mean: ArrayLike | None,
    running_var: ArrayLike | None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    count: int | None = None,
    num_batches_tracked: Any = None,
) -> dict[str, Any]:
    """Turn the parameters and settings of a PyTorch layer into those of a Keras layer.

    The keywords are the names in a PyTorch layer's `state_dict`, and its two settings:
    `from_pytorch(**{name: value.numpy() for name, value in bn.state_dict().items()},
    momentum=bn.momentum, eps=bn.eps)`.

    Args:
        running_mean: float array of shape [channels].
        running_var: float array of the same shape, not negative.
        weight: the same; None for a layer with `affine=False`.
        bias: the same.
        momentum: weight of the new value in one update, from 0 to 1.
        eps: added to the variance, at least 0.
        count: number of values in each channel of a training batch, at least 2. None, the
            default, copies the variance, so that both layers give the same outputs at inference.
            With a count n it is multiplied by (n - 1) / n, with the same limits as in
            `to_pytorch`.
        num_batches_tracked: may be passed, since `state_dict` has it; Keras has no such counter.

    Returns:
        A dict with `gamma`, `beta`, `moving_mean`, `moving_variance` (new arrays, each in
        the dtype it came in), `momentum` and `epsilon`. `gamma` is None where the Keras layer
        needs `scale=False`, `beta` where it needs `center=False`.

    Raises:
        ValueError: as for `to_pytorch`; `momentum=None`, PyTorch's cumulative average, which
            Keras does not have; or no running statistics (`track_running_stats=False`).

    Example:
        >>> layer = from_pytorch(running_mean=np.zeros(2), running_var=np.ones(2), momentum=0.1)
        >>> layer["momentum"], layer["epsilon"]
        (0.9, 1e-05)
        >>> to_pytorch(**layer)["momentum"]
        0.1
    """
    if momentum is None:
        raise ValueError(
            "expected momentum, a number from 0 to 1, got None, which is PyTorch's cumulative "
            "average of all batches; Keras has none: pass the momentum to train on with, such as "
            "0.1; the statistics are copied as they are"
        )
    if running_mean is None or running_var is None:
        raise ValueError(
            "expected running_mean and running_var, got None: with track_running_stats=False "
            "a PyTorch layer normalizes by each batch at inference too, which Keras does not do; "
            "estimate them from training data first"
        )
    momentum, eps = _setting(momentum, "momentum", 1), _setting(eps, "eps", math.inf)
    count = _count(count)
    arrays = _arrays(running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    variance = arrays["running_var"]
    return {
        "gamma": arrays["weight"],
        "beta": arrays["bias"],
        "moving_mean": arrays["running_mean"],
        "moving_variance": variance if count is None else variance * ((count - 1) / count),
        "momentum": _complement(momentum),
        "epsilon": eps,
    }


def _unbiased(variance: NDArray, count: int) -> NDArray:
    with np.errstate(over="ignore"):
        unbiased = variance * (count / (count - 1))
    if not np.isfinite(unbiased).all():
        raise ValueError(
            f"expected moving_variance that times {count} / {count - 1} fits {variance.dtype}, got "
            f"{variance.max()}; convert it: moving_variance.astype(float)"
        )
    return unbiased


def _arrays(**arrays: ArrayLike | None) -> dict[str, NDArray | None]:
    """Copies of a layer's arrays by name, checked. The mean and the variance come first."""
    mean, variance, *optional = arrays
    copies = {}
    for name, values in arrays.items():
        if values is None and name in optional:
            copies[name] = None
            continue
        if isinstance(values, np.ma.MaskedArray):
            raise ValueError(f"expected {name} without a mask, got one: leave out what it hides")
        try:
            values = copies[name] = np.array(np.asarray(values))
        except ValueError:  # rows of different lengths
            raise ValueError(f"expected {name}, an array of numbers, got {values!r}") from None
        if not np.issubdtype(values.dtype, np.floating):
            raise ValueError(f"expected floating-point numbers in {name}, got {values.dtype}")
        if values.ndim != 1 or values.shape != copies[mean].shape:
            raise ValueError(
                f"expected {name} of shape [channels], like {mean} of shape "
                f"{copies[mean].shape}, got {values.shape}"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"expected finite numbers in {name}, got NaN or infinity")
    if (copies[variance] < 0).any():
        raise ValueError(f"expected {variance} to be at least 0, got {copies[variance].min()}")
    return copies


def _setting(value: float, name: str, most: float) -> float:
    try:
        number = float(value) if isinstance(value, Real) else -1.0
    except OverflowError:  # a whole number or a fraction
        number = math.inf
    if not 0 <= number <= most or number == math.inf:
        upper = "on" if most == math.inf else f"to {most}"
        raise ValueError(f"expected {name}, a number from 0 {upper}, got {value!r}")
    return number


def _count(count: int | None) -> int | None:
    if count is None:
        return None
    try:
        whole = 0 if isinstance(count, (bool, np.bool_)) else operator.index(count)
    except TypeError:
        whole = 0
    if whole < 2:
        raise ValueError(
            "expected count, the number of values in each channel of a batch, to be a whole number "
            f"from 2 on (one value has no unbiased variance), got {count!r}"
        )
    return whole


def _complement(momentum: float) -> float:
    # 1 - 0.9 is 0.09999999999999998; fifteen decimals are exact, and turn back into what came.
    # What is closer to 0 or 1 than that has no such decimal.
    weight = 1 - momentum
    decimal = round(weight, 15)
    pairs = (decimal, weight), (1 - decimal, momentum)
    return decimal if all(math.isclose(*pair, rel_tol=1e-3) for pair in pairs) else weight
