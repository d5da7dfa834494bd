"""Figures of a decoder's errors, by kind of target, and of the calibration of its intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ndt.reports.names import predictor_name
from ndt.reports.page import Drawing
from ndt.reports.plots import BLUE, COLOURS, GRID, INK, ORANGE, QUIET, page_figure, thin
from ndt.reports.plots_decoder import INKS, with_unit

__all__ = ["angle_errors", "calibration", "confusion", "scatter", "within_trials"]

# T = bins, C = dimensions or classes, P = parts of the test split, L = points of a curve

PANELS = 4  # side by side
WRITTEN = 12  # classes of a matrix with numbers in its cells

Array = NDArray[np.floating]


def scatter(true: Array, predicted: Array, dims: Sequence[str], unit: str, r2: Sequence[float | None]) -> Drawing:
    """Draws decoded against measured values of all labelled test bins, one panel a dimension (the first four)."""
    shown = min(len(dims), PANELS)
    valid = np.isfinite(true).all(1) & np.isfinite(predicted).all(1)
    true, predicted = thin(true[valid]), thin(predicted[valid])
    with page_figure(2.9, 1, shown) as sheet:
        for c in range(shown):
            ax: Axes = sheet.axes[0, c]
            both = np.concatenate([true[:, c], predicted[:, c]])
            ends = np.percentile(both, [0.1, 99.9]) if len(both) else np.array([0.0, 1.0])
            ends += np.array([-0.05, 0.05]) * max(float(np.ptp(ends)), 1e-9)  # a constant gets an axis, too
            ax.plot(ends, ends, color=QUIET, linewidth=0.9)
            ax.scatter(true[:, c], predicted[:, c], s=5, color=BLUE, alpha=0.35, linewidths=0, rasterized=True)
            ax.set(xlim=ends, ylim=ends, aspect="equal", xlabel=with_unit("measured", unit))
            known = r2[c] if c < len(r2) else None
            ax.set_title(dims[c] if known is None else f"{dims[c]}: R² {known:.3f}".replace("-", "−"))
            ax.locator_params(nbins=4)
        sheet.axes[0, 0].set_ylabel(with_unit("decoded", unit))
    caption = "Ensemble, one dot a test bin; the line is equality."
    if len(dims) > shown:
        caption += f" The first {shown} of {len(dims)} dimensions."

    return Drawing(sheet.svg, caption)


def within_trials(time: Array, accuracy: Mapping[str, Array], chance: float, num_trials: int) -> Drawing:
    """Draws balanced accuracy against the time since the trial began.

    Arguments:
        time: Seconds from the start of the trial to the end of each bin, shape (L,).
        accuracy: Balanced accuracy at each bin by predictor, (L,) each.
        chance: Balanced accuracy without spikes.
        num_trials: Number of labelled trials.
    """
    with page_figure(2.8) as sheet:
        ax: Axes = sheet.axes[0, 0]
        for name, share in accuracy.items():
            style = "--" if name == "network" else "-"
            ax.plot(1e3 * time, share, style, color=COLOURS.get(name, QUIET), label=predictor_name(name))
        ax.axhline(chance, color=QUIET, linewidth=1, linestyle=(0, (1, 2)), label="chance")
        ax.set(ylim=(0, 1), xlabel="time since the trial began (ms)", ylabel="balanced accuracy")
        ax.grid(axis="y", color=GRID, linewidth=0.7)
        ax.legend(loc="lower right", fontsize=8.5)
    caption = f"Estimates from the part of the trial so far, over {num_trials:,} test trials. The last bin is scored."

    return Drawing(sheet.svg, caption)


def confusion(counts: NDArray[np.integer], classes: Sequence[str], rows: str = "bins") -> Drawing:
    """Draws the confusion matrix as shares of each true class's bins or trials.

    Arguments:
        counts: Bins by true class (rows) and decoded class (columns), shape (C, C).
        classes: Names of the C classes.
        rows: ``bins`` or ``trials``.
    """
    total = counts.sum(1, keepdims=True)
    share = np.where(total > 0, counts / np.maximum(total, 1), np.nan)
    few = len(classes) <= WRITTEN
    with page_figure(float(np.clip(1.3 + 0.42 * len(classes), 2.4, 6.0))) as sheet:
        ax: Axes = sheet.axes[0, 0]
        marks = ax.imshow(share, cmap=INKS, vmin=0, vmax=1, aspect="auto" if len(classes) < 5 else "equal")
        for i, j in np.ndindex(*counts.shape) if few else ():
            if counts[i, j]:
                colour = "white" if share[i, j] > 0.55 else INK
                size = 8.5 if len(classes) <= 8 else 6.5
                text = f"{100 * share[i, j]:.0f} %\n{counts[i, j]:,}"
                ax.text(j, i, text, ha="center", va="center", color=colour, fontsize=size)
        every = -(-len(classes) // 24)
        at = np.arange(0, len(classes), every)
        names = list(classes)[::every]
        slanted = max(map(len, names), default=0) * len(names) > 70
        ax.set_xticks(at, names, rotation=40 if slanted else 0, ha="right" if slanted else "center")
        ax.set_yticks(at, [f"{classes[i]} ({total[i, 0]:,})" for i in at.tolist()])
        ax.set_facecolor(GRID)  # rows of classes without a bin
        ax.tick_params(length=0)
        for i in range(1, len(classes)) if few else ():
            ax.axhline(i - 0.5, color=GRID, linewidth=0.7)
            ax.axvline(i - 0.5, color=GRID, linewidth=0.7)
        ax.set(xlabel="decoded class", ylabel=f"true class (its {rows})")
        label, aspect = f"share of the true class's {rows}", 18 if few else 32
        sheet.figure.colorbar(marks, ax=ax, label=label, aspect=aspect, ticks=[0, 0.5, 1])
    caption = f"Ensemble on {int(counts.sum()):,} test {rows}. A row is a true class and sums to 100 %"
    caption += f"; below each share, {rows}." if few else "."
    empty = [name for name, n in zip(classes, total[:, 0].tolist(), strict=True) if not n]

    return Drawing(sheet.svg, caption + (f" Not in the test split: {', '.join(empty)}." if empty else ""))


def angle_errors(errors: Mapping[str, Array]) -> Drawing:
    """Draws the cumulative distribution of absolute errors of directions.

    Arguments:
        errors: Degrees by predictor, without NaN, (T,) each.
    """
    with page_figure(2.8) as sheet:
        ax: Axes = sheet.axes[0, 0]
        for name, degrees in errors.items():
            median = f", median {np.median(degrees):.1f}°" if len(degrees) else ""
            share = 100 * np.arange(1, len(degrees) + 1) / max(len(degrees), 1)
            (line,) = ax.step(np.sort(degrees), share, where="post", color=COLOURS.get(name, QUIET))
            line.set(label=f"{predictor_name(name)}{median}", linestyle="--" if name == "network" else "-")
        ax.plot([0, 180], [0, 100], color=QUIET, linewidth=1, linestyle=(0, (1, 2)), label="random direction, 90°")
        ax.set(xlim=(0, 180), xticks=[0, 45, 90, 135, 180], xlabel="absolute error of the direction (°)")
        ax.set(ylim=(0, 100), ylabel="test bins with at most this error (%)")
        ax.grid(axis="y", color=GRID, linewidth=0.7)
        ax.legend(loc="lower right", fontsize=8.5)

    return Drawing(sheet.svg, "Cumulative distribution of errors over all labelled test bins and all angles.")


def calibration(
    time: Array,
    shares: Mapping[str, Array],
    level: float,
    noise: float,
    curve: tuple[Array, Array, Array],
    labels: tuple[str, str],
    caption: str,
) -> Drawing:
    """Draws the coverage of intervals over time, and a reliability curve.

    Arguments:
        time: Mean time of each part of the test split, shape (P,).
        shares: Coverage in each part, by name of the intervals, (P,) each.
        level: Nominal coverage.
        noise: Standard error of the coverage of one part; NaN if unknown.
        curve: Nominal coverage, measured coverage, and its standard error, NaN if unknown; (L,) each.
        labels: Labels of the curve's two axes.
    """
    styles: list[dict[str, Any]] = [
        {"color": BLUE, "marker": "o"},
        {"color": ORANGE, "marker": "s", "markerfacecolor": "white"},
    ]
    low = min(0.5, *(float(s.min(initial=1.0)) - 0.05 for s in shares.values()))
    nominal, measured, error = (100 * values for values in curve)
    with page_figure(2.9, 1, 2, width_ratios=[1.6, 1]) as sheet:
        left, right = sheet.axes[0]
        if np.isfinite(noise):
            ends = 100 * np.clip([level - 2 * noise, level + 2 * noise], 0, 1)
            left.axhspan(*ends, color=GRID, linewidth=0, zorder=0, label="±2 standard errors")
        left.axhline(100 * level, color=INK, linewidth=1, linestyle=(0, (4, 2)), label=f"nominal {100 * level:g} %")
        for (name, share), style in zip(shares.items(), styles, strict=False):
            left.plot(time, 100 * share, markersize=5, linewidth=1.2, label=name, **style)
        left.set(ylim=(100 * max(low, 0), 101), xlabel="time in the recording (s)", ylabel="coverage (%)")
        left.margins(x=0.04)
        sheet.figure.legend(loc="outside upper left", ncols=4, fontsize=8.5)
        right.plot([0, 100], [0, 100], color=QUIET, linewidth=0.9)
        bars: dict[str, Any] = {"color": BLUE, "marker": "o", "markersize": 4, "linewidth": 1, "elinewidth": 0.8}
        right.errorbar(nominal, measured, 2 * np.nan_to_num(error), **bars)
        right.set(xlim=(0, 103), ylim=(0, 103), aspect="equal", xlabel=labels[0], ylabel=labels[1])
        right.set(xticks=[0, 25, 50, 75, 100], yticks=[0, 25, 50, 75, 100])

    return Drawing(sheet.svg, caption)
