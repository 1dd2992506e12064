"""What figures to touch show of the records: modules of constants, made when the site is built.

A figure's JavaScript imports them like any other module, `import { land } from
"./land_records.js"`. Accuracies are whole percents, as a page shows them: the median of the seeds,
the lowest and the highest.
"""

import json
from functools import cache

import numpy as np

PARTS = ("median", "low", "high")
READINGS = {"without": ("without", "in use"), "withBN": ("with", "in use")}
READINGS |= {"withBNBatch": ("with", "in training")}


def _percents(accuracy) -> dict[str, np.ndarray]:
    """Median, lowest and highest of the seeds."""
    seeds = accuracy.get_axis_num("seed")
    parts = zip(PARTS, (np.median, np.min, np.max), strict=True)
    return {name: np.rint(100 * of(accuracy.values, axis=seeds)).astype(int) for name, of in parts}


def _constant(name: str, value) -> str:
    return f"export const {name} = {json.dumps(value, separators=(',', ':'))};\n"


@cache
def race_records() -> str:
    """Bands of each story of the race, at equal steps: `raceBands.stuck.without.median`."""
    from bnutils import studies

    record = studies.load("race-stories")["accuracy"]
    races = studies.get("race-stories").fixed["races"]
    bands = {}
    for story in record["story"].values.tolist():
        every = races[story]["steps"] // (record.sizes["look"] - 1)
        bands[story] = {"steps": [every * look for look in record["look"].values.tolist()]}
        for name, (arm, reading) in READINGS.items():
            parts = _percents(record.sel(story=story, arm=arm, reading=reading))
            bands[story][name] = {part: values.tolist() for part, values in parts.items()}
    return _constant("raceBands", bands)


@cache
def land_records() -> str:
    """The map of settings that train.

    `land.cells` holds two hexadecimal digits for each percent, in the order of activations, depths,
    arms (without BN, with), scales, rates, and median, low, high.
    """
    from bnutils import studies

    record = studies.load("land-of-circles")["accuracy"]
    order = ("activation", "depth", "arm", "scale", "rate", "seed")
    cells = np.stack([*_percents(record.transpose(*order)).values()], axis=-1)
    axes = {f"{name}s": record[name].values.tolist() for name in order if name != "arm"}
    study = studies.get("land-of-circles")
    settings = {name: study.fixed[name] for name in ("steps", "batch", "noise", "momentum")}
    text = "".join(f"{percent:02x}" for percent in cells.ravel())
    return _constant("land", {**axes, **settings, "cells": text})


MADE = {"race_records.js": race_records, "land_records.js": land_records}
