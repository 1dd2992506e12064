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

import numpy as np

from bnutils._extras import extra

with extra("book"):
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
    from matplotlib.patheffects import AbstractPathEffect, withStroke

    from bnutils._beside import free_corners
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
    "figure.figsize": (4.5, 3.0),
    "font.size": 12,
    "grid.alpha": 0.25,
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


def halo() -> list[AbstractPathEffect]:
    """An edge in the color of the ground, so that a text stands clear of what lies behind it.

    Returns:
        The `path_effects` of a text.

    Example:
        >>> text = Figure().text(0, 0, "BN", path_effects=halo())
    """
    return [withStroke(linewidth=3, foreground=GROUND)]


# Arms of one chapter that look like others: synchronized BN is BN of one batch.
_LIKE = {"synchronized": "BN", "local": "other"}


def arm_style(arm: str) -> dict[str, str]:
    """Colour and line style of an arm, as keyword arguments of `Axes.plot`.

    Args:
        arm: one of the names in `ARMS`; or "synchronized" or "local", which look like "BN" and
            "other".

    Raises:
        KeyError: if the arm has no color of its own.
    """
    like = _LIKE.get(arm, arm)
    if like not in ARMS:
        raise KeyError(f"expected an arm, one of {', '.join(sorted(ARMS))}, got {arm!r}")
    return dict(ARMS[like])


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
        label: the name of the line; that of the arm if None.
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
        arms: names of the arms, in the order in which they are drawn; all if None.

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


def over_steps(
    ax: Axes, compared: Comparison, curves: xr.DataArray, arms: Sequence[str] | None = None
) -> None:
    """Draw arms of a comparison while they train, each at the settings that it chose.

    The line is the mean over the replicates, each with the settings that were best on its
    validation part; the band is the 95 % interval. Its name says the most frequent choice, of more
    values than one.

    Args:
        ax: where to draw.
        compared: the comparison in which settings are chosen.
        curves: what was recorded, with the axes "arm", "seed" and "step", and those of the
            settings.
        arms: names of the arms, in the order in which they are drawn; all if None.

    Raises:
        KeyError: there is no such arm, or it has no color of its own.
        ValueError: the curves have a further axis.
    """
    for arm in compared.arms if arms is None else arms:
        values = compared.at_chosen(curves, arm)
        if set(values.dims) != {"seed", "step"}:
            raise ValueError(f"expected curves by seed and step, got {values.dims}")
        chosen = {
            name: choice["value"]
            for name, choice in compared.chosen(arm).items()
            if compared.scores.sizes[name] > 1
        }
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
        label: the name of the points.
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
    fig = plt.figure(figsize=(4.5, 2.6 + strip))
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
    names: bool = True,
) -> None:
    """Label the outer axes of a figure and name its lines.

    A figure cell ends with this call: it returns nothing, so no object is printed below the
    figure.

    Args:
        axes: one `Axes`, or a row of them that share their vertical label.
        x: Label of every horizontal axis, with its unit.
        y: Label of the first vertical axis, with its unit.
        names: whether the lines of the first axes that hold labelled ones are named, as by
            `name_lines`.

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
    if names:
        labelled = next((ax for ax in axes if ax.get_legend_handles_labels()[0]), None)
        if labelled is not None:
            name_lines(labelled)


def name_lines(ax: Axes) -> None:
    """Write the name of each labelled line beside it, in its color.

    Each name goes where it is close to its own line and far from the others, and covers no line,
    no point and no other text; it keeps off bands and the grid if it can, and has a halo against
    those. If there is no such place for one of them, or there are more than four, the axes get a
    legend. Call it when all else is drawn: the places are those of now.

    Args:
        ax: axes with labelled lines, points or error bars.

    Example:
        >>> ax = Figure().add_subplot()
        >>> _ = ax.plot([0, 1], label="rising")
        >>> name_lines(ax)
        >>> [text.get_text() for text in ax.texts]
        ['rising']
    """
    handles, names = ax.get_legend_handles_labels()
    if len(names) > 4:
        ax.legend()
        return
    ax.figure.draw_without_rendering()  # the layout, which decides where lines run
    lines = [handle[0] if isinstance(handle, ErrorbarContainer) else handle for handle in handles]
    look = {"transform": ax.transAxes, "va": "bottom", "path_effects": halo()}
    texts = [
        ax.text(0, 0, name, **look, color=line.get_color())
        for line, name in zip(lines, names, strict=True)
    ]
    corners = free_corners(ax, lines, texts)
    for text in texts:
        text.set_in_layout(False)
        if corners is None:
            text.remove()
        else:
            text.set_position(corners[texts.index(text)])
    if corners is None:
        ax.legend()


def _rounded(
    ax: Axes, corner: tuple[float, float], size: tuple[float, float], arm: str | None = None
) -> None:
    color = ARMS[arm]["color"] if arm else FAINT
    look = {"facecolor": color + "22", "edgecolor": color, "linewidth": 1.4}
    ax.add_patch(FancyBboxPatch(corner, *size, "round,pad=0,rounding_size=8", **look))


def _arrow(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str = INK
) -> None:
    ax.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=color, linewidth=1.3)
    )


def _canvas(height: float) -> tuple[Figure, Axes]:
    """Axes without marks, in points: 324 wide, and as many high as the inches say."""
    fig, ax = plt.subplots(figsize=(4.5, height))
    ax.set_axis_off()
    ax.set(xlim=(0, 324), ylim=(0, 72 * height))
    return fig, ax


def layer_diagram() -> None:
    """Draw one layer with batch normalization, from the weighted input to the activation.

    The figure is 4.5 by 3.1 inches, and Matplotlib's current one.
    """
    _, ax = _canvas(3.1)
    boxes = [
        ("weighted input", r"$z = uW + b$", None, 30),
        ("normalize", r"$\hat z = \dfrac{z - \mu}{\sqrt{\sigma^2 + \epsilon}}$", "BN", 46),
        ("scale and shift", r"$y = \gamma \hat z + \beta$", "BN", 30),
        ("activation", r"$\varphi(y)$", None, 30),
    ]
    left, right, gap = 3, 210, 12
    middle, top = (left + right) / 2, 203
    ax.text(middle, 216, "$u$, from the layer before", ha="center", va="center", fontsize=13)
    edges = []
    for text, formula, arm, height in boxes:
        _arrow(ax, (middle, top + 3), (middle, top - gap))
        top -= gap + height
        _rounded(ax, (left, top), (right - left, height), arm)
        ax.text(left + 8, top + height / 2, text, ha="left", va="center", fontsize=13)
        ax.text(right - 8, top + height / 2, formula, ha="right", va="center", fontsize=14)
        edges.append((top, top + height))
    _arrow(ax, (middle, top + 3), (middle, top - gap - 3))
    bn, low, high = ARMS["BN"]["color"], edges[2][0], edges[1][1]
    ax.plot([215, 221, 221, 215], [high, high, low, low], color=bn, linewidth=1.4)
    named = "batch\nnormalization"
    ax.text(226, (high + low) / 2, named, ha="left", va="center", color=bn, fontsize=13)


def four_numbers() -> None:
    """Draw four numbers and what normalizing makes of them, one number line above the other.

    The figure is 4.5 by 2.9 inches, and Matplotlib's current one.
    """
    _, ax = _canvas(2.9)
    before, markers, middle = np.array([3.0, 9.0, 11.0, 17.0]), "os^D", 190
    after = (before - before.mean()) / before.std()
    rows = [
        (140, 16.0, before, "before", INK, 1),
        (68, 80.0, after, "after", ARMS["BN"]["color"], -1),
    ]
    for y, unit, numbers, name, color, up in rows:
        mean, sd = numbers.mean(), numbers.std()
        said = f"mean {round(mean, 9) + 0:g}, standard deviation {sd:g}"
        ax.plot([62, 318], [y, y], color=FAINT, linewidth=1.2)
        ax.plot([middle, middle], [y - 7 * up, y + 36 * up], color=FAINT, linewidth=1.2)
        ax.text(2, y, name, ha="left", va="center", fontsize=14)
        for number, marker in zip(numbers, markers, strict=True):
            x = middle + unit * (number - mean)
            ax.plot(x, y, marker, color=color, markersize=9, clip_on=False)
            nudge = 7 * np.sign(number) * (abs(number) < 1)  # two labels that would touch
            text = f"{number:g}".replace("-", "−")
            ax.text(x + nudge, y + 18 * up, text, ha="center", va="center", fontsize=14)
        span = y + 36 * up
        _arrow(ax, (middle, span), (middle - unit * sd - 1, span), FAINT)
        _arrow(ax, (middle, span), (middle + unit * sd + 1, span), FAINT)
        ax.text(middle, y + 53 * up, said, ha="center", va="center", fontsize=14)
    for one, other in zip(before, after, strict=True):
        ends = [middle + 16 * (one - before.mean()), middle + 80 * other]
        ax.plot(ends, [133, 75], color=FAINT, linewidth=1)


def computation_graph() -> None:
    """Draw the steps of batch normalization, with the three paths by which x reaches y.

    The numbers are those of the steps of the gradient. The figure is 4.5 by 4.5 inches, and
    Matplotlib's current one.
    """
    _, ax = _canvas(4.5)
    direct, mean, variance = INK, ARMS["no BN"]["color"], ARMS["BN"]["color"]
    left, right = 70, 246
    boxes = {
        6: (right, 264, "mean", r"$\mu = \langle x \rangle$"),
        5: (left, 226, "center", r"$r = x - \mu$"),
        4: (right, 186, "variance", r"$\sigma^2 = \langle r^2 \rangle$"),
        3: (right, 106, "inverse sd", r"$s = 1 / \sqrt{\sigma^2 + \epsilon}$"),
        2: (left, 124, "divide", r"$\hat x = r\, s$"),
        1: (left, 46, "scale and shift", r"$y = \gamma \hat x + \beta$"),
    }
    for step, (x, y, text, formula) in boxes.items():
        _rounded(ax, (x - 66, y - 23), (132, 46))
        ax.text(x, y + 11, f"{step} {text}", ha="center", va="center", fontsize=13)
        ax.text(x, y - 10, formula, ha="center", va="center", fontsize=14)
    for high, low in [(304, 251), (201, 149), (99, 71), (21, 10)]:
        _arrow(ax, (left, high + 2), (left, low - 2), direct)
    _arrow(ax, (left + 10, 310), (right - 68, 276), mean)
    _arrow(ax, (right - 68, 258), (left + 68, 234), mean)
    _arrow(ax, (left + 68, 214), (right - 68, 194), variance)
    _arrow(ax, (right, 161), (right, 131), variance)
    _arrow(ax, (right - 68, 108), (left + 68, 120), variance)
    ax.text(left, 314, "$x$", ha="center", va="center", fontsize=16)
    ax.text(left, 2, "$y$", ha="center", va="center", fontsize=16)
    ax.text(left - 8, 176, "direct", color=direct, ha="right", va="center", fontsize=13)
    ax.text(right - 88, 310, "mean path", color=mean, ha="left", va="center", fontsize=13)
    said = {"color": variance, "ha": "right", "va": "center", "fontsize": 13}
    ax.text(right - 8, 146, "variance path", **said)


def batches_of_three() -> None:
    """Draw batches of three numbers as arrows: their outputs lie on a circle.

    Above, the mean is subtracted and the distances are divided; below, two of the three directions
    of a gradient are lost. The figure is 4.5 by 4.6 inches, and Matplotlib's current one.
    """
    _, axes = plt.subplots(2, 1, figsize=(4.5, 4.6), height_ratios=[180, 146])
    lost, kept, radius = ARMS["no BN"]["color"], ARMS["BN"]["color"], 96

    def seen(along: float, across: float, up: float = 0.0) -> np.ndarray:
        """Where a point of the plane of the circle, or one above it, stands in the drawing."""
        return np.array([along, 0.42 * across + up])

    turn = np.linspace(0, 2 * np.pi, 200)
    circle = np.transpose([seen(radius * np.cos(t), radius * np.sin(t)) for t in turn])
    for ax, heights in zip(axes, [(-46, 134), (-78, 68)], strict=True):
        ax.set_axis_off()
        ax.set(xlim=(-102, 222), ylim=heights)
        ax.fill(*circle, color=FAINT, alpha=0.12, linewidth=0)
        ax.plot(*circle, color=INK, linewidth=1.4)
        ax.plot(0, 0, ".", color=INK)

    def says(ax: Axes, at: Sequence, right: float, up: float, text: str, **look: str) -> None:
        ax.text(at[0] + right, at[1] + up, text, va="center", fontsize=13, **look)

    def arrow(ax: Axes, start: np.ndarray, end: np.ndarray, color: str, style: str = "-") -> None:
        look = {"arrowstyle": "-|>", "mutation_scale": 14, "shrinkA": 0, "shrinkB": 0}
        line = {"color": color, "linewidth": 2, "linestyle": style}
        ax.add_patch(FancyArrowPatch(tuple(start), tuple(end), **look, **line))

    above, below = axes
    way = np.array([np.cos(-0.55), np.sin(-0.55)])
    batch, centered = seen(*(44 * way), up=112), seen(*(44 * way))
    output = seen(*(radius * way))
    arrow(above, batch, centered, lost)
    arrow(above, centered, output, kept)
    above.plot(*np.transpose([seen(0, 0), centered]), color=FAINT, linewidth=1, linestyle=":")
    for point, color in ((batch, INK), (centered, INK), (output, kept)):
        above.plot(*point, "o", color=color, markersize=8)
    says(above, batch, 10, 2, "the batch $x$")
    says(above, batch, 10, -38, "1. subtract the mean", color=lost)
    says(above, centered, -9, -2, "$r$", ha="right")
    says(above, output, 18, 12, "2. divide", color=kept)
    says(above, output, 12, -10, r"the output $\hat x$")
    says(above, (0, 0), -102, 124, "forward", weight="bold")
    arrow(above, seen(-46, 0), seen(-46, 0, 66), FAINT)
    says(above, (0, 0), -46, 76, "(1, 1, 1)", ha="center")

    around = np.array([way[1], -way[0]])
    parts = {"mean": np.array([0, 58.0]), "scale": seen(*(54 * way)), "rest": seen(*(80 * around))}
    says(below, (0, 0), -102, 60, "backward", weight="bold")
    below.plot(*np.transpose([seen(0, 0), output]), color=FAINT, linewidth=1, linestyle=":")
    arrow(below, output, output + parts["mean"], lost, "--")
    arrow(below, output, output + parts["scale"], lost, "--")
    arrow(below, output, output + parts["rest"], kept)
    below.plot(*output, "o", color=kept, markersize=8)
    says(below, output + parts["mean"], 8, -4, "lost: along (1, 1, 1)", color=lost)
    says(below, output + parts["scale"], 8, 0, r"lost: along $\hat x$", color=lost)
    says(below, output, -12, 12, r"$\hat x$", ha="right")
    says(below, output + parts["rest"], 4, -14, "kept: along the circle", color=kept, ha="right")


def blocks(ax: Axes, group: np.ndarray, numbers: bool = False) -> None:
    """Draw cells in blocks: those that are averaged together.

    Args:
        ax: where to draw.
        group: a number for each cell, equal within a block; every block is a rectangle. Row 0 is
            at the bottom.
        numbers: whether each cell says the number of its block, from 1 on.
    """
    for name in np.unique(group):
        rows, columns = np.nonzero(group == name)
        low, left = rows.min(), columns.min()
        height, width = rows.max() - low + 1, columns.max() - left + 1
        shade = COLORS["land-2" if (low // height + left // width) % 2 else "land-0"][0]
        look = {"facecolor": shade, "edgecolor": ARMS["BN"]["color"], "linewidth": 1.2}
        corner, size = (left + 0.07, low + 0.07), (width - 0.14, height - 0.14)
        ax.add_patch(FancyBboxPatch(corner, *size, "round,pad=0,rounding_size=0.12", **look))
    if numbers:
        for i, j in np.ndindex(group.shape):
            ax.text(j + 0.5, i + 0.5, str(group[i, j] + 1), ha="center", va="center", fontsize=11)
    for i, j in [] if numbers else np.ndindex(group.shape):
        ax.plot(j + 0.5, i + 0.5, ".", color=INK, markersize=4)
    ax.set(xlim=(0, group.shape[1]), ylim=(0, group.shape[0]), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def norm_family() -> None:
    """Draw which values five normalizations average together, for four examples and channels.

    The figure is 4.5 by 3.4 inches, and Matplotlib's current one.
    """
    row, column = np.indices((4, 4))
    family = {
        "BN": column,
        "ghosts of 2": 4 * (row // 2) + column,
        "layer norm": row,
        "group norm": 2 * row + column // 2,
        "instance norm": 4 * row + column,
    }
    _, axes = plt.subplots(2, 3, figsize=(4.5, 3.4), sharey=True)
    for ax, (name, group) in zip(axes.flat, family.items(), strict=False):
        blocks(ax, group, numbers=True)
        ax.set_title(name, loc="center")
    axes[1, 2].axis("off")
    for ax_row in axes:
        finish(ax_row[0], x="channels", y="examples", names=False)


def keras_layers() -> None:
    """Draw a layer of a Keras model, and the same layer with batch normalization put in.

    The figure is 4.5 by 3.9 inches, and Matplotlib's current one.
    """
    _, ax = _canvas(3.9)
    names = {"family": "monospace", "fontsize": 12}
    left = [("Dense", "weighted sum,\nthen ReLU", 24, 244, None)]
    right = [
        ("Dense", "weighted sum", 184, 244, None),
        ("BatchNormalization", "normalize, scale and shift", 104, 164, "BN"),
        ("Activation", "ReLU", 24, 84, None),
    ]
    for title, x, width, boxes in [("before", 54, 106, left), ("after", 220, 196, right)]:
        ax.text(x - width / 2, 272, title, va="center", fontsize=13)
        _arrow(ax, (x, 264), (x, 246))
        for code, does, low, high, arm in boxes:
            _rounded(ax, (x - width / 2, low), (width, high - low), arm)
            middle = (low + high) / 2
            ax.text(x, middle + 3, code, ha="center", va="bottom", **names)
            ax.text(x, middle - 3, does, ha="center", va="top", fontsize=13)
            _arrow(ax, (x, low - 2), (x, low - 18))
