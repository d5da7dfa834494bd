"""The time line of a recording: observed time, tables, splits and covariates on one axis of time."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ndt.intervals import Intervals
from ndt.reports.page import Drawing
from ndt.reports.plots import BLUE, GREEN, GRID, INK, ORANGE, PURPLE, QUIET, page_figure
from ndt.reports.plots_recording import MANY, ROWS, UNSEEN, shorten

__all__ = ["Lane", "timeline"]

TOO_MANY = 5000  # bars above which touching ones are merged
PALE = "#cfe6d6"
COLOURS = {
    "observed": INK, "silent": ORANGE, "shown": QUIET, "rows": ROWS, "train": BLUE, "valid": PURPLE, "test": ORANGE,
    "covariate": GREEN,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A row of the time line.

    Arguments:
        name: Label on the left.
        bars: Times of its bars.
        kind: Key of `COLOURS`.
        note: Label on the right.
        stagger: Whether bars alternate between two heights, so that touching ones stay distinct.
        pale: Times drawn lighter, on top of `bars`: samples without a value.
    """

    name: str
    bars: Intervals
    kind: str
    note: str = ""
    stagger: bool = False
    pale: Intervals = field(default_factory=Intervals.empty)


def timeline(
    lanes: Sequence[Lane],
    window: tuple[float, float],
    unseen: Intervals,
    rate: tuple[NDArray[np.float64], NDArray[np.float64]],
    caption: str = "",
) -> Drawing:
    """Draws the whole session on one axis of time: the mean rate, and below it one row a lane.

    Arguments:
        lanes: Rows, from the top.
        window: First and last second shown.
        unseen: Time in which no unit was observed; shaded through all rows.
        rate: Edges of M blocks, shape (M + 1,), and the mean rate of a unit in each, NaN if none was observed, (M,).
        caption: End of the caption.
    """
    least = (window[1] - window[0]) / 900
    unseen = unseen & Intervals([window[0]], [window[1]])
    with page_figure(1.25 + 0.27 * len(lanes), 2, 1, sharex=True, height_ratios=[0.85, 0.27 * len(lanes)]) as sheet:
        top, ax = sheet.axes[:, 0]
        edges, hz = rate
        high = 1.1 * float(np.nanmax(hz)) if np.any(hz > 0) else 1.0
        _spans(top, unseen, 0.0, high, UNSEEN, z=0)
        _spans(ax, unseen, 0.0, len(lanes), UNSEEN, z=0)
        top.stairs(hz, edges, color=INK, linewidth=1.0, baseline=None)
        top.set(ylim=(0, high), ylabel="mean rate\n(spikes/s)")
        top.locator_params(axis="y", nbins=3)
        for row, lane in enumerate(lanes):
            _lane(ax, lane, row, least)
        ax.set_yticks(np.arange(len(lanes)) + 0.5, [shorten(lane.name, 24) for lane in lanes])
        ax.tick_params(axis="y", length=0)
        ax.set(xlim=window, ylim=(len(lanes), 0), xlabel="time in the recording (s)")
        ax.xaxis.set_major_formatter("{x:,.10g}")
        ax.spines["left"].set_visible(False)

    sentences = {
        "The whole session on one axis of time.": True,
        "Grey: no unit was observed.": unseen.duration > least,
        "Rows of a table alternate between two heights.": any(lane.stagger for lane in lanes),
        "Rows shorter than the width of a line are drawn longer.": any(lane.kind == "rows" for lane in lanes),
        "Pale: samples without a value.": any(len(lane.pale) for lane in lanes),
    }

    return Drawing(sheet.svg, " ".join([*(text for text, true in sentences.items() if true), caption]).strip())


def _lane(ax: Axes, lane: Lane, row: int, least: float) -> None:
    colour, bars = COLOURS[lane.kind], lane.bars
    if row:
        ax.axhline(row, color=GRID, linewidth=0.6, zorder=1)
    if lane.stagger:
        order = np.argsort(bars.start, kind="stable")
        wide = min(least, 0.5 * float(np.ptp(np.r_[bars.start, bars.end])) / len(order[::2]))  # at most half is ink
        for side in (0, 1):
            _spans(ax, bars.select(order[side::2]), row + (0.14, 0.54)[side], 0.32, colour, wide)
    else:
        _spans(ax, bars, row + 0.2, 0.6, colour, least if lane.kind in ("silent", "shown", "rows") else 0.0)
    _spans(ax, lane.pale, row + 0.27, 0.46, PALE, least, z=3)
    ax.text(
        1.012, row + 0.5, shorten(lane.note, 34), transform=ax.get_yaxis_transform(), va="center", fontsize=8.5,
        color=QUIET,
    )  # fmt: skip


def _spans(ax: Axes, times: Intervals, y: float, height: float, colour: str, least: float = 0.0, z: float = 2) -> None:
    """Draws bars of one height, each at least `least` seconds wide."""
    width, middle = np.maximum(times.end - times.start, least), (times.start + times.end) / 2
    shown = Intervals(middle - width / 2, middle + width / 2)
    if len(shown) > TOO_MANY:
        shown = shown.coalesce()
    bars = np.stack([shown.start, shown.end - shown.start], 1)
    drawn = ax.broken_barh(bars.tolist(), (y, height), color=colour, linewidth=0, rasterized=len(bars) > MANY, zorder=z)
    drawn.set_snap(False)  # bars narrower than a pixel keep the share of colour of their width
