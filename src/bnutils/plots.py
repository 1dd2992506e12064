"""One visual language for every figure of the book.

An arm of an experiment (with batch normalization, without it, ...) has one color and one line
style wherever it appears. The colors are Okabe and Ito's, and a wine red of Tol's, which readers
with any common color vision can tell apart; the line style tells the arms apart without color.

In a notebook a figure is drawn twice on a white ground. JupyterLab shows the SVG, crisp at any
zoom, only in a notebook that it trusts, and the PNG in one that was just downloaded; the ground
keeps the dark labels readable on a dark theme. The book's pages take the SVG `without_ground`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from bnutils.evidence import Comparison, Interval, interval

INK = "#1f2430"
FAINT = "#8a8f98"
GROUND = "#ffffff"

#: Color and line style of each arm. Batch normalization is blue in every figure.
ARMS: dict[str, dict[str, str]] = {
    "BN": {"color": "#0072B2", "linestyle": "-"},
    "no BN": {"color": "#D55E00", "linestyle": "--"},
    "BN, no gamma and beta": {"color": "#56B4E9", "linestyle": "-."},
    "scaler": {"color": "#009E73", "linestyle": ":"},
    "layer norm": {"color": "#E69F00", "linestyle": ":"},
    "group norm": {"color": "#882255", "linestyle": "-."},
    "other": {"color": "#CC79A7", "linestyle": "-."},
    "theory": {"color": INK, "linestyle": ":"},
}

_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 12,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "figure.constrained_layout.use": True,
    "figure.facecolor": GROUND,
    "axes.facecolor": "none",
    "figure.figsize": (7.2, 3.2),
    "font.size": 12,
    "grid.alpha": 0.35,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 5,
    "svg.hashsalt": "bnutils",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
}


def use_style() -> None:
    """Draw every later figure in the book's style, and as SVG and PNG inside a notebook."""
    mpl.rcParams.update(_STYLE)
    if mpl.get_backend().lower().endswith("inline"):
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        # Without the date, drawing the same figure twice gives the same bytes.
        set_matplotlib_formats("svg", "retina", metadata={"Date": None})


def without_ground(svg: str) -> str:
    """Make the white ground of a figure of this book transparent, for a page that may be dark.

    Args:
        svg: a figure that Matplotlib drew in the book's style.

    Returns:
        The same figure on no ground; a figure without one comes back as it was.

    Example:
        >>> import io
        >>> file = io.StringIO()
        >>> with mpl.rc_context():
        ...     use_style()
        ...     Figure().savefig(file, format="svg")
        >>> GROUND in without_ground(file.getvalue())
        False
    """
    # The patch of the figure is the first that Matplotlib draws.
    return re.sub(rf'(<g id="patch_1">\s*<path [^>]*fill: ){GROUND}', r"\1none", svg, count=1)


def arm_style(arm: str) -> dict[str, str]:
    """Colour and line style of an arm, as keyword arguments of `Axes.plot`.

    Args:
        arm: one of the names in `ARMS`.

    Raises:
        KeyError: if the arm has no color of its own.
    """
    if arm not in ARMS:
        raise KeyError(f"expected an arm, one of {', '.join(sorted(ARMS))}, got {arm!r}")
    return dict(ARMS[arm])


def band(
    ax: Axes,
    x: np.ndarray,
    values: np.ndarray,
    arm: str,
    label: str | None = None,
    marker: str = "",
    overlap: float = 0.0,
) -> None:
    """Draw the mean over runs, and its 95 % interval as a band, if there is more than one run.

    Args:
        ax: where to draw.
        x: shape (points,), in the unit of the axis.
        values: shape (runs, points).
        arm: the arm these runs belong to; fixes color and line style.
        label: text of the legend; the name of the arm if None.
        marker: a Matplotlib marker for the points, none by default.
        overlap: of the runs' data, as for `evidence.interval`.

    Raises:
        ValueError: if `values` is not (runs, points).
        KeyError: if the arm has no color of its own.
    """
    x, values = np.asarray(x), np.asarray(values)
    if values.ndim != 2 or values.shape[1:] != x.shape:
        raise ValueError(
            f"expected values of shape (runs, {x.size}), one column for each x, "
            f"got shape {values.shape}"
        )
    style = arm_style(arm)
    spread = [interval(column, overlap=overlap) for column in values.T]
    ax.plot(x, [s.mean for s in spread], label=label or arm, marker=marker, **style)
    if len(values) == 1:
        return
    ax.fill_between(
        x,
        [s.low for s in spread],
        [s.high for s in spread],
        color=style["color"],
        alpha=0.18,
        linewidth=0,
    )


def by_setting(
    ax: Axes, compared: Comparison, axis: str, arms: Sequence[str] | None = None
) -> None:
    """Draw arms of a comparison over a setting that doubles from value to value.

    Each point is the mean over the replicates, each with the settings that were best on its
    validation part; the band is the 95 % interval.

    Args:
        ax: where to draw.
        compared: a comparison whose scores have one axis beside those that are chosen.
        axis: that axis, such as "batch_size".
        arms: names of the arms, in the order of the legend; all of them if None.

    Raises:
        KeyError: an arm that the comparison does not have, or that has no color of its own.
        ValueError: the scores have not just that axis.
    """
    for arm in compared.arms if arms is None else arms:
        values = compared.values(arm)
        if set(values.dims) != {"seed", axis}:
            raise ValueError(f"expected scores by seed and {axis}, got {values.dims}")
        runs = values.transpose("seed", axis).values
        band(ax, values[axis].values, runs, arm, marker="o", overlap=compared.overlap)
    places = compared.scores[axis].values
    ax.set_xscale("log", base=2)
    ax.set_xticks(places, places)
    ax.minorticks_off()


def panels(
    compared: Mapping[str, Comparison],
    axis: str,
    arms: Sequence[str] | None = None,
    *,
    x: str,
    y: str,
) -> None:
    """Draw comparisons side by side on one vertical scale, as Matplotlib's current figure.

    Args:
        compared: a comparison for each panel, by the panel's title.
        axis: as for `by_setting`.
        arms: as for `by_setting`.
        x: label of the horizontal axes.
        y: label of the vertical axis.

    Raises:
        KeyError, ValueError: as for `by_setting`.
    """
    _, axes = plt.subplots(1, len(compared), sharey=True, squeeze=False)
    for ax, (title, each) in zip(axes[0], compared.items(), strict=True):
        by_setting(ax, each, axis, arms)
        ax.set_title(title)
    finish(axes, x, y)


def over_steps(
    ax: Axes, compared: Comparison, curves: xr.DataArray, arms: Sequence[str] | None = None
) -> None:
    """Draw arms of a comparison while they train, each at the settings that it chose.

    The line is the mean over the replicates, each with the settings that were best on its
    validation part; the band is the 95 % interval. The legend names the most frequent choice.

    Args:
        ax: where to draw.
        compared: the comparison in which settings are chosen.
        curves: what was recorded, with the axes "arm", "seed" and "step", and those of the
            settings.
        arms: names of the arms, in the order of the legend; all of them if None.

    Raises:
        KeyError: there is no such arm, or it has no color of its own.
        ValueError: the curves have a further axis.
    """
    for arm in compared.arms if arms is None else arms:
        values = compared.at_chosen(curves, arm)
        if set(values.dims) != {"seed", "step"}:
            raise ValueError(f"expected curves by seed and step, got {values.dims}")
        chosen = {name: choice["value"] for name, choice in compared.chosen(arm).items()}
        texts = [v if isinstance(v, str) else f"{v:g}" for v in chosen.values()]
        names = [name.replace("_", " ") for name in chosen]
        label = ", ".join([arm, *map(" ".join, zip(names, texts, strict=True))])
        runs = values.transpose("seed", "step").values
        band(ax, values["step"].values, runs, arm, label, overlap=compared.overlap)


def in_rows(
    ax: Axes,
    intervals: Mapping[str, Interval],
    rows: Sequence[str],
    *,
    color: str,
    marker: str = "o",
    label: str | None = None,
    shift: float = 0.0,
) -> None:
    """Draw intervals as points with bars, each in the row of its name.

    Args:
        ax: where to draw.
        intervals: by the names of their rows. One of a single run has no bar.
        rows: the names of all rows, from top to bottom.
        color: of points and bars.
        marker: a Matplotlib marker.
        label: text of the legend.
        shift: how far below the middle of the row, so that several fit into it.

    Raises:
        ValueError: the name of an interval is not that of a row.
    """
    means = np.array([each.mean for each in intervals.values()])
    bars = np.array(
        [
            (each.mean - each.low, each.high - each.mean) if each.n > 1 else (0, 0)
            for each in intervals.values()
        ]
    ).T
    places = [list(rows).index(name) + shift for name in intervals]
    ax.errorbar(means, places, xerr=bars, fmt=marker, color=color, markersize=6, label=label)
    ax.set_yticks(range(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")


def spread(ax: Axes, percentiles: xr.DataArray, arm: str) -> None:
    """Draw a median over steps, and the band between a lower and an upper percentile.

    Args:
        ax: where to draw.
        percentiles: shape (3, steps), the lower one, the median and the upper one, with the axes
            "percentile" and "step".
        arm: fixes color and line style.

    Raises:
        KeyError: if the arm has no color of its own.
        ValueError: if there are not three percentiles over steps.
    """
    if percentiles.dims != ("percentile", "step") or len(percentiles) != 3:
        raise ValueError(
            f"expected 3 percentiles over steps, got {dict(percentiles.sizes)}: "
            "select the other axes first"
        )
    style, (low, median, high) = arm_style(arm), percentiles.values
    ax.plot(percentiles["step"], median, label=arm, **style)
    ax.fill_between(percentiles["step"], low, high, color=style["color"], alpha=0.18, linewidth=0)


def accuracy_map(ax: Axes, accuracy: xr.DataArray, mark: float = 0.9) -> QuadMesh:
    """Draw accuracies over two settings on logarithmic axes, with a dot where they are high.

    A dark page turns the lightness of a figure over, so only the dots say the same everywhere.

    Args:
        ax: where to draw.
        accuracy: shape (settings, settings), between 0 and 1, with its coordinates; the second
            axis runs from left to right.
        mark: the accuracy from which on a square gets a dot.

    Returns:
        What was drawn, for a color bar.

    Raises:
        ValueError: if the accuracies have not two axes.
    """
    if accuracy.ndim != 2:
        raise ValueError(f"expected accuracies over two settings, got axes {accuracy.dims}")
    down, across = accuracy.dims
    levels = [0, 0.5, 0.8, 0.9, 1]
    look = {"levels": levels, "cmap": "YlGnBu", "add_colorbar": False, "add_labels": False}
    drawn = accuracy.plot.pcolormesh(ax=ax, xscale="log", yscale="log", **look)
    row, column = np.nonzero(accuracy.values >= mark)
    dots = {"color": GROUND, "markeredgecolor": INK, "markersize": 6}
    ax.plot(accuracy[across].values[column], accuracy[down].values[row], "o", **dots)
    ax.grid(False)
    return drawn


def finish(
    axes: Axes | Sequence[Axes] | np.ndarray,
    x: str | None = None,
    y: str | None = None,
    legend: bool = True,
) -> None:
    """Label the outer axes of a figure and give it one legend.

    A figure cell ends with this call: it returns nothing, so no object is printed below the
    figure.

    Args:
        axes: one `Axes`, or a row of them that share their vertical label.
        x: Label of every horizontal axis, with its unit.
        y: Label of the first vertical axis, with its unit.
        legend: whether the first axes that hold labelled artists get the legend.

    Example:
        >>> ax = Figure().add_subplot()
        >>> finish(ax, x="training steps", y="test accuracy")
        >>> ax.get_xlabel()
        'training steps'
    """
    axes = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()
    if x is not None:
        for ax in axes:
            ax.set_xlabel(x)
    if y is not None:
        axes[0].set_ylabel(y)
    if legend:
        labelled = next((ax for ax in axes if ax.get_legend_handles_labels()[0]), None)
        if labelled is not None:
            labelled.legend()


def _box(
    ax: Axes, x: float, y: float, text: str, formula: str, arm: str | None, width: float
) -> None:
    color = ARMS[arm]["color"] if arm else FAINT
    ax.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - 0.55),
            width,
            1.1,
            boxstyle="round,pad=0.02,rounding_size=0.12",
            facecolor=color + "22",
            edgecolor=color,
            linewidth=1.4,
        )
    )
    ax.text(x, y + 0.27, text, ha="center", va="center", fontsize=11)
    ax.text(x, y - 0.22, formula, ha="center", va="center", fontsize=12.5)


def _arrow(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str = INK
) -> None:
    ax.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=color, linewidth=1.3)
    )


def _canvas(
    width: float, height: float, x: tuple[float, float], y: tuple[float, float]
) -> tuple[Figure, Axes]:
    fig, ax = plt.subplots(figsize=(width, height))
    ax.set_axis_off()
    ax.set_xlim(*x)
    ax.set_ylim(*y)
    return fig, ax


def layer_diagram() -> None:
    """Draw one layer with batch normalization: weighted sum, normalize, scale and shift, activate.

    The figure is 7.2 by 2.2 inches, and Matplotlib's current one.
    """
    _, ax = _canvas(7.2, 2.2, (-0.55, 10.5), (-1.25, 0.75))
    boxes = [
        (1.3, 1.95, "weighted sum", "$z = xW$", None),
        (3.9, 2.0, "normalize", r"$\hat z = \frac{z - \mu}{\sqrt{\sigma^2 + \epsilon}}$", "BN"),
        (6.55, 2.1, "scale and shift", r"$y = \gamma \hat z + \beta$", "BN"),
        (8.95, 1.6, "activation", r"$a = \phi(y)$", None),
    ]
    right = -0.1
    for center, width, text, formula, arm in boxes:
        _box(ax, center, 0, text, formula, arm, width)
        _arrow(ax, (right, 0), (center - width / 2 - 0.06, 0))
        right = center + width / 2 + 0.06
    _arrow(ax, (right, 0), (10.15, 0))
    ax.text(-0.2, 0, "$x$", ha="right", va="center", fontsize=14)
    ax.text(10.2, 0, "$a$", ha="left", va="center", fontsize=14)
    bn = ARMS["BN"]["color"]
    ax.plot([2.9, 2.9, 7.6, 7.6], [-0.75, -0.85, -0.85, -0.75], color=bn, linewidth=1.2)
    ax.text(5.25, -1.1, "batch normalization", ha="center", va="center", color=bn, fontsize=11.5)


def computation_graph() -> None:
    """Draw the steps of batch normalization, with the three paths by which x reaches y.

    The figure is 7.2 by 3 inches, and Matplotlib's current one.
    """
    _, ax = _canvas(7.2, 3.0, (-0.75, 10.8), (-0.85, 3.25))
    direct, mean, variance = INK, ARMS["no BN"]["color"], ARMS["BN"]["color"]
    _box(ax, 3.0, 0, "center", r"$c = x - \mu$", None, 1.7)
    _box(ax, 6.5, 0, "divide", r"$\hat x = c\, s$", None, 1.5)
    _box(ax, 8.95, 0, "scale and shift", r"$y = \gamma \hat x + \beta$", None, 2.1)
    _box(ax, 1.4, 2.5, "mean", r"$\mu = \frac{1}{m}\sum x_i$", None, 1.7)
    _box(ax, 4.2, 2.5, "variance", r"$\sigma^2 = \frac{1}{m}\sum c_i^2$", None, 1.8)
    _box(ax, 6.9, 2.5, "inverse sd", r"$s = 1/\sqrt{\sigma^2 + \epsilon}$", None, 2.2)
    for start, end in [((0.1, 0), (2.09, 0)), ((3.91, 0), (5.69, 0)), ((7.31, 0), (7.84, 0))]:
        _arrow(ax, start, end, direct)
    _arrow(ax, (10.06, 0), (10.4, 0), direct)
    _arrow(ax, (0.15, 0.2), (1.1, 1.88), mean)
    _arrow(ax, (1.7, 1.88), (2.6, 0.62), mean)
    _arrow(ax, (3.3, 0.62), (4.0, 1.88), variance)
    _arrow(ax, (5.16, 2.5), (5.74, 2.5), variance)
    _arrow(ax, (6.75, 1.88), (6.55, 0.62), variance)
    ax.text(-0.05, 0, "$x$", ha="right", va="center", fontsize=14)
    ax.text(10.45, 0, "$y$", ha="left", va="center", fontsize=14)
    ax.text(4.8, -0.3, "direct path", color=direct, ha="center", va="center", fontsize=11)
    ax.text(0.45, 1.25, "mean path", color=mean, ha="right", va="center", fontsize=11)
    ax.text(6.1, 1.25, "variance path", color=variance, ha="right", va="center", fontsize=11)


def norm_family() -> None:
    """Draw which values five normalizations average together, for four examples and channels.

    The figure is 7.2 by 2 inches, and Matplotlib's current one.
    """
    row, column = np.indices((4, 4))
    family = {
        "BN": column,
        "ghosts of 2": 4 * (row // 2) + column,
        "layer norm": row,
        "group norm": 2 * row + column // 2,
        "instance norm": 4 * row + column,
    }
    _, axes = plt.subplots(1, 5, figsize=(7.2, 2), sharey=True)
    for ax, (name, group) in zip(axes, family.items(), strict=True):
        ax.pcolormesh(group, cmap="tab20", alpha=0.55, edgecolors=GROUND, linewidth=2)
        for i, j in np.ndindex(4, 4):
            ax.text(j + 0.5, i + 0.5, str(group[i, j] + 1), ha="center", va="center", fontsize=10)
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, fontsize=11, loc="center")
    finish(axes, x="channels", y="examples", legend=False)
