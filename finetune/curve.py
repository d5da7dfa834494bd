"""R² against seconds of calibration data, for one session."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ndt.checkpoint import save_config
from ndt.config import FinetuneConfig
from ndt.data.splits import split
from ndt.data.store import Store
from ndt.errors import InputError
from ndt.finetune.study import Study
from ndt.label_curve import LabelCurve, gather
from ndt.model import NDT
from ndt.studies import run_all

__all__ = ["SECONDS", "label_curve"]

SECONDS = (15.0, 30.0, 60.0, 120.0, 300.0)

Place = tuple[float, str, int]  # seconds of labels, kind of network, seed


def label_curve(
    base: NDT | str | Path | None,
    session: str,
    covariate: str | None = None,
    *,
    out: str | Path,
    store: str | Path | Store | None = None,
    config: FinetuneConfig | None = None,
    seconds: Sequence[float] = SECONDS,
    seeds: int = 3,
    workers: int = 1,
    progress: bool = True,
) -> LabelCurve:
    """Fits decoders to more and more of a session's labels, and scores all on its one test block.

    At each number of seconds, and at all that the training block has (or `config.calibration`, where that is less), a
    decoder is fitted for each seed: by the base model and, as a control, by its architecture from scratch. Labels are
    the last before validation. Validation labels, which all choose by, do not count.

    Numbers of seconds that the training block does not have are left out, and the curve says so. What all labels give
    is fitted first, since it says how many there are.

    Writes ``curve.json``, ``config.yaml`` and ``run.json`` into `out`, and runs into ``<out>/curve/``: what has ended
    there is not done again.

    Arguments:
        base: A pretrained model, or its run directory or Hub name; None for networks from scratch alone.
        session: Session id, in the store.
        covariate: Name of the covariate; by default a velocity or heading.
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
    study = Study.opened(base, session, covariate, store, out)
    window = study.window(config)
    asked = _checked(seconds, seeds, workers, window)
    kinds = ("network",) if base is None else ("network", "scratch")
    save_config(out, config, study.store.root)

    def fitted(amounts: Sequence[float]) -> dict[Place, dict[str, Any]]:
        places = [(t, kind, config.seed + s) for t in amounts for kind in kinds for s in range(seeds)]
        jobs = [partial(_fit, study, out / "curve", config, place) for place in places]
        title = "all labels" if list(amounts) == [config.calibration] else "fewer labels"
        return dict(zip(places, run_all(jobs, workers, title, progress=progress), strict=True))

    metrics = fitted([config.calibration])
    last = metrics[config.calibration, "network", config.seed]
    has = float(last["calibration_seconds"])
    kept = [t for t in asked if t < has - last["bin_size"] / 2]
    metrics |= fitted(kept)

    grouped = [
        [[metrics[t, kind, config.seed + s] for s in range(seeds)] for t in (*kept, config.calibration)]
        for kind in kinds
    ]
    curve = LabelCurve(
        session=session,
        covariate=str(last["covariate"]),
        seconds=[*kept, has],
        lines=gather(*grouped),
        valid_seconds=split(study.store.session(session), window).valid.duration,
        pretrained_on=_pretrained_on(study),
        whole=not config.calibration,
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


def _fit(study: Study, home: Path, config: FinetuneConfig, place: Place) -> dict[str, Any]:
    seconds, kind, seed = place
    folder = home / (f"{seconds:g}s" if seconds else "all") / kind / f"seed{seed}"

    return study.fit(folder, replace(config, calibration=seconds, seed=seed), scratch=kind == "scratch")


def _pretrained_on(study: Study) -> str:
    if study.spec is None:
        return ""
    known = study.spec.data
    number = f"{len(known)} session{'s' * (len(known) != 1)}"

    return number + (", the training block of this one among them" if study.session in known else ", not this one")


def _left_out(seconds: Sequence[float], has: float, config: FinetuneConfig) -> list[str]:
    if not seconds:
        return []
    given = "calibration, the most that is used, is" if config.calibration else "the training block has"

    return [f"Left out: {', '.join(f'{t:g}' for t in seconds)} s of labels; {given} {has:g} s, the last point."]
