"""The main job end to end: recordings, a store, a pretrained model, decoders with baselines, embeddings, a page."""

import json
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
PARTS = ("recordings", "pretrain", "finetune", "scratch", "embed", "rotation")  # what a demo makes beside its store
MARK = ".ndt-demo"  # says that the folder is a demo's, and may be cleared by the next
CALIBRATION = 60.0  # seconds of labels of the new day

SIMULATED = (
    PretrainConfig(train=TrainConfig(steps=600, batch_size=16), target="cursor_vel"),  # earlier days have labels too
    FinetuneConfig(train=TrainConfig(steps=100, valid_every=25), freeze_steps=75, label_seconds=CALIBRATION),
)
RECORDED = (
    PretrainConfig(train=TrainConfig(steps=400)),
    FinetuneConfig(train=TrainConfig(steps=300, valid_every=50), freeze_steps=0, backbone_lr_scale=1.0),
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
    """Runs everything and returns what metrics.json says, with the path of the page under ``report``.

    Without data it simulates eight recordings, pretrains on seven with their labels, and decodes the eighth, a new day,
    from a minute of labels; a ninth, whose population rotates, goes to both dynamics heads. With data it pretrains on
    the spikes of the training splits of all files and decodes each from its whole training split.

    Arguments:
        data: NWB files or globs; none simulates.
        out: Run directory.
        seed: Seed of everything.
        progress: Whether to show progress.
        target: What to decode; by default a velocity, else a heading.
        scratch: Whether to train a decoder from scratch too, as a control.
        rotation: Whether to run the example of dynamics, too, without data.
    """
    from ndt.data.ingest import ingest
    from ndt.model.checkpoint import read_json, write_json
    from ndt.pretrain.train import pretrain
    from ndt.reports.run import write_report

    _clear(out, data)
    seconds: dict[str, float] = {}
    timed = _timer(seconds)
    simulated = {} if data else timed("simulate", lambda: _simulate(out / "recordings", seed))
    files = list(data) or [str(s.path) for s in simulated.values()]
    store = timed("ingest", lambda: ingest(files, out / "store", progress=progress))
    names = _named(store, files)
    wanted = [HELD_OUT] if simulated else names
    seen = tuple(n for n in names if n not in wanted) if simulated else tuple(names)
    first, then = SIMULATED if simulated else RECORDED
    config, tune = replace(first, sessions=seen, seed=seed), replace(then, seed=seed)
    base = timed("pretrain", lambda: pretrain(store, out / "pretrain", config, progress=progress))
    sessions = {}
    for name in wanted:
        found = timed("finetune", partial(_decode, base, store, name, target, out, tune, progress, scratch))
        if name in simulated:
            found["baselines"]["oracle"] = {"r2": _oracle(simulated[name], store, name, base.spec)}
        sessions[name] = found
    result = {"sessions": sessions, "pretrain": read_json(out / "pretrain" / "metrics.json"), "seconds": seconds}
    if simulated and rotation:
        from ndt.demo_rotation import rotations

        example = partial(rotations, out / "rotation", seed, progress=progress)
        result["rotation"] = timed("rotation", example)
    write_json(out / "metrics.json", result)
    page = timed("report", lambda: write_report(out, store))
    write_json(out / "metrics.json", result)

    return {**result, "report": str(page)}


def _clear(out: Path, data: Sequence[str]) -> None:
    """Removes what an earlier demo derived in this folder; its store too, if that holds other sessions."""
    from ndt.data.read.file_probe import find_files, session_id_of

    mine = {session_id_of(path) for path in find_files(list(data))} if data else set()
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
    if manifest.exists() and (not data or set(json.loads(manifest.read_text())["sessions"]) - mine):
        shutil.rmtree(out / "store")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()


def _timer(seconds: dict[str, float]) -> Callable[[str, Callable[[], Any]], Any]:
    def timed(name: str, work: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        found = work()
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - begin

        return found

    return timed


def _simulate(folder: Path, seed: int) -> dict[str, Any]:
    from ndt.data.simulate.recordings import simulate

    return {s.session_id: s for s in simulate(folder, SimulateConfig(seed=seed))}


def _named(store: Any, files: Sequence[str]) -> list[str]:
    """Ids of the sessions that these files became; the store may hold others from before."""
    from ndt.data.read.file_probe import find_files, session_id_of

    mine = {session_id_of(path) for path in find_files(files)}

    return [name for name in store.session_ids if name in mine]


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
    """Fine-tunes, trains the control from scratch, and exports the decoder's embeddings."""
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


def _oracle(simulated: Any, store: Any, name: str, spec: Any) -> float:
    """R² on the test split of the decoder that knows the truth."""
    from ndt.data.splits import split

    return float(simulated.oracle_r2(split(store.session(name), spec.bin_size * spec.window_bins).test))
