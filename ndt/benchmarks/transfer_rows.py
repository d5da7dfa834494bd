"""Rows and plot of ``ndt bench transfer``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ndt.benchmarks.timing import row
from ndt.benchmarks.transfer import QUESTIONS, Case, Scores, pooled
from ndt.data.stored_masks import VALID_MASKS
from ndt.evaluation.metrics import paired_difference

__all__ = ["draw", "likelihood_rows", "rows"]

VARIANTS = (
    "pretrained",
    "scratch",
    "own",
    "noise",
    "permuted",
    "contextless",
    "logistic",
    "ridge",
    "gru",
    "tcn",
    "ndt2",
)
LABELS = {"session": "labelled trials", "animal": "labelled trials", "day": "seconds of labels"}
UNITS = {"session": "balanced accuracy", "animal": "balanced accuracy", "day": "R2"}


def rows(question: str, found: Mapping[Case, Mapping[str, Scores]]) -> list[dict[str, Any]]:
    """Returns the rows of a question."""
    table = []
    for labels in QUESTIONS[question]:
        cases = [case for case in found if (case.question, case.labels) == (question, labels)]
        seeds, sessions = (sorted({getattr(case, name) for case in cases}) for name in ("seed", "session"))
        each: dict[str, np.ndarray[Any, Any]] = {}  # seeds by sessions
        for variant in VARIANTS:
            scores = {case: found[case][variant] for case in cases if variant in found[case]}
            if len(scores) == len(cases):
                of = [
                    [[v for c, v in scores.items() if (c.seed, c.session) == (a, b)] for b in sessions] for a in seeds
                ]
                each[variant] = np.array([[pooled(folds) for folds in line] for line in of])
        for variant, values in each.items():
            name = f"transfer.{question}.{'all' if labels is None else f'{labels:g}'}.{variant}"
            found_row = row(name, values.mean(1).tolist(), UNITS[question], None, ())
            if variant != "pretrained" and "pretrained" in each:
                own, other = (x.mean(0) if len(sessions) > 1 else x[:, 0] for x in (each["pretrained"], values))
                difference, error = paired_difference(own.tolist(), other.tolist())
                found_row |= {"difference": difference, "standard_error": error}
            table.append(found_row | {"sessions": dict(zip(sessions, values.mean(0).tolist(), strict=True))})

    return table + _likelihoods(question, found)


def _likelihoods(question: str, found: Mapping[Case, Mapping[str, Scores]]) -> list[dict[str, Any]]:
    cases = {case: s["likelihood"] for case, s in found.items() if case.question == question and "likelihood" in s}
    seeds = sorted({case.seed for case in cases})

    return likelihood_rows(f"transfer.{question}", [[s for case, s in cases.items() if case.seed == x] for x in seeds])


def likelihood_rows(name: str, scores: Sequence[Sequence[Scores]]) -> list[dict[str, Any]]:
    """Returns bits per spike without a step on the session, by kind of mask, beside each reference.

    Arguments:
        name: Beginning of the rows' names.
        scores: `ndt.data.stored_masks.session_likelihood` of each session, for each seed.
    """
    table = []
    for kind in VALID_MASKS if scores else ():
        for reference in ("smoother", "mean_response"):
            own, peer = f"{kind}/bits_per_spike", f"{kind}/bits_per_spike_{reference}"
            each = [[(s[own], s[peer]) for s in of_seed if peer in s] for of_seed in scores]
            if all(each):
                values, peers = np.array([np.mean(pairs, 0) for pairs in each]).T.tolist()
                table.append(row(f"{name}.bits.{kind}", values, "bits/spike", reference, peers))

    return table


def draw(table: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws each question's scores against labels, a line a variant, as a PNG."""
    from matplotlib.figure import Figure

    lines: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for entry in table:
        _, question, labels, variant = str(entry["name"]).split(".", 3)
        if labels == "bits":
            continue
        amounts = ["all" if x is None else f"{x:g}" for x in QUESTIONS[question]]
        lines.setdefault(question, {}).setdefault(variant, []).append((amounts.index(labels), float(entry["value"])))
    figure = Figure(figsize=(4.2 * len(lines) + 1.2, 3.6), layout="constrained")
    for axes, (question, variants) in zip(figure.subplots(1, len(lines), squeeze=False)[0], lines.items(), strict=True):
        for variant, points in variants.items():
            strong = variant == "pretrained"
            axes.plot(*zip(*points, strict=True), marker="o", label=variant, lw=2.5 if strong else 1.2, ms=4)
        amounts = ["all" if x is None else f"{x:g}" for x in QUESTIONS[question]]
        axes.set(title=f"{question} left out" if question != "day" else "second day", xlabel=LABELS[question])
        axes.set(ylabel=UNITS[question].replace("R2", "R²"), xticks=range(len(amounts)), xticklabels=amounts)
        axes.spines[["top", "right"]].set_visible(False)
    drawn = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(drawn.values()), list(drawn), loc="outside right center", frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
