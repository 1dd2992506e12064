"""A fair comparison of arms: each at its own best setting, the choice being part of the interval.

A replicate is a whole experiment: a seed, a draw of the data, and the choice of the settings on its
own validation part. What is reported is the score on its test part at the settings so chosen. So
replicates are alike, and the interval over them covers seeds, data and choice together (see
`interval` for replicates that split one pool of data).

Example:
    >>> from bnutils import studies
    >>> record = studies.load("race")
    >>> race = Comparison(record, "accuracy", choose=["initial_scale", "learning_rate"], step=700)
    >>> race.gain("BN", "no BN").n
    20
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from bnutils.evidence.intervals import (
    Interval,
    interval,
    paired_difference,
    paired_ratio,
    steps_to,
)
from bnutils.evidence.record import provenance

__all__ = ["Comparison"]


class Comparison:
    """Arms of a record, each at the settings that are best for it on validation data.

    Args:
        record: a record with an axis "arm", one for each setting, "seed" for the replicates and
            "part" with "validation" and "test".
        score: name of a variable of the record, or an array with these axes. Infinite ones count
            as the worst.
        choose: the settings that each replicate chooses on its validation part.
        maximize: whether more is better.
        overlap: as for `interval`; None takes that of the record's study.
        **where: values of other axes, such as `step=700`.

    Raises:
        KeyError: an axis, a variable or a value that the record does not have.
    """

    def __init__(
        self,
        record: xr.Dataset,
        score: str | xr.DataArray,
        choose: Sequence[str] = (),
        *,
        maximize: bool = True,
        overlap: float | None = None,
        **where: Any,
    ) -> None:
        """Take the scores out of the record."""
        if isinstance(score, str):
            if score not in record:
                raise KeyError(f"{score}: expected one of {[str(v) for v in record.data_vars]}")
            scores = record[score]
        else:
            scores = score
        if isinstance(choose, str):
            raise ValueError(f"choose: expected a sequence of axes, [{choose!r}], got {choose!r}")
        for axis in ("arm", "seed", "part", *choose, *where):
            if axis not in scores.dims:
                raise KeyError(f"{axis}: expected an axis of the scores, {scores.dims}")
        _check_values(scores, where)
        self.record, self.choose, self.maximize = record, tuple(choose), maximize
        self.scores = scores.sel(where)
        self.overlap = provenance(record)["overlap"] if overlap is None else overlap
        self._last = float(record["step"].max()) if "step" in record.coords else None

    @classmethod
    def of_steps(
        cls, record: xr.Dataset, curve: str, level: float, choose: Sequence[str] = (), **where: Any
    ) -> Comparison:
        """Compare the steps to a level of a recorded curve; fewer is better.

        A replicate that never gets there counts with the last step, so that a ratio to it is a
        lower bound; `censored` says how many did.

        Args:
            record: a record with an axis "step".
            curve: the variable.
            level: the value to reach.
            choose: as for the class.
            **where: as for the class.
        """
        if isinstance(level, bool) or not isinstance(level, Real):
            raise ValueError(f"level: expected a number, got {level!r}")
        curves, steps = record[curve], record["step"].values
        first = curves.reduce(lambda values, axis: _steps_to(values, steps, level, axis), "step")
        score = first.rename(f"steps to {level:g}")
        return cls(record, score, choose, maximize=False, **where)

    @property
    def arms(self) -> list[str]:
        """The names of the arms."""
        return [str(arm) for arm in self.scores["arm"].values]

    @property
    def seeds(self) -> int:
        """The number of replicates."""
        return self.scores.sizes["seed"]

    def values(self, arm: str, **settings: Any) -> xr.DataArray:
        """The test scores of an arm, one for each replicate.

        Args:
            arm: its name.
            **settings: values of settings that are not to be chosen.

        Returns:
            An array over "seed", and over the axes that are neither chosen nor given.
        """
        scores = self._arm(self.scores, arm, settings)
        test = scores.sel(part="test", drop=True)
        if self._last is not None and not self.maximize:
            test = test.where(~np.isinf(test), self._last)
        return self._averaged(test, scores)

    def at_chosen(self, variable: str | xr.DataArray, arm: str, **settings: Any) -> xr.DataArray:
        """Another variable of the record, such as a curve, at the settings that an arm chose.

        Args:
            variable: a variable of the record with the chosen settings among its axes.
            arm: its name.
            **settings: as for `values`.

        Returns:
            The variable without the axes of arm and settings.
        """
        values = self.record[variable] if isinstance(variable, str) else variable
        scores = self._arm(self.scores, arm, settings)
        return self._averaged(self._arm(values, arm, settings), scores)

    def mean(self, arm: str, **settings: Any) -> Interval:
        """The mean test score of an arm, with its interval."""
        return self._over_seeds(interval, self.values(arm, **settings))

    def means(self) -> xr.DataArray:
        """The mean test scores of all arms, over "arm" and the axes that are not chosen.

        With one more axis, `means().to_pandas()` is a table.
        """
        means = [self.values(arm).mean("seed") for arm in self.arms]
        return xr.concat(means, pd.Index(self.arms, name="arm"))

    def gain(self, arm: str, other: str, **settings: Any) -> Interval:
        """The test score of an arm minus that of another, replicate by replicate.

        Args:
            arm: its name.
            other: the name of the other.
            **settings: values at which both are compared, instead of each at its best.

        Returns:
            An `Interval`; of arrays where the scores have further axes.
        """
        return self._over_seeds(
            paired_difference, self.values(arm, **settings), self.values(other, **settings)
        )

    def ratio(self, arm: str, other: str, **settings: Any) -> Interval:
        """The test score of an arm over that of another, replicate by replicate, as for `gain`.

        Where some replicates never reached a level, the true ratio is larger than with the last
        step in their place if they are of `arm`, smaller if they are of `other`: the interval is
        open on that side.
        """
        ratio = self._over_seeds(
            paired_ratio, self.values(arm, **settings), self.values(other, **settings)
        )
        if self.maximize:
            return ratio
        never = {each: self._never(each, settings) for each in (arm, other)}
        ends = {
            "low": np.where(never[other] > 0, 0.0, ratio.low)[()],
            "high": np.where(never[arm] > 0, np.inf, ratio.high)[()],
        }
        shares = {each: float(share.mean()) for each, share in never.items()}
        if any(shares.values()):
            said = ", ".join(f"{share:.0%} of {each}" for each, share in shares.items() if share)
            ends["method"] = f"{ratio.method}; open, since {said} never got there"
        return replace(ratio, **ends)

    def censored(self, arm: str, **settings: Any) -> float:
        """Share of replicates of an arm that never reached the level."""
        return float(self._never(arm, settings).mean())

    def _never(self, arm: str, settings: Mapping[str, Any]) -> np.ndarray:
        """That share, for each place on the axes that are neither chosen nor given."""
        scores = self._arm(self.scores, arm, settings)
        never = np.isinf(scores.sel(part="test", drop=True)).astype(float)
        return (self._averaged(never, scores) > 0).mean("seed").values

    def chosen(self, arm: str, **settings: Any) -> dict[str, dict[str, Any]]:
        """The settings that the replicates of an arm chose.

        Returns:
            For each setting the most frequent value, the share of replicates that chose it, and
            "edge": whether it, or the choice of a quarter of the replicates, is the first or last
            of several numbers, so that a wider grid might hold a better one.
        """
        scores = self._arm(self.scores, arm, settings)
        weights = self._weights(scores)
        found = {}
        for name in self._free(scores):
            labels = scores[name].values
            shares = weights.sum([n for n in self._free(scores) if n != name])
            shares = shares.mean([d for d in shares.dims if d != name]).values
            top = int(shares.argmax())
            numbers = labels.dtype.kind in "biuf" and len(labels) > 1
            at_ends = shares[0] + shares[-1]
            found[name] = {
                "value": labels[top].item(),
                "share": round(float(shares[top]), 3),
                "edge": bool(numbers and (top in (0, len(labels) - 1) or at_ends >= 0.25)),
            }
        return found

    def table(self, spec: str = ".3f", **settings: Any) -> pd.DataFrame:
        """A row for each arm: the settings it chose most often, and its mean with the interval.

        A setting at the edge of its grid is marked with an asterisk.
        """
        rows = {}
        for arm in self.arms:
            chosen = self.chosen(arm, **settings)
            row = {
                name.replace("_", " "): f"{each['value']:g}{'*' if each['edge'] else ''}"
                if isinstance(each["value"], int | float)
                else str(each["value"])
                for name, each in chosen.items()
            }
            if not self.maximize:
                row["never"] = f"{self.censored(arm, **settings):.0%}"
            rows[arm] = {**row, str(self.scores.name): format(self.mean(arm, **settings), spec)}
        return pd.DataFrame(rows).T

    def _arm(self, values: xr.DataArray, arm: str, settings: Mapping[str, Any]) -> xr.DataArray:
        if arm not in self.arms:
            raise KeyError(f"{arm}: expected one of the arms {self.arms}")
        _check_values(values, settings)
        return values.sel(
            arm=arm, **{n: v for n, v in settings.items() if n in values.dims}, drop=True
        )

    def _free(self, scores: xr.DataArray) -> list[str]:
        return [name for name in self.choose if name in scores.dims]

    def _weights(self, scores: xr.DataArray) -> xr.DataArray:
        """The settings that are best on the validation part of each replicate.

        Several may be equally good; each then has its share, so that nothing but the replicate's
        own validation part has a say.
        """
        free = self._free(scores)
        validation = scores.sel(part="validation", drop=True)
        validation = (validation if self.maximize else -validation).fillna(-np.inf)
        best = (validation == validation.max(free)).astype(float)
        return best / best.sum(free)

    def _averaged(self, values: xr.DataArray, scores: xr.DataArray) -> xr.DataArray:
        """Values at the best settings of each replicate; the mean where several are."""
        free = self._free(scores)
        if not free:
            return values
        weights = self._weights(scores)
        return (values.where(weights > 0, 0) * weights).sum(free, skipna=False)

    def _over_seeds(self, statistic: Any, *values: xr.DataArray) -> Interval:
        """An interval over the replicates, which stand on the first axis."""
        arrays = [each.transpose("seed", ...).values for each in values]
        return statistic(*arrays, overlap=self.overlap)


def _steps_to(values: np.ndarray, steps: np.ndarray, level: float, axis: int) -> np.ndarray:
    return steps_to(np.moveaxis(values, axis, -1), steps, level)


def _check_values(scores: xr.DataArray, where: Mapping[str, Any]) -> None:
    """Refuse values that an axis does not have."""
    for name, value in where.items():
        if name in scores.dims and not np.isin(value, scores[name].values).all():
            raise KeyError(f"{name}={value}: expected one of {scores[name].values.tolist()}")
