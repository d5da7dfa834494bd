"""Figures of a decoder: test R² of all predictors, and decoded against measured targets over time."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from ndt.reports.names import CONTROLS, in_order, predictor_name
from ndt.reports.page import Drawing, fixed
from ndt.reports.plots import BLUE, COLOURS, GRID, INK, ORANGE, QUIET, page_figure

__all__ = ["broken", "circled", "first_seconds", "probabilities", "runs", "scores", "traces", "with_unit"]

# T = bins, K = panels: dimensions, or angles in degrees; C = classes

FLOOR = -0.5  # lowest end of the R² axis
HOLLOW = ("network", "wiener", "kalman", "naive_bayes", "gru", "ridge_time_gain")  # share a colour with another
AMBER = "#fae7bf"  # input drift
STROKES = {"measured": (INK, 1.9, 3), "ensemble": (BLUE, 1.4, 4)}  # colour, width, order of lines; others thin
INKS = LinearSegmentedColormap.from_list("probability", ["#ffffff", "#bdd7ec", "#5b9bd0", BLUE, "#083a63"])

Array = NDArray[np.floating]


def first_seconds(time: NDArray[np.float64], seconds: float = 20.0, least: int = 80) -> NDArray[np.bool_]:
    """Returns a mask of the bins of the first `seconds`, and of at least the first `least` bins."""
    shown = time < time[0] + seconds
    shown[:least] = True

    return shown


def broken(time: NDArray[np.float64], values: NDArray[Any], segment: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns times and values with NaN between segments, so that no line crosses unobserved time."""
    cuts = np.flatnonzero(np.diff(segment) != 0) + 1

    return np.insert(time.astype(float), cuts, np.nan), np.insert(values.astype(float), cuts, np.nan)


def circled(degrees: NDArray[Any]) -> list[NDArray[np.float64]]:
    """Returns copies of an unwrapped line of directions, whole turns apart, that cover ±180° and a turn beyond.

    An axis cut at ±180° then shows the line continuous, and a band around it on both edges.

    Arguments:
        degrees: Directions from -180 to 180, shape (T,).

    Example:
        >>> [x.tolist() for x in circled(np.array([170.0, -170.0]))]
        [[-550.0, -530.0], [-190.0, -170.0], [170.0, 190.0], [530.0, 550.0]]
    """
    step = np.diff(degrees)
    turns = np.r_[0.0, np.cumsum(np.where(np.abs(step) > 180, -np.sign(step), 0))]  # NaN is not a turn
    copies = np.arange(-turns.max() - 1, -turns.min() + 2)

    return [degrees + 360 * (turns + copy) for copy in copies.tolist()]


def runs(values: NDArray[Any], segment: NDArray[Any]) -> list[tuple[int, int]]:
    """Returns the half-open ranges of rows of equal values within a segment."""
    if not len(values):
        return []
    cuts = np.flatnonzero((np.diff(values) != 0) | (np.diff(segment) != 0)) + 1
    edges = np.r_[0, cuts, len(values)].tolist()

    return list(pairwise(edges))


def with_unit(label: str, unit: str) -> str:
    """Returns a label with its unit, if any, in brackets."""
    return f"{label} ({unit})" if unit else label


def scores(
    r2: Mapping[str, float],
    interval: tuple[float, float] | None = None,
    weights: Mapping[str, float] = MappingProxyType({}),
    label: str = "R² on test bins (variance-weighted)",
) -> Drawing:
    """Draws the test R² of each predictor as a labelled dot, on an axis from 0, or -0.5 at the least, to 1.

    Arguments:
        r2: R² by predictor, at least one.
        interval: 95 % interval of the ensemble's R².
        weights: Ensemble weights, shown with the names.
        label: Label of the axis.
    """
    names = in_order(r2)
    low = max(min(0.0, *r2.values()), FLOOR)
    with page_figure(0.55 + 0.28 * len(names)) as sheet:
        ax: Axes = sheet.axes[0, 0]
        for row, name in enumerate(names):
            end = interval[1] if interval is not None and name == "ensemble" else 0.0
            _score(ax, row, name, r2[name], low, max(r2[name], end, 0.0))
        if interval is not None and "ensemble" in r2:
            (first, last), row = np.clip(interval, low, 1), names.index("ensemble")
            ax.add_patch(Rectangle((first, row - 0.32), last - first, 0.64, color=BLUE, alpha=0.3, linewidth=0))
        ax.axvline(0, color=QUIET, linewidth=0.8)
        words = [predictor_name(n) + (f", weight {weights[n]:.2f}" if n in weights else "") for n in names]
        ax.set_yticks(range(len(names)), words)
        ax.tick_params(axis="y", length=0)
        ax.set(ylim=(len(names) - 0.5, -0.5), xlim=(low - 0.03 * (1 - low), 1 + 0.04 * (1 - low)), xlabel=label)
        ax.spines["left"].set_visible(False)

    caption = "All predictors are causal and scored on the same bins."
    if any(name in r2 for name in CONTROLS):
        caption += " With permuted or shifted targets, R² should be about 0, or below."
    if interval is not None:
        caption += " The band is the ensemble's 95 % interval, by block bootstrap over time."
    if any(value < low for value in r2.values()):
        caption += f" Arrows: below the axis, which ends at {fixed(low, 1)}."

    return Drawing(sheet.svg, caption)


def _score(ax: Axes, row: int, name: str, value: float, low: float, number_at: float) -> None:
    colour, filled, shown = COLOURS.get(name, QUIET), name not in HOLLOW, max(value, low)
    ax.plot([0, shown], [row, row], color=colour, linewidth=2.2 if filled else 1.2, solid_capstyle="butt")
    marker = "<" if value < low else "o"
    ax.plot(shown, row, marker, color=colour, markerfacecolor=colour if filled else "white", markersize=7)
    ax.annotate(fixed(value), (number_at, row), (9, 0), textcoords="offset points", va="center")


def _bins(
    time: NDArray[np.float64], segment: NDArray[Any], outside: NDArray[np.bool_] | None
) -> tuple[float, list[tuple[float, float]]]:
    """Returns half the width of a bin in seconds, and start and end of each run of bins with input drift."""
    steps = np.diff(time)[np.diff(segment) == 0]
    half = float(np.median(steps)) / 2 if len(steps) else 0.01
    drift = [] if outside is None else [(a, b) for a, b in runs(outside, segment) if outside[a]]

    return half, [(float(time[a]) - half, float(time[b - 1]) + half) for a, b in drift]


def traces(
    time: NDArray[np.float64],
    lines: Mapping[str, Array],
    segment: NDArray[Any],
    labels: Sequence[str],
    half_width: Array | None = None,
    outside: NDArray[np.bool_] | None = None,
    circular: bool = False,
    caption: str = "",
) -> Drawing:
    """Draws measured and decoded targets over time, one panel a dimension; lines break between segments.

    Arguments:
        time: Bins in seconds, shape (T,).
        lines: ``measured``, and the prediction of each predictor, NaN if missing; (T, K) each.
        segment: Segment of each bin, shape (T,).
        labels: Names of the K panels, with units.
        half_width: Half width of the ensemble's interval, not finite if missing, shape (T, K).
        outside: Whether a bin has input drift, shape (T,).
        circular: Whether values are directions in degrees, -180 to 180.
    """
    dotted = len(np.unique(segment)) > 12  # dots keep short segments visible
    half, spans = _bins(time, segment, outside)
    copies = circled if circular else lambda values: [values]
    with page_figure(0.75 + (1.8 if circular else 1.45) * len(labels), len(labels), 1, sharex=True) as sheet:
        for k, label in enumerate(labels):
            ax: Axes = sheet.axes[k, 0]
            for first, last in spans:
                ax.axvspan(first, last, color=AMBER, linewidth=0, zorder=0)
            if half_width is not None and "ensemble" in lines:
                spread = broken(time, np.where(np.isfinite(half_width[:, k]), half_width[:, k], np.nan), segment)[1]
                for centre in copies(lines["ensemble"][:, k]):
                    x, y = broken(time, centre, segment)
                    ax.fill_between(x, y - spread, y + spread, color=BLUE, alpha=0.16, linewidth=0)
            for name, values in lines.items():
                colour, width, above = STROKES.get(name, (COLOURS.get(name, QUIET), 0.9, 2))
                style: dict[str, Any] = {"color": colour, "linewidth": width, "zorder": above, "markersize": 3}
                for centre in copies(values[:, k]):
                    ax.plot(*broken(time, centre, segment), ".-" if dotted and name != "measured" else "-", **style)
            ax.set_ylabel(label)
            ax.grid(axis="y", color=GRID, linewidth=0.7)
            if circular:
                ax.set(ylim=(-180, 180), yticks=[-180, -90, 0, 90, 180])
        sheet.axes[-1, 0].set(xlabel="time in the recording (s)", xlim=(time[0] - half, time[-1] + half))
        sheet.figure.align_ylabels()
        handles: list[Artist] = [Patch(color=BLUE, alpha=0.16, label="90 % interval")] if half_width is not None else []
        for name in lines:
            colour, width, _ = STROKES.get(name, (COLOURS.get(name, QUIET), 0.9, 2))
            handles.append(Line2D([], [], color=colour, linewidth=width, label=predictor_name(name)))
        handles += [Patch(color=AMBER, label="input drift")] if spans else []
        sheet.figure.legend(handles=handles, loc="outside upper left", ncols=5, fontsize=8.5)

    return Drawing(sheet.svg, caption)


def probabilities(
    time: NDArray[np.float64],
    probability: Array,
    true: NDArray[np.integer],
    segment: NDArray[Any],
    classes: Sequence[str],
    outside: NDArray[np.bool_] | None = None,
    caption: str = "",
) -> Drawing:
    """Draws the probability of each class over time, with frames around the true class.

    Arguments:
        time: Bins in seconds, shape (T,).
        probability: Probability of each class, shape (T, C).
        true: Index of the true class, -1 if missing, shape (T,).
        segment: Segment of each bin, shape (T,).
        classes: Names of the C classes.
        outside: Whether a bin has input drift, shape (T,).
    """
    half, spans = _bins(time, segment, outside)
    with page_figure(1.0 + float(np.clip(0.24 * len(classes), 0.7, 5.0))) as sheet:
        ax: Axes = sheet.axes[0, 0]
        ax.set_facecolor(GRID)  # no bins; a probability of 0 is white
        for first, last in runs(np.zeros(len(time)), segment):
            edges = np.r_[time[first:last] - half, time[last - 1] + half]
            rows = np.arange(len(classes) + 1) - 0.5
            strip = np.clip(probability[first:last].T, 0, 1)
            marks = ax.pcolormesh(edges, rows, strip, cmap=INKS, vmin=0, vmax=1, rasterized=True)
        for begin, end in runs(true, segment):
            if true[begin] >= 0:
                width = time[end - 1] - time[begin] + 2 * half
                frame = Rectangle((time[begin] - half, true[begin] - 0.5), width, 1)
                frame.set(facecolor="none", edgecolor=ORANGE, linewidth=1.3, zorder=3)
                ax.add_patch(frame)
        every = -(-len(classes) // 24)
        ax.set_yticks(np.arange(0, len(classes), every), list(classes)[::every])
        for left, right in spans:
            ax.axvspan(left, right, 1.01, 1.06, color="#c98a1b", linewidth=0, clip_on=False)
        ax.set(ylim=(len(classes) - 0.5, -0.5), xlim=(time[0] - half, time[-1] + half))
        ax.set_xlabel("time in the recording (s)")
        ax.tick_params(axis="y", length=0)
        aspect = 18 if len(classes) < 10 else 32
        sheet.figure.colorbar(marks, ax=ax, label="probability", aspect=aspect, ticks=[0, 0.5, 1])
        handles = [Patch(facecolor="none", edgecolor=ORANGE, linewidth=1.3, label="true class")]
        handles += [Patch(color="#c98a1b", label="input drift")] if spans else []
        sheet.figure.legend(handles=handles, loc="outside upper left", ncols=3, fontsize=8.5)

    return Drawing(sheet.svg, caption + (" Grey: no bins." if len(np.unique(segment)) > 1 else ""))
