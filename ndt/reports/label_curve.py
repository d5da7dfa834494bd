"""Label curve, R² against seconds of labelled data: ``curve.json`` of a run, its table, figure and report section."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np

from ndt.errors import InputError
from ndt.evaluation.metrics import paired_difference
from ndt.parsing import read_json
from ndt.reports.names import CONTROLS, in_order, predictor_name
from ndt.reports.page import Drawing, Section, Table, fixed
from ndt.schema import Positive

if TYPE_CHECKING:  # a curve is made without matplotlib
    from matplotlib.axes import Axes

__all__ = ["LabelCurve", "draw", "gather", "read_curve", "section", "sentences", "table"]

Scores = list[list[float]]  # by seconds of labelled data, then by seed

FILE = "curve.json"
FLOOR = -1.0  # lowest end of the R² axis
MARKERS = {"ensemble": "o", "network": "o", "scratch": "s", "ridge": "^", "logistic": "^"}  # set the axis
DASHES: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("wiener", "naive_bayes", "tcn"), (3, 2)),
    **dict.fromkeys(("ridge_time_gain", "kalman", "gru"), (6, 1)),
}
NOISE = 2.0  # standard errors


@dataclass(frozen=True, kw_only=True)
class LabelCurve:
    """Test R² (variance-weighted) of predictors of one session, by seconds of labelled data and by seed.

    All are scored on the same test bins. Keys of `lines` are those of `ndt.reports.names.PREDICTORS`; a missing score
    is NaN. The reference is ridge, or logistic regression of classes per trial.

    Arguments:
        session: Decoded session.
        covariate: Target.
        seconds: Seconds of labelled training bins, ascending.
        lines: Scores of each predictor; ``ensemble`` and a reference are required.
        valid_seconds: Length in seconds of the validation split, whose labels all predictors use for choices.
        pretrained_on: Description of the pretraining data; empty without pretraining.
        whole: Whether the last of `seconds` is the whole training split.
        left_out: Sentences about requested seconds that are missing.
    """

    session: str
    target: str
    seconds: list[float]
    lines: dict[str, Scores]
    valid_seconds: float
    pretrained_on: str = ""
    whole: bool = False
    left_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if "ensemble" not in self.lines or not {"ridge", "logistic"} & set(self.lines):
            raise ValueError("lines must contain ensemble, and ridge or logistic")
        numbers = {len(by_seed) for scores in self.lines.values() for by_seed in scores}
        if len(numbers) != 1 or 0 in numbers or {len(s) for s in self.lines.values()} != {len(self.seconds)}:
            raise ValueError("each line must have a score for each number of seconds and each seed")

    @property
    def num_seeds(self) -> int:
        """Number of seeds of each point."""
        return len(self.lines["ensemble"][0])

    @property
    def reference(self) -> str:
        """The baseline that others are compared to."""
        return "ridge" if "ridge" in self.lines else "logistic"

    def difference(self, name: str, peer: str, i: int) -> tuple[float, float | None]:
        """Returns a line's mean difference to another at `seconds[i]`, and its standard error over paired seeds."""
        return paired_difference(self.lines[name][i], self.lines[peer][i])

    def below_reference(self) -> list[float]:
        """Returns the seconds at which the ensemble is below the reference by more than 2 paired standard errors."""
        found = []
        for i, seconds in enumerate(self.seconds):
            difference, error = self.difference("ensemble", self.reference, i)
            if error is not None and difference < -NOISE * error:
                found.append(seconds)

        return found

    def save(self, run: Path) -> None:
        """Writes ``curve.json`` into a run directory."""
        from ndt.model.checkpoint import write_json

        write_json(run / FILE, asdict(self))


class _Curve(TypedDict):
    session: str
    target: str
    seconds: list[Positive]
    lines: dict[str, list[list[float | None]]]
    valid_seconds: float
    pretrained_on: NotRequired[str]
    whole: NotRequired[bool]
    left_out: NotRequired[list[str]]


def read_curve(run: Path) -> LabelCurve | None:
    """Returns the curve of a run directory; None if it has none."""
    if not (run / FILE).exists():
        return None
    found = dict(read_json(run / FILE, _Curve, "a label curve"))
    lines = {name: [[_score(s) for s in by_seed] for by_seed in line] for name, line in found.pop("lines").items()}
    try:
        return LabelCurve(**found, lines=lines)
    except (TypeError, ValueError) as error:
        expected = "the output of `ndt finetune --curve` or `ndt bench curve` of this version"
        raise InputError(run / FILE, "content", expected, error) from error


def gather(runs: Sequence[Sequence[Any]], controls: Sequence[Sequence[Any]] = ()) -> dict[str, Scores]:
    """Returns the lines of a curve from the metrics of its runs.

    Arguments:
        runs: Metrics by seconds of labelled data, then by seed.
        controls: Metrics of the networks trained from scratch, if any.
    """
    lines = {
        "ensemble": [[_score(m["test"]["r2"]) for m in seeds] for seeds in runs],
        "network": [[_score(m["network"]["r2"]) for m in seeds] for seeds in runs],
    }
    if controls:
        lines["scratch"] = [[_score(m["network"]["r2"]) for m in seeds] for seeds in controls]
    names = dict.fromkeys(name for seeds in runs for m in seeds for name in m["baselines"])
    for name in names:
        lines[name] = [[_score(m["baselines"].get(name, {}).get("r2")) for m in seeds] for seeds in runs]

    return lines


def _score(found: float | None) -> float:
    return float("nan") if found is None else float(found)


def _words(curve: LabelCurve) -> dict[str, str]:
    """Returns display names by predictor, in display order."""
    words = {name: predictor_name(name) for name in in_order(curve.lines)}
    if "scratch" in words:
        words["network"] = "network alone, pretrained"

    return words


def table(curve: LabelCurve) -> tuple[list[str], list[list[str]]]:
    """Returns head and rows of a table with a column for each number of seconds.

    Rows are medians over seeds, then mean differences over paired seeds, each above its standard error.
    """
    amounts = [f"{seconds:g} s" for seconds in curve.seconds]
    if curve.whole:
        amounts[-1] = f"all, {amounts[-1]}"
    rows = [[words, *(fixed(float(np.median(s))) for s in curve.lines[n])] for n, words in _words(curve).items()]
    for name, peer in (("ensemble", curve.reference), ("network", "scratch")):
        if peer in curve.lines:
            pairs = [curve.difference(name, peer, i) for i in range(len(curve.seconds))]
            rows.append([f"{name} − {peer}", *(fixed(difference, signed=True) for difference, _ in pairs)])
            rows.append(["± standard error", *(fixed(error) for _, error in pairs)])

    return ["R² on test bins", *amounts], rows


def sentences(curve: LabelCurve) -> list[str]:
    """Returns whether the ensemble is below the reference at any point, and what was left out."""
    if curve.num_seeds == 1:
        verdict = "One seed: differences have no standard error."
    else:
        below = ", ".join(f"{seconds:g}" for seconds in curve.below_reference())
        verdict = (
            f"The ensemble is below {curve.reference} by more than {NOISE:g} standard errors over {curve.num_seeds} "
            f"paired seeds at {f'{below} s of labelled data' if below else 'no point'}."
        )

    return [verdict, *curve.left_out]


def section(curve: LabelCurve) -> Section:
    """Returns the curve's section of the report."""
    head, rows = table(curve)
    caption = "Medians over seeds; a difference is the mean over paired seeds, with its standard error below."
    lines = Table(head=head, rows=rows, numeric=range(1, len(head)), caption=caption)

    return Section(title="Label curve", anchor="labels", text=sentences(curve), drawings=[draw(curve)], tables=[lines])


def draw(curve: LabelCurve) -> Drawing:
    """Draws medians over seeds as lines and their ranges as bands, on a logarithmic axis of seconds."""
    from ndt.reports.plots import GRID, QUIET, page_figure

    drawn = {name: words for name, words in _words(curve).items() if name not in CONTROLS}
    main = np.concatenate([np.ravel(curve.lines[name]) for name in MARKERS if name in curve.lines])
    low = min(0.0, max(float(np.min(main, initial=0.0, where=np.isfinite(main))), FLOOR))
    with page_figure(4.2) as sheet:
        ax: Axes = sheet.axes[0, 0]
        for name, words in drawn.items():
            _line(ax, curve, name, words)
        labels = [f"{seconds:g}" for seconds in curve.seconds]
        if curve.whole:
            labels[-1] = f"\nall: {labels[-1]}"  # on a second line: it may be close to the label before
        ax.set_xscale("log")
        ax.set_xticks(np.array(curve.seconds), labels)
        ax.minorticks_off()
        ax.margins(x=0.06)
        ax.set(ylim=(low - 0.03 * (low < 0), 1), ylabel=f"R² of {curve.target} on test bins")
        ax.set_xlabel("labelled training data of the session (s, log axis)")
        ax.axhline(0, color=QUIET, linewidth=0.8)
        ax.grid(axis="y", color=GRID, linewidth=0.7)
        sheet.figure.legend(loc="outside upper left", ncols=3, fontsize=8.5)

    below = [
        f"{words} at {seconds:g} s ({fixed(median, 2)})"
        for name, words in drawn.items()
        for seconds, scores in zip(curve.seconds, curve.lines[name], strict=True)
        if (median := float(np.median(scores))) < low
    ]

    return Drawing(sheet.svg, _caption(curve) + (f" Below the axis: {', '.join(below)}." if below else ""))


def _line(ax: "Axes", curve: LabelCurve, name: str, words: str) -> None:
    """Draws one predictor: those of `MARKERS` with bands, other baselines thin."""
    from ndt.reports.plots import COLOURS, QUIET

    x, scores = np.array(curve.seconds), np.array(curve.lines[name], np.float64)  # (seconds, seeds)
    middle, colour = np.median(scores, 1), COLOURS.get(name, QUIET)
    if name not in MARKERS:
        ax.plot(x, middle, ".", ls=(0, DASHES.get(name, (1, 2))), color=colour, linewidth=1, markersize=4, label=words)
        return
    alone = name == "network"  # the ensemble's colour, but hollow and dashed
    ax.fill_between(x, scores.min(1), scores.max(1), color=colour, alpha=0.1 if alone else 0.2, linewidth=0)
    ax.plot(
        x, middle, color=colour, marker=MARKERS[name], markersize=5, label=words, zorder=3 if alone else 4,
        linestyle="--" if alone else "-", markerfacecolor="white" if alone else colour,
    )  # fmt: skip


def _caption(curve: LabelCurve) -> str:
    pretrained = f" Pretrained on {curve.pretrained_on}." if curve.pretrained_on else ""
    if "scratch" in curve.lines:
        pretrained += " From scratch: the same architecture and settings on the same windows, without pretraining."
    several = f"medians over {curve.num_seeds} seeds; bands: smallest to largest ({curve.reference} has no seed)"

    return (
        f"Test R² of {curve.target} in {curve.session} against seconds of labelled data, taken from the end of the "
        f"training split.{pretrained} Lines: {several if curve.num_seeds > 1 else 'one seed'}. The labels of the "
        f"validation split ({curve.valid_seconds:.0f} s, not counted on the axis) choose networks, ensemble weights, "
        f"and the settings of {curve.reference}."
    )
