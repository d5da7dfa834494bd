"""Studies of many runs: each run is trained once per folder, runs share the processes, settings are overridden by name.

The file ``request.json`` in a run's folder holds everything that the run depends on: its settings, the sources of its
data, and the model that it started from. `finish` reads a completed run with the same request, resumes an interrupted
one from its last checkpoint, and clears and retrains a run with another request. Versions of the code are not compared.
"""

import json
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from ndt.config.reader import fill_config
from ndt.errors import InputError
from ndt.model.checkpoint import write_json
from ndt.parsing import read_json

__all__ = ["REQUEST", "finish", "overridden", "run_all", "sources"]

T = TypeVar("T")

REQUEST = "request.json"


def sources(manifest: Mapping[str, Any], sessions: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the SHA-256 and the ingestion options of sessions in a store's manifest; of all sessions by default."""
    entries = manifest["sessions"]

    return {s: {key: entries[s].get(key) for key in ("sha256", "options")} for s in sessions or entries}


def overridden(config: T, overrides: Mapping[str, Any], where: str | Path, name: str) -> T:
    """Returns settings with some of them overridden.

    Arguments:
        config: The settings to start from.
        overrides: Values by dotted name, as YAML gives them.
        where: File or command that an error message names.
        name: Prefix of a setting's name in an error message.

    Raises:
        InputError: if a setting does not exist or its value has another type or range.

    Example:
        >>> from ndt.config import FinetuneConfig
        >>> overridden(FinetuneConfig(), {"train.steps": 7}, "here", "x").train.steps
        7
    """
    settings: dict[str, Any] = asdict(
        config,  # type: ignore[call-overload]
        dict_factory=lambda items: {k: list(v) if isinstance(v, tuple) else v for k, v in items},
    )
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        into: Any = settings
        for parent in parents:
            into = into.setdefault(parent, {})
            if not isinstance(into, dict):
                raise InputError(where, f"{name}.{dotted}", f"a setting; {parent} has none below it", "an unknown one")
        into[last] = value

    return fill_config(type(config), settings, where, name)


def finish(folder: Path, request: dict[str, Any], train: Callable[..., object]) -> dict[str, Any]:
    """Trains a run unless it is complete, and returns the content of its metrics.json; empty if training wrote none.

    Arguments:
        folder: Folder of the run.
        request: Everything that the run depends on.
        train: Called with ``out`` and ``resume``; writes metrics.json last.

    Raises:
        InputError: if the folder holds files but no request.
    """
    stated, metrics = folder / REQUEST, folder / "metrics.json"
    request = json.loads(json.dumps(request))  # tuples become lists, as in the file
    if not stated.exists() or read_json(stated) != request:
        if folder.exists() and not stated.exists() and any(folder.iterdir()):
            raise InputError(folder, "folder", "a new one, or a run of this study", "something else")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(stated, request)
    if not metrics.exists():
        train(out=folder, resume=any((folder / "checkpoints").glob("step_*")))
    if not metrics.exists():
        return {}
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # nine tenths of a run's size, and nothing to resume

    return dict(read_json(metrics, dict[str, Any]))


def run_all(jobs: Sequence[Callable[[], T]], workers: int, title: str, *, progress: bool = True) -> list[T]:
    """Runs jobs in processes of one thread each and returns their results in order.

    Arguments:
        jobs: Picklable functions without arguments.
        workers: Number of processes; with one, jobs run in this process.
        title: Title of the progress bar on stderr.
        progress: Whether to show the progress bar.
    """
    from joblib import Parallel, delayed
    from rich.console import Console
    from rich.progress import Progress

    if not jobs:
        return []
    results: Any = Parallel(n_jobs=min(workers, len(jobs)), return_as="generator")(delayed(_alone)(job) for job in jobs)
    with warnings.catch_warnings(), Progress(console=Console(stderr=True), disable=not progress) as bar:
        # joblib warns from its dispatching thread when it replaces a process; as an error, that would end the thread
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
