"""Reads metrics, logs and predictions of run directories, and tabulates scores."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.errors import InputError
from ndt.parsing import read_json, read_lines, read_npz
from ndt.reports.names import SCORES, in_order, predictor_name
from ndt.reports.page import fixed
from ndt.reports.run_metrics import DecoderMetrics, DemoMetrics, PretrainingMetrics, check_lengths
from ndt.schema import typed

__all__ = ["Decoder", "digits_of", "read_decoders", "read_log", "read_object", "read_pretraining", "score_table"]

MOST_BINS = 10_000_000  # of a trial
SHARED = ("time", "segment", "out_of_distribution")  # arrays that all targets share


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Results of a fine-tuning run, for all its targets or for one.

    Arguments:
        metrics: Content of metrics.json.
        log: Lines of log.jsonl.
        scratch_log: Lines of the log of the network trained from scratch, if a demo trained one.
        predictions: Arrays of predictions.npz by name, if any.
    """

    metrics: dict[str, Any]
    log: list[dict[str, Any]] = field(default_factory=list)
    scratch_log: list[dict[str, Any]] = field(default_factory=list)
    predictions: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def session(self) -> str:
        """Decoded session."""
        return str(self.metrics["session"])

    @property
    def kind(self) -> str:
        """Kind of target: ``continuous``, ``angle`` or ``class``."""
        return str(self.metrics.get("kind", "continuous"))

    @property
    def unit(self) -> str:
        """Unit of half widths and of drawn values; empty for classes."""
        given = str(self.predictions.get("unit", self.metrics.get("unit", "")))

        return {"continuous": given, "angle": "°"}.get(self.kind, "")

    @property
    def dims(self) -> list[str]:
        """Names of the dimensions, angles or classes."""
        dims = [str(d) for d in self.predictions.get("dims", self.metrics.get("dims") or ())]
        if self.kind != "angle":
            return dims

        return [d[4:-1] if d.startswith("cos(") else d for d in dims[::2]]  # columns are cosine and sine of each

    def by_target(self) -> list["Decoder"]:
        """Returns a decoder for each target, with that target's metrics and arrays under plain names."""
        m, p = self.metrics, self.predictions
        shared = {name: p[name] for name in SHARED if name in p}
        found = []
        for i, (name, own) in enumerate((m.get("targets") or {str(m["target"]): {}}).items()):
            begin = f"{name}/" if i else ""
            arrays = {key[len(begin) :]: p[key] for key in p if key.startswith(begin) and "/" not in key[len(begin) :]}
            metrics = {**m, **own} if i else {**own, **m}  # a demo adds its controls to the first, at the top level
            found.append(replace(self, metrics=metrics, predictions=shared | arrays))

        return found

    @property
    def weights(self) -> dict[str, float]:
        """Ensemble weight of each member."""
        return dict(self.metrics.get("weights") or {})

    @property
    def r2(self) -> dict[str, float]:
        """Finite test R² by predictor."""
        return self.scores("r2")

    def scores(self, measure: str) -> dict[str, float]:
        """Returns finite test scores by predictor."""
        found = {"ensemble": self.metrics["test"].get(measure), "network": self.metrics.get("network", {}).get(measure)}
        found |= {name: part.get(measure) for name, part in self.metrics.get("baselines", {}).items()}

        return {name: float(value) for name, value in found.items() if value is not None and np.isfinite(value)}


def read_object(path: Path, kind: Any = dict[str, Any]) -> dict[str, Any]:
    """Returns a JSON object of a kind (`ndt.schema.typed`); an empty one if there is no such file."""
    return dict(read_json(path, kind, "a JSON object")) if path.exists() else {}


def read_log(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a log without a last one that a crash cut short."""
    return read_lines(path, dict[str, Any])


def read_decoders(run: Path) -> Iterator[Decoder]:
    """Yields the decoder of a fine-tuning run, or all decoders of a demo."""
    together = read_object(run / "metrics.json", DemoMetrics).get("sessions", {})
    for folder in (run, *sorted((run / "finetune").glob("*"))):
        path = folder / "metrics.json"
        if "test" not in (metrics := read_object(path)):
            continue
        metrics = together.get(str(metrics.get("session")), typed(DecoderMetrics, metrics, path))  # with more controls
        check_lengths(metrics, path)
        decoder = Decoder(
            metrics=metrics,
            log=read_log(folder / "log.jsonl"),
            scratch_log=read_log(run / "scratch" / folder.name / "log.jsonl"),
            predictions=read_npz(folder / "predictions.npz") if (folder / "predictions.npz").exists() else {},
        )
        for part in decoder.by_target() if decoder.predictions else ():
            _check_predictions(part, folder / "predictions.npz")
        yield decoder


def _check_predictions(decoder: Decoder, path: Path) -> None:
    """Raises unless the arrays of one target have the shapes of `Decoder.predictions`, and times ascend."""
    found, kind = decoder.predictions, decoder.kind
    time, true = (found.get(name, np.zeros(0)) for name in ("time", "true"))
    R, C = len(time) if time.ndim else -1, true.shape[1] if true.ndim == 2 else -1
    K = {"continuous": C, "angle": C // 2, "class": 1}[kind]
    rows = {"time": "f", "segment": "iu", "out_of_distribution": "b", "bins_since_start": "iu"}
    for name, values in found.items():
        widths = {"half_width": K, "adaptive_half_width": K}
        shape = (C,) if name == "dims" else () if name in ("unit", "kind") else (R,) if name in rows else (R, C)
        shape = (R, widths[name]) if name in widths else shape
        kinds = "U" if name in ("dims", "unit", "kind") else rows.get(name, "fiub")
        if values.shape != shape or values.dtype.kind not in kinds:
            raise InputError(path, name, f"shape {shape} of kind {kinds}", f"{values.dtype} of shape {values.shape}")
        if kinds == "fiub" and np.isinf(values).any() and name not in widths:
            raise InputError(path, name, "finite numbers, or NaN where missing", "infinity")
    if not np.isfinite(time).all() or not (np.diff(time) > 0).all():
        raise InputError(path, "time", "ascending finite times", "others")
    since = found.get("bins_since_start", np.zeros(1, np.int64))
    if R and not -1 <= since.min() <= since.max() <= MOST_BINS:
        raise InputError(path, "bins_since_start", f"-1 to {MOST_BINS:,}", f"{since.min()} to {since.max()}")
    if str(found.get("kind", kind)) != kind:
        raise InputError(path, "kind", f"{kind}, as in metrics.json", str(found["kind"]))


def read_pretraining(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """Returns metrics and log of a pretraining run or of a demo's; None if there is none."""
    for folder in (run / "pretrain", run):
        metrics = read_object(folder / "metrics.json")
        if "valid" in metrics and "session" not in metrics:  # a decoder's run names its session
            return typed(PretrainingMetrics, metrics, folder / "metrics.json"), read_log(folder / "log.jsonl")

    return None


def digits_of(value: float | None) -> int:
    """Returns the number of decimals that shows three significant digits."""
    return max(0, 2 - math.floor(math.log10(abs(value)))) if value and math.isfinite(value) else 2


def score_table(m: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns head and rows of a table of one target's predictors: ensemble weight, R² and errors."""
    test, weights = m["test"], m.get("weights") or {}
    scored: dict[str, Mapping[str, Any]] = {"ensemble": test, "network": m.get("network", {})} | m.get("baselines", {})
    columns = [c for c in SCORES[m.get("kind", "continuous")] if test.get(c[0]) is not None]
    rows = []
    for name in in_order((*scored, *weights)):
        found = scored.get(name, {})
        if found.get("r2") is not None or name in ("ensemble", "network", *weights):
            cells = [fixed(found.get(key), digits_of(test[key]) if d is None else d) for key, _, d in columns]
            weight = fixed(weights[name], 2) if name in weights else ""
            rows.append([predictor_name(name), weight, fixed(found.get("r2")), *cells])
    if test.get("chance") is not None:
        always = [fixed(test["chance"]) if key == "accuracy" else "" for key, _, _ in columns]
        rows.append(["always the most frequent class", "", "", *always])
    heads = [heading.format(unit=m.get("unit") or "own unit") for _, heading, _ in columns]

    return ["predictor", "weight", "R²", *heads], rows
