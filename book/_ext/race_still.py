"""The still of the race, for pages without JavaScript and for print: two stories as recorded."""

from functools import cache

STORIES = {"stuck": "Stuck: BN helps", "batch-of-two": "Batches of two: BN loses"}
ARMS = {"without": ("without BN", ' stroke-dasharray="5 3"'), "with": ("with BN", "")}
WIDTH, HEIGHT = 330, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 84, 24, 24


@cache
def race_still() -> str:
    """Accuracy of ten recorded runs, with BN and without, in two charts, as HTML."""
    from bnutils import studies

    record = 100 * studies.load("race-stories")["accuracy"].sel(reading="in use")
    races = studies.get("race-stories").fixed["races"]
    charts = (
        _chart(title, record.sel(story=story), races[story]["steps"])
        for story, title in STORIES.items()
    )
    return f'<div class="bn-race-still">{"".join(charts)}</div>\n'


def _chart(title: str, accuracy, steps: int) -> str:
    looks = accuracy.sizes["look"] - 1

    def y(percent: float) -> float:
        return TOP + (100 - percent) / 75 * (HEIGHT - TOP - BOTTOM)

    def path(values) -> str:
        width = (WIDTH - LEFT - RIGHT) / looks
        return "L".join(f"{LEFT + look * width:.1f} {y(percent):.1f}" for look, percent in values)

    parts, ends = [], {}
    for percent in (50, 75, 95):
        parts.append(
            f'<path d="M{LEFT} {y(percent):.1f}H{WIDTH - RIGHT}" stroke="var(--bn-faint)"/>'
            f'<text x="{LEFT - 4}" y="{y(percent) + 4:.1f}" text-anchor="end">{percent}%</text>'
        )
    for arm, (words, dashes) in ARMS.items():
        seeds = accuracy.sel(arm=arm)
        low, middle, high = (
            [*enumerate(getattr(seeds, name)("seed").values.tolist())]
            for name in ("min", "median", "max")
        )
        ends[arm] = middle[-1][1]
        color = f"var(--bn-{arm})"
        parts.append(
            f'<path d="M{path([*low, *high[::-1]])}Z" fill="{color}" opacity="0.18"/>'
            f'<path d="M{path(middle)}" fill="none" stroke="{color}" stroke-width="2"{dashes}/>'
            f'<text x="{WIDTH - RIGHT + 6}" y="{y(ends[arm]) + 4:.1f}" '
            f'style="fill: {color}">{words}</text>'
        )
    said = " and ".join(f"{ends[arm]:.0f}% {words}" for arm, (words, _) in ARMS.items())
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}. After {steps} steps '
        f'the median accuracy of ten runs is {said}.">'
        f'<text x="{LEFT}" y="14" font-weight="600">{title}</text>{"".join(parts)}'
        f'<text x="{LEFT}" y="{HEIGHT - 6}">step 0</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="middle">{steps}</text></svg>'
    )
