"""One visual language for every figure of the book.

An arm of an experiment (with batch normalization, without it, ...) has one color and one line
style wherever it appears. The colors are told apart with any common color vision, and the line
style tells the arms apart without color.

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
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from bnutils.evidence import Comparison, Interval, interval

#: Every color that a figure draws with, on a light and on a dark page. A figure is drawn with the
#: light ones; a page in the other theme puts the dark ones in their place. Text can be written in
#: any of them, and in ink on each step of the land, from bare (0) to full (4).
COLORS: dict[str, tuple[str, str]] = {
    "ground": ("#ffffff", "#14181e"),
    "ink": ("#1f2430", "#e6e9ef"),
    "faint": ("#6b7280", "#9aa3b2"),
    "with": ("#0072b2", "#56b4e9"),
    "without": ("#b34700", "#ff9e57"),
    "no-scale": ("#8636e6", "#8a80fa"),
    "scaler": ("#146755", "#9ad2bc"),
    "layer-norm": ("#554309", "#f5d313"),
    "group-norm": ("#d6187f", "#f0527a"),
    "other": ("#730b75", "#c862b8"),
    "land-0": ("#eff4f9", "#1c2633"),
    "land-1": ("#cbdff0", "#1f3a52"),
    "land-2": ("#a4c9e8", "#234d70"),
    "land-3": ("#7cb4df", "#275e8b"),
    "land-4": ("#5ba3d6", "#2b6a9d"),
}
_LIGHT = {name: light for name, (light, _) in COLORS.items()}
INK, FAINT, GROUND = _LIGHT["ink"], _LIGHT["faint"], _LIGHT["ground"]

#: Color and line style of each arm. Batch normalization is blue in every figure.
ARMS: dict[str, dict[str, str]] = {
    "BN": {"color": _LIGHT["with"], "linestyle": "-"},
    "no BN": {"color": _LIGHT["without"], "linestyle": "--"},
    "BN, no gamma and beta": {"color": _LIGHT["no-scale"], "linestyle": "-."},
    "scaler": {"color": _LIGHT["scaler"], "linestyle": ":"},
    "layer norm": {"color": _LIGHT["layer-norm"], "linestyle": ":"},
    "group norm": {"color": _LIGHT["group-norm"], "linestyle": "-."},
    "other": {"color": _LIGHT["other"], "linestyle": "-."},
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


def neuron(weighted: Mapping[str, np.ndarray]) -> None:
    """Draw a neuron's weighted inputs as strips of dots, and what a sigmoid makes of them.

    On the left the sigmoid with the dots on it, and below it the strips; on the right the outputs
    alone, as the next layer sees them. The figure is Matplotlib's current one.

    Args:
        weighted: by arm, the weighted inputs of one neuron, one for each example.

    Raises:
        KeyError: if an arm has no color of its own.
        ValueError: if the values of an arm are not those of one neuron.
    """
    for arm, z in weighted.items():
        if np.ndim(z) != 1:
            raise ValueError(f"{arm}: expected one neuron's values, got shape {np.shape(z)}")
    strip = 0.2 + 0.25 * len(weighted)  # inches
    fig = plt.figure(figsize=(4.8, 2.6 + strip))
    grid = fig.add_gridspec(2, 2, width_ratios=[6, 1], height_ratios=[2, strip])
    curve, below = fig.add_subplot(grid[0, 0]), fig.add_subplot(grid[1, 0])
    right = fig.add_subplot(grid[0, 1], sharey=curve)
    reach = max(6.0, *(float(np.abs(z).max()) + 1 for z in weighted.values()))
    line = np.linspace(-reach, reach, 400)
    curve.plot(line, 1 / (1 + np.exp(-line)), color=FAINT, linewidth=1.5)
    for row, (arm, z) in enumerate(weighted.items()):
        dots = {"color": arm_style(arm)["color"], "marker": "osD"[row % 3]}
        dots |= {"alpha": 0.5, "s": 30, "linewidth": 0}
        output = 1 / (1 + np.exp(-z))
        curve.scatter(z, output, **dots, zorder=3)
        below.scatter(z, np.full(len(z), row), **dots)
        right.scatter(np.full(len(z), row), output, **dots)
    curve.set(xlim=(-reach, reach), ylim=(-0.08, 1.08), yticks=[0, 0.5, 1], ylabel="output")
    curve.tick_params(labelbottom=False)
    below.set(xlim=(-reach, reach), ylim=(len(weighted) - 0.4, -0.6), xlabel="weighted input")
    below.set_yticks(range(len(weighted)), list(weighted))
    below.grid(visible=False, axis="y")
    right.set(xlim=(-0.8, len(weighted) - 0.2), xticks=[])
    right.text(0.5, -0.06, "next\nlayer", ha="center", va="top", transform=right.transAxes)
    right.texts[0].set_in_layout(False)  # it hangs into the free corner
    right.tick_params(labelleft=False)
    right.grid(visible=False, axis="x")


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


def _rounded(
    ax: Axes,
    corner: tuple[float, float],
    size: tuple[float, float],
    arm: str | None = None,
    *,
    radius: float,
    pad: float = 0,
) -> None:
    color = ARMS[arm]["color"] if arm else FAINT
    style = f"round,pad={pad},rounding_size={radius}"
    look = {"facecolor": color + "22", "edgecolor": color, "linewidth": 1.4}
    ax.add_patch(FancyBboxPatch(corner, *size, boxstyle=style, **look))


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
    """Draw one layer with batch normalization, from the weighted input to the activation.

    The figure is 4.5 by 3.1 inches, so that a phone can show it in full size, and Matplotlib's
    current one.
    """
    _, ax = _canvas(4.5, 3.1, (0, 4.5), (0, 3.1))
    boxes = [
        ("weighted input", r"$z = uW + b$", None, 0.4),
        ("normalize", r"$\hat z = \dfrac{z - \mu}{\sqrt{\sigma^2 + \epsilon}}$", "BN", 0.64),
        ("scale and shift", r"$y = \gamma \hat z + \beta$", "BN", 0.4),
        ("activation", r"$\varphi(y)$", None, 0.4),
    ]
    left, right, gap = 0.1, 3.15, 0.17
    middle, top = (left + right) / 2, 2.8
    ax.text(middle, 2.98, "$u$, from the layer before", ha="center", va="center", fontsize=11)
    edges = []
    for text, formula, arm, height in boxes:
        _arrow(ax, (middle, top + 0.04), (middle, top - gap))
        top -= gap + height
        _rounded(ax, (left, top), (right - left, height), arm, radius=0.08)
        ax.text(left + 0.12, top + height / 2, text, ha="left", va="center", fontsize=11)
        ax.text(right - 0.12, top + height / 2, formula, ha="right", va="center", fontsize=12.5)
        edges.append((top, top + height))
    _arrow(ax, (middle, top + 0.04), (middle, top - gap - 0.04))
    bn, low, high = ARMS["BN"]["color"], edges[2][0], edges[1][1]
    ax.plot([3.25, 3.35, 3.35, 3.25], [high, high, low, low], color=bn, linewidth=1.4)
    named = "batch\nnormalization"
    ax.text(3.43, (high + low) / 2, named, ha="left", va="center", color=bn, fontsize=11)


def four_numbers() -> None:
    """Draw four numbers and what normalizing makes of them, one number line above the other.

    The figure is 6.2 by 3.1 inches, and Matplotlib's current one. Its labels can be read where it
    is shrunk to a phone.
    """
    _, ax = _canvas(6.2, 3.1, (0, 446), (0, 223))
    before, markers, middle = np.array([3.0, 9.0, 11.0, 17.0]), "os^D", 258
    after = (before - before.mean()) / before.std()
    rows = [
        (150, 22.0, before, "before", INK, 1),
        (73, 80.0, after, "after", ARMS["BN"]["color"], -1),
    ]
    for y, unit, numbers, name, color, up in rows:
        mean, sd = numbers.mean(), numbers.std()
        said = f"mean {round(mean, 9) + 0:g}, standard deviation {sd:g}"
        ax.plot([75, 440], [y, y], color=FAINT, linewidth=1.2)
        ax.plot([middle, middle], [y - 7 * up, y + 38 * up], color=FAINT, linewidth=1.2)
        ax.text(4, y, name, ha="left", va="center", fontsize=15)
        for number, marker in zip(numbers, markers, strict=True):
            x = middle + unit * (number - mean)
            ax.plot(x, y, marker, color=color, markersize=9, clip_on=False)
            nudge = 8 * np.sign(number) * (abs(number) < 1)  # two labels that would touch
            text = f"{number:g}".replace("-", "−")
            ax.text(x + nudge, y + 18 * up, text, ha="center", va="center", fontsize=15)
        span = y + 38 * up
        _arrow(ax, (middle, span), (middle - unit * sd - 1, span), FAINT)
        _arrow(ax, (middle, span), (middle + unit * sd + 1, span), FAINT)
        ax.text(middle, y + 56 * up, said, ha="center", va="center", fontsize=14)
    for one, other in zip(before, after, strict=True):
        ends = [middle + 22 * (one - before.mean()), middle + 80 * other]
        ax.plot(ends, [143, 80], color=FAINT, linewidth=1)


def computation_graph() -> None:
    """Draw the steps of batch normalization, with the three paths by which x reaches y.

    The numbers are those of the steps of the gradient. The figure is 6.2 by 3 inches, and
    Matplotlib's current one.
    """
    _, ax = _canvas(6.2, 3.0, (0, 446), (0, 216))
    direct, mean, variance = INK, ARMS["no BN"]["color"], ARMS["BN"]["color"]
    low, high = 48, 172
    boxes = {
        5: (91, low, "center", r"$r = x - \mu$", 94),
        2: (215, low, "divide", r"$\hat x = r\, s$", 76),
        1: (351, low, "scale and shift", r"$y = \gamma \hat x + \beta$", 130),
        6: (60, high, "mean", r"$\mu = \langle x \rangle$", 84),
        4: (187, high, "variance", r"$\sigma^2 = \langle r^2 \rangle$", 96),
        3: (352, high, "inverse sd", r"$s = 1 / \sqrt{\sigma^2 + \epsilon}$", 140),
    }
    for step, (x, y, text, formula, width) in boxes.items():
        _rounded(ax, (x - width / 2, y - 27), (width, 54), radius=8)
        ax.text(x, y + 12, f"{step} {text}", ha="center", va="center", fontsize=14)
        ax.text(x, y - 11, formula, ha="center", va="center", fontsize=15)
    for left, right in [(17, 43), (139, 176), (254, 285), (417, 431)]:
        _arrow(ax, (left, low), (right, low), direct)
    _arrow(ax, (14, low + 12), (38, high - 29), mean)
    _arrow(ax, (64, high - 28), (84, low + 28), mean)
    _arrow(ax, (112, low + 28), (166, high - 28), variance)
    _arrow(ax, (236, high), (281, high), variance)
    _arrow(ax, (318, high - 28), (231, low + 28), variance)
    ax.text(7, low, "$x$", ha="center", va="center", fontsize=17)
    ax.text(439, low, "$y$", ha="center", va="center", fontsize=17)
    ax.text(158, 8, "direct path", color=direct, ha="center", va="center", fontsize=14)
    ax.text(104, 110, "mean\npath", color=mean, ha="center", va="center", fontsize=14)
    ax.text(201, 110, "variance\npath", color=variance, ha="center", va="center", fontsize=14)


def batches_of_three() -> None:
    """Draw batches of three numbers as arrows: their outputs lie on a circle.

    Above, the mean is subtracted and the distances are divided; below, two of the three directions
    of a gradient are lost. The figure is 6.2 by 5.1 inches, and Matplotlib's current one.
    """
    _, axes = plt.subplots(2, 1, figsize=(6.2, 5.1), height_ratios=[204, 162])
    lost, kept, radius = ARMS["no BN"]["color"], ARMS["BN"]["color"], 130

    def seen(along: float, across: float, up: float = 0.0) -> np.ndarray:
        """Where a point of the plane of the circle, or one above it, stands in the drawing."""
        return np.array([along, 0.42 * across + up])

    turn = np.linspace(0, 2 * np.pi, 200)
    circle = np.transpose([seen(radius * np.cos(t), radius * np.sin(t)) for t in turn])
    for ax, heights in zip(axes, [(-62, 142), (-84, 78)], strict=True):
        ax.set_axis_off()
        ax.set(xlim=(-136, 310), ylim=heights)
        ax.fill(*circle, color=FAINT, alpha=0.12, linewidth=0)
        ax.plot(*circle, color=INK, linewidth=1.4)
        ax.plot(0, 0, ".", color=INK)

    def says(ax: Axes, at: Sequence, right: float, up: float, text: str, **look: str) -> None:
        ax.text(at[0] + right, at[1] + up, text, va="center", fontsize=14, **look)

    def arrow(ax: Axes, start: np.ndarray, end: np.ndarray, color: str, style: str = "-") -> None:
        look = {"arrowstyle": "-|>", "mutation_scale": 15, "shrinkA": 0, "shrinkB": 0}
        line = {"color": color, "linewidth": 2, "linestyle": style}
        ax.add_patch(FancyArrowPatch(tuple(start), tuple(end), **look, **line))

    above, below = axes
    way = np.array([np.cos(-0.55), np.sin(-0.55)])
    batch, centered = seen(*(58 * way), up=118), seen(*(58 * way))
    output = seen(*(radius * way))
    arrow(above, batch, centered, lost)
    arrow(above, centered, output, kept)
    above.plot(*np.transpose([seen(0, 0), centered]), color=FAINT, linewidth=1, linestyle=":")
    for point, color in ((batch, INK), (centered, INK), (output, kept)):
        above.plot(*point, "o", color=color, markersize=8)
    says(above, batch, 12, 2, "the batch $x$")
    says(above, batch, 12, -42, "1. subtract the mean", color=lost)
    says(above, centered, -10, -2, "$r$", ha="right")
    says(above, output, 26, 12, "2. divide", color=kept)
    says(above, output, 14, -10, r"the output $\hat x$")
    says(above, (0, 0), -134, 130, "forward", weight="bold")
    arrow(above, seen(-62, 0), seen(-62, 0, 64), FAINT)
    says(above, (0, 0), -70, 58, "(1, 1, 1)", ha="right")

    around = np.array([way[1], -way[0]])
    parts = {"mean": np.array([0, 64.0]), "scale": seen(*(70 * way)), "rest": seen(*(100 * around))}
    says(below, (0, 0), -134, 70, "backward", weight="bold")
    below.plot(*np.transpose([seen(0, 0), output]), color=FAINT, linewidth=1, linestyle=":")
    arrow(below, output, output + parts["mean"], lost, "--")
    arrow(below, output, output + parts["scale"], lost, "--")
    arrow(below, output, output + parts["rest"], kept)
    below.plot(*output, "o", color=kept, markersize=8)
    says(below, output + parts["mean"], 12, -6, "lost: along (1, 1, 1)", color=lost)
    says(below, output + parts["scale"], 10, 0, r"lost: along $\hat x$", color=lost)
    says(below, output, -12, 6, r"$\hat x$", ha="right")
    says(below, output + parts["rest"], -10, -6, "kept: along the circle", color=kept, ha="right")


def norm_family() -> None:
    """Draw which values five normalizations average together, for four examples and channels.

    The figure is 4.5 by 3.2 inches, so that a phone can show it in full size, and Matplotlib's
    current one.
    """
    row, column = np.indices((4, 4))
    family = {
        "BN": column,
        "ghosts of 2": 4 * (row // 2) + column,
        "layer norm": row,
        "group norm": 2 * row + column // 2,
        "instance norm": 4 * row + column,
    }
    _, axes = plt.subplots(2, 3, figsize=(4.5, 3.2), dpi=140, sharey=True)
    for ax, (name, group) in zip(axes.flat, family.items(), strict=False):
        ax.pcolormesh(group, cmap="tab20", alpha=0.55, edgecolors=GROUND, linewidth=2)
        for i, j in np.ndindex(4, 4):
            ax.text(j + 0.5, i + 0.5, str(group[i, j] + 1), ha="center", va="center", fontsize=10)
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, fontsize=11, loc="center")
    axes[1, 2].axis("off")
    for ax_row in axes:
        finish(ax_row[0], x="channels", y="examples", legend=False)


def keras_layers() -> None:
    """Draw a layer of a Keras model, and the same layer with batch normalization put in.

    The figure is 6.2 by 4.4 inches, and Matplotlib's current one. Its labels can be read where it
    is shrunk to a phone.
    """
    _, ax = _canvas(6.2, 4.4, (0, 4.8), (0, 3.6))
    names = {"family": "monospace", "fontsize": 13.5}
    left = [("Dense", "weighted sum,\nthen ReLU", 0.35, 3.0, None)]
    right = [
        ("Dense", "weighted sum", 2.3, 3.0, None),
        ("BatchNormalization", "normalize, scale and shift", 1.325, 2.025, "BN"),
        ("Activation", "ReLU", 0.35, 1.05, None),
    ]
    for title, x, width, boxes in [("before", 0.95, 1.7, left), ("after", 3.45, 2.5, right)]:
        ax.text(x - width / 2, 3.48, title, va="center", fontsize=14)
        _arrow(ax, (x, 3.33), (x, 3.03))
        for code, does, low, high, arm in boxes:
            corner, size = (x - width / 2 + 0.03, low), (width - 0.06, high - low)
            _rounded(ax, corner, size, arm, radius=0.12, pad=0.02)
            middle = (low + high) / 2
            ax.text(x, middle + 0.04, code, ha="center", va="bottom", **names)
            ax.text(x, middle - 0.04, does, ha="center", va="top", fontsize=13.5)
            _arrow(ax, (x, low - 0.03), (x, low - 0.25))
