"""Report section of a fine-tuned decoder: scores of each target, input drift, and learning curves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.errors import InputError
from ndt.reports import plots
from ndt.reports.decoder_figures import LEVEL, figures
from ndt.reports.names import SCORES, STRATEGIES, predictor_name
from ndt.reports.page import Drawing, Graded, Section, Table, fixed, many
from ndt.reports.plots_decoder import with_unit
from ndt.reports.run_files import Decoder, digits_of, read_log, read_object, score_table
from ndt.reports.run_metrics import DecoderMetrics
from ndt.schema import typed

__all__ = ["error", "section", "series", "unscored"]

NOISE = 2.0  # standard errors
EXPECTED = 0.03  # share of bins that false alarms may flag: 1 %, or three times that after short training
LISTED = 12  # units listed by name
LARGEST = 1e15  # number of a log that is drawn


def section(decoder: Decoder) -> Section:
    """Returns the section of a decoder."""
    m = decoder.metrics
    found = Section(title=f"Decoder: {decoder.session}", anchor=f"decoder-{decoder.session}")
    found.text.append(_fitting(m))
    found.findings = _drift(m)
    lags = m.get("lags") or {}
    if len(lags) > 1:
        rows = [["validation R² of ridge", *map(fixed, lags.values())]]
        head = ["lag of the target (s)", *(lag.replace("-", "−") for lag in lags)]
        found.tables.append(Table(head=head, rows=rows, numeric=range(1, len(head))))
    found.parts = [_part(one) for one in decoder.by_target()]
    if training := _training(decoder):
        found.parts.append(Section(title="Training", drawings=training))

    return found


def unscored(run: Path) -> Section | None:
    """Returns the section of a fine-tuning run without test scores; None for any other run."""
    m = read_object(run / "metrics.json")
    if "test" in m or "strategy" not in m:
        return None
    m = typed(DecoderMetrics, m, run / "metrics.json")
    r2 = (m.get("valid") or {}).get("network")
    if not isinstance(r2, int | float | None):
        raise InputError(run / "metrics.json", "valid.network", "a number or null", repr(r2))
    score = f"The test split was not scored. R² of the network on validation bins: {fixed(r2)}."
    text = [_fitting(m), score if r2 is not None else "The session has too few labels for a score."]
    drawings = _training(Decoder(metrics=m, log=read_log(run / "log.jsonl")))

    return Section(title=f"Adapted to {m['session']}", anchor="adapted", text=text, drawings=drawings)


def _known(value: object) -> float:
    """Returns a number of metrics.json; NaN if it is null or missing."""
    return float(value) if isinstance(value, int | float) else float("nan")


def _percent(value: object) -> str:
    return f"{fixed(100 * _known(value), 1)} %"


def _fitting(m: Mapping[str, Any]) -> str:
    parts, steps = [], [f"{m['steps']:,} steps"] if m.get("steps") else []
    spent = f" in {m['train_seconds']:,.0f} s" if m.get("train_seconds") else ""
    spent += f" ({', '.join(steps)})" if steps else ""
    if m.get("strategy") in ("unlabelled", "none"):
        parts.append(f"fitted to spikes alone{spent}" if spent else "not fitted")
    elif m.get("label_seconds"):
        parts.append(f"fitted on {m['label_seconds']:,.0f} s of labelled training bins{spent}")
    if strategy := m.get("strategy"):
        parts.append(f"adaptation: {STRATEGIES.get(strategy, strategy)}")
    if m.get("bin_size"):
        parts.append(f"bins of {1e3 * m['bin_size']:g} ms")
    if lag := m.get("lag"):
        parts.append(f"the target {'follows' if lag > 0 else 'precedes'} the spikes by {1e3 * abs(lag):g} ms")
    text = "; ".join([*parts, f"seed {m.get('seed', 0)}"])

    return f"{text[0].upper()}{text[1:]}."


def _drift(m: Mapping[str, Any]) -> list[Graded]:
    """Returns warnings about units that became silent and about input drift."""
    drift, found = m.get("input_drift") or {}, []
    if silent := drift.get("silent_units"):
        more = f" and {len(silent) - LISTED} more" if len(silent) > LISTED else ""
        message = f"no spike at the end of the test split, for longer than chance: {', '.join(silent[:LISTED])}{more}."
        found.append(Graded(grade="warning", where=f"{many(len(silent), 'silent unit')}:", message=message))
    flagged = _known(drift.get("flagged"))
    if flagged > 0:
        large = flagged > EXPECTED
        message = (
            f"{_percent(flagged)} of test bins are out of the distribution of training; the population rate shifts by "
            f"at most {fixed(drift.get('rate_shift'), 1)} standard deviations. "
            f"{'Do not rely on the decoder in these bins.' if large else 'False alarms alone may flag that many.'}"
        )
        found.append(Graded(grade="warning" if large else "note", where="Input drift:", message=message))

    return found


def _part(decoder: Decoder) -> Section:
    name, (head, rows) = str(decoder.metrics["target"]), score_table(decoder.metrics)
    caption = f"Scores on the same {_rows(decoder.metrics['test'])}. Weight: ensemble weight. R² is variance-weighted."
    table = Table(head=head, rows=rows, numeric=range(1, len(head)), caption=caption)

    return Section(
        title=with_unit(name, decoder.unit) if decoder.kind == "continuous" else name,
        text=_sentences(decoder),
        findings=_findings(decoder.metrics),
        tables=[table],
        drawings=figures(decoder),
    )


def _rows(test: Mapping[str, Any]) -> str:
    if (trials := test.get("num_trials")) is not None:
        return f"{fixed(trials, 0)} labelled test trials, each decoded at its end"

    return f"{fixed(test.get('num_bins'), 0)} labelled test bins"


def error(decoder: Decoder) -> tuple[str, str] | None:
    """Returns the ensemble's error or accuracy and its name; None if the run has none."""
    key, heading, digits = SCORES[decoder.kind][0]
    if (value := decoder.metrics["test"].get(key)) is None:
        return None
    name = heading.format(unit=decoder.unit or "own unit")

    return fixed(value, digits_of(value) if digits is None else digits), name


def _sentences(decoder: Decoder) -> list[str]:
    t = decoder.metrics["test"]
    low, high = t.get("r2_interval_95") or (None, None)
    interval = f" (95 % interval {fixed(low)} to {fixed(high)}, block bootstrap over time)" if low is not None else ""
    sentences = [f"The ensemble has R² {fixed(t.get('r2'))}{interval}."]
    if t.get("over_reference") is not None:
        sentences[0] += f" {_over_reference(t)}"
    if t.get("recall") and t.get("class_counts") and len(decoder.dims) <= LISTED:
        sentences.append(_recall(decoder))
    kinds = {"interval": "calibrated on the validation split", "adaptive": "adaptive (online conformal)"}
    covered = [_coverage(decoder, k, words) for k, words in kinds.items() if t.get(f"{k}_coverage_90") is not None]
    if covered:
        what = "sets of classes contain the true class" if decoder.kind == "class" else "intervals contain the target"
        sentences.append(f"Its 90 % {what} in {' and in '.join(covered)}; ± is the standard error.")

    return sentences


def _over_reference(t: Mapping[str, Any]) -> str:
    difference, error = _known(t["over_reference"]), _known(t.get("over_reference_error"))
    gain = f"Its gain over {t.get('reference', 'ridge')} is {fixed(difference, signed=True)}"
    if not np.isfinite(error):
        return f"{gain}{'' if abs(difference) < 5e-4 else '; too few independent segments of time for an error'}."
    noise = abs(difference) <= NOISE * error

    return f"{gain} ± {error:.3f} (standard error), {'within' if noise else 'beyond'} noise (2 standard errors)."


def _recall(decoder: Decoder) -> str:
    """Returns the balanced accuracy beside chance, and the recall of each class."""
    t = decoder.metrics["test"]
    classes = zip(decoder.dims, t["recall"], t["class_counts"], strict=True)
    each = [f"{name} {_percent(share)} of {n:,}" for name, share, n in classes if n]
    if not each:
        return "No class occurs in the test split."
    rows, accuracy = "trials" if "num_trials" in t else "bins", fixed(t.get("balanced_accuracy"))

    return f"Balanced accuracy {accuracy} (chance {fixed(1 / len(each))}); {rows} decoded right: {', '.join(each)}."


def _coverage(decoder: Decoder, name: str, words: str) -> str:
    """Returns the coverage of intervals or sets, and their size."""
    t = decoder.metrics["test"]
    size, half, error = (t.get(f"{name}_{key}") for key in ("set_size", "half_width", "coverage_90_error"))
    extent = f", {fixed(size[0], 2)} classes on average" if size else ""
    if half:
        labels, unit = decoder.dims if len(half) > 1 else [""], decoder.unit
        each = [f"{label} {fixed(h, digits_of(h))}".strip() for label, h in zip(labels, half, strict=False)]
        extent = f", mean half width {', '.join(each)}{unit if unit == '°' else f' {unit}'.rstrip()}"
    spread = f" ± {fixed(100 * error, 1)} %" if error is not None else ""
    rows = "trials" if "num_trials" in t else "bins"

    return f"{_percent(t[f'{name}_coverage_90'])}{spread} of test {rows} ({words}{extent})"


def _findings(m: Mapping[str, Any]) -> list[Graded]:
    """Returns warnings on a better reference and on coverage, and notes on what has no score."""
    t, found = m["test"], []
    if _known(t.get("over_reference")) < -NOISE * _known(t.get("over_reference_error")):
        labels = " It used labels, the ensemble did not." if m.get("strategy") in ("unlabelled", "none") else ""
        message = f"alone decodes better, beyond noise.{labels}"
        name = predictor_name(t.get("reference", "ridge"))
        found.append(Graded(grade="warning", where=f"{name[0].upper()}{name[1:]}", message=message))
    off, error = _known(t.get("interval_coverage_90")) - LEVEL, _known(t.get("interval_coverage_90_error"))
    error = np.hypot(error, np.nan_to_num(_known(t.get("interval_calibration_error"))))
    if abs(off) > NOISE * error:
        message = f"contain {'more' if off > 0 else 'fewer'} than 90 % of targets, beyond noise."
        found.append(Graded(grade="note" if off > 0 else "warning", where="90 % intervals", message=message))
    if (attained := t.get("interval_attained")) is not None:
        message = f"are out of reach with so few validation rows; those given guarantee {_percent(attained)}."
        found.append(Graded(grade="note", where="90 % intervals", message=message))
    for name, fact in m.get("baselines", {}).items():
        if fact.get("r2") is None:
            words, reason = predictor_name(name), fact.get("left_out", "R² is undefined on these bins")
            message = f"has no score: {reason}"
            found.append(Graded(grade="note", where=f"{words[0].upper()}{words[1:]}", message=message))

    return found


def series(log: list[dict[str, Any]], split: str, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns steps and values of one measure in a log."""
    own = (r for r in log if r.get("split") == split)
    rows = [(r["step"], r[key]) for r in own if _is_number(r.get("step")) and _is_number(r.get(key))]
    x, y = np.array(rows, np.float64).reshape(-1, 2).T

    return x, y


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _training(decoder: Decoder) -> list[Drawing]:
    log, scratch = decoder.log, decoder.scratch_log
    own = "pretrained" if scratch else "network"
    panels = {
        label: {own: series(log, split, key), "trained from scratch": series(scratch, split, key)}
        for label, split, key in (
            ("validation R² of the network", "valid", "r2"),
            ("training error (standardised)", "train", "target"),
        )
    }
    caption = f"Learning curves of fine-tuning{', and of the same network trained from scratch' if scratch else ''}."
    bits = {"bits per spike": {"validation": series(log, "valid", "bits_per_spike")}}  # of strategies without labels

    return plots.curves(panels, {}, caption) or plots.curves(bits, {}, caption)
