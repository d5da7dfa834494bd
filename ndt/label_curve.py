"""R² against seconds of labels: what ``curve.json`` of ``ndt bench curve`` holds, as a table and a figure."""

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from ndt.errors import InputError
from ndt.metrics import paired_difference
from ndt.plots import COLOURS, GRID, QUIET, Drawing, page_figure
from ndt.runs import read_json

__all__ = ["LabelCurve", "draw", "read_curve", "table"]

Scores = list[list[float]]  # by seconds of labels, then by seed

FILE = "curve.json"
LINES = {  # predictor -> in words, colour and marker
    "pretrained": ("network, pretrained", COLOURS["network"], "o"),
    "scratch": ("network from scratch", COLOURS["scratch"], "s"),
    "ridge": ("ridge on lagged counts", COLOURS["ridge"], "^"),
}


@dataclass(frozen=True, kw_only=True)
class LabelCurve:
    """Test R² (variance-weighted) of three decoders of one session, by seconds of labels and by seed.

    Arguments:
        session: Session that was decoded.
        covariate: What was decoded.
        seconds: Seconds of labelled training bins, ascending.
        pretrained: The pretrained network's scores.
        scratch: Those of the same network without pretraining.
        ridge: Those of ridge.
        pretrained_on: What the network was pretrained on, in words.
        steps: Fine-tuning steps of both networks.
        valid_seconds: Length of the validation block, whose labels all three use for choices, in seconds.
        unit: Of `seconds`.
    """

    session: str
    covariate: str
    seconds: list[float]
    pretrained: Scores
    scratch: Scores
    ridge: Scores
    pretrained_on: str
    steps: int
    valid_seconds: float
    unit: str = "s"

    def save(self, run: Path) -> None:
        """Writes ``curve.json`` into a run directory."""
        from ndt.checkpoint import write_json

        write_json(run / FILE, asdict(self))


def read_curve(run: Path) -> LabelCurve | None:
    """Returns what `LabelCurve.save` wrote into a run directory; None where there is none."""
    found = read_json(run / FILE)
    try:
        return LabelCurve(**found) if found else None
    except TypeError as error:
        raise InputError(run / FILE, "content", "what `ndt bench curve` writes", error) from error


def table(curve: LabelCurve) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the rows of a table: medians, and the difference of the networks in paired seeds."""
    head = [f"labels ({curve.unit})", *LINES, "pretrained − scratch"]
    rows = []
    for i, seconds in enumerate(curve.seconds):
        medians = [f"{statistics.median(getattr(curve, name)[i]):.3f}" for name in LINES]
        difference, error = paired_difference(curve.pretrained[i], curve.scratch[i])
        known = f" ± {error:.3f}" if error is not None else ""
        rows.append([f"{seconds:g}", *(cell.replace("-", "−") for cell in (*medians, f"{difference:+.3f}{known}"))])

    return head, rows


def draw(curve: LabelCurve) -> Drawing:
    """Draws medians over seeds as lines and their ranges as bands, on a logarithmic axis of seconds."""
    x = np.array(curve.seconds)
    num_seeds = len(curve.pretrained[0])
    with page_figure(3.8) as sheet:
        ax: Axes = sheet.axes[0, 0]
        low = 0.0
        for name, (words, colour, marker) in LINES.items():
            scores = np.array(getattr(curve, name), np.float64)  # (seconds, seeds)
            low = min(low, float(scores.min()))
            ax.fill_between(x, scores.min(1), scores.max(1), color=colour, alpha=0.18, linewidth=0)
            ax.plot(x, np.median(scores, 1), color=colour, marker=marker, markersize=5, label=words)
        ax.set_xscale("log")
        ax.set_xticks(x, [f"{s:g}" for s in curve.seconds])
        ax.minorticks_off()
        ax.set(
            ylim=(low - 0.02 * (low < 0), 1), xlabel=f"labelled training data of the session ({curve.unit}, log axis)"
        )
        ax.set_ylabel(f"R² of {curve.covariate} on test bins")
        ax.axhline(0, color=QUIET, linewidth=0.8)
        ax.grid(axis="y", color=GRID, linewidth=0.7)
        ax.legend(loc="best", fontsize=8.5)

    seeds = (
        f"medians over {num_seeds} seeds; bands: least to largest (ridge has no seed)" if num_seeds > 1 else "one seed"
    )
    caption = (
        f"Decoding {curve.covariate} in {curve.session}, a session that pretraining did not see, from so many seconds "
        f"of it. Pretrained on {curve.pretrained_on}. From scratch: the same network on the same windows and "
        f"{curve.steps} steps, without pretraining. Lines: {seeds}. The networks' weights and ridge's penalty and lags "
        f"are chosen by {curve.valid_seconds:.0f} s of validation labels of the session, which the axis does not count."
    )

    return Drawing(sheet.svg, caption)
