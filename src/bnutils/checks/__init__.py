"""Exercises that answer back: they name the mistake, and never print the answer.

A checker takes what you made, compares it with the right answer and with every known wrong one,
and returns an `Outcome`: "Right.", or the name of the mistake and why it matters. A function whose
mistake has no name gets the smallest example that shows it.

`MISTAKES` holds all known mistakes, by the name of the checker or the number of the exercise.

**How to add an exercise of a chapter.** `answer("7.1", value)` looks for exercise 7.1 in
`bnutils/checks/chapters/chapter_07.py`. That module holds one dictionary, found by itself::

    EXERCISES = {
        "7.1": Answer(
            truth=2 * 128,
            tolerance=0,
            mistakes={"forgot-beta": Mistake(128, "What is wrong. Why it matters.")},
            hint="Where to look again, for a wrong answer that is not known.",
        ),
    }

`bnutils.checks.engine` says what an `Answer` (a number, a choice, or a tuple) and a `Function` may
be. Compute the truth, with `bnutils` or with arithmetic in view; give what costs time as a
function. What only an experiment can tell is a choice ("cannot tell"), or a number with the
tolerance that other machines need. A message is one sentence that says what is wrong and one that
says why it matters, and does not hold the answer. The tests then feed every mistake to its
exercise, and ask for its name.

Example:
    >>> import numpy as np
    >>> from bnutils import checks
    >>> def mine(x, gamma, beta, epsilon):
    ...     variance = x.var(axis=0, ddof=1)
    ...     return gamma * (x - x.mean(axis=0)) / np.sqrt(variance + epsilon) + beta
    >>> outcome = checks.forward(mine)
    >>> outcome.right, outcome.mistake
    (False, 'ddof')
"""

import pkgutil
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from bnutils.checks import chapters
from bnutils.checks.engine import Mistake, Outcome
from bnutils.checks.functions import FUNCTIONS
from bnutils.checks.placement import PLACEMENT

__all__ = [
    "EXERCISES",
    "MISTAKES",
    "Mistake",
    "Outcome",
    "answer",
    "convolution",
    "folding",
    "forward",
    "gradient",
    "initial_statistics",
    "moving_statistics",
    "placement",
]

_ANSWERS: dict[str, Any] = {}
for _module in sorted(module.name for module in pkgutil.iter_modules(chapters.__path__)):
    _ANSWERS |= import_module(f"{chapters.__name__}.{_module}").EXERCISES

#: Every exercise by its name, of the functions here and of the chapters.
EXERCISES: Mapping[str, Any] = {**FUNCTIONS, "placement": PLACEMENT, **_ANSWERS}
#: The known mistakes of every exercise.
MISTAKES: dict[str, Mapping[str, Mistake]] = {
    name: exercise.mistakes for name, exercise in EXERCISES.items()
}


def forward(f: Callable) -> Outcome:
    """Check a forward pass for dense layers, Algorithm 1 of arXiv:1502.03167.

    Args:
        f: `f(x, gamma, beta, epsilon)` returns `y`, or a tuple that begins with it; `x` is
            [batch, features], `gamma` and `beta` [features], all float64.

    Returns:
        The outcome.

    Example:
        >>> print(forward(lambda x, gamma, beta, epsilon: x.clip(-1, 1)))  # doctest: +ELLIPSIS
        Not yet. This mistake has no name here. ... Each column of y should have the mean beta.
          x = [[2.],
               [1.]]
          gamma = [1.]
          beta = [0.]
          epsilon = 0.
        Yours returns
          y = [[1.],
               [1.]]
    """
    return FUNCTIONS["forward"].check(f)


def gradient(f: Callable) -> Outcome:
    """Check the gradient of batch normalization for dense layers.

    Args:
        f: `f(dy, x, gamma, epsilon)` returns `(dx, dgamma, dbeta)`, for the gradient `dy` of the
            loss with respect to the output.

    Returns:
        The outcome.

    Example:
        >>> gradient(lambda dy, x, gamma, epsilon: (dy, dy.sum(axis=0), dy.sum(axis=0))).right
        False
    """
    return FUNCTIONS["gradient"].check(f)


def moving_statistics(f: Callable) -> Outcome:
    """Check the update of the moving statistics, in the convention of Keras.

    Args:
        f: `f(moving_mean, moving_variance, x, momentum, training)` returns the new
            `(moving_mean, moving_variance)`; `x` is [batch, features].

    Returns:
        The outcome.

    Example:
        >>> def mine(moving_mean, moving_variance, x, momentum, training):
        ...     step = 1 - momentum
        ...     moving_mean = moving_mean + step * (x.mean(axis=0) - moving_mean)
        ...     return moving_mean, moving_variance + step * (x.var(axis=0) - moving_variance)
        >>> moving_statistics(mine).mistake
        'updated-at-inference'
    """
    return FUNCTIONS["moving_statistics"].check(f)


def initial_statistics(f: Callable) -> Outcome:
    """Check what the moving statistics start with.

    Args:
        f: `f(features)` returns `(moving_mean, moving_variance)` of a new layer.

    Returns:
        The outcome.

    Example:
        >>> import numpy as np
        >>> initial_statistics(lambda features: (np.zeros(features), np.zeros(features))).mistake
        'variance-starts-at-0'
    """
    return FUNCTIONS["initial_statistics"].check(f)


def convolution(f: Callable) -> Outcome:
    """Check a forward pass for images with the channels last.

    Args:
        f: `f(x, gamma, beta, epsilon)` returns `y`, or a tuple that begins with it; `x` is
            [batch, height, width, channels].

    Returns:
        The outcome.

    Example:
        >>> import numpy as np
        >>> def mine(x, gamma, beta, epsilon):
        ...     x_hat = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + epsilon)
        ...     return gamma * x_hat + beta
        >>> convolution(mine).mistake
        'per-position'
    """
    return FUNCTIONS["convolution"].check(f)


def folding(f: Callable) -> Outcome:
    """Check the folding of batch normalization into the linear layer before it.

    Args:
        f: `f(kernel, bias, gamma, beta, mean, variance, epsilon)` returns the new `(kernel, bias)`.
            The outputs stand on the last axis of the kernel, which is [inputs, outputs] or
            [height, width, inputs, outputs].

    Returns:
        The outcome.

    Example:
        >>> import numpy as np
        >>> def mine(kernel, bias, gamma, beta, mean, variance, epsilon):
        ...     scale = gamma / np.sqrt(variance + epsilon)
        ...     return kernel * scale, bias + beta - mean * scale
        >>> folding(mine).mistake
        'bias-not-scaled'
    """
    return FUNCTIONS["folding"].check(f)


def placement(build: Callable) -> Outcome:
    """Check where batch normalization stands in a Keras model.

    Wanted is, for each hidden layer: a linear layer without bias, batch normalization, activation;
    and none on the inputs or on the output. Loads TensorFlow.

    Args:
        build: `build()` returns a Keras model, functional or sequential.

    Returns:
        The outcome.

    Example:
        >>> from bnutils._keras import keras
        >>> dense = keras.layers.Dense
        >>> placement(lambda: keras.Sequential([keras.Input((4,)), dense(8), dense(1)])).mistake
        'missing'
    """
    return PLACEMENT.check(build)


def answer(exercise: str, value: Any) -> Outcome:
    """Check the answer to an exercise of a chapter.

    Args:
        exercise: chapter and number as a text, as in "4.1".
        value: what the exercise asks for: a number, a choice, a tuple of these, or a function.

    Returns:
        The outcome.

    Raises:
        TypeError: the exercise is not a text.
        KeyError: there is no such exercise.

    Example:
        >>> answer("4.1", (5000 + 4 * 100, 2 * 100)).mistake
        '100-too-many'
    """
    if not isinstance(exercise, str):
        raise TypeError(
            f'expected the exercise as a text, as in answer("4.1", value), got {exercise!r}'
        )
    if exercise not in _ANSWERS:
        chapter = exercise.partition(".")[0]
        near = [name for name in _ANSWERS if name.startswith(f"{chapter}.")]
        chapters = dict.fromkeys(name.partition(".")[0] for name in _ANSWERS)
        where = f"chapter {chapter}" if near else "a chapter"
        known = ", ".join(near or chapters)
        raise KeyError(f"expected an exercise of {where}, one of {known}, got {exercise!r}")
    return _ANSWERS[exercise].check(value)
