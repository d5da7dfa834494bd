"""Label curve: R² of decoders of one session against seconds of labelled data."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ndt.config import FinetuneConfig
from ndt.data.splits import split
from ndt.data.store import Store
from ndt.errors import InputError
from ndt.finetune.adapt import opened
from ndt.finetune.study_run import finetuned
from ndt.model.checkpoint import ModelSpec, save_config
from ndt.model.transformer import NDT
from ndt.reports.label_curve import LabelCurve, gather
from ndt.train.studies import run_all

__all__ = ["SECONDS", "label_curve"]

SECONDS = (15.0, 30.0, 60.0, 120.0, 300.0)

Run = tuple[float, str, int]  # seconds of labelled data, ``network`` or ``scratch``, seed


def label_curve(
    base: NDT | str | Path | None,
    session: str,
    target: str | None = None,
    *,
    out: str | Path,
    store: str | Path | Store | None = None,
    config: FinetuneConfig | None = None,
    seconds: Sequence[float] = SECONDS,
    seeds: int = 3,
    workers: int = 1,
    progress: bool = True,
) -> LabelCurve:
    """Fits decoders to increasing amounts of a session's labels, and scores all on its test split.

    For each amount, and for all labels of the training split (or `config.label_seconds`, if fewer), it fits one decoder
    per seed to the last labels before validation: from the base model and, as a control, from scratch with the same
    architecture. Validation labels, which select weights, do not count. Amounts that the training split lacks are left
    out, and the curve reports it; the decoder of all labels is therefore fitted first.

    Writes ``curve.json``, ``config.yaml`` and ``run.json`` into `out`, and runs into ``<out>/curve/``. Runs that are
    complete there are read, not repeated.

    Arguments:
        base: A pretrained model, its run directory, or hf:ORG/NAME; None for networks from scratch alone.
        session: Session id, in the store.
        target: Name of the target; by default a velocity or heading.
        out: Run directory of the curve.
        store: The store; by default the one that `base` was pretrained on.
        config: Settings of all runs; seeds count from its own.
        seconds: Seconds of labelled data.
        seeds: Number of seeds.
        workers: Runs at a time, each in a process with one thread.
        progress: Whether to show a progress bar.

    Raises:
        InputError: if some seconds are shorter than the model's window, or a decoder cannot be fitted.
    """
    config, out = config or FinetuneConfig(), Path(out)
    model, opened_store = opened(base, store, out)
    recording, spec = opened_store.session(session), None if model is None else model.spec
    window = config.window if spec is None else spec.window_bins * spec.bin_size
    requested = _checked(seconds, seeds, workers, window)
    starts = {"network": (base, config)}
    if spec is not None:  # the control: the base model's architecture, bins and window, with new weights
        starts["scratch"] = None, replace(config, model=spec.config, bin_size=spec.bin_size, window=window)
    save_config(out, config, opened_store.root)

    def fitted(title: str, amounts: Sequence[float]) -> dict[Run, dict[str, Any]]:
        runs = [(t, kind, config.seed + s) for t in amounts for kind in starts for s in range(seeds)]
        jobs = []
        for t, kind, seed in runs:
            start, settings = starts[kind]
            settings = replace(settings, label_seconds=t, seed=seed)
            folder = out / "curve" / (f"{t:g}s" if t else "all") / kind / f"seed{seed}"
            jobs.append(partial(finetuned, folder, start, session, target, opened_store, settings))
        return dict(zip(runs, run_all(jobs, workers, title, progress=progress), strict=True))

    metrics = fitted("all labels", [config.label_seconds])
    last = metrics[config.label_seconds, "network", config.seed]
    available = float(last["label_seconds"])
    kept = [t for t in requested if t < available - last["bin_size"] / 2]
    metrics |= fitted("fewer labels", kept)
    amounts = [*kept, config.label_seconds]
    grouped = [[[metrics[t, kind, config.seed + s] for s in range(seeds)] for t in amounts] for kind in starts]
    curve = LabelCurve(
        session=session,
        target=str(last["target"]),
        seconds=[*kept, available],
        lines=gather(*grouped),
        valid_seconds=split(recording, window).valid.duration,
        pretrained_on="" if spec is None else _pretrained_on(spec, session),
        whole=not config.label_seconds,
        left_out=_left_out([t for t in requested if t not in kept], available, config),
    )
    curve.save(out)

    return curve


def _checked(seconds: Sequence[float], seeds: int, workers: int, window: float) -> list[float]:
    """Returns the seconds in order, each once."""
    for name, value in (("seeds", seeds), ("workers", workers)):
        if value < 1:
            raise InputError("finetune", name, "at least 1", value)
    for t in seconds:
        if not t >= window:
            raise InputError("finetune", "curve seconds", f"at least the {window:g} s of the model's window", f"{t:g}")

    return sorted(set(map(float, seconds)))


def _pretrained_on(spec: ModelSpec, session: str) -> str:
    number = f"{len(spec.data)} session{'s' * (len(spec.data) != 1)}"

    return number + (", including the training split of this one" if session in spec.data else ", without this one")


def _left_out(seconds: Sequence[float], available: float, config: FinetuneConfig) -> list[str]:
    if not seconds:
        return []
    given = "label_seconds allows" if config.label_seconds else "the training split has"

    return [f"Left out: {', '.join(f'{t:g}' for t in seconds)} s of labels; {given} {available:g} s, the last point."]
