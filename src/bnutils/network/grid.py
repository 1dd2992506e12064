"""Every combination of some named values, as one axis of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["Grid", "grid"]


class Grid:
    """Every combination of some named values, flattened into one axis of runs.

    Made by `grid`. Each name is an attribute: an array [runs].

    Attributes:
        names: the names, in order.
        shape: how many values each name has, in the same order.
    """

    def __init__(self, values: Mapping[str, np.ndarray]) -> None:
        """Lay out a dict from names to one-dimensional arrays; `grid` checks them first."""
        self.names = tuple(values)
        self.shape = tuple(len(value) for value in values.values())
        flat = np.meshgrid(*values.values(), indexing="ij")
        self.__dict__.update(zip(self.names, map(np.ravel, flat), strict=True))

    def __getattr__(self, name: str) -> Any:
        """Say which names there are when one is missing."""
        names = ", ".join(self.__dict__.get("names", ()))
        raise AttributeError(f"expected one of the names of the grid, {names}, got {name!r}")

    def __len__(self) -> int:
        """Count the runs."""
        return int(np.prod(self.shape))

    def __repr__(self) -> str:
        """Name the axes with their sizes."""
        sizes = ", ".join(f"{n}: {k}" for n, k in zip(self.names, self.shape, strict=True))
        return f"Grid({sizes}; {len(self)} runs)"

    def reshape(self, a: np.ndarray) -> np.ndarray:
        """Turn the runs axis of an array back into one axis for each name.

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


def grid(**values: Sequence) -> Grid:
    """Lay out every combination of the given values as runs.

    Args:
        **values: one sequence of values for each name. The last name varies fastest.

    Returns:
        A `Grid`.

    Raises:
        ValueError: if no name is given, a sequence is empty or not one-dimensional, or a name is
            one that `Grid` uses itself.

    Example:
        >>> import numpy as np
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
            one = f": write {name}=[{values[name]!r}]" if array.ndim == 0 else ""
            raise ValueError(
                f"expected a non-empty sequence of values for {name!r}, got {values[name]!r}{one}"
            )
    return Grid(arrays)
