"""A fine-tuned decoder's section of the report: a part for each covariate that it decodes, and how it was trained."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt import plots
from ndt.decoded import by_covariate, dims_of, kind_of, known, unit_of, weights_of
from ndt.page import Graded, Section, Table
from ndt.plots_decoder import with_unit
from ndt.report_figures import LEVEL, figures
from ndt.runs import Decoder, read_json, read_log

__all__ = ["error", "fixed", "section", "series", "table", "unscored"]

NOISE = 2.0  # standard errors that are taken for chance
EXPECTED = 0.03  # share of bins that false alarms may flag: 1 %, or three times that after short training
LISTED = 12  # units that are named
COLUMNS = {  # scores beside R² by kind: name in metrics.json, heading, decimals (None: three digits)
    "continuous": (("rmse", "RMSE ({unit})", None), ("correlation", "correlation", 3)),
    "angle": (("median_error_deg", "median error (°)", 1), ("mean_error_deg", "mean error (°)", 1)),
    "class": (
        ("accuracy", "accuracy", 3),
        ("balanced_accuracy", "balanced accuracy", 3),
        ("trial_accuracy", "accuracy of trials", 3),
    ),
}
WAYS = {  # to adapt a network
    "full": "all of the network learned",
    "contexts": "only what it knows of sessions and units, and how it reads counts, learned",
    "probe": "a linear readout of its latents",
    "unsupervised": "without labels, by the masked loss alone",
    "align": "without labels, by the masked loss, from units matched to those of an earlier day",
}
UNLABELLED = ("unsupervised", "align")
R2 = {  # what it is of
    "continuous": "R² is variance-weighted.",
    "angle": "R² is that of cosine and sine together, variance-weighted.",
    "class": "R² is that of the classes' probabilities, a Brier skill score.",
}


def section(decoder: Decoder) -> Section:
    """Returns the section of a decoder; of what an older run lacks, nothing is said."""
    m = decoder.metrics
    found = Section(title=f"Decoder: {decoder.session}", anchor=f"decoder-{decoder.session}")
    found.text.append(_fitting(m))
    found.findings = _input_findings(m)
    lags = m.get("lags") or {}
    if len(lags) > 1:
        rows = [["validation R² of ridge", *(fixed(r2) for r2 in lags.values())]]
        head = ["lag of what is decoded (s)", *(lag.replace("-", "−") for lag in lags)]
        found.tables.append(Table(head=head, rows=rows, numeric=set(range(1, len(head))), dense=len(lags) > 6))
    found.parts = [_part(one) for one in by_covariate(decoder)]
    if (training := _training(decoder)) is not None:
        found.parts.append(training)

    return found


def unscored(run: Path) -> Section | None:
    """Returns the section of a run of fine-tuning whose test block was not scored; None where there is no such run."""
    m = read_json(run / "metrics.json")
    if "test" in m or "adapt" not in m:
        return None
    found = Section(title=f"Adapted to {m['session']}", anchor="adapted", text=[_fitting(m)])
    r2 = (m.get("valid") or {}).get("network")
    said = "The session has too few labels to say how well it is decoded." if r2 is None else "The test block was left."
    found.text.append(f"{said} R² of the network on validation bins: {fixed(r2)}." if r2 is not None else said)
    log = read_log(run / "log.jsonl")
    if (training := _training(Decoder(path=run, metrics=m, log=log, scratch_log=[], predictions={}))) is not None:
        found.drawings = training.drawings

    return found


def fixed(value: object, digits: int = 3) -> str:
    """Returns a number with so many decimals; a dash where there is none.

    Example:
        >>> fixed(-1234.5, 1), fixed(None)
        ('−1,234.5', '–')
    """
    if not np.isfinite(known(value)):
        return "–"

    return f"{known(value):,.{digits}f}".replace("-", "−")


def _share(value: object) -> str:
    return f"{fixed(100 * known(value), 1)} %"


def _words(name: str) -> str:
    return plots.NAMES.get(name, name.replace("_", " "))


def _fitting(m: Mapping[str, Any]) -> str:
    said = []
    spent = f" in {m['train_seconds']:,.0f} s" if m.get("train_seconds") else ""
    whole, alone = m.get("steps"), m.get("decoder_steps")
    steps = [f"{whole:,} steps"] if whole else []
    steps += [f"{alone:,} {'more' if whole else 'steps'} of the decoder alone"] if alone else []
    spent += f" ({', '.join(steps)})" if steps else ""
    if m.get("adapt") in UNLABELLED:
        said.append(f"fitted to the training block's spikes{spent}")
    elif m.get("calibration_seconds"):
        said.append(f"fitted on {m['calibration_seconds']:,.0f} s of labelled training bins{spent}")
    if way := m.get("adapt"):
        said.append(f"way of adaptation: {way}{f', {WAYS[way]}' if way in WAYS else ''}")
    if matched := m.get("alignment"):
        of = f"{matched['matched']} of {matched['unknown']} units that it did not know"
        said.append(f"{of} were matched to units of {matched['to']}")
    if m.get("bin_size"):
        said.append(f"bins of {1e3 * m['bin_size']:g} ms")
    if lag := m.get("lag"):
        said.append(f"what is decoded {'follows' if lag > 0 else 'precedes'} the spikes by {1e3 * abs(lag):g} ms")
    said.append(f"seed {m.get('seed', 0)}")
    text = "; ".join(said)

    return f"{text[0].upper()}{text[1:]}."


def _input_findings(m: Mapping[str, Any]) -> list[Graded]:
    """Warns of lost units, and of spikes beyond the range of training."""
    watch, found = m.get("input_range") or {}, []
    if lost := watch.get("lost_units"):
        more = f" and {len(lost) - LISTED} more" if len(lost) > LISTED else ""
        message = f"silent at the end of the test block, for longer than chance: {', '.join(lost[:LISTED])}{more}."
        found.append(Graded(grade="warning", where=f"{len(lost)} unit{'s' * (len(lost) > 1)} lost:", message=message))
    flagged = known(watch.get("flagged"))
    if flagged > 0:
        shift = fixed(watch.get("rate_shift"), 1)
        text = f"{_share(flagged)} of test bins have spikes beyond the range of training; the largest shift of the "
        text += f"population's rate is {shift} standard deviations."
        much = flagged > EXPECTED
        text += " Do not rely on the decoder there." if much else " As many may be false alarms."
        found.append(Graded(grade="warning" if much else "note", where="Input out of range:", message=text))

    return found


def _part(decoder: Decoder) -> Section:
    name = str(decoder.metrics["covariate"])
    title = with_unit(name, unit_of(decoder)) if kind_of(decoder) == "continuous" else name
    found = Section(title=title, text=_sentences(decoder), findings=_findings(decoder.metrics))
    found.tables, found.drawings = [table(decoder)], figures(decoder)

    return found


def table(decoder: Decoder) -> Table:
    """Returns a table of a covariate's predictors: their share in what is delivered, their R², and their errors."""
    m, share = decoder.metrics, weights_of(decoder)
    test, kind = m["test"], kind_of(decoder)
    found: dict[str, Mapping[str, Any]] = {"delivered": test, "network": m.get("network", {})} | m.get("baselines", {})
    columns = [c for c in COLUMNS[kind] if test.get(c[0]) is not None]
    names = [n for n in (*plots.NAMES, *(n for n in found if n not in plots.NAMES)) if n in found]
    rows = []
    for name in names:
        if found[name].get("r2") is not None or name in ("delivered", "network", *share):
            cells = [fixed(found[name].get(key), _decimals(test[key]) if d is None else d) for key, _, d in columns]
            weight = fixed(share[name], 2) if name in share else ""
            rows.append([_words(name), weight, fixed(found[name].get("r2")), *cells])
    if test.get("chance") is not None:
        always = [fixed(test["chance"]) if key == "accuracy" else "" for key, _, _ in columns]
        rows.append(["always the most frequent class", "", "", *always])
    heads = [heading.format(unit=unit_of(decoder) or "own unit") for _, heading, _ in columns]
    head = ["predictor", "weight", "R²", *heads]
    caption = (
        f"All on the same {fixed(test.get('num_bins'), 0)} labelled test bins. Weight: share in the delivered decoder. "
    )

    return Table(
        head=head, rows=rows, numeric=set(range(1, len(head))), caption=caption + R2[kind], dense=len(head) > 5
    )


def _decimals(value: float) -> int:
    """Returns how many decimals make three digits."""
    return max(0, 2 - math.floor(math.log10(abs(value)))) if value and math.isfinite(value) else 2


def error(decoder: Decoder) -> tuple[str, str] | None:
    """Returns the delivered decoder's error, or accuracy, with its name; None where the run does not say."""
    key, heading, digits = COLUMNS[kind_of(decoder)][0]
    if (value := decoder.metrics["test"].get(key)) is None:
        return None

    return fixed(value, _decimals(value) if digits is None else digits), heading.format(
        unit=unit_of(decoder) or "own unit"
    )


def _sentences(decoder: Decoder) -> list[str]:
    m, t = decoder.metrics, decoder.metrics["test"]
    low, high = t.get("r2_interval_95") or (None, None)
    interval = (
        f" (95 % interval {fixed(low)} to {fixed(high)}, by block bootstrap over time)" if low is not None else ""
    )
    share = weights_of(decoder).get("network")
    weight = f"; its weight in the delivered is {share:.2f}" if share is not None else ""
    told = [
        f"The delivered decoder has R² {fixed(t.get('r2'))}{interval} on {fixed(t.get('num_bins'), 0)} test bins. The "
        f"network alone has {fixed(m.get('network', {}).get('r2'))}{weight}."
    ]
    if t.get("over_ridge") is not None:
        told[0] += f" {_over_ridge(known(t['over_ridge']), known(t.get('over_ridge_error')))}"
    if t.get("chance") is not None:
        trials = f" The test block has {t['num_trials']:,} trials." if t.get("num_trials") else ""
        told.append(f"Naming the most frequent class every time is right in {_share(t['chance'])} of bins.{trials}")
    if t.get("interval_coverage_90") is not None:
        told.append(_held(decoder))

    return told


def _over_ridge(difference: float, spread: float) -> str:
    said = f"Over ridge it gains {difference:+.3f}".replace("-", "−")
    if not np.isfinite(spread):
        same = abs(difference) < 5e-4
        return f"{said}: {'the two are the same' if same else 'too few independent stretches of time for an error'}."
    if abs(difference) <= NOISE * spread:
        return f"{said} ± {spread:.3f} (standard error): within noise, which is 2 standard errors."
    verdict = "better" if difference > 0 else "worse"

    return f"{said} ± {spread:.3f} (standard error): {verdict} than ridge by more than noise (2 standard errors)."


def _held(decoder: Decoder) -> str:
    """What intervals hold and how wide they are, as delivered and where they follow labels."""
    t, found = decoder.metrics["test"], []
    for name, words in (
        ("interval", "as set on validation bins"),
        ("adaptive", "if they follow labels as those arrive"),
    ):
        if (share := t.get(f"{name}_coverage_90")) is None:
            continue
        spread = t.get(f"{name}_coverage_90_error")
        plus_minus = f" ± {fixed(100 * spread, 1)} %" if spread is not None else ""
        wide = _size(decoder, name)
        found.append(f"{_share(share)}{plus_minus} {words}{f' ({wide})' if wide else ''}")
    what = "sets of classes hold the true one" if kind_of(decoder) == "class" else "intervals hold the truth"

    return f"Its 90 % {what} in {', and in '.join(found)}; ± is the standard error."


def _size(decoder: Decoder, name: str) -> str:
    t = decoder.metrics["test"]
    if size := t.get(f"{name}_set_size"):
        return f"{fixed(size[0], 2)} classes in the mean"
    half = t.get(f"{name}_half_width")
    if not half:
        return ""
    unit = unit_of(decoder)
    labels = dims_of(decoder) if len(half) > 1 else [""]
    each = [f"{label} {fixed(h, _decimals(known(h)))}".strip() for label, h in zip(labels, half, strict=False)]

    return f"mean half width {', '.join(each)}{unit if unit == '°' else f' {unit}'.rstrip()}"


def _findings(m: Mapping[str, Any]) -> list[Graded]:
    """Warns where ridge is better and where intervals do not hold what they say; names baselines without a score."""
    t, found = m["test"], []
    if known(t.get("over_ridge")) < -NOISE * known(t.get("over_ridge_error")):
        had = " It had labels, which the delivered decoder did not use." if m.get("adapt") in UNLABELLED else ""
        found.append(Graded(grade="warning", where="Ridge", message=f"alone decodes better, by more than noise.{had}"))
    off, spread = known(t.get("interval_coverage_90")) - LEVEL, known(t.get("interval_coverage_90_error"))
    spread = np.hypot(spread, np.nan_to_num(known(t.get("interval_calibration_error"))))
    if abs(off) > NOISE * spread:
        message = f"hold {'more' if off > 0 else 'less'} than they say, by more than noise."
        found.append(Graded(grade="note" if off > 0 else "warning", where="90 % intervals", message=message))
    for name, fact in m.get("baselines", {}).items():
        if fact.get("r2") is None:
            reason = fact.get("left_out", "R² is undefined on these bins")
            words = _words(name)
            found.append(
                Graded(grade="note", where=f"{words[0].upper()}{words[1:]}", message=f"has no score: {reason}")
            )

    return found


def series(log: list[dict[str, Any]], split: str, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns steps and values of a curve in a log."""
    rows = [(r["step"], r[key]) for r in log if r.get("split") == split and r.get(key) is not None]
    x, y = np.array(rows, np.float64).reshape(-1, 2).T

    return x, y


def _training(decoder: Decoder) -> Section | None:
    own, scratch = "pretrained" if decoder.scratch_log else "network", decoder.scratch_log
    plain = all(kind_of(one) == "continuous" for one in by_covariate(decoder))
    loss = "training error (standardised)" if plain else "training loss of what is decoded"
    panels = []
    for label, split, key in (("validation R² of the network", "valid", "r2"), (loss, "train", "mse")):
        found = {own: series(decoder.log, split, key), "from scratch": series(scratch, split, key)}
        if named := {name: xy for name, xy in found.items() if len(xy[0])}:
            panels.append((label, named))
    likelihood = {"training": series(decoder.log, "train", "nll"), "validation": series(decoder.log, "valid", "nll")}
    if not panels and (named := {name: xy for name, xy in likelihood.items() if len(xy[0])}):
        panels.append(("NLL of hidden counts (nats per bin and unit)", named))  # no labels had a say
    if not panels:
        return None
    caption = f"Fine-tuning{', beside a decoder from scratch' if scratch else ''}."

    return Section(title="Training", drawings=[plots.curves(panels, None, caption)])
