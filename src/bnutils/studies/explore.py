"""The figures to touch: the map of settings that train, and the stories of the race.

They show on small networks, which a browser trains too, what the chapters measure on images. They
test no claims of the ledger: their settings were chosen after others had been tried, because they
show something. What each must show was said before its record was made, in `SHOWN` and `STORIES`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import xarray as xr

from bnutils import network
from bnutils.evidence import Study, Tolerance
from bnutils.studies import points
from bnutils.studies.common import Settings

__all__ = ["ARMS", "CLAIMS", "READINGS", "SHOWN", "STORIES", "STUDIES", "TRAINS", "Expected"]

ARMS = ["without", "with"]
READINGS = ["in use", "in training"]
LOOKS = 20  # times at which a story is looked at after its start

TRAINS = 0.95
"""A pair of scale and rate trains if the median of the seeds reaches this accuracy."""


# ------------------------------------------------------------------------------------------ the map


def land_block(settings: Settings) -> xr.Dataset:
    """Accuracy on held-out points at every pair of initial scale and learning rate."""
    runs = network.grid(**{name: settings[name] for name in ("scale", "rate")})
    shared = ("activation", "depth", "data", "noise", "batch", "order", "momentum", "steps")
    _, in_use, _ = points.race(
        settings["arm"],
        [settings["seed"]] * len(runs),
        rate=runs.rate,
        scale=runs.scale,
        every=settings["steps"],
        **{name: settings[name] for name in shared},
    )
    accuracy = runs.reshape(in_use[:, -1].astype(np.float32))
    return xr.Dataset(
        {"accuracy": (runs.names, accuracy)},
        {name: list(settings[name]) for name in runs.names},
    )


SHOWN: Mapping[str, float] = MappingProxyType({"land": 3.0, "peak": 0.02, "usual": 2})
"""What the maps of depth 4 must show, each with every activation.

"land": with BN at least so many times as many pairs train. "peak": the best medians of the two arms
are no further apart. "usual": at the scale 1 at least so many rates train tanh and ReLU without BN.
"""


# -------------------------------------------------------------------------------------- the stories


def stories_block(settings: Settings) -> xr.Dataset:
    """Accuracy of one arm on held-out points in the course of one story."""
    race = settings["races"][settings["story"]]
    seeds, every = settings["seed"], race["steps"] // LOOKS
    _, *read = points.race(settings["arm"], seeds, every=every, **race)
    return xr.Dataset(
        {"accuracy": (("reading", "seed", "look"), np.array(read, np.float32))},
        {"reading": READINGS, "seed": list(seeds), "look": range(LOOKS + 1)},
    )


@dataclass(frozen=True)
class Expected:
    """What a story must show at its end with at least eight of ten seeds.

    Args:
        arm: "with" BN or "without".
        sense: "at least" or "at most".
        level: an accuracy on held-out points.
        reading: whether BN normalizes as "in use", by its moving statistics, or as "in training".
    """

    arm: str
    sense: str
    level: float
    reading: str = READINGS[0]

    def holds(self, accuracy: xr.DataArray) -> bool:
        """Judge the end of a story, with the axes "arm", "reading" and "seed"."""
        reaches: Callable = operator.ge if self.sense == "at least" else operator.le
        ends = accuracy.sel(arm=self.arm, reading=self.reading)
        return bool(reaches(ends, self.level).mean() >= 0.8)


STORIES: dict[str, tuple[Expected, ...]] = {
    "stuck": (Expected("without", "at most", 0.6), Expected("with", "at least", 0.95)),
    "too-fast": (Expected("without", "at most", 0.8), Expected("with", "at least", 0.8)),
    "badly-started": (Expected("without", "at most", 0.6), Expected("with", "at least", 0.9)),
    "nothing-to-fix": (Expected("without", "at least", 0.9), Expected("with", "at least", 0.9)),
    "batch-of-two": (Expected("without", "at least", 0.9), Expected("with", "at most", 0.8)),
    "sorted": (
        Expected("without", "at least", 0.9),
        Expected("with", "at most", 0.8),
        Expected("with", "at most", 0.8, "in training"),
    ),
    "bad-in-use": (
        Expected("with", "at most", 0.6),
        Expected("with", "at least", 0.9, "in training"),
    ),
    "half-way": (
        Expected("with", "at most", 0.9),
        Expected("with", "at least", 0.95, "in training"),
    ),
}


# -------------------------------------------------------------------------------------- the studies

_TRIED = (
    "Before the record, prototypes and a pilot with seeds 101 to 110: these settings were chosen "
    "because they show something, so the figures illustrate and test no claim."
)
_COMMON = ("data", "noise", "batch", "order", "momentum")

STUDIES = (
    Study(
        name="land-of-circles",
        question="Which pairs of initial scale and learning rate train a network that a browser "
        "can train, too?",
        block=land_block,
        dims={
            "activation": ["sigmoid", "tanh", "relu"],
            "depth": [2, 4, 6],
            "arm": ARMS,
            "scale": [0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0],
            "rate": [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
            "seed": range(1, 11),
        },
        together=["scale", "rate"],
        fixed={"steps": 500, **{name: points.DEFAULTS[name] for name in _COMMON}},
        tolerances={"accuracy": Tolerance(mean=0.04)},
        changes=(_TRIED,),
    ),
    Study(
        name="race-stories",
        question="How do the stories of the race go, with BN and without?",
        block=stories_block,
        dims={"story": list(STORIES), "arm": ARMS, "seed": range(1, 11)},
        together=["seed"],
        fixed={
            "races": {name: points.DEFAULTS | points.PRESETS[name] for name in STORIES},
        },
        tolerances={"accuracy": Tolerance(mean=0.05)},
        changes=(
            _TRIED,
            "After a first record: the story too-fast ends after 300 steps, not 400, as in the "
            "figure; what it must show stayed.",
        ),
    ),
)

CLAIMS: Mapping[str, Callable] = {}
