"""The demo: recordings, a store, a pretrained model, decoders with baselines, embeddings, and a report."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ndt.config import FinetuneConfig, PretrainConfig, SimulateConfig, TrainConfig
from ndt.errors import InputError

__all__ = ["RECORDED", "SIMULATED", "demo"]

HELD_OUT = "sub-simA_ses-04"  # a new day of a known subject: pretraining never sees it
PARTS = ("recordings", "pretrain", "finetune", "scratch", "embed", "rotation")  # folders of a demo, besides its store
MARK = ".ndt-demo"  # marks a folder as a demo's, which the next demo may clear
LABEL_SECONDS = 60.0  # seconds of labelled data of the new day

SIMULATED = (
    PretrainConfig(train=TrainConfig(steps=400), target="cursor_vel"),  # earlier days have labels, too
    FinetuneConfig(train=TrainConfig(steps=200, valid_every=25), label_seconds=LABEL_SECONDS),
)
RECORDED = (
    PretrainConfig(train=TrainConfig(steps=400)),
    FinetuneConfig(train=TrainConfig(steps=300, valid_every=50), backbone_lr_scale=1.0),
)


def demo(
    data: Sequence[str] = (),
    out: Path = Path("runs/demo"),
    *,
    seed: int = 0,
    progress: bool = True,
    target: str | None = None,
    scratch: bool = True,
    rotation: bool = True,
) -> dict[str, Any]:
    """Runs all steps, and returns the content of metrics.json, with the path of the report as ``report``.

    Without data it simulates eight recordings, pretrains on seven with their labels, and fine-tunes on a minute of
    labels of the eighth, a new day; it fits both dynamics models to a ninth, whose population rotates. With data it
    pretrains on the spikes of the training splits of all files, and fine-tunes on the training split of each.

    Arguments:
        data: NWB files or globs; empty for simulated recordings.
        out: Run directory.
        seed: Seed of simulation, training and baselines.
        progress: Whether to show progress.
        target: Name of the target; by default a velocity, else a heading.
        scratch: Whether to train a decoder from scratch, too, as a control.
        rotation: Whether to run the example of dynamics (simulated recordings only).
    """
    from ndt.data.ingest import ingest
    from ndt.data.simulate import recordings as simulation
    from ndt.data.splits import split
    from ndt.model.checkpoint import write_json
    from ndt.parsing import read_json
    from ndt.pretrain.train import pretrain
    from ndt.reports.run import write_report

    _clear(out, data)
    seconds: dict[str, float] = {}

    timed = partial(_timed, seconds)
    simulated = {}
    if not data:
        recordings = timed("simulate", simulation.simulate, out / "recordings", SimulateConfig(seed=seed))
        simulated = {s.session_id: s for s in recordings}
    files = list(data) or [str(s.path) for s in simulated.values()]
    store = timed("ingest", ingest, files, out / "store", progress=progress)
    ids = _session_ids(files)
    names = [name for name in store.session_ids if name in ids]  # the store may hold others from before
    decoded = [HELD_OUT] if simulated else names
    first, then = SIMULATED if simulated else RECORDED
    sessions = tuple(n for n in names if n not in decoded) if simulated else tuple(names)
    config, tune = replace(first, sessions=sessions, seed=seed), replace(then, seed=seed)
    base = timed("pretrain", pretrain, store, out / "pretrain", config, progress=progress)
    metrics = {}
    for name in decoded:
        metrics[name] = timed("finetune", _decode, base, store, name, target, out, tune, progress, scratch)
        if name in simulated:
            test = split(store.session(name), base.spec.bin_size * base.spec.window_bins).test
            metrics[name]["baselines"]["oracle"] = {"r2": float(simulated[name].oracle_r2(test))}
    result = {"sessions": metrics, "pretrain": read_json(out / "pretrain" / "metrics.json"), "seconds": seconds}
    if simulated and rotation:
        from ndt.demo_rotation import rotations

        result["rotation"] = timed("rotation", rotations, out / "rotation", seed, progress=progress)
    write_json(out / "metrics.json", result)
    page = timed("report", write_report, out, store)
    write_json(out / "metrics.json", result)

    return {**result, "report": str(page)}


def _timed(seconds: dict[str, float], name: str, work: Callable[..., Any], *args: Any, **options: Any) -> Any:
    begin = time.perf_counter()
    found = work(*args, **options)
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - begin

    return found


def _session_ids(files: Sequence[str]) -> set[str]:
    from ndt.data.read.file_probe import find_files, session_id_of

    return {session_id_of(path) for path in find_files(files)}


def _clear(out: Path, data: Sequence[str]) -> None:
    """Removes the results of an earlier demo in this folder, and its store if it holds other sessions."""
    from ndt.data.store import read_manifest

    made = [name for name in (*PARTS, "store") if (out / name).exists()]
    if made and not (out / MARK).exists():
        found = f"a folder that holds {', '.join(made)}"
        raise InputError(out, "--out", "a new folder, or that of an earlier demo", found)
    for name in PARTS:
        if name != "recordings":
            shutil.rmtree(out / name, ignore_errors=True)
    for name in ("metrics.json", "report.html"):
        (out / name).unlink(missing_ok=True)
    manifest = out / "store" / "manifest.json"
    if manifest.exists() and (not data or set(read_manifest(out / "store")["sessions"]) - _session_ids(data)):
        shutil.rmtree(out / "store")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()


def _decode(
    base: Any,
    store: Any,
    name: str,
    target: str | None,
    out: Path,
    config: FinetuneConfig,
    progress: bool,
    scratch: bool,
) -> dict[str, Any]:
    """Fine-tunes, trains a control from scratch, and exports the decoder's embeddings."""
    from ndt.api import embed
    from ndt.finetune.adapt import finetune

    options: dict[str, Any] = {"config": config, "store": store, "progress": progress}
    decoder = finetune(base, name, target, out=out / "finetune" / name, **options)
    found = dict(decoder.metrics)
    embed(decoder.model, name, store=store).to_npz(out / "embed" / f"{name}.npz")
    if scratch:
        options["config"] = replace(config, bin_size=base.spec.bin_size, baselines=(), ensemble=("network",))
        control = finetune(None, name, target, out=out / "scratch" / name, **options)
        found["baselines"]["scratch"] = control.metrics["network"]

    return found
