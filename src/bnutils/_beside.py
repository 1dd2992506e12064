"""Places for the names of lines: beside them, and on nothing.

Lengths are in points of 1/72 inch, so that a place does not depend on the resolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Affine2D

__all__ = ["free_corners"]

FAR = 1e3


def free_corners(
    ax: Axes, lines: Sequence[Line2D], texts: Sequence[Text]
) -> list[tuple[float, float]] | None:
    """Where the names of lines can stand: close to their own line, and on nothing.

    Args:
        ax: the axes, laid out.
        lines: those that have names.
        texts: the names, one for each line, somewhere on the axes.

    Returns:
        For each name where its lower left corner goes, as parts of the width and the height of
        the axes; None if one of them has no such place.
    """
    unit = ax.figure.dpi / 72
    frame = _extents(ax, unit)
    covers = {line: _points_of(line) / unit for line in ax.lines}
    others = _points_of_collections(ax, unit)
    areas = _areas(ax, unit)
    taken = [_extents(t, unit) for t in ax.texts if t not in texts and t.get_text()]
    found: dict[Text, tuple[float, float]] = {}
    sizes = {text: np.array(text.get_window_extent().size) / unit for text in texts}
    # Long names have the fewest places, so they choose first.
    for line, text in sorted(zip(lines, texts, strict=True), key=lambda pair: -sizes[pair[1]][0]):
        boxes = _boxes(frame + np.array([4, 3, -2, -2]), *sizes[text])
        own = _gap(boxes, covers[line])
        gaps = {each: _gap(boxes, points) for each, points in covers.items() if each is not line}
        dots = [_gap(boxes, points) for points in others]
        nothing = np.full(len(boxes), FAR)
        free = (own > 4) & (np.min([nothing, *gaps.values(), *dots], axis=0) > 3)
        for box in taken:
            free &= _apart(boxes, box)
        if not free.any():
            return None
        named = [gap for each, gap in gaps.items() if each in lines]
        away = np.min([nothing, *named, *dots], axis=0)
        boxes, own, away = boxes[free], own[free], away[free]
        # A name whose nearest line is another's would be read as that one's.
        doubt = np.maximum(0, 1.5 * own + 6 - away)
        struck = _struck(boxes, ax, unit)
        cost = own + 2 * doubt + 24 * _covered(boxes, areas) + 3 * struck - 0.01 * boxes[:, 2]
        best = np.argmin(cost)
        taken.append(boxes[best] + np.array([-12, -1, 12, 1]))
        found[text] = tuple((boxes[best, :2] - frame[:2]) / (frame[2:] - frame[:2]))
    return [found[text] for text in texts]


def _extents(artist: Axes | Text, unit: float) -> np.ndarray:
    """Left, lower, right and upper end."""
    return np.array(artist.get_window_extent().extents) / unit


def _boxes(frame: np.ndarray, width: float, height: float) -> np.ndarray:
    """Boxes of one size at many places of a frame, each as left, lower, right and upper end."""
    left = np.arange(frame[0], frame[2] - width, 4.0)
    low = np.arange(frame[1], frame[3] - height, 3.0)
    corners = np.stack(np.meshgrid(left, low), axis=-1).reshape(-1, 2)
    return np.concatenate([corners, corners + np.array([width, height])], axis=1)


def _gap(boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How far each box is from the nearest of some points."""
    if not len(points):
        return np.full(len(boxes), FAR)
    x, y = points.T
    across = np.maximum(boxes[:, :1] - x, x - boxes[:, 2:3]).clip(0)
    up = np.maximum(boxes[:, 1:2] - y, y - boxes[:, 3:]).clip(0)
    return np.hypot(across, up).min(axis=1)


def _apart(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Which boxes share no point with one other."""
    return ((boxes[:, 2:] < box[:2]) | (boxes[:, :2] > box[2:])).any(axis=1)


def _covered(boxes: np.ndarray, areas: Sequence[Path]) -> np.ndarray:
    """What part of each box lies in areas; more than all of it where areas lie on each other."""
    parts = np.linspace(0, 1, 5)[:, None, None], np.linspace(0, 1, 3)[:, None]
    x = boxes[:, 0] + parts[0] * (boxes[:, 2] - boxes[:, 0])
    y = boxes[:, 1] + parts[1] * (boxes[:, 3] - boxes[:, 1])
    points = np.stack(np.broadcast_arrays(x, y), axis=-1)
    inside = [area.contains_points(points.reshape(-1, 2)) for area in areas]
    return np.sum(inside, axis=0).reshape(-1, len(boxes)).mean(axis=0) if areas else 0 * boxes[:, 0]


def _struck(boxes: np.ndarray, ax: Axes, unit: float) -> np.ndarray:
    """How many lines of the grid run through each box."""
    found = np.zeros(len(boxes))
    for side, axis in enumerate((ax.xaxis, ax.yaxis)):
        for line in axis.get_gridlines():
            if line.get_visible() and len(line.get_path().vertices):
                at = line.get_transform().transform(line.get_path().vertices)[0, side] / unit
                found += (boxes[:, side] < at) & (at < boxes[:, side + 2])
    return found


def _points_of(line: Line2D) -> np.ndarray:
    """What a line and its markers cover, as points in pixels."""
    corners = line.get_transform().transform(line.get_path().vertices)
    if not len(corners):
        return np.empty((0, 2))
    points = [_along(corners)] if line.get_linestyle() != "None" else []
    if line.get_marker() not in ("", "None", None):
        reach = line.get_markersize() * line.figure.dpi / 72 / 2
        around = reach * np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)])
        points += [corners + shift for shift in around]
    # A point in each cell of a grid is enough to tell what is covered.
    points = np.unique(np.round(np.concatenate(points)), axis=0)
    x0, y0, x1, y1 = line.axes.get_window_extent().extents
    x, y = points.T
    return points[(x >= x0 - 1) & (x <= x1 + 1) & (y >= y0 - 1) & (y <= y1 + 1)]


def _points_of_collections(ax: Axes, unit: float) -> list[np.ndarray]:
    """What error bars and scattered dots cover."""
    found = []
    for each in ax.collections:
        if isinstance(each, LineCollection):
            bars = (_along(ax.transData.transform(bar)) for bar in each.get_segments())
            found.append(np.concatenate(list(bars)) / unit)
        elif isinstance(each, PathCollection):
            found.append(each.get_offset_transform().transform(each.get_offsets()) / unit)
    return found


def _areas(ax: Axes, unit: float) -> list[Path]:
    """The outlines of bands."""
    return [
        path.transformed(each.get_transform() - Affine2D().scale(unit))
        for each in ax.collections
        if isinstance(each, PolyCollection)
        for path in each.get_paths()
    ]


def _along(corners: np.ndarray) -> np.ndarray:
    """Points close to each other along the line through some corners."""
    corners = corners[np.isfinite(corners).all(axis=1)]
    at = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
    places = np.linspace(0, at[-1], 2 + int(at[-1] / 2))
    return np.transpose([np.interp(places, at, part) for part in corners.T])
