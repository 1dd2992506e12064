"""Convolutions and pooling for images, for every run at once.

Images are [runs, batch, rows, columns, channels], the channels last as in Keras. Each place of a
window becomes a row of a matrix, and the convolution one matrix product for each run.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

__all__ = [
    "AveragePool2D",
    "Conv2D",
    "Flatten",
    "GlobalAveragePool2D",
    "MaxPool2D",
    "Windows",
]

_BLOCK = 2**18  # values in the windows of as many runs as are multiplied at once: they fit a cache


class Windows:
    """Where a window stands on an image.

    Args:
        size: rows and columns of the window, a number or a pair.
        strides: steps from one place to the next, a number or a pair.
        padding: "valid" takes the places inside the image; "same" adds a frame of padding, so that
            with steps of 1 there are as many places as pixels, as in Keras.

    Raises:
        ValueError: if a number is under 1, or padding is another word.

    Example:
        >>> Windows(3, 2, "same").places((9, 8)), Windows(3, 2, "valid").places((9, 8))
        ((5, 4), (4, 3))
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: str = "valid",
    ) -> None:
        """Check and keep the numbers."""
        self.size, self.strides = _pair(size, "size"), _pair(strides, "strides")
        if padding not in ("valid", "same"):
            raise ValueError(f"expected padding to be 'valid' or 'same', got {padding!r}")
        self.padding = padding

    def places(self, shape: tuple[int, int]) -> tuple[int, int]:
        """How many rows and columns of places there are on an image of that many pixels.

        Raises:
            ValueError: if the image is smaller than the window.
        """
        if self.padding == "same":
            return tuple(-(-n // s) for n, s in zip(shape, self.strides, strict=True))
        if any(n < k for n, k in zip(shape, self.size, strict=True)):
            raise ValueError(
                f"expected images of at least {self.size[0]} x {self.size[1]}, the size of a "
                f"window, got {shape[0]} x {shape[1]}"
            )
        return tuple(
            (n - k) // s + 1 for n, k, s in zip(shape, self.size, self.strides, strict=True)
        )

    def frame(self, shape: tuple[int, int]) -> list[tuple[int, int]]:
        """Padding before and after the rows, and before and after the columns."""
        both = zip(shape, self.size, self.strides, self.places(shape), strict=True)
        needed = [max((p - 1) * s + k - n, 0) for n, k, s, p in both]
        return [(total // 2, total - total // 2) for total in needed]

    def padded(self, x: np.ndarray, value: float = 0.0) -> np.ndarray:
        """Put the frame around images [..., rows, columns, channels]."""
        rows, columns = x.shape[-3:-1]
        (top, bottom), (left, right) = self.frame((rows, columns))
        if not (top or bottom or left or right):
            return x
        shape = *x.shape[:-3], top + rows + bottom, left + columns + right, x.shape[-1]
        y = np.full(shape, value, x.dtype)
        y[..., top : top + rows, left : left + columns, :] = x
        return y

    def pixels(self, padded: np.ndarray, places: tuple[int, int]) -> Iterator[np.ndarray]:
        """Views [..., rows, columns, channels] of each pixel of the window at all places."""
        down, across = ((p - 1) * s + 1 for p, s in zip(places, self.strides, strict=True))
        for i in range(self.size[0]):
            for j in range(self.size[1]):
                yield padded[
                    ..., i : i + down : self.strides[0], j : j + across : self.strides[1], :
                ]

    def matrix(self, padded: np.ndarray) -> np.ndarray:
        """The windows of padded images as rows: [..., images and places, pixels and channels]."""
        *runs, images, _, _, channels = padded.shape
        sides = zip(padded.shape[-3:-1], self.size, self.strides, strict=True)
        places = tuple((n - k) // s + 1 for n, k, s in sides)
        pixels = self.size[0] * self.size[1]
        shape = *runs, images * places[0] * places[1], pixels * channels
        if channels < 4:  # copying whole windows would mean many very short copies
            windows = np.empty((*runs, images, *places, pixels, channels), padded.dtype)
            for k, pixel in enumerate(self.pixels(padded, places)):
                windows[..., k, :] = pixel
            return windows.reshape(shape)
        views = sliding_window_view(padded, self.size, axis=(-3, -2))  # [..., channels, i, j]
        views = views[..., :: self.strides[0], :: self.strides[1], :, :, :]
        return np.moveaxis(views, -3, -1).reshape(shape)


class Conv2D:
    """A two-dimensional convolution for every run, as `keras.layers.Conv2D`.

    Attributes:
        kernel: array [runs, kernel rows, kernel columns, channels, filters].
        bias: array [runs, 1, filters], or None.
        windows: the `Windows` under which the kernel is laid.
        dkernel: gradient of the kernel, after `backward`.
        dbias: gradient of the bias, after `backward`, or None.
    """

    def __init__(
        self,
        kernel: np.ndarray,
        bias: np.ndarray | None = None,
        strides: int | tuple[int, int] = 1,
        padding: str = "same",
    ) -> None:
        """Make a layer of a kernel and a bias, which it keeps and does not copy."""
        self.kernel, self.bias = kernel, bias
        self.windows = Windows(kernel.shape[1:3], strides, padding)
        self.dkernel = np.empty_like(kernel)
        self.dbias = None if bias is None else np.empty_like(bias)
        self._x = None

    def __call__(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Apply the layer.

        Args:
            x: array [batch, rows, columns, channels], shared by all runs, or with a runs axis
                before it.
            training: whether `backward` will follow.

        Returns:
            Array [runs, batch, rows of places, columns of places, filters].
        """
        self._x = x if training else None
        kernel = _matrices(self.kernel)
        places = self.windows.places(x.shape[-3:-1])
        shape = len(kernel), x.shape[-4], *places, kernel.shape[-1]
        y = np.empty((shape[0], shape[1] * places[0] * places[1], shape[-1]), x.dtype)
        for block, rows in self._blocks(x):
            np.matmul(rows, kernel[block], out=y[block])
        if self.bias is not None:
            y += self.bias
        return y.reshape(shape)

    def backward(self, dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
        """Set dkernel and dbias, and return the gradient of the input.

        Args:
            dy: array like the output, its gradient.
            input_gradient: whether the gradient of the input is wanted. The first layer of a
                network does not need it.

        Returns:
            Array [runs, batch, rows, columns, channels], or None.
        """
        runs, filters = len(dy), dy.shape[-1]
        flat = dy.reshape(runs, -1, filters)
        dkernel = _matrices(self.dkernel)
        for block, rows in self._blocks(self._x):
            np.matmul(rows.swapaxes(-1, -2), flat[block], out=dkernel[block])
        if self.bias is not None:
            np.matmul(np.ones((1, flat.shape[1]), dy.dtype), flat, out=self.dbias)
        return self._input_gradient(dy) if input_gradient else None

    def _input_gradient(self, dy: np.ndarray) -> np.ndarray:
        """Convolve the gradient of the output with the kernel turned by half a turn.

        Each pixel of the input gathers what the windows over it send back. That is a convolution
        too, with steps of 1, of an image on which the places stand as far apart as the strides.
        """
        x, size = self._x, self.windows.size
        turned = np.ascontiguousarray(self.kernel[:, ::-1, ::-1].swapaxes(-1, -2))
        turned = _matrices(turned)
        step, stride = Windows(size), self.windows.strides
        frame = self.windows.frame(x.shape[-3:-1])
        spread = [n + k - 1 for n, k in zip(x.shape[-3:-1], size, strict=True)]
        down, across = (
            slice(k - 1 - before, k - 1 - before + (n - 1) * s + 1, s)
            for k, (before, _), n, s in zip(size, frame, dy.shape[-3:-1], stride, strict=True)
        )
        images, rows, columns, channels = x.shape[-4:]
        dx = np.empty((len(dy), images * rows * columns, channels), dy.dtype)
        for block in _blocks(len(dy), dy[0].size * size[0] * size[1]):
            apart = np.zeros((*dy[block].shape[:2], *spread, dy.shape[-1]), dy.dtype)
            apart[:, :, down, across] = dy[block]
            np.matmul(step.matrix(apart), turned[block], out=dx[block])
        return dx.reshape(len(dy), images, rows, columns, channels)

    def _blocks(self, x: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Some runs at a time, with the windows that they see; one block where x is shared."""
        if x.ndim == 4:
            yield slice(None), self.windows.matrix(self.windows.padded(x))
            return
        for block in _blocks(len(x), x[0].size * self.windows.size[0] * self.windows.size[1]):
            yield block, self.windows.matrix(self.windows.padded(x[block]))


class _Pool2D:
    """What the two kinds of pooling have in common.

    Args:
        pool_size: rows and columns of a window, a number or a pair.
        strides: steps from one window to the next; None for the size of a window.
        padding: "valid" or "same", as in `Windows`.
    """

    def __init__(
        self,
        pool_size: int | tuple[int, int] = 2,
        strides: int | tuple[int, int] | None = None,
        padding: str = "valid",
    ) -> None:
        """Lay out the windows."""
        self.windows = Windows(pool_size, pool_size if strides is None else strides, padding)
        self._kept = None

    def _gathered(
        self, shape: tuple[int, ...], parts: Iterator[np.ndarray], dtype: np.dtype
    ) -> np.ndarray:
        """Add up what each pixel of the windows sends back, on an image of that shape."""
        rows, columns = shape[-3:-1]
        (top, bottom), (left, right) = self.windows.frame((rows, columns))
        dx = np.zeros((*shape[:-3], top + rows + bottom, left + columns + right, shape[-1]), dtype)
        views = self.windows.pixels(dx, self.windows.places((rows, columns)))
        for view, part in zip(views, parts, strict=True):
            view += part
        return dx[..., top : top + rows, left : left + columns, :]


class MaxPool2D(_Pool2D):
    """The largest value under each window, as `keras.layers.MaxPooling2D`.

    The gradient goes to the largest value, to the first one where several are equal.

    Args:
        pool_size: rows and columns of a window, a number or a pair.
        strides: steps from one window to the next; None for the size of a window.
        padding: "valid" or "same", as in `Windows`.
    """

    def __call__(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Apply the layer to an array [runs, batch, rows, columns, channels]."""
        padded = self.windows.padded(x, -np.inf)
        first, *others = self.windows.pixels(padded, self.windows.places(x.shape[-3:-1]))
        y = first.copy()
        for other in others:
            np.maximum(y, other, out=y)
        self._kept = (padded, y, x.shape) if training else None
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Return the gradient of the input."""
        padded, y, shape = self._kept

        def parts() -> Iterator[np.ndarray]:
            free = np.ones(y.shape, bool)
            for pixel in self.windows.pixels(padded, y.shape[-3:-1]):
                largest = pixel == y
                largest &= free
                free ^= largest
                yield dy * largest

        return self._gathered(shape, parts(), dy.dtype)


class AveragePool2D(_Pool2D):
    """The mean under each window, padding left out, as `keras.layers.AveragePooling2D`.

    Args:
        pool_size: rows and columns of a window, a number or a pair.
        strides: steps from one window to the next; None for the size of a window.
        padding: "valid" or "same", as in `Windows`.
    """

    def __call__(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Apply the layer to an array [runs, batch, rows, columns, channels]."""
        places = self.windows.places(x.shape[-3:-1])
        first, *others = self.windows.pixels(self.windows.padded(x), places)
        y = first.copy()
        for other in others:
            y += other
        y /= self._counts(x.shape, x.dtype)
        self._kept = x.shape if training else None
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Return the gradient of the input."""
        shape = self._kept
        part = dy / self._counts(shape, dy.dtype)
        pixels = self.windows.size[0] * self.windows.size[1]
        return self._gathered(shape, (part for _ in range(pixels)), dy.dtype)

    def _counts(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """How many pixels of the image each window covers, [rows, columns, 1]."""
        ones = self.windows.padded(np.ones((*shape[-3:-1], 1), dtype))
        return sum(self.windows.pixels(ones, self.windows.places(shape[-3:-1])))


class GlobalAveragePool2D:
    """The mean of each channel over the image: [runs, batch, channels]."""

    def __init__(self) -> None:
        """Make a layer; it has no parameters."""
        self._shape = None

    def __call__(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Apply the layer to an array [runs, batch, rows, columns, channels]."""
        self._shape = x.shape if training else None
        return x.mean(axis=(-3, -2))

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Return the gradient of the input."""
        rows, columns = self._shape[-3:-1]
        dx = np.empty(self._shape, dy.dtype)
        dx[...] = (dy / (rows * columns))[..., None, None, :]
        return dx


class Flatten:
    """All pixels of an image in a row: [runs, batch, rows * columns * channels]."""

    def __init__(self) -> None:
        """Make a layer; it has no parameters."""
        self._shape = None

    def __call__(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Apply the layer to an array [runs, batch, rows, columns, channels]."""
        self._shape = x.shape if training else None
        return x.reshape(*x.shape[:2], -1)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Return the gradient of the input."""
        return dy.reshape(self._shape)


def _pair(value: int | tuple[int, int], name: str) -> tuple[int, int]:
    """A number as a pair, checked."""
    pair = (value, value) if np.ndim(value) == 0 else tuple(value)
    if len(pair) != 2 or any(int(n) != n or n < 1 for n in pair):
        raise ValueError(f"expected {name} to be a whole number from 1 or two, got {value!r}")
    return int(pair[0]), int(pair[1])


def _matrices(kernel: np.ndarray) -> np.ndarray:
    """A view of a kernel as [runs, pixels and channels, filters]."""
    runs, *_, filters = kernel.shape
    return kernel.reshape(runs, -1, filters, copy=False)


def _blocks(runs: int, values: int) -> Iterator[slice]:
    """Slices of the runs, each with about as many values as fit a cache, given those of a run."""
    step = max(1, _BLOCK // values)
    for start in range(0, runs, step):
        yield slice(start, start + step)
