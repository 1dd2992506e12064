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
