"""Reads the arrays of an .npz file, or says in a sentence what is wrong with it."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path

import numpy as np

__all__ = ["read_npz"]

# NumPy writes zeros a thousand times smaller, so only what is large as well is suspicious.
BOMB_BYTES, BOMB_RATIO = 1 << 32, 100


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Read all arrays of a file that `numpy.savez` wrote.

    Nothing that the file says is believed: sizes are compared with what is there before memory is
    taken, and Python objects are not read.

    Args:
        path: the file.

    Returns:
        The arrays by name.

    Raises:
        ValueError: if it is no such file, or damaged; the message says what is wrong.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(Path(folder, "data.npz"), x=np.arange(3))
        ...     read_npz(Path(folder, "data.npz"))
        {'x': array([0, 1, 2])}
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise _NoArraysError("is a folder, a device or a pipe. Expected an .npz file")
        with Path(path).open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise _NoArraysError("is one array. Expected an .npz file: numpy.savez(..., x=x)")
            with zipfile.ZipFile(file) as archive:
                _check_directory(archive)
                return {
                    info.filename.removesuffix(".npy"): _array(archive, info)
                    for info in archive.infolist()
                    if not info.is_dir()
                }
    except _NoArraysError as error:
        raise ValueError(f"{path} {error}") from error
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except OSError as error:
        raise ValueError(f"{path} is not an .npz file: {error.strerror or error}") from error
    except MemoryError as error:
        raise ValueError(f"{path} does not fit into memory") from error
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is not an .npz file, or damaged: {error}") from error
    # Damaged bytes reach the parsers of Python and zlib, which raise almost anything.
    except Exception as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from error


class _NoArraysError(Exception):
    """Why a file cannot be read: the rest of a sentence that begins with its name."""


def _check_directory(archive: zipfile.ZipFile) -> None:
    names = archive.namelist()
    # A flipped bit makes what follows the comment of the entry before, and entries vanish.
    if len(names) > len(set(names)) or any(info.comment for info in archive.infolist()):
        raise _NoArraysError("is damaged: its list of arrays is not as numpy.savez writes it")
    if others := [name for name in names if not name.endswith((".npy", "/"))]:
        raise _NoArraysError(f"is not an .npz file: it holds {others[0]!r}, which is no array")
    stored = sum(info.compress_size for info in archive.infolist())
    size = sum(info.file_size for info in archive.infolist())
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # a system that does not tell
        memory = math.inf
    if size > memory or size > max(BOMB_BYTES, BOMB_RATIO * stored):
        raise _NoArraysError(
            f"holds {stored:,} bytes that would unpack to {size:,}: more than a file of data does, "
            "or than this machine's memory takes"
        )


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    name = info.filename.removesuffix(".npy")
    if info.flag_bits & 1:
        raise _NoArraysError("is encrypted")
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
        else:
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(member)
        if dtype.hasobject:
            raise _NoArraysError(
                f"holds Python objects as {name!r}, which are not read. Expected arrays of numbers"
            )
        count = math.prod(shape)
        if min(shape, default=0) < 0 or count * dtype.itemsize != info.file_size - member.tell():
            raise _NoArraysError(
                f"is damaged: it says that {name!r} has shape {shape} of {dtype}, but holds "
                f"{info.file_size - member.tell():,} bytes of it"
            )
        values = np.empty(count, dtype)
        rest = memoryview(values.view(np.uint8)) if count else memoryview(b"")
        while rest and (got := member.readinto(rest)):
            rest = rest[got:]
        # At its end the checksum is compared.
        if rest or member.read(1):
            raise _NoArraysError(f"is damaged: {name!r} ends too early or too late")
    return values.reshape(shape, order="F" if fortran else "C")
