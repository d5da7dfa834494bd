"""R² against seconds of labels: what ``curve.json`` of a run holds, as a table, a figure and a part of the report."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ndt.errors import InputError
from ndt.evaluation.metrics import paired_difference
from ndt.reports.names import PREDICTORS
from ndt.reports.runs import read_json

if TYPE_CHECKING:  # a curve is made without matplotlib
    from matplotlib.axes import Axes

    from ndt.reports.page import Section
    from ndt.reports.plots import Drawing

__all__ = ["LabelCurve", "draw", "gather", "read_curve", "section", "sentences", "table"]

Scores = list[list[float]]  # by seconds of labels, then by seed

FILE = "curve.json"
FLOOR = -1.0  # the axis goes no lower: what is worse than this says no more, and would flatten all else
MARKERS = {"ensemble": "o", "network": "o", "scratch": "s", "ridge": "^"}  # of what the curve and its axis are about
DASHES = {"wiener": (3, 2), "ridge_time_gain": (6, 1), "naive_bayes": (3, 2), "kalman": (6, 1), "gru": (6, 1)}
UNDRAWN = ("block_permuted", "shifted")  # controls at 0, which the table has
NOISE = 2.0  # standard errors that are taken for chance


@dataclass(frozen=True, kw_only=True)
class LabelCurve:
    """Test R² (variance-weighted) of decoders of one session, by seconds of labels and by seed.

    All are scored on the same test bins. Lines are named as predictors are: ``ensemble``, ``network`` (alone),
    ``scratch`` (the network alone, without pretraining), ``ridge`` and other baselines. A score is NaN where a run has
    none.

    Arguments:
        session: Session that was decoded.
        target: What was decoded.
        seconds: Seconds of labelled training bins, ascending.
        lines: Scores of each predictor; ``ensemble`` and ``ridge`` are always there.
        valid_seconds: Length of the validation split, whose labels all use for choices, in seconds.
        pretrained_on: What the network was pretrained on, in words; empty for a network from scratch.
        whole: Whether the last of `seconds` are all that the training split has.
        left_out: Sentences about seconds that were asked for and are not here.
        unit: Of `seconds`.
    """

    session: str
    target: str
    seconds: list[float]
    lines: dict[str, Scores]
    valid_seconds: float
    pretrained_on: str = ""
    whole: bool = False
    left_out: list[str] = field(default_factory=list)
    unit: str = "s"

    def __post_init__(self) -> None:
        if lacking := {"ensemble", "ridge"} - set(self.lines):
            raise ValueError(f"lines must have {' and '.join(sorted(lacking))}")
        numbers = {len(by_seed) for scores in self.lines.values() for by_seed in scores}
        if len(numbers) != 1 or 0 in numbers or {len(s) for s in self.lines.values()} != {len(self.seconds)}:
            raise ValueError("each line must have a score for each number of seconds and each seed")

    @property
    def num_seeds(self) -> int:
        """Seeds of each point."""
        return len(self.lines["ridge"][0])

    def difference(self, name: str, peer: str, i: int) -> tuple[float, float | None]:
        """Returns a line's mean difference to another at `seconds[i]`, and its standard error over paired seeds."""
        return paired_difference(self.lines[name][i], self.lines[peer][i])

    def below_ridge(self) -> list[float]:
        """Returns at how many seconds the delivered decoder is below ridge by more than 2 paired standard errors."""
        found = []
        for i, seconds in enumerate(self.seconds):
            difference, error = self.difference("ensemble", "ridge", i)
            if error is not None and difference < -NOISE * error:
                found.append(seconds)

        return found

    def save(self, run: Path) -> None:
        """Writes ``curve.json`` into a run directory."""
        from ndt.model.checkpoint import write_json

        write_json(run / FILE, asdict(self))


def read_curve(run: Path) -> LabelCurve | None:
    """Returns what `LabelCurve.save` wrote into a run directory; None where there is none."""
    found = read_json(run / FILE)
    if not found:
        return None
    try:
        lines = {name: [[_score(s) for s in by_seed] for by_seed in line] for name, line in found["lines"].items()}
        known: dict[str, Any] = found | {"lines": lines}
        return LabelCurve(**known)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        expected = "what `ndt finetune --curve` and `ndt bench curve` of this version write"
        raise InputError(run / FILE, "content", expected, error) from error


def gather(runs: Sequence[Sequence[Any]], controls: Sequence[Sequence[Any]] = ()) -> dict[str, Scores]:
    """Returns the lines of a curve from what metrics.json says of its runs.

    Arguments:
        runs: Metrics by seconds of labels, then by seed.
        controls: The same of the same networks from scratch, where there are any.
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
    """Returns the lines' names in words, in the order in which predictors are shown."""
    names = [*(n for n in PREDICTORS if n in curve.lines), *(n for n in curve.lines if n not in PREDICTORS)]
    words = {name: PREDICTORS.get(name, name) for name in names}
    if "scratch" in words:
        words["network"] = "network alone, pretrained"

    return words


def _number(value: float, form: str = ".3f") -> str:
    return f"{value:{form}}".replace("-", "−") if np.isfinite(value) else "–"


def table(curve: LabelCurve) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the rows of a table: medians over seeds, then differences in paired seeds.

    A column is a number of seconds. A difference is the mean over seeds, the row below it its standard error.
    """
    amounts = [f"{seconds:g} {curve.unit}" for seconds in curve.seconds]
    if curve.whole:
        amounts[-1] = f"all, {amounts[-1]}"
    rows = [[words, *(_number(float(np.median(s))) for s in curve.lines[n])] for n, words in _words(curve).items()]
    for name, peer in (("ensemble", "ridge"), ("network", "scratch")):
        if peer in curve.lines:
            pairs = [curve.difference(name, peer, i) for i in range(len(curve.seconds))]
            rows.append([f"{name} − {peer}", *(_number(d, "+.3f") for d, _ in pairs)])
            rows.append(["± standard error", *("–" if e is None else _number(e) for _, e in pairs)])

    return ["R² on test bins", *amounts], rows


def sentences(curve: LabelCurve) -> list[str]:
    """Returns what a reader must know beside the table: how delivered stands to ridge, and what was left out."""
    if curve.num_seeds == 1:
        verdict = "One seed: differences have no standard error."
    elif below := curve.below_ridge():
        at = ", ".join(f"{seconds:g}" for seconds in below)
        verdict = (
            f"At {at} {curve.unit} of labels the delivered decoder is below ridge by more than {NOISE:g} standard "
            f"errors over {curve.num_seeds} paired seeds."
        )
    else:
        verdict = (
            f"At no point is the delivered decoder below ridge by more than {NOISE:g} standard errors over "
            f"{curve.num_seeds} paired seeds."
        )

    return [verdict, *curve.left_out]


def section(curve: LabelCurve) -> "Section":
    """Returns the curve's section of the report."""
    from ndt.reports.page import Section, Table

    head, rows = table(curve)
    caption = "Medians over seeds; a difference is the mean over paired seeds, with its standard error below"
    part = Section(title="Few labels", anchor="labels", text=sentences(curve), drawings=[draw(curve)])
    part.tables.append(Table(head=head, rows=rows, numeric=set(range(1, len(head))), caption=caption))

    return part


def draw(curve: LabelCurve) -> "Drawing":
    """Draws medians over seeds as lines and their ranges as bands, on a logarithmic axis of seconds."""
    from ndt.reports.plots import GRID, QUIET, Drawing, page_figure

    drawn = {name: words for name, words in _words(curve).items() if name not in UNDRAWN}
    main = np.concatenate([np.ravel(curve.lines[name]) for name in MARKERS if name in curve.lines])
    low = min(0.0, max(float(np.min(main, initial=0.0, where=np.isfinite(main))), FLOOR))
    medians = {name: np.median(np.array(curve.lines[name], np.float64), 1) for name in drawn}
    with page_figure(4.2) as sheet:
        ax: Axes = sheet.axes[0, 0]
        for name, words in drawn.items():
            _line(ax, curve, name, words)
        ax.set_xscale("log")
        _seconds_axis(ax, curve)
        ax.set(ylim=(low - 0.03 * (low < 0), 1), ylabel=f"R² of {curve.target} on test bins")
        ax.axhline(0, color=QUIET, linewidth=0.8)
        ax.grid(axis="y", color=GRID, linewidth=0.7)
        sheet.figure.legend(loc="outside upper left", ncols=3, fontsize=8.5)

    below = [
        f"{drawn[name]} at {seconds:g} {curve.unit} ({_number(value, '.2f')})"
        for name, line in medians.items()
        for seconds, value in zip(curve.seconds, line, strict=True)
        if value < low
    ]

    return Drawing(sheet.svg, _caption(curve) + (f" Below the axis: {', '.join(below)}." if below else ""))


def _line(ax: "Axes", curve: LabelCurve, name: str, words: str) -> None:
    """Draws one predictor: those that the curve is about with bands, other baselines thin."""
    from ndt.reports.plots import COLOURS, GREEN, INK, ORANGE, QUIET

    x, scores = np.array(curve.seconds), np.array(curve.lines[name], np.float64)  # (seconds, seeds)
    middle = np.median(scores, 1)
    if name not in MARKERS:
        colours = {"wiener": ORANGE, "ridge_time_gain": ORANGE, "kalman": GREEN, "naive_bayes": GREEN, "gru": INK}
        dash = (0, DASHES.get(name, (1, 2)))
        ax.plot(x, middle, ".", linestyle=dash, color=colours.get(name, QUIET), linewidth=1, markersize=4, label=words)
        return
    colour, alone = COLOURS[name], name == "network"  # of the delivered decoder's colour, but hollow and broken
    ax.fill_between(x, scores.min(1), scores.max(1), color=colour, alpha=0.1 if alone else 0.2, linewidth=0)
    ax.plot(
        x, middle, color=colour, marker=MARKERS[name], markersize=5, label=words, zorder=3 if alone else 4,
        linestyle="--" if alone else "-", markerfacecolor="white" if alone else colour,
    )  # fmt: skip


def _seconds_axis(ax: "Axes", curve: LabelCurve) -> None:
    labels = [f"{seconds:g}" for seconds in curve.seconds]
    if curve.whole:
        labels[-1] = f"\nall: {labels[-1]}"  # a line lower, where it cannot run into the one before
    ax.set_xticks(np.array(curve.seconds), labels)
    ax.minorticks_off()
    ax.margins(x=0.06)
    ax.set_xlabel(f"labelled training data of the session ({curve.unit}, log axis)")


def _caption(curve: LabelCurve) -> str:
    pretrained = f" Pretrained on {curve.pretrained_on}." if curve.pretrained_on else ""
    if "scratch" in curve.lines:
        pretrained += " From scratch: the same architecture and settings on the same windows, without pretraining."
    many = f"medians over {curve.num_seeds} seeds; bands: least to largest (ridge has no seed)"

    return (
        f"Decoding {curve.target} in {curve.session} from so many seconds of its labels, the last before "
        f"validation.{pretrained} Lines: {many if curve.num_seeds > 1 else 'one seed'}. Weights of networks and of the "
        "blend, and ridge's penalty and lags, are chosen by the labels of the validation split "
        f"({curve.valid_seconds:.0f} s), which the axis does not count."
    )
