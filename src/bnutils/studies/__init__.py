"""The book's experiments, by name: their settings, what they measured, and the claims they test.

Example:
    >>> from bnutils import studies
    >>> record = studies.load("gradients")  # what was recorded, at once
    >>> record["kernel"].dims
    ('arm', 'network', 'seed', 'layer')
    >>> live = studies.get("gradients").run(seed=[0, 1], network=["tanh"])  # computed here and now
    >>> live["kernel"].dims == record["kernel"].dims
    True
    >>> studies.claim("vanishing-gradients").outcome
    'shown'
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from bnutils._extras import extra

if TYPE_CHECKING:
    import xarray as xr

    from bnutils.evidence import Claim, Hypothesis, Study

__all__ = ["claim", "claims", "get", "hypothesis", "load", "names"]

RECORDS = Path(__file__).parents[1] / "records"
CHAPTERS = tuple(f"chapter_{number:02d}" for number in range(1, 14))
MODULES = (*CHAPTERS, "explore")


@cache
def _chapters() -> tuple[ModuleType, ...]:
    with extra("book"):
        return tuple(import_module(f"bnutils.studies.{name}") for name in MODULES)


@cache
def _studies() -> dict[str, Study]:
    return {study.name: study for chapter in _chapters() for study in chapter.STUDIES}


@cache
def _claims() -> dict[str, ModuleType]:
    return {name: chapter for chapter in _chapters() for name in chapter.CLAIMS}


def names() -> list[str]:
    """The names of all studies, in the order of the chapters."""
    return list(_studies())


def get(name: str) -> Study:
    """A study by its name.

    Raises:
        KeyError: there is none of that name.
    """
    if name not in _studies():
        raise KeyError(_unknown(name, names(), "study"))
    return _studies()[name]


def _unknown(name: str, known: list[str], kind: str) -> str:
    """What to say of a name that is not known: one that is close, or else all there are."""
    if kind == "study" and name in _claims():
        return f"{name}: expected a study, got the name of a claim; use studies.claim({name!r})"
    if kind == "claim" and name in _studies():
        return f"{name}: expected a claim, got the name of a study; use studies.load({name!r})"
    if close := get_close_matches(str(name), known, 3):
        return (
            f"{name}: expected the name of a {kind}; did you mean {' or '.join(map(repr, close))}?"
        )
    return f"{name}: expected one of {known}"


def load(name: str) -> xr.Dataset:
    """What a study measured: its record.

    Args:
        name: of the study.

    Returns:
        An `xarray.Dataset` as `Study.run` gives it, with its provenance, and in double precision.

    Raises:
        KeyError: there is no such study.
        FileNotFoundError: it has no record yet.
        bnutils.evidence.record.RecordError: the file is damaged, of another study, or was changed.
    """
    get(name)
    return _read(RECORDS / f"{name}.nc").copy(deep=True)


@cache
def _read(path: Path) -> xr.Dataset:
    from bnutils.evidence.record import read

    record = read(path, study=path.stem)
    single = [name for name, values in record.data_vars.items() if values.dtype == "float32"]
    return record.assign({name: _double(record[name]) for name in single})


def _double(values: xr.DataArray) -> xr.DataArray:
    """Numbers in single precision as the decimals of seven digits that they stand for.

    Means in single precision differ in the seventh digit from one processor to the next. And a
    plain conversion would turn an accuracy of 0.9 into 0.89999998, which does not reach 0.9.
    """
    import numpy as np

    double = values.values.astype(np.float64)
    sizes = np.abs(double)
    sizes[~np.isfinite(sizes) | (sizes == 0)] = 1.0
    unit = 10.0 ** (6 - np.floor(np.log10(sizes)))
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = np.round(double * unit) / unit
    return values.copy(data=np.where(np.isfinite(rounded), rounded, double))


def claims() -> list[str]:
    """The names of the claims that studies test."""
    return list(_claims())


def hypothesis(name: str) -> Hypothesis:
    """What was said about a claim, with its margin, before its record was made.

    Raises:
        KeyError: no study tests a claim of that name.
    """
    if name not in _claims():
        raise KeyError(_unknown(name, claims(), "claim"))
    return _claims()[name].HYPOTHESES[name]


def claim(name: str) -> Claim:
    """A claim, judged from the records.

    Raises:
        KeyError: no study tests a claim of that name.
    """
    return hypothesis(name) and _claims()[name].CLAIMS[name]()
