"""What a search for settings found: ``search.json`` of a run, as a table, a figure and a part of the report."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ndt.errors import InputError
from ndt.metrics import paired_difference
from ndt.runs import read_json

if TYPE_CHECKING:  # a search is made and printed without matplotlib
    from matplotlib.axes import Axes

    from ndt.page import Section
    from ndt.plots import Drawing

__all__ = ["Candidate", "SearchRecord", "draw", "read_search", "section", "sentences", "table"]

FILE = "search.json"
DEPTH = 0.3  # R² below the best that the figure shows: what is worse is out of the question
COLUMNS = 4  # panels beside each other


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One choice of settings.

    Arguments:
        number: From 0, which is the settings as they were given.
        settings: Values by dotted name.
        valid: R² of the network on the validation block, one a seed that it was fitted with.
        seconds: Training time of all its runs.
        failed: Why it is out; empty if no run failed.
    """

    number: int
    settings: dict[str, Any]
    valid: list[float]
    seconds: float
    failed: str = ""

    @property
    def mean(self) -> float:
        """Mean score over its seeds."""
        return statistics.fmean(self.valid)

    def with_run(self, valid: float | None = None, seconds: float = 0.0, failed: str = "") -> "Candidate":
        """Returns the candidate with the score of one more seed, or with why it has none."""
        scores = self.valid if valid is None else [*self.valid, valid]

        return replace(self, valid=scores, seconds=self.seconds + seconds, failed=failed)


@dataclass(frozen=True, kw_only=True)
class SearchRecord:
    """What was tried, what was chosen, and what the chosen is worth.

    Arguments:
        session: Session that was decoded.
        covariate: What was decoded.
        space: Ranges and lists of values by dotted setting.
        seeds: Seeds, in the order in which candidates were given them.
        halving: Whether the worse half of the candidates was dropped after each seed.
        candidates: All, by number.
        winner: Number of the best mean score among those with all seeds.
        valid: R² on the validation block of the winner's network as delivered, which is that of the first seed.
        test: R² on the test block of the winner's ``network``, of what is ``delivered`` and of ``ridge``.
        left_out: Sentences about settings that were not searched.
    """

    session: str
    covariate: str
    space: dict[str, Any]
    seeds: list[int]
    halving: bool
    candidates: list[Candidate]
    winner: int
    valid: float
    test: dict[str, float]
    left_out: list[str] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """The winner's values by dotted setting."""
        return self.candidates[self.winner].settings

    @property
    def optimism(self) -> float:
        """By how much the winner's network is better on the block that it was chosen by than on the test block."""
        return self.valid - self.test["network"]

    @property
    def ranked(self) -> list[Candidate]:
        """The candidates, those with most seeds first, then by score; the winner is the first of them."""
        scored = [c for c in self.candidates if c.valid and not c.failed]
        failed = [c for c in self.candidates if c not in scored]

        return [*sorted(scored, key=lambda c: (-len(c.valid), -c.mean, c.number)), *failed]

    def save(self, run: Path) -> None:
        """Writes ``search.json`` into a run directory."""
        from ndt.checkpoint import write_json

        write_json(run / FILE, asdict(self))


def read_search(run: Path) -> SearchRecord | None:
    """Returns what `SearchRecord.save` wrote into a run directory; None where there is none."""
    found = read_json(run / FILE)
    if not found:
        return None
    try:
        test = {name: float("nan") if r2 is None else float(r2) for name, r2 in found["test"].items()}
        known: dict[str, Any] = found | {"candidates": [Candidate(**c) for c in found["candidates"]], "test": test}
        return SearchRecord(**known)
    except (AttributeError, KeyError, TypeError) as error:
        expected = "what `ndt finetune --search` of this version writes"
        raise InputError(run / FILE, "content", expected, error) from error


def _number(value: float, form: str = ".3f") -> str:
    return f"{value:{form}}".replace("-", "−") if np.isfinite(value) else "–"


def table(record: SearchRecord) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the rows of a table of all candidates, the winner first and failed ones last."""
    names = list(record.space)
    rows = []
    for c in record.ranked:
        marks = [word for number, word in ((record.winner, "won"), (0, "as given")) if c.number == number]
        name = f"{c.number} ({', '.join(marks)})" if marks else str(c.number)
        score = "failed" if c.failed else _number(c.mean)
        values = [f"{v:g}" if isinstance(v, float) else str(v) for v in (c.settings[n] for n in names)]
        rows.append([name, score, str(len(c.valid)), *values, f"{c.seconds:.0f}"])

    return ["candidate", "validation R²", "seeds", *(_short(n) for n in names), "seconds"], rows


def _short(name: str) -> str:
    return name.rpartition(".")[2].replace("_", " ")


def sentences(record: SearchRecord) -> list[str]:
    """Returns how the choice was made, how far the scores spread, and what of the winner's score is optimism."""
    winner, given, total = record.candidates[record.winner], record.candidates[0], len(record.candidates)
    first = [c.valid[0] for c in record.candidates if c.valid]
    rule = "; after each seed the better half went on" if record.halving and len(record.seeds) > 1 else ""
    told = [
        f"{total} candidates, the first as given, were scored by the network's R² on the validation block{rule}. In "
        f"the first seed it was {_number(min(first))} to {_number(max(first))}, with median "
        f"{_number(statistics.median(first))}{_between_seeds(record.candidates)}."
    ]
    if winner.number == 0:
        told.append(f"The settings as given won, with {_number(winner.mean)} on validation: nothing tried was better.")
    else:
        difference, error = paired_difference(winner.valid, given.valid)
        known = f" ± {error:.3f}" if error is not None else ""
        told.append(
            f"Candidate {winner.number} won with {_number(winner.mean)} on validation; as given it was "
            f"{_number(given.mean)} (difference in paired seeds {_number(difference, '+.3f')}{known})."
        )
    told.append(
        f"Only the winner was scored on the test block, once: its network has R² {_number(record.test['network'])} "
        f"there and {_number(record.valid)} on validation, a difference of {_number(record.optimism, '+.3f')}. That is "
        "the optimism of choosing by validation, and how far the two blocks differ. Delivered with ridge: "
        f"{_number(record.test['delivered'])}; ridge: {_number(record.test['ridge'])}."
    )
    failed = [f"Candidate {c.number} failed: {c.failed}." for c in record.candidates if c.failed]

    return [*told, *record.left_out, *failed]


def _between_seeds(candidates: Sequence[Candidate]) -> str:
    """Returns how far scores of one candidate lie apart by chance: their standard deviation over seeds, pooled."""
    several = [c.valid for c in candidates if len(c.valid) > 1]
    if not several:
        return ""
    variance = sum(statistics.variance(v) * (len(v) - 1) for v in several) / sum(len(v) - 1 for v in several)

    return f"; over seeds, one candidate's scores have a standard deviation of {variance**0.5:.3f}"


def section(record: SearchRecord) -> "Section":
    """Returns the search's section of the report."""
    from ndt.page import Section, Table

    head, rows = table(record)
    part = Section(title="Search for settings", anchor="search", text=sentences(record), drawings=[draw(record)])
    caption = "All candidates: R² of the network on the validation block, mean over the seeds that each was fitted with"
    part.tables.append(Table(head=head, rows=rows, numeric=set(range(1, len(head))), caption=caption))

    return part


def draw(record: SearchRecord) -> "Drawing":
    """Draws the candidates' validation R² against each setting."""
    from ndt.plots import Drawing, page_figure

    names, scored = list(record.space), [c for c in record.candidates if c.valid]
    best = max(c.mean for c in scored)
    low = min(c.mean for c in scored if c.mean >= best - DEPTH)
    rows = -(-len(names) // COLUMNS)
    with page_figure(0.6 + 2.0 * rows, rows, min(len(names), COLUMNS), sharey=True) as sheet:
        panels = sheet.axes.ravel()
        for ax, name in zip(panels, names, strict=False):
            _panel(ax, record, scored, name)
        for ax in panels[len(names) :]:
            ax.set_visible(False)
        for ax in sheet.axes[:, 0]:
            ax.set_ylabel("validation R²")
        room = 0.08 * max(best - low, 0.01)
        panels[0].set_ylim(low - room, best + room)
        handles, labels = panels[0].get_legend_handles_labels()
        sheet.figure.legend(handles, labels, loc="outside upper left", ncols=4, fontsize=8.5)
    worse = [f"{c.number} ({_number(c.mean, '.2f')})" for c in scored if c.mean < low]

    return Drawing(
        sheet.svg,
        "Validation R² of the network, the mean over seeds, against each setting. The axis begins where the candidates "
        "do, not at 0." + (f" Below it: candidate {', '.join(worse)}." if worse else ""),
    )


def _panel(ax: "Axes", record: SearchRecord, scored: Sequence[Candidate], name: str) -> None:
    from ndt.plots import BLUE, GRID, INK, ORANGE, QUIET

    stated = record.space[name]
    steps = None if isinstance(stated, dict) else list(dict.fromkeys([*stated, record.candidates[0].settings[name]]))
    place = {c.number: c.settings[name] if steps is None else steps.index(c.settings[name]) for c in scored}
    most = len(record.seeds)
    for label, members, style in (
        ("all seeds", [c for c in scored if len(c.valid) == most], ("o", 5, BLUE, BLUE)),
        ("fewer seeds", [c for c in scored if len(c.valid) < most], ("o", 4, QUIET, "white")),
        ("as given", [scored[0]], ("s", 8, INK, "none")),
        ("winner", [record.candidates[record.winner]], ("o", 10, ORANGE, "none")),
    ):
        marker, size, colour, face = style
        x, y = [place[c.number] for c in members], [c.mean for c in members]
        if members:
            ax.plot(x, y, marker, markersize=size, color=colour, markerfacecolor=face, label=label)
    ax.set_xlabel(_short(name))
    ax.grid(axis="y", color=GRID, linewidth=0.7)
    if steps is not None:
        ax.set_xticks(np.arange(len(steps)), [str(v) for v in steps])
        ax.set_xlim(-0.5, len(steps) - 0.5)
        return
    low, high = stated["low"], stated["high"]
    if stated.get("log"):
        ax.set_xscale("log")
        ax.minorticks_off()
    middle = (low * high) ** 0.5 if stated.get("log") else (low + high) / 2
    ax.set_xticks([low, middle, high], [f"{v:.2g}" for v in (low, middle, high)])
