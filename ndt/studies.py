"""What studies of many runs share: runs that are not repeated, processes, and settings that depart from others.

A run's folder says in ``asked.json`` what it was asked for: settings, sources of the data, and the same of the model
that it started from. One that was asked for the same and has ended is read; one that has not is resumed from its last
checkpoint; one that was asked for anything else is cleared and begun anew. The program's own code is not compared.
"""

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ndt.errors import InputError
from ndt.runs import read_json
from ndt.settings import fill_config

if TYPE_CHECKING:
    from ndt.data.store import Store

__all__ = ["ASKED", "departed", "finish", "run_all", "sources"]

T = TypeVar("T")

ASKED = "asked.json"


def sources(store: "Store", sessions: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the SHA-256 of the file behind each session, and how it was ingested; of all sessions by default."""
    entries = store.manifest["sessions"]

    return {s: {key: entries[s].get(key) for key in ("sha256", "options")} for s in sessions or store.session_ids}


def departed(config: T, departures: Mapping[str, Any], where: str | Path, name: str) -> T:
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


def finish(
    folder: Path, asked: dict[str, Any], train: Callable[..., object], *, shared: bool = False
) -> dict[str, Any]:
    """Returns what metrics.json says of a run, which is trained as far as it has not been.

    Arguments:
        folder: Of the run.
        asked: All that the run depends on.
        train: Trains when called with ``out`` and ``resume``, and writes metrics.json last.
        shared: Whether the folder may hold more than the run. It is then never cleared: `train` writes over what an
            earlier run left.

    Raises:
        InputError: if there is a folder that is not a study's run, and it is not `shared`.
    """
    from ndt.checkpoint import write_json

    asked = json.loads(json.dumps(asked))  # tuples become lists, as in the file
    if read_json(folder / ASKED) != asked:
        if shared:
            (folder / "metrics.json").unlink(missing_ok=True)  # first: a kill from here on leaves nothing that ended
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        else:
            _clear(folder)
        folder.mkdir(parents=True, exist_ok=shared)
        write_json(folder / ASKED, asked)
    if not (folder / "metrics.json").exists():
        train(out=folder, resume=any((folder / "checkpoints").glob("step_*")))
    if (folder / "metrics.json").exists():
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # nine tenths of a run's size, and nothing to resume

    return read_json(folder / "metrics.json")


def _clear(folder: Path) -> None:
    if folder.exists() and not (folder / ASKED).exists() and any(folder.iterdir()):
        raise InputError(folder, "folder", "a new one, or a run of this study", "something else")
    shutil.rmtree(folder, ignore_errors=True)


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
    with _one_thread():
        return job()


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
