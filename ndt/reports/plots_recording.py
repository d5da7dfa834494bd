"""Figures of one recording for its inspection page. Times are seconds; captions name what a figure leaves out."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ndt.intervals import Intervals
from ndt.reports.page import Drawing, many
from ndt.reports.plots import BLUE, GREEN, GRID, ORANGE, PURPLE, QUIET, page_figure
from ndt.session import Covariate

__all__ = ["MANY", "ROWS", "UNSEEN", "isi", "plain_text", "presence", "shorten", "traces"]

# M = blocks of time, N = units, S = samples, C = covariate dimensions

MANY = 200  # marks above which they are rasterised
UNSEEN = "#e9ebee"  # not observed
ROWS = "#5d7f9e"  # rows of tables of intervals
DIM_COLOURS = (BLUE, ORANGE, PURPLE, GREEN)
DIM_DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))  # distinct without colour
MOST_DIMS = len(DIM_COLOURS)


@contextmanager
def plain_text() -> Iterator[None]:
    """Draws names of a file verbatim: without formulas, and without warnings about missing glyphs."""
    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support .* natively")
        yield


def shorten(text: str, most: int = 26) -> str:
    """Returns a text on one line, its middle replaced by … if it is longer than `most`."""
    text = " ".join(text.split())
    half = (most - 1) // 2

    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def presence(edges: NDArray[np.float64], hz: NDArray[np.float64], groups: Sequence[str]) -> Drawing:
    """Draws the rate of each unit in each block of time.

    Arguments:
        edges: Edges of M blocks in seconds, shape (M + 1,).
        hz: Rates, NaN where the unit was not observed, shape (M, N).
        groups: Region or probe of each unit, sorted; a single name is not shown.
    """
    N = hz.shape[1]
    top = max(float(np.nanpercentile(hz, 98)), 1e-3) if np.isfinite(hz).any() else 1.0
    height = float(np.clip(max(2.4 + 0.02 * N, 0.7 + 0.14 * len(set(groups))), 2.4, 4.6 if N < 400 else 6.0))
    with page_figure(height) as sheet:
        ax: Axes = sheet.axes[0, 0]
        style: dict[str, Any] = {"facecolor": UNSEEN, "edgecolor": "#b9bfc7", "hatch": "////", "linewidth": 0}
        ax.add_patch(Rectangle((0, 0), 1, 1, transform=ax.transAxes, **style))
        norm = PowerNorm(0.5, 0.0, top, clip=True)
        mesh = ax.pcolormesh(edges, np.arange(N + 1), hz.T, cmap="viridis", norm=norm, rasterized=True)
        bar = sheet.figure.colorbar(mesh, ax=ax, label="rate (spikes/s)", aspect=30, pad=0.015)
        bar.set_ticks([top * x**2 for x in (0.0, 0.25, 0.5, 0.75, 1.0)])  # evenly spaced on the square-root scale
        bar.ax.yaxis.set_major_formatter("{x:.3g}")
        bar.minorticks_off()
        ax.set(xlim=edges[[0, -1]], ylim=(N, 0), xlabel="time in the recording (s)", ylabel="unit")
        ax.xaxis.set_major_formatter("{x:,.10g}")
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        shown = _name_groups(ax, groups, round(8 * (height - 0.6)))

    caption = f"Rate of each of {N:,} units in {len(hz):,} blocks of time, sorted by region, then by rate."
    caption += " The colour scale is a square root that ends at the 98th percentile."
    caption += " Hatched: the unit was not observed." if np.isnan(hz).any() else ""
    caption += f" Only the {shown} largest regions are named." if shown else ""

    return Drawing(sheet.svg, caption)


def _name_groups(ax: Axes, groups: Sequence[str], most: int) -> int:
    """Labels at most `most` groups of rows instead of row numbers; returns their number if groups are missing, or 0."""
    N = len(groups)
    first = [n for n in range(N) if n == 0 or groups[n] != groups[n - 1]]
    ends = [*first[1:], N]
    named = [(a, b) for a, b in zip(first, ends, strict=True) if b - a >= N / most]
    if len(first) < 2 or not named:
        return 0
    for n in first[1:]:
        ax.axhline(n, color="white", linewidth=0.9 if len(first) < 12 else 0.5)
    size = 9.5 if len(named) < most / 2 else 8
    ticks = [(a + b) / 2 for a, b in named]
    ax.set_yticks(ticks, [f"{shorten(groups[a], 16)} ({b - a})" for a, b in named], fontsize=size)
    ax.tick_params(axis="y", length=0)
    ax.set_ylabel("units by region")

    return len(named) if len(named) < len(first) else 0


def isi(
    counts: NDArray[np.integer],
    edges: NDArray[np.float64],
    rate: NDArray[np.float64],
    share: NDArray[np.float64],
    few: NDArray[np.bool_],
) -> Drawing:
    """Draws short inter-spike intervals, pooled over units, and each unit's share of intervals under 2 ms.

    Arguments:
        counts: Number of intervals between `edges`, shape (K,).
        edges: Seconds, shape (K + 1,).
        rate: Rate of each unit in spikes/s, shape (N,).
        share: Share of intervals under 2 ms, NaN for units without intervals, shape (N,).
        few: Units with under 100 spikes, shape (N,).
    """
    seen = np.isfinite(share) & (rate > 0)
    top = 1.08 * max(0.01, share[seen & ~few].max(initial=0.0))  # few spikes can give any share
    with page_figure(2.8, 1, 2) as sheet:
        left, right = sheet.axes[0]
        left.axvspan(0, 2, color="#fbe3d2", linewidth=0)
        left.stairs(counts, 1e3 * edges, color="#4a5160", fill=True)
        left.axvline(2, color=ORANGE, linewidth=1.2)
        left.text(2, 1.02, "2 ms", transform=left.get_xaxis_transform(), ha="center", fontsize=8.5, color="#9a4a06")
        left.set(xlim=(0, 1e3 * edges[-1]), ylim=(0, 1.05 * max(int(counts.max(initial=0)), 1)))
        left.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        left.set(xlabel="inter-spike interval (ms)", ylabel=f"intervals per {1e3 * (edges[1] - edges[0]):g} ms")
        left.yaxis.set_major_formatter("{x:,.10g}")
        _refractory(right, rate, 100 * share, (seen & ~few, seen & few), 100 * top)

    caption = (
        f"Left: inter-spike intervals of all units up to {1e3 * edges[-1]:g} ms. Right: share of each unit's intervals "
        "under 2 ms; the dashed line is the share of a Poisson process, without a refractory period."
    )
    without, beyond = int(np.sum(~seen)), int(np.sum(share[seen & few] > top))
    caption += f" {many(beyond, 'unit')} of under 100 spikes not shown, above the axis." if beyond else ""
    caption += f" {many(without, 'unit')} without intervals." if without else ""

    return Drawing(sheet.svg, caption)


def _refractory(
    ax: Axes, rate: NDArray[np.float64], share: NDArray[np.float64], rows: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    top: float,
) -> None:  # fmt: skip
    enough, few = rows
    x = rate[few | enough]
    low, high = 0.7 * min(0.1, x.min(initial=0.1)), 1.4 * max(10.0, x.max(initial=10.0))
    line = np.geomspace(low, high, 100)
    ax.plot(line, -100 * np.expm1(-0.002 * line), color=QUIET, linewidth=1, linestyle=(0, (4, 2)), label="Poisson")
    style: dict[str, Any] = {"s": 12, "rasterized": len(x) > MANY}
    ax.scatter(rate[enough], share[enough], color=BLUE, alpha=0.65, linewidths=0, label="unit", **style)
    style |= {"color": "white", "edgecolors": BLUE, "linewidths": 0.6, "label": "unit of < 100 spikes"}
    ax.scatter(rate[few], share[few], **style)
    ax.set(xscale="log", xlim=(low, high), ylim=(-0.02 * top, top))
    ax.set(xlabel="rate of the unit (spikes/s)", ylabel="intervals under 2 ms (%)")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")
    where: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "borderaxespad": 0.1}
    ax.legend(ncols=3, fontsize=8.5, handlelength=1.4, columnspacing=1.0, **where)


def traces(shown: Sequence[Covariate], window: tuple[float, float], unseen: Intervals, caption: str = "") -> Drawing:
    """Draws covariates in a window, one panel each; lines break where samples are missing.

    Arguments:
        shown: Covariates, their samples cut to the window.
        window: First and last second.
        unseen: Time in which no unit was observed; shaded.
        caption: Start of the caption.
    """
    with page_figure(0.45 + 1.12 * len(shown), len(shown), 1, sharex=True) as sheet:
        for row, trace in enumerate(shown):
            ax: Axes = sheet.axes[row, 0]
            for a, b in zip(unseen.start, unseen.end, strict=True):
                ax.axvspan(a, b, color=UNSEEN, linewidth=0)
            _trace(ax, trace)
            ax.set_title(shorten(trace.name, 60), fontsize=9.5, pad=3)
            ax.set_ylabel(shorten(trace.unit, 14) or "no unit")
            ax.grid(axis="y", color=GRID, linewidth=0.7)
            ax.locator_params(axis="y", nbins=3)
        sheet.axes[-1, 0].set(xlabel="time in the recording (s)", xlim=window)
        sheet.axes[-1, 0].xaxis.set_major_formatter("{x:,.10g}")
        sheet.figure.align_ylabels()

    long = [f"{trace.name} ({len(trace.dims)})" for trace in shown if len(trace.dims) > MOST_DIMS]
    more = f" Only the first {MOST_DIMS} dimensions of {', '.join(long)} are drawn." if long else ""

    return Drawing(sheet.svg, caption + more)


def _trace(ax: Axes, one: Covariate) -> None:
    if not np.isfinite(one.values).any():
        what = "value" if len(one.timestamps) else "sample"
        ax.text(0.5, 0.5, f"no {what} in these seconds", transform=ax.transAxes, ha="center", va="center", color=QUIET)
        ax.set_yticks([])
        return
    cuts = np.flatnonzero(np.diff(one.timestamps) > 1.5 * one.interval) + 1
    time, dims = np.insert(one.timestamps, cuts, np.nan), one.dims[:MOST_DIMS]
    for c, dim in enumerate(dims):
        values = np.insert(one.values[:, c].astype(np.float64), cuts, np.nan)
        style: dict[str, Any] = {"color": DIM_COLOURS[c], "linewidth": 1.1, "linestyle": DIM_DASHES[c]}
        if one.angular:  # a line would cross the panel where the angle passes its end
            style |= {"linestyle": "none", "marker": ".", "markersize": 2.4, "markeredgewidth": 0}
        ax.plot(time, values, rasterized=len(time) > 2000, **style)
        if len(dims) > 1 or (dim not in ("", "0") and not f"/{one.name}".endswith(f"/{dim}")):
            y = 1 - (c + 0.5) / len(dims)
            (key,) = ax.plot([1.012, 1.042], [y, y], transform=ax.transAxes, clip_on=False, **style)
            key.set_markersize(5)
            ax.text(1.05, y, shorten(dim, 12), transform=ax.transAxes, va="center", fontsize=8.5)
