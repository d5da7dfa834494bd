"""Style of figures, and figures of sessions and learning curves, as SVG for a page.

Figures take arrays or a session, never runs or files. Text stays text, so that a page can be searched and read aloud;
figures with thousands of marks rasterise them, so that a page stays small.
"""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ndt.intervals import Intervals
from ndt.reports.page import Drawing
from ndt.session import Session
from ndt.text import escaped

__all__ = ["Drawing", "curves", "embedding", "page_figure", "raster", "rates", "thin"]

# T = bins, D = latent dimensions, S = spikes

INK, QUIET, GRID = "#1f2430", "#6b7280", "#e3e6ea"
CRIMSON = "#b02a5b"
BLUE, ORANGE, GREEN, PURPLE = "#0b62a4", "#d1660c", "#2a8c4a", "#8250a8"  # distinct to colour-blind readers and in grey
COLOURS = {
    "ensemble": BLUE,
    "network": BLUE,
    "scratch": PURPLE,
    "ridge": ORANGE,
    "logistic": ORANGE,
    "wiener": ORANGE,
    "kalman": GREEN,
    "naive_bayes": GREEN,
    "tcn": CRIMSON,
    "gru": INK,
    "ridge_time_gain": ORANGE,
    "oracle": INK,
}  # controls are drawn in QUIET
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ndt",  # the same data give the same page
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": False,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
WHEEL = LinearSegmentedColormap.from_list(  # for angles: cyclic, and nowhere near white
    "wheel", "#c2403c #d98b1f #9c9f1a #3f9d4f #1f9aa0 #2f6fbf #7a55c2 #b8478f #c2403c".split()
)
WIDTH = 7.6  # inches; the page's text is as wide


@dataclass
class _Sheet:
    figure: Figure
    axes: NDArray[Any]  # (rows, columns)
    svg: str = ""


@contextmanager
def page_figure(height: float, rows: int = 1, columns: int = 1, **grid: Any) -> Iterator[_Sheet]:
    """Yields a figure as wide as the page, in its style; its `svg` is set when the block ends."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        sheet = _Sheet(figure, figure.subplots(rows, columns, squeeze=False, **grid))
        yield sheet
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
        text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
        for size in ("height", "width"):  # the page sets them
            text = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", text, count=1)
        sheet.svg = escaped(text, keep="\n\t")  # its text stays text, names of files included


def raster(session: Session, window: tuple[float, float], origin: float = 0.0) -> Drawing:
    """Draws a session's spikes, units sorted by rate, above the mean rate; unobserved time is grey.

    Arguments:
        session: Session of N units.
        window: First and last second shown, on the session's clock.
        origin: Second of that clock at which the axis has its zero.
    """
    (start, end), N, spikes = window, session.num_units, session.spikes
    rows = slice(*np.searchsorted(spikes.timestamps, window))
    times, unit = np.asarray(spikes.timestamps[rows]), np.asarray(spikes.unit_index[rows])
    rank = np.empty(N, np.int64)
    rank[np.argsort(np.bincount(unit, minlength=N), kind="stable")] = np.arange(N)
    step = max((end - start) / 400, 0.02)
    edges = np.arange(start, end + step, step)
    rate = np.histogram(times, edges)[0] / step / max(N, 1)
    rate = np.where(session.observed.contains(edges[:-1] + step / 2), rate, np.nan)
    unseen = Intervals([start], [end]) - session.observed.coalesce()
    size = float(np.clip((130 / max(N, 1)) ** 2, 1, 40))
    with page_figure(4.2, 2, 1, sharex=True, height_ratios=[3.2, 1]) as sheet:
        top, bottom = sheet.axes[:, 0]
        top.scatter(times - origin, rank[unit], s=size, marker="|", color=INK, linewidths=0.5, rasterized=True)
        top.set(ylim=(-1, N), ylabel="unit, sorted by rate")
        bottom.stairs(rate, edges - origin, color=INK, linewidth=0.9)
        bottom.set(xlim=(start - origin, end - origin), ylim=(0, None))
        bottom.set(xlabel="time in the recording (s)", ylabel="mean rate\n(spikes/s)")
        for a, b in zip(unseen.start - origin, unseen.end - origin, strict=True):
            for ax in (top, bottom):
                ax.axvspan(a, b, color=GRID, linewidth=0)

    caption = f"Spikes of {N} units from {start - origin:.1f} to {end - origin:.1f} s, and their mean rate in "
    caption += f"{1e3 * step:.0f} ms bins."
    return Drawing(sheet.svg, caption + (" Grey: not observed." if len(unseen) else ""))


def rates(by_session: Mapping[str, NDArray[np.float64]]) -> Drawing:
    """Draws the distribution of the units' mean rates in spikes/s, one row a session."""
    names = list(by_session)
    with page_figure(0.6 + 0.26 * len(names)) as sheet:
        ax: Axes = sheet.axes[0, 0]
        for row, name in enumerate(names):
            x = np.maximum(by_session[name], 0.01)  # silent units at the end of the axis
            spread = (np.arange(len(x)) * 0.618034) % 1 - 0.5  # golden ratio: evenly spread
            ax.scatter(x, row + 0.5 * spread, s=5, color=BLUE, alpha=0.45, linewidths=0, rasterized=True)
            ax.plot([np.median(x)] * 2, [row - 0.36, row + 0.36], color=INK, linewidth=1.6)
        ax.set_yticks(range(len(names)), names)
        ax.set(xscale="log", ylim=(len(names) - 0.5, -0.5), xlabel="mean rate of a unit in observed time (spikes/s)")
        ax.set_xlim(0.8 * min(0.1, *(np.maximum(x, 0.01).min() for x in by_session.values())))  # a decade at least
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
        ax.tick_params(axis="y", length=0)

    caption = "Mean rates, one dot a unit; the stroke is the median. Rates below 0.01 spikes/s are drawn at 0.01."
    return Drawing(sheet.svg, caption)


def curves(
    panels: Mapping[str, Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]],
    lines: Mapping[str, float],
    caption: str,
) -> list[Drawing]:
    """Draws learning curves side by side in one drawing; returns none if no curve has a point.

    Arguments:
        panels: Curves by label of the y axis and name: steps and values.
        lines: Constants of the first panel, by name.
    """
    colours = {"training": QUIET, "trained from scratch": PURPLE}
    drawn = {label: {name: xy for name, xy in panel.items() if len(xy[0])} for label, panel in panels.items()}
    drawn = {label: panel for label, panel in drawn.items() if panel}
    if not drawn:
        return []
    with page_figure(2.6, 1, len(drawn)) as sheet:
        for ax, (label, panel) in zip(sheet.axes[0], drawn.items(), strict=True):
            for name, (x, y) in panel.items():
                ax.plot(x, y, "o-" if len(x) <= 24 else "-", color=colours.get(name, BLUE), markersize=3, label=name)
            ax.set(xlabel="optimisation step", ylabel=label)
            ax.margins(x=0.02)
            ax.grid(axis="y", color=GRID, linewidth=0.7)
        for name, level in lines.items():
            sheet.axes[0, 0].axhline(level, color=ORANGE, linewidth=1, linestyle=(0, (4, 2)), label=name)
        for ax in sheet.axes[0]:
            # a white box: a legend may lie on a constant line
            ax.legend(loc="best", fontsize=8.5, frameon=True, facecolor="white", edgecolor="none", framealpha=0.9)

    return [Drawing(sheet.svg, caption)]


def thin(x: NDArray[Any], most: int = 4000) -> NDArray[Any]:
    """Returns at most `most` rows, evenly spaced."""
    return x[:: -(-len(x) // most) or 1]


def embedding(
    latents: NDArray[np.floating], colour: NDArray[np.floating], label: str, *, cyclic: bool = False
) -> Drawing:
    """Draws principal components 1-2 and 1-3 of the latents.

    Arguments:
        latents: Latents, shape (T, D).
        colour: Values of the colour scale, NaN for grey, shape (T,).
        label: Label of the colour scale, with its unit.
        cyclic: Whether the colour is an angle in degrees.
    """
    centred = latents - latents.mean(0)
    _, s, axes = np.linalg.svd(thin(centred, 20000), full_matrices=False)
    share = s**2 / max(float(np.sum(s**2)), 1e-12)  # constant latents have no variance
    pcs, colour = thin(centred @ axes[:3].T), thin(colour)
    pairs = [(0, 1), (0, 2)] if pcs.shape[1] > 2 else [(0, min(1, pcs.shape[1] - 1))]
    grey, cmap = ~np.isfinite(colour), WHEEL if cyclic else "viridis"
    low, high = (-180.0, 180.0) if cyclic or grey.all() else (float(np.nanmin(colour)), float(np.nanmax(colour)))
    with page_figure(3.3, 1, len(pairs)) as sheet:
        for ax, (a, b) in zip(sheet.axes[0], pairs, strict=True):
            ax.scatter(pcs[grey, a], pcs[grey, b], s=3, color="#c9cdd3", linewidths=0, rasterized=True)
            marks = ax.scatter(
                pcs[~grey, a], pcs[~grey, b], s=6, c=colour[~grey], cmap=cmap, vmin=low, vmax=high, alpha=0.75,
                linewidths=0, rasterized=True,
            )  # fmt: skip
            ax.set(xlabel=f"PC {a + 1} ({share[a]:.0%} of variance)", ylabel=f"PC {b + 1} ({share[b]:.0%})")
            ax.locator_params(nbins=5)
        bar = sheet.figure.colorbar(marks, ax=sheet.axes[0, -1], label=label, aspect=30)
        bar.solids.set_alpha(1)  # type: ignore[union-attr]
        if cyclic:
            bar.set_ticks([-180, -90, 0, 90, 180])

    caption = f"Latents of {len(latents):,} bins on their first principal components, coloured by {label}."
    return Drawing(sheet.svg, caption + (" Grey: missing target, or slow movement." if grey.any() and cyclic else ""))
