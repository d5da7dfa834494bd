"""What a run directory holds, read back: metrics, logs and predictions."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.errors import InputError

__all__ = ["Decoder", "read_decoders", "read_json", "read_log", "read_pretraining"]


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """What a fine-tuning run left behind.

    Arguments:
        path: Run directory.
        metrics: Fine-tuning form of metrics.json.
        log: Lines of its log.jsonl.
        scratch_log: The same of the network without pretraining, where a demo ran it.
        predictions: Arrays of predictions.npz by name; empty where there are none.
    """

    path: Path
    metrics: dict[str, Any]
    log: list[dict[str, Any]]
    scratch_log: list[dict[str, Any]]
    predictions: dict[str, NDArray[Any]]

    @property
    def session(self) -> str:
        """Session that was decoded."""
        return str(self.metrics["session"])

    @property
    def weights(self) -> dict[str, float]:
        """Ensemble weight of each member."""
        return dict(self.metrics.get("weights") or {})

    @property
    def r2(self) -> dict[str, float]:
        """Test R² of each predictor that has one."""
        found = {"delivered": self.metrics["test"]["r2"], "network": self.metrics.get("network", {}).get("r2")}
        found |= {name: part.get("r2") for name, part in self.metrics.get("baselines", {}).items()}

        return {name: float(value) for name, value in found.items() if value is not None and np.isfinite(value)}


def read_json(path: Path) -> dict[str, Any]:
    """Returns a JSON object, or nothing where there is no such file."""
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(path, "content", "a JSON object", error) from error


def read_log(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a log; a last line that a crash cut short is left out."""
    lines = path.read_text().splitlines() if path.exists() else []
    out = []
    for line in lines:
        try:
            out.append(dict(json.loads(line)))
        except ValueError:
            break

    return out


def read_decoders(run: Path) -> Iterator[Decoder]:
    """Yields the fine-tuning run in a directory, or those of a demo."""
    together = read_json(run / "metrics.json").get("sessions", {})
    for folder in (run, *sorted((run / "finetune").glob("*"))):
        metrics = read_json(folder / "metrics.json")
        metrics = together.get(metrics.get("session"), metrics)  # a demo knows controls that a single run does not
        if "test" in metrics:
            saved, arrays = folder / "predictions.npz", {}
            if saved.exists():
                with np.load(saved, allow_pickle=False) as file:
                    arrays = {name: file[name] for name in file.files}
            scratch = read_log(run / "scratch" / folder.name / "log.jsonl")
            log = read_log(folder / "log.jsonl")
            yield Decoder(path=folder, metrics=metrics, log=log, scratch_log=scratch, predictions=arrays)


def read_pretraining(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """Returns metrics and log of the pretraining run in a directory or of a demo; None where there is none."""
    for folder in (run / "pretrain", run):
        metrics = read_json(folder / "metrics.json")
        if "nll" in metrics.get("valid", {}):
            return metrics, read_log(folder / "log.jsonl")

    return None
