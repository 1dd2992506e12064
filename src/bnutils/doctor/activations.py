"""Activations of all batches, kept in memory, and past a limit in temporary files."""

from __future__ import annotations

import pickle
import shutil
import tempfile
from typing import Any

import numpy as np

from bnutils._keras import mask_of, tf, with_mask
from bnutils.doctor.graph import Tensor

__all__ = ["NoRoomError", "Store", "bytes_of"]

#: What the temporary files leave free on their disk: a tenth of it, and a gigabyte.
DISK_SHARE, DISK_BYTES = 0.1, 2**30


class NoRoomError(Exception):
    """The activations between two levels do not fit on the disk."""


def bytes_of(tensor: tf.Tensor) -> int:
    """The memory that a tensor takes."""
    return int(np.prod(tensor.shape)) * tensor.dtype.size


class Store:
    """Activations of all batches between two levels; see `layerwise`."""

    def __init__(self, memory: int) -> None:
        """Keep up to so many bytes in memory."""
        self._room = memory
        self._held = {}  # (tensor, number of the batch) -> activation, or its place in the file
        self._files = {}  # tensor -> file without a name, gone when it is closed

    def __enter__(self) -> Store:
        """Begin to keep."""
        return self

    def __exit__(self, *error: object) -> None:
        """Let go of everything, the files too."""
        for file in self._files.values():
            file.close()

    def save(self, values: dict[Tensor, Any], number: int) -> None:
        """Keep activations of one batch."""
        for tensor, value in values.items():
            size = bytes_of(value)
            if size > self._room and value.dtype != tf.string:
                self._held[tensor, number] = self._written(tensor, value, size)
            else:
                self._room -= size
                self._held[tensor, number] = value

    def load(self, tensors: dict[Tensor, bool], number: int) -> dict[Tensor, Any]:
        """Give activations of one batch; those marked True are not kept any longer."""
        found = {}
        for tensor, last in tensors.items():
            value = self._held[tensor, number]
            if last:
                del self._held[tensor, number]
            if isinstance(value, int):
                file = self._files[tensor]
                file.seek(value)
                array, mask = pickle.load(file)
                mask = None if mask is None else tf.convert_to_tensor(mask)
                value = with_mask(tf.convert_to_tensor(array), mask)
            elif last:
                self._room += bytes_of(value)
            found[tensor] = value
        return found

    def drop(self, tensors: dict[Tensor, bool]) -> None:
        """Close the files of what is not needed any more."""
        for tensor, last in tensors.items():
            if last and tensor in self._files:
                self._files.pop(tensor).close()

    def _written(self, tensor: Tensor, value: tf.Tensor, size: int) -> int:
        """Write an activation to the end of its file; give the place."""
        disk = shutil.disk_usage(tempfile.gettempdir())
        if disk.free < size + max(DISK_BYTES, DISK_SHARE * disk.total):
            raise NoRoomError
        if tensor not in self._files:
            self._files[tensor] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in drop)
        file = self._files[tensor]
        start = file.seek(0, 2)
        mask = mask_of(value)
        pickle.dump((value.numpy(), None if mask is None else np.asarray(mask)), file, protocol=5)
        return start
