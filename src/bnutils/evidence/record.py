"""Records: labelled arrays with their provenance, in files that are whole or not there.

A record is an `xarray.Dataset`. Its attribute "provenance" holds JSON: which study made it with
which settings, versions, processor, date, CPU seconds, the commit it was run at, the margins that
had been stated by then, and a digest of the numbers, so that an edited record is noticed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from bnutils import _writing

__all__ = ["RecordError", "digest", "load", "provenance", "read", "write"]

SEAL = b"\nsha256 "  # between what a record holds and the digest of all that


class RecordError(ValueError):
    """A file that holds no record, half a record, another one, or one that was changed."""


def provenance(record: xr.Dataset) -> dict[str, Any]:
    """How a record came about.

    Args:
        record: what `Study.run` or `bnutils.studies.load` gave.

    Returns:
        A dict with "study", "fingerprint", "settings", "digest", "versions", "processor", "date",
        "cpu_seconds", "commit", "margins", "overlap" and "changes".

    Raises:
        KeyError: the array has no provenance, so it is no record.
    """
    if "provenance" not in record.attrs:
        raise KeyError("provenance: expected a record, got an array without its history")
    return json.loads(record.attrs["provenance"])


def digest(record: xr.Dataset) -> str:
    """SHA-256 of the names, axes, labels and numbers of a record; not of its history."""
    sha = hashlib.sha256()
    for name in sorted(map(str, record.variables)):
        variable = record.variables[name]
        values = np.asarray(variable.values)
        if values.dtype.kind in "OUT":
            content = json.dumps(values.astype(str).tolist()).encode()
            kind = "text"
        else:
            values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
            content, kind = values.tobytes(), values.dtype.str
        sha.update(f"{name}{variable.dims}{values.shape}{kind}".encode())
        sha.update(content)
    return sha.hexdigest()


def write(record: xr.Dataset, path: Path) -> None:
    """Write a record to a netCDF file: beside it first, then moved, so nobody sees half of it.

    Behind what netCDF reads stands the digest of the file, by which damage is noticed.

    Args:
        record: the record.
        path: where; its folder is made if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = {
        str(name): {"zlib": True, "complevel": 6, "shuffle": True}
        for name, values in record.data_vars.items()
        if values.dtype.kind in "biuf" and values.ndim
    }

    def whole(new: Path) -> None:
        record.to_netcdf(new, engine="h5netcdf", encoding=packed)
        content = new.read_bytes()
        new.write_bytes(content + SEAL + hashlib.sha256(content).hexdigest().encode())

    _writing.replace(path, whole)


def load(path: Path) -> xr.Dataset:
    """The arrays of a netCDF file, in memory, if it is whole.

    Raises:
        FileNotFoundError: there is none.
        RecordError: it is damaged.
    """
    try:
        content, seal, told = path.read_bytes().rpartition(SEAL)
        # The library of HDF5 may run for ever on a damaged file, so it is not asked first.
        if not seal or hashlib.sha256(content).hexdigest().encode() != told:
            raise ValueError("other bytes than were written")
        with xr.open_dataset(path, engine="h5netcdf") as file:
            return file.load()
    except FileNotFoundError:
        raise FileNotFoundError(f"no record at {path.name}; compute it: {_command(path)}") from None
    except Exception as error:  # the parsers of damaged bytes raise almost anything
        raise RecordError(
            f"expected a whole record in {path.name}, got {type(error).__name__}: {error}; "
            f"{_again(path)}"
        ) from error


def read(path: Path, study: str | None = None) -> xr.Dataset:
    """Read a record, and check that it is whole and as it was written.

    Args:
        path: a file that `write` made.
        study: the study that it has to be of; any if None.

    Returns:
        The record, in memory.

    Raises:
        FileNotFoundError: there is none.
        RecordError: it is cut short, no record, of another study, or its numbers are not those of
            its digest.
    """
    record = load(path)
    try:
        history = provenance(record)
        found, told = history["study"], history["digest"]
        lost = {"fingerprint", "margins", "commit"} - history.keys()
    except (KeyError, TypeError, ValueError, AttributeError):
        found, told, lost = None, None, {"provenance"}
    if lost:
        raise RecordError(
            f"expected a record with its history in {path.name}, got one without "
            f"{', '.join(sorted(lost))}; {_again(path)}"
        )
    if study not in (None, found):
        raise RecordError(
            f"expected the record of {study!r} in {path.name}, got that of {found!r}; "
            f"{_again(path)}"
        )
    for name, values in record.variables.items():
        if values.dtype.kind == "O":
            record[name] = record[name].astype(str)
    if told != digest(record):
        raise RecordError(
            f"expected the numbers of {path.name} to have the digest {str(told)[:12]}, got "
            f"{digest(record)[:12]}: they were changed after they were measured; {_again(path)}"
        )
    return record


def _again(path: Path) -> str:
    return f"compute it again: {_command(path)}"


def _command(path: Path) -> str:
    return f"python -m bnutils.studies {path.stem}"
