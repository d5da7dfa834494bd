"""The figures of one covariate of a decoder: what it decodes, how far off that is, and whether it knows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt import calibration, plots_decoder, plots_errors
from ndt.conformal import misfit
from ndt.decoded import dims_of, directions, half_width, kind_of, unit_of
from ndt.metrics import angular_error_deg
from ndt.plots import Drawing
from ndt.runs import Decoder

__all__ = ["figures"]

LEVEL = 0.9  # of the intervals that a run directory holds
MOST_PANELS = 6  # of traces, one below the other


def figures(decoder: Decoder) -> list[Drawing]:
    """Returns the figures of a decoder of one covariate; none where it has no predictions or no labels."""
    p = decoder.predictions
    if not {"time", "piece", "true", "delivered"} <= set(p) or not np.isfinite(p["true"]).all(1).any():
        return []
    drawn = [_over_time(decoder), _errors(decoder), _calibration(decoder)]

    return [drawing for drawing in drawn if drawing is not None]


def _over_time(decoder: Decoder) -> Drawing:
    p, kind, half = decoder.predictions, kind_of(decoder), half_width(decoder)
    begin = int(np.flatnonzero(np.isfinite(p["true"]).all(1))[0])
    rows = begin + np.flatnonzero(plots_decoder.first_seconds(p["time"][begin:]))
    time, piece, true = p["time"][rows], p["piece"][rows], p["true"][rows]
    outside = p["out_of_range"][rows] if "out_of_range" in p else None
    caption = f"The first {time[-1] - time[0]:.0f} s of test bins with a label, not chosen for looks."
    if kind == "class":
        caption = f"Probability of each class, by the delivered decoder. {caption}"
        label = np.where(np.isnan(true).any(1), -1, np.nan_to_num(true).argmax(1))
        return plots_decoder.probabilities(
            time, p["delivered"][rows], label, piece, dims_of(decoder), outside=outside, caption=caption
        )
    lines = {"measured": true} | {name: p[name][rows] for name in ("ridge", "delivered") if name in p}
    if kind == "angle":
        lines = {name: directions(values) for name, values in lines.items()}
    names = dims_of(decoder)
    if half is not None:
        caption += " Band: the delivered decoder's 90 % interval, from its errors on validation bins."
    if len(names) > MOST_PANELS:
        caption += f" The first {MOST_PANELS} of {len(names)} dimensions."
    unit = unit_of(decoder)
    labels = [f"{name}\n({unit})" if unit else name for name in names[:MOST_PANELS]]
    band = None if half is None else half[rows]

    return plots_decoder.traces(
        time, lines, piece, labels, half_width=band, outside=outside, circular=kind == "angle", caption=caption
    )


def _errors(decoder: Decoder) -> Drawing:
    p, kind = decoder.predictions, kind_of(decoder)
    labelled = np.isfinite(p["true"]).all(1) & np.isfinite(p["delivered"]).all(1)
    true = p["true"][labelled]
    if kind == "class":
        counts = np.zeros((true.shape[1],) * 2, np.int64)
        np.add.at(counts, (true.argmax(1), p["delivered"][labelled].argmax(1)), 1)
        return plots_errors.confusion(counts, dims_of(decoder))
    if kind == "angle":
        named = [name for name in ("delivered", "network", "ridge") if name in p]
        errors = {name: angular_error_deg(true, p[name][labelled]).ravel() for name in named}
        return plots_errors.angle_errors({name: e[np.isfinite(e)] for name, e in errors.items()})
    r2 = decoder.metrics["test"].get("r2_per_dim") or []

    return plots_errors.scatter(p["true"], p["delivered"], dims_of(decoder), unit_of(decoder), r2)


def _calibration(decoder: Decoder) -> Drawing | None:
    p, t, half = decoder.predictions, decoder.metrics["test"], half_width(decoder)
    off = misfit(p["true"], p["delivered"], kind_of(decoder))
    if half is None or half.shape != off.shape:
        return None
    halves = {"as set on validation": half}
    if "adaptive_half_width" in p:
        halves["following labels"] = np.asarray(p["adaptive_half_width"], np.float64)
    held = {name: np.where(np.isnan(off), np.nan, off <= h) for name, h in halves.items()}
    found = {name: calibration.over_time(p["time"], inside) for name, inside in held.items()}
    time = found["as set on validation"][0]
    error = calibration.noise(t.get("interval_coverage_90_error"), t.get("interval_calibration_error"), len(time))
    curve, words = _curve(decoder, off, half)
    what = "set of classes" if kind_of(decoder) == "class" else "interval"
    caption = (
        f"Left: share of test bins whose 90 % {what} holds the truth, in {len(time)} parts of equally many bins"
        f"{'; grey: what chance does to a part, ±2 standard errors' if np.isfinite(error) else ''}. {words}"
    )
    shares = {name: share for name, (_, share) in found.items()}

    return plots_errors.calibration(time, shares, LEVEL, error, curve, caption)


def _curve(decoder: Decoder, off: NDArray[Any], half: NDArray[Any]) -> tuple[plots_errors.Curve, str]:
    """What was measured against what was said, for probabilities of classes and for levels of intervals."""
    p = decoder.predictions
    if kind_of(decoder) == "class":
        said, measured, error = calibration.confidence(p["true"], p["delivered"], p["piece"])
        labels = ("its probability as said (%)", "bins in which it is true (%)")
        text = (
            "Right: is the likeliest class as often true as its probability says? Bars: ±2 standard errors, if known."
        )
        return plots_errors.Curve(said=said, measured=measured, error=error, labels=labels), text
    measured, error = calibration.at_levels(off, half, p["piece"], level=LEVEL)
    text = (
        "Right: other levels; their intervals are the 90 % one (filled), scaled as if errors were normal. Above the "
        "line intervals are wider than they say. Bars: ±2 standard errors, if known."
    )
    levels, at = np.array(calibration.LEVELS), calibration.LEVELS.index(LEVEL)
    labels = ("level of the interval (%)", "test bins that it holds (%)")

    return plots_errors.Curve(said=levels, measured=measured, error=error, labels=labels, delivered=at), text
