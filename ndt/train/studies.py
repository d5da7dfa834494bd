"""Many runs: what has ended is not repeated, processes, and settings that depart from others.

A run's folder says in ``request.json`` what it was asked for: settings, sources of the data, and the same of the model
that it started from. One that was asked for the same and has ended is read; one that has not is resumed from its last
checkpoint; one that was asked for anything else is cleared and begun anew. The program's own code is not compared.
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ndt.config.reader import fill_config
from ndt.errors import InputError
from ndt.reports.runs import read_json

if TYPE_CHECKING:
    from ndt.config import FinetuneConfig, PretrainConfig
    from ndt.data.store import Store
    from ndt.model.transformer import NDT

__all__ = ["ASKED", "overridden", "finetuned", "finish", "pretrained", "run_all", "sources"]

T = TypeVar("T")

ASKED = "request.json"


def sources(store: "Store", sessions: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the SHA-256 of the file behind each session, and how it was ingested; of all sessions by default."""
    entries = store.manifest["sessions"]

    return {s: {key: entries[s].get(key) for key in ("sha256", "options")} for s in sessions or store.session_ids}


def overridden(config: T, departures: Mapping[str, Any], where: str | Path, name: str) -> T:
    """Returns settings that depart from others in those that are named by their dotted names.

    Arguments:
        config: The others.
        departures: Values by dotted name, as YAML gives them.
        where: What an error names as its place.
        name: What an error puts before a setting.

    Raises:
        InputError: if there is no such setting, or it has another type or range.

    Example:
        >>> from ndt.config import FinetuneConfig
        >>> departed(FinetuneConfig(), {"train.steps": 7}, "here", "x").train.steps
        7
    """
    settings: dict[str, Any] = asdict(
        config,  # type: ignore[call-overload]
        dict_factory=lambda items: {k: list(v) if isinstance(v, tuple) else v for k, v in items},
    )
    for dotted, value in departures.items():
        *parents, last = dotted.split(".")
        into: Any = settings
        for parent in parents:
            into = into.setdefault(parent, {})
            if not isinstance(into, dict):
                raise InputError(where, f"{name}.{dotted}", f"a setting; {parent} has none below it", "an unknown one")
        into[last] = value

    return fill_config(type(config), settings, where, name)


def finish(folder: Path, asked: dict[str, Any], train: Callable[..., object]) -> dict[str, Any]:
    """Returns what metrics.json says of a run, which is trained as far as it has not been.

    Arguments:
        folder: Of the run.
        asked: All that the run depends on.
        train: Trains when called with ``out`` and ``resume``, and writes metrics.json last.

    Raises:
        InputError: if there is a folder that is not a study's run.
    """
    from ndt.model.checkpoint import write_json

    asked = json.loads(json.dumps(asked))  # tuples become lists, as in the file
    if read_json(folder / ASKED) != asked:
        if folder.exists() and not (folder / ASKED).exists() and any(folder.iterdir()):
            raise InputError(folder, "folder", "a new one, or a run of this study", "something else")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(folder / ASKED, asked)
    if not (folder / "metrics.json").exists():
        train(out=folder, resume=any((folder / "checkpoints").glob("step_*")))
    if (folder / "metrics.json").exists():
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # nine tenths of a run's size, and nothing to resume

    return read_json(folder / "metrics.json")


def pretrained(store: Path, folder: Path, config: "PretrainConfig") -> dict[str, Any]:
    """Returns what metrics.json says of a pretraining run, which is trained as far as it has not been."""
    from ndt.data.store import Store
    from ndt.pretrain.train import pretrain

    asked = {"settings": asdict(config), "data": sources(Store(store), config.sessions)}

    return finish(folder, asked, partial(pretrain, store, config=config, progress=False))


def finetuned(
    folder: Path,
    base: "NDT | str | Path | None",
    session: str,
    target: str | None,
    store: "str | Path | Store",
    config: "FinetuneConfig",
) -> dict[str, Any]:
    """Returns what metrics.json says of a decoder, which is fitted as far as it has not been.

    Arguments:
        folder: Of the run.
        base: A pretrained model, or its run directory; None for a network from scratch.
        session: Session id.
        target: Name of the target; None for a velocity or heading.
        store: The store of the session.
        config: Settings.
    """
    from ndt.data.store import Store
    from ndt.finetune.adapt import finetune
    from ndt.model.architectures import load_model

    model = load_model(base) if isinstance(base, str | Path) else base
    opened = store if isinstance(store, Store) else Store(store)
    weights = b"" if model is None else b"".join(v.cpu().numpy().tobytes() for v in model.state_dict().values())
    asked = {
        "settings": asdict(config),
        "target": target,
        "data": sources(opened, [session]),
        "base": hashlib.sha256(weights).hexdigest() if weights else None,
    }

    return finish(folder, asked, partial(finetune, model, session, target, config=config, store=opened, progress=False))


def run_all(jobs: Sequence[Callable[[], T]], workers: int, title: str, *, progress: bool = True) -> list[T]:
    """Runs jobs in processes of one thread each and returns their results in order.

    Arguments:
        jobs: What to call; picklable.
        workers: Processes; one runs them here.
        title: What the bar on stderr says.
        progress: Whether there is one.
    """
    from joblib import Parallel, delayed
    from rich.console import Console
    from rich.progress import Progress

    if not jobs:
        return []
    results: Any = Parallel(n_jobs=min(workers, len(jobs)), return_as="generator")(delayed(_alone)(job) for job in jobs)
    with warnings.catch_warnings(), Progress(console=Console(stderr=True), disable=not progress) as bar:
        # joblib replaces a process that has grown; where warnings are errors, the thread that says so would end of it
        warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
        return list(bar.track(results, total=len(jobs), description=title))


def _alone(job: Callable[[], T]) -> T:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return job()
    finally:
        torch.set_num_threads(before)
