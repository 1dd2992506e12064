"""What figures to touch show of the records: modules of constants, made when the site is built.

A figure's JavaScript imports them like any other module, `import { land } from
"./land_records.js"`. Accuracies are whole percents, as a page shows them: the median of the seeds,
the lowest and the highest.
"""

import json
from functools import cache

import numpy as np

PARTS = ("median", "low", "high")
OPENING = {"activation": "tanh", "depth": 4, "scale": 1.0, "rate": 0.3, "threshold": 95}
SHADES = (60, 75, 90)
TITLES = {"without": "Without BN", "with": "With BN"}
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
    """What ten runs of each story of the race reached: `raceBands.stuck.without.median`.

    `low` and `high` hold a character for each of their looks, as in `land_records`; `median` is
    that of their ends.
    """
    from bnutils import studies

    record = studies.load("race-stories")["accuracy"]
    races = studies.get("race-stories").fixed["races"]
    bands = {}
    for story in record["story"].values.tolist():
        bands[story] = {"steps": races[story]["steps"]}
        for name, (arm, reading) in READINGS.items():
            parts = _percents(record.sel(story=story, arm=arm, reading=reading))
            bands[story][name] = {part: _as_text(parts[part]) for part in ("low", "high")}
            bands[story][name]["median"] = int(parts["median"][-1])
    return _constant("raceBands", bands)


@cache
def land_records() -> str:
    """The map of settings that train.

    `land.cells` holds a character for each percent, whose code is 26 more, in the order of
    activations, depths, arms (without BN, with), scales, rates, and median, low, high.
    """
    from bnutils import studies

    record = studies.load("land-of-circles")["accuracy"]
    order = ("activation", "depth", "arm", "scale", "rate", "seed")
    cells = np.stack([*_percents(record.transpose(*order)).values()], axis=-1)
    axes = {f"{name}s": record[name].values.tolist() for name in order if name != "arm"}
    study = studies.get("land-of-circles")
    settings = {name: study.fixed[name] for name in ("steps", "batch", "noise", "momentum")}
    shown = {"opening": OPENING, "shades": SHADES, "cells": _as_text(cells)}
    return _constant("land", {**axes, **settings, **shown})


def _as_text(percents: np.ndarray) -> str:
    """A character for each percent, whose code is 26 more."""
    return "".join(chr(26 + percent) for percent in percents.ravel())


def land_table() -> str:
    """The maps with which the figure opens, as HTML tables, for pages without JavaScript."""
    from bnutils import studies

    record = studies.load("land-of-circles")["accuracy"]
    shown = record.sel(activation=OPENING["activation"], depth=OPENING["depth"])
    tables = (_table(title, shown.sel(arm=arm), arm) for arm, title in TITLES.items())
    return f'<div class="bn-maps">{"".join(tables)}</div>\n'


def _table(title: str, accuracy, arm: str) -> str:
    threshold = OPENING["threshold"]
    median = _percents(accuracy)["median"]
    rates, scales = (accuracy[name].values.tolist() for name in ("rate", "scale"))

    def cell(value: int) -> str:
        shade = 4 if value >= threshold else sum(value >= bound for bound in SHADES)
        trains = ' data-trains=""' if value >= threshold else ""
        return f'<td><span data-shade="{shade}"{trains}>{value}</span></td>'

    def row(scale: float, values: np.ndarray) -> str:
        return f'<tr><th scope="row">{scale:g}</th>{"".join(map(cell, values))}</tr>'

    body = "".join(row(*each) for each in reversed([*zip(scales, median, strict=True)]))
    head = "".join(f'<th scope="col">{rate:g}</th>' for rate in rates)
    return (
        f'<table class="bn-land bn-land-{arm}"><caption><span class="bn-is-{arm}">{title}</span>: '
        f"<b>{(median >= threshold).sum()}</b> of {median.size} reach {threshold}%</caption><thead>"
        f'<tr><td></td><td colspan="{len(rates)}" class="bn-land-axis">learning rate</td></tr>'
        f'<tr><th scope="col" class="bn-land-corner">scale</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


MADE = {"race_records.js": race_records, "land_records.js": land_records}
