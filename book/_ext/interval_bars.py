"""Draw the interval of a claim's effect beside the smallest effect that matters.

Lengths are shares of the width, so a bar is drawn for a phone and for a desk alike. The sentence
under it says the same in numbers, so the drawing is hidden from screen readers.
"""

import math
from collections.abc import Iterable

from bnutils.evidence import Finding

MINUS = "\N{MINUS SIGN}"
MARGIN = 0.1  # of the width, left free on both sides
APART = 0.14  # of the width: closer labels would overlap on a phone


def bar(finding: Finding) -> str:
    """The interval as an SVG; nothing for an effect without randomness."""
    effect = finding.effect
    if effect.is_exact:
        return ""
    place = _scale(finding)
    low, mean, high = place(effect.low), place(effect.mean), place(effect.high)
    lower, upper = map(place, finding.bounds)
    start, end = {"above": (upper, 1), "below": (0, lower), "within": (lower, upper)}[
        finding.claimed
    ]
    ticks = {place(finding.null): finding.null}

    def mark(values: Iterable[float], most: int) -> None:
        for value in values:
            x = place(value)
            free = math.isfinite(value) and all(abs(x - tick) > APART for tick in ticks)
            if free and len(ticks) < most:
                ticks[x] = value

    mark(finding.bounds, 3)
    mark((effect.mean, effect.low, effect.high), 2)  # one number gives no scale
    lines = "".join(
        f'<line class="bn-axis" x1="{_share(x)}" x2="{_share(x)}" y1="16" y2="42"/>'
        for x in {place(finding.null), lower, upper}
    )
    labels = "".join(
        f'<text x="{_share(x)}" y="56" text-anchor="middle">{_number(value, finding.spec)}</text>'
        for x, value in ticks.items()
    )
    side = {"above": (0.995, "end"), "below": (0.005, "start"), "within": (lower, "start")}
    x, anchor = side[finding.claimed]
    return (
        '<svg class="bn-interval" width="100%" height="60" aria-hidden="true">'
        '<line class="bn-axis" x1="0" x2="100%" y1="42.5" y2="42.5"/>'
        f'<rect class="bn-claimed" x="{_share(start)}" width="{_share(end - start)}" y="16"'
        f' height="26"/>{lines}'
        f'<text x="{_share(x)}" y="11" text-anchor="{anchor}">claimed</text>'
        f'<line class="bn-range" x1="{_share(low)}" x2="{_share(high)}" y1="29" y2="29"/>'
        f'<circle class="bn-mean" cx="{_share(mean)}" cy="29" r="6"/>{labels}</svg>'
    )


def _scale(finding: Finding):
    """Where a value stands, from 0 at the left edge to 1; what is infinite stands at an edge."""
    effect, log = finding.effect, finding.effect.scale == "log"

    def told(value: float) -> float:
        if not log:
            return value
        return math.log(value) if value > 0 else -math.inf

    values = (effect.low, effect.mean, effect.high, *finding.bounds, finding.null)
    finite = [value for value in map(told, values) if math.isfinite(value)]
    least, most = min(finite), max(finite)
    width = (most - least) or 1.0

    def place(value: float) -> float:
        share = (told(value) - least) / width
        return min(max(MARGIN + (1 - 2 * MARGIN) * share, 0.0), 1.0)

    return place


def _share(x: float) -> str:
    return f"{100 * x:.1f}%"


def _number(value: float, spec: str) -> str:
    if spec.endswith("%"):
        text = f"{100 * value:.3g}%"
    else:
        text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", MINUS)
