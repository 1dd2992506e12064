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

__all__ = ["RecordError", "digest", "provenance", "read", "write"]


class RecordError(ValueError):
    """A file that holds no record, half a record, or one whose numbers were changed."""


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
    _writing.replace(path, lambda new: record.to_netcdf(new, engine="h5netcdf", encoding=packed))


def read(path: Path) -> xr.Dataset:
    """Read a record, and check that it is whole and as it was written.

    Args:
        path: a file that `write` made.

    Returns:
        The record, in memory.

    Raises:
        FileNotFoundError: there is none.
        RecordError: it is cut short, no record, or its numbers are not those of its digest.
    """
    if not path.exists():
        raise FileNotFoundError(f"no record at {path.name}")
    try:
        with xr.open_dataset(path, engine="h5netcdf") as file:
            record = file.load()
        history = provenance(record)
    except (OSError, ValueError, KeyError, RuntimeError, EOFError) as error:
        raise RecordError(
            f"expected a whole record in {path.name}, got {type(error).__name__}: {error}; "
            "compute it again"
        ) from error
    for name, values in record.variables.items():
        if values.dtype.kind == "O":
            record[name] = record[name].astype(str)
    if history["digest"] != digest(record):
        raise RecordError(
            f"expected the numbers of {path.name} to have the digest {history['digest'][:12]}, "
            f"got {digest(record)[:12]}: they were changed after they were measured; compute it "
            "again"
        )
    return record
