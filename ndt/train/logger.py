"""Logs of a training run: log.jsonl, TensorBoard and a progress bar."""

import json
import math
from pathlib import Path
from typing import Any, Self

from ndt.text import escaped

__all__ = ["RunLogger"]


class RunLogger:
    """Logs a run's metrics and shows its progress; a context manager.

    Arguments:
        out: Run directory.
        step: Steps before a resumed run continues, else 0.
        steps: Steps of the whole run.
        bar: Whether to show a progress bar.
        quiet: Whether to do nothing: only one of several processes logs.
    """

    def __init__(self, out: Path, step: int, *, steps: int, bar: bool, quiet: bool) -> None:
        self.out, self.quiet = out, quiet
        self.board: Any = None if quiet else _board(out, step)
        self.bar: Any = _bar() if bar and not quiet else None
        self.task = None if self.bar is None else self.bar.add_task(_name(out), total=steps, note="")

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()

        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
        if self.board is not None:
            self.board.close()

    def write(self, split: str, step: int, seconds: float, metrics: dict[str, float], **extra: float) -> None:
        """Writes metrics of a split after a step; `extra` goes to log.jsonl only."""
        if self.quiet:
            return
        for name, value in metrics.items():
            self.board.add_scalar(f"{split}/{name}", value, step)
        line = {"step": step, "split": split, **metrics, **extra, "seconds": round(seconds, 3)}
        with open(self.out / "log.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")

    def show(self, step: int, speed: float, best: float) -> None:
        """Shows steps, tokens per second and the best validation score."""
        if self.bar is not None:
            note = f"{speed:,.0f} tokens/s" + (f"  best on validation {best:.4f}" if best > -math.inf else "")
            self.bar.update(self.task, completed=step, note=note)


def _name(out: Path) -> str:
    from rich.markup import escape

    return escape(escaped("/".join(out.parts[-2:])))


def _board(out: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(out / "tensorboard"), purge_step=step + 1 if step else None)


def _bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))

    return Progress(TextColumn("{task.description}"), *columns)
