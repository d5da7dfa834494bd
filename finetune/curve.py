"""R² against seconds of calibration data, for one session."""

from collections.abc import Callable, Mapping, Sequence
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

Place = tuple[float, str, int]  # seconds of labels, kind of network, seed


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
    """Fits decoders to more and more of a session's labels, and scores all on its one test split.

    At each number of seconds, and at all that the training split has (or `config.label_seconds`, where that is less), a
    decoder is fitted for each seed: by the base model and, as a control, by its architecture from scratch. Labels are
    the last before validation. Validation labels, which all choose by, do not count.

    Numbers of seconds that the training split does not have are left out, and the curve says so. What all labels give
    is fitted first, since it says how many there are.

    Writes ``curve.json``, ``config.yaml`` and ``run.json`` into `out`, and runs into ``<out>/curve/``: what has ended
    there is not done again.

    Arguments:
        base: A pretrained model, or its run directory or Hub name; None for networks from scratch alone.
        session: Session id, in the store.
        target: Name of the target; by default a velocity or heading.
        out: Run directory of the curve.
        store: The store; by default the one that `base` was pretrained on.
        config: Settings of all runs; seeds count from its own.
        seconds: Seconds of labels.
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
    asked = _checked(seconds, seeds, workers, window)
    settings = {"network": config} | ({} if spec is None else {"scratch": _untrained(config, spec)})
    save_config(out, config, opened_store.root)

    def fitted(amounts: Sequence[float]) -> dict[Place, dict[str, Any]]:
        places = [(t, kind, config.seed + s) for t in amounts for kind in settings for s in range(seeds)]
        jobs = [_job(out / "curve", base, settings, place, (session, target, opened_store)) for place in places]
        title = "all labels" if list(amounts) == [config.label_seconds] else "fewer labels"
        return dict(zip(places, run_all(jobs, workers, title, progress=progress), strict=True))

    metrics = fitted([config.label_seconds])
    last = metrics[config.label_seconds, "network", config.seed]
    has = float(last["label_seconds"])
    kept = [t for t in asked if t < has - last["bin_size"] / 2]
    metrics |= fitted(kept)

    grouped = [
        [[metrics[t, kind, config.seed + s] for s in range(seeds)] for t in (*kept, config.label_seconds)]
        for kind in settings
    ]
    curve = LabelCurve(
        session=session,
        target=str(last["target"]),
        seconds=[*kept, has],
        lines=gather(*grouped),
        valid_seconds=split(recording, window).valid.duration,
        pretrained_on="" if spec is None else _pretrained_on(spec, session),
        whole=not config.label_seconds,
        left_out=_left_out([t for t in asked if t not in kept], has, config),
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


def _job(
    home: Path,
    base: NDT | str | Path | None,
    settings: Mapping[str, FinetuneConfig],
    place: Place,
    data: tuple[str, str | None, Store],
) -> Callable[[], dict[str, Any]]:
    seconds, kind, seed = place
    folder = home / (f"{seconds:g}s" if seconds else "all") / kind / f"seed{seed}"
    config = replace(settings[kind], label_seconds=seconds, seed=seed)

    return partial(finetuned, folder, None if kind == "scratch" else base, *data, config)


def _untrained(config: FinetuneConfig, spec: ModelSpec) -> FinetuneConfig:
    """Settings of the control: the base model's architecture, bins and window, with new weights."""
    return replace(config, model=spec.config, bin_size=spec.bin_size, window=spec.bin_size * spec.window_bins)


def _pretrained_on(spec: ModelSpec, session: str) -> str:
    number = f"{len(spec.data)} session{'s' * (len(spec.data) != 1)}"

    return number + (", the training split of this one among them" if session in spec.data else ", not this one")


def _left_out(seconds: Sequence[float], has: float, config: FinetuneConfig) -> list[str]:
    if not seconds:
        return []
    given = "calibration, the most that is used, is" if config.label_seconds else "the training split has"

    return [f"Left out: {', '.join(f'{t:g}' for t in seconds)} s of labels; {given} {has:g} s, the last point."]
