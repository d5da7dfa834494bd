"""Figures of one target of a decoder: predictions over time, their errors, and the calibration of intervals."""

import numpy as np

from ndt.evaluation import calibration
from ndt.evaluation.conformal import misfit
from ndt.evaluation.metrics import angular_error_deg, confusion, score
from ndt.reports import plots_decoder, plots_errors
from ndt.reports.page import Drawing
from ndt.reports.run_files import Decoder

__all__ = ["LEVEL", "figures"]

LEVEL = 0.9  # nominal coverage of the intervals in a run directory
MOST_PANELS = 6  # of traces


def figures(decoder: Decoder) -> list[Drawing]:
    """Returns the figures of a decoder of one target; none without predictions or labels."""
    p = decoder.predictions
    if not {"time", "segment", "true", "ensemble"} <= set(p) or not np.isfinite(p["true"]).all(1).any():
        return []
    first = [_over_time(decoder)]
    if "bins_since_start" in p:  # one label a trial
        first = [_within_trials(decoder)] if decoder.kind == "class" else []
    drawn = [*first, _errors(decoder)]

    return [*drawn, _calibration(decoder)] if "half_width" in p else drawn


def _over_time(decoder: Decoder) -> Drawing:
    p, kind, names, unit = decoder.predictions, decoder.kind, decoder.dims, decoder.unit
    begin = int(np.flatnonzero(np.isfinite(p["true"]).all(1))[0])
    rows = begin + np.flatnonzero(plots_decoder.first_seconds(p["time"][begin:]))
    time, segment, true = p["time"][rows], p["segment"][rows], p["true"][rows]
    outside = p["out_of_distribution"][rows] if "out_of_distribution" in p else None
    caption = f"The first {time[-1] - time[0]:.0f} s of labelled test bins."
    if kind == "class":
        label = np.where(np.isnan(true).any(1), -1, np.nan_to_num(true).argmax(1))
        caption = f"Probability of each class, by the ensemble. {caption}"
        return plots_decoder.probabilities(time, p["ensemble"][rows], label, segment, names, outside, caption)
    lines = {"measured": true} | {name: p[name][rows] for name in ("ridge", "ensemble") if name in p}
    if kind == "angle":
        lines = {n: np.degrees(np.arctan2(x[:, 1::2], x[:, ::2])) for n, x in lines.items()}
    band = p["half_width"][rows].astype(np.float64) if "half_width" in p else None
    caption += " Band: the ensemble's 90 % interval, calibrated on the validation split." if band is not None else ""
    caption += f" The first {MOST_PANELS} of {len(names)} dimensions." if len(names) > MOST_PANELS else ""
    labels = [f"{name}\n({unit})" if unit else name for name in names[:MOST_PANELS]]

    return plots_decoder.traces(time, lines, segment, labels, band, outside, kind == "angle", caption)


def _within_trials(decoder: Decoder) -> Drawing:
    """Draws the balanced accuracy at each bin of the trials."""
    p, since = decoder.predictions, decoder.predictions["bins_since_start"]
    before = np.r_[-1, since[:-1]]
    new = (before < 0) | (since != before + 1) | np.r_[True, np.diff(p["segment"]) != 0]
    trial, known = np.cumsum(new) - 1, np.isfinite(p["true"]).all(1)
    label = np.full((trial[-1] + 1, p["true"].shape[1]), np.nan)
    label[trial[known]] = p["true"][known]
    true = label[trial]
    named: list[str] = [name for name in ("ensemble", "network", "logistic") if name in p]
    number = np.bincount(since[(since >= 0) & np.isfinite(true).all(1)])
    steps = np.flatnonzero(number >= number.max(initial=1) / 2)  # with half of the trials
    accuracy = {
        name: np.array([score(true[since == k], p[name][since == k], "class")["balanced_accuracy"] for k in steps])
        for name in named
    }
    occur = int(np.nansum(label, 0).astype(bool).sum())
    time = (steps + 1) * float(decoder.metrics.get("bin_size") or np.nan)

    return plots_errors.within_trials(time, accuracy, 1 / max(occur, 1), int(known.sum()))


def _errors(decoder: Decoder) -> Drawing:
    p, kind = decoder.predictions, decoder.kind
    labelled = np.isfinite(p["true"]).all(1) & np.isfinite(p["ensemble"]).all(1)
    true = p["true"][labelled]
    if kind == "class":
        rows = "trials" if "bins_since_start" in p else "bins"
        return plots_errors.confusion(confusion(true, p["ensemble"][labelled]), decoder.dims, rows)
    if kind == "angle":
        named = [name for name in ("ensemble", "network", "ridge") if name in p]
        errors = {name: angular_error_deg(true, p[name][labelled]).ravel() for name in named}
        return plots_errors.angle_errors({name: e[np.isfinite(e)] for name, e in errors.items()})
    r2 = decoder.metrics["test"].get("r2_per_dim") or []

    return plots_errors.scatter(p["true"], p["ensemble"], decoder.dims, decoder.unit, r2)


def _calibration(decoder: Decoder) -> Drawing:
    p, t, classes = decoder.predictions, decoder.metrics["test"], decoder.kind == "class"
    half = p["half_width"].astype(np.float64)
    off = misfit(p["true"], p["ensemble"], decoder.kind)  # (T, K)
    halves = {"calibrated on the validation split": half}
    if "adaptive_half_width" in p:
        halves["adaptive (online conformal)"] = p["adaptive_half_width"].astype(np.float64)
    shares = {}
    for name, h in halves.items():
        time, shares[name] = calibration.over_time(p["time"], np.where(np.isnan(off), np.nan, off <= h))
    noise = calibration.noise(t.get("interval_coverage_90_error"), t.get("interval_calibration_error"), len(time))
    if classes:
        nominal, measured, error = calibration.confidence(p["true"], p["ensemble"], p["segment"])
        labels = ("probability of the likeliest class (%)", "accuracy (%)")
        right = "Right: accuracy of the likeliest class against its probability."
    else:
        nominal = np.array(calibration.LEVELS)
        measured, error = calibration.at_levels(off, half, p["segment"], level=LEVEL)
        labels = ("nominal coverage (%)", "measured coverage (%)")
        right = "Right: other levels, from the 90 % interval scaled by normal quantiles."
    caption = (
        f"Left: coverage of 90 % {'sets of classes' if classes else 'intervals'} in {len(time)} parts of the test "
        f"split with equally many labels. {right} Grey and bars: ±2 standard errors, if known."
    )

    return plots_errors.calibration(time, shares, LEVEL, noise, (nominal, measured, error), labels, caption)
