"""Still pictures of figures to touch that are computed as the page is built."""

from html import escape

import numpy as np

from bnutils import norm

REACH = 1.5  # of the bars, as in book/_explore/gradient.js


def gradient_still() -> str:
    """What each path takes out of a gradient, as bars, for the batch of the figure's start."""
    x, dy = np.array([3.0, 9.0, 11.0, 17.0]), np.array([1.0, 0.0, 0.0, 0.0])
    _, cache = norm.batch_norm(x[:, None], np.ones(1), np.zeros(1))
    dx = norm.batch_norm_grad(dy[:, None], cache)[0][:, 0]
    x_hat = norm.standardize(x, 0, 1e-3)[0]
    centered = dy - dy.mean()
    left = centered - x_hat * (dy * x_hat).mean()
    panels = [
        ("dy", "gradient at y", dy, dy, 1, ""),
        ("less its mean", f"⟨dy⟩ = {_shown(dy.mean())}", centered, dy, 1, "mean"),
        (
            "less its part along x̂",
            f"⟨dy x̂⟩ = {_shown((dy * x_hat).mean())}",
            left,
            centered,
            1,
            "variance",
        ),
        ("times γ s: dx", f"γ s = {_shown(dx[0] / left[0])}, drawn × 20", dx, dx, 20, "sum"),
    ]
    said = "; ".join(f"{title}: {', '.join(map(_shown, bars))}" for title, _, bars, *_ in panels)
    text = "".join(_panel(*panel) for panel in panels)
    return f'<div class="bn-lost" role="img" aria-label="{escape(said)}">{text}</div>\n'


#: Eight circles, then eight squares: the batch of book/_explore/devices.js.
SIXTEEN = (4, 6, 7, 5, 8, 3, 6, 9, 12, 16, 13, 17, 16, 12, 15, 11)


def devices_still() -> str:
    """What BN makes of sixteen examples on two devices: dealt, sorted, and synchronized."""
    x = np.array(SIXTEEN, float)
    dealt = np.arange(16).reshape(8, 2).T
    panels = [
        ("Dealt in turn, local statistics", dealt),
        ("Sorted, local statistics", np.arange(16).reshape(2, 8)),
        ("Sorted, synchronized", np.arange(16).reshape(1, 16)),
    ]
    text = ""
    for title, groups in panels:
        x_hat = np.empty(16)
        x_hat[groups] = norm.standardize(x[groups], axis=1, epsilon=1e-3)[0]
        apart = abs(x_hat[8:].mean() - x_hat[:8].mean())
        text += f"<div><p><b>{title}</b> {apart:.2f} apart</p>{_dots(x_hat)}</div>"
    said = "Circles and squares, normalized on two devices, and how far apart their means are"
    return f'<div class="bn-parts-still" role="img" aria-label="{said}">{text}</div>\n'


def _dots(x_hat) -> str:
    """Circles piled above an axis from -2 to 2, squares below it."""
    place = lambda value: 120 + 55 * value  # noqa: E731
    marks = []
    for kind, values in (("circle", x_hat[:8]), ("square", x_hat[8:])):
        side, last = (-1 if kind == "circle" else 1), {}
        for at in sorted(map(place, values)):
            level = next(k for k in range(9) if at - last.get(k, -99) >= 12)
            last[level] = at
            y = 46 + side * (9 + 13 * level)
            marks.append(
                f'<circle class="bn-dot" data-kind="circle" cx="{at:.1f}" cy="{y}" r="6"/>'
                if kind == "circle"
                else f'<rect class="bn-dot" data-kind="square" x="{at - 5.5:.1f}" y="{y - 5.5}" '
                'width="11" height="11"/>'
            )
    ticks = "".join(
        f'<text x="{place(tick)}" y="106" text-anchor="middle">{_minus(tick)}</text>'
        for tick in (-2, -1, 0, 1, 2)
    )
    axis = '<line class="bn-grid" x1="10" x2="230" y1="46" y2="46"/>'
    return f'<svg viewBox="0 0 240 112" aria-hidden="true">{axis}{"".join(marks)}{ticks}</svg>'


def _minus(value) -> str:
    return str(value).replace("-", "−")


def _panel(title: str, says: str, bars, before, zoom: int, way: str) -> str:
    rows = "".join(
        f'<div class="bn-row"><span class="bn-name">{i}</span><div class="bn-track">'
        f"{_bar('ghost', old) if old != new else ''}{_bar('bar', zoom * new)}</div>"
        f"<span>{_shown(new)}</span></div>"
        for i, (new, old) in enumerate(zip(bars, before, strict=True), 1)
    )
    head = f"<p><b>{title}</b><span>{says}</span></p>"
    return f'<div class="bn-panel" data-way="{way}">{head}{rows}</div>'


def _bar(kind: str, value: float) -> str:
    end = max(-1.0, min(1.0, value / REACH))
    left, width = 50 + 50 * min(0.0, end), 50 * abs(end)
    return f'<span class="bn-{kind}" style="left: {left:.1f}%; width: {width:.1f}%"></span>'


def _shown(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")
