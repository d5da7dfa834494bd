"""Inspects recordings before anything is trained: one JSON-able entry each, and pages to be looked at."""

import json
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ndt.config import IngestConfig
from ndt.config.reader import as_config
from ndt.data.inspection.nwb_check import check_nwb
from ndt.data.inspection.quality import assess
from ndt.data.inspection.summary import Entry, examine
from ndt.data.read.file_probe import find_files, session_id_of
from ndt.data.read.files import read
from ndt.data.workers import DIED, spread
from ndt.errors import InputError
from ndt.reports.page import write_text

if TYPE_CHECKING:
    from ndt.data.read.remote import RemoteFile

    Source = Path | RemoteFile

__all__ = ["inspect"]

_one_at_a_time = threading.Lock()  # neither pynwb nor matplotlib is made for the threads that a Dask worker may have


def inspect(
    files: Sequence[str | Path] | str | Path,
    config: IngestConfig | str | Path | None = None,
    out: str | Path | None = None,
    *,
    nwb_check: bool = True,
    progress: bool = False,
) -> list[Entry]:
    """Returns one entry of `ndt.data.inspection.summary.examine` for each file that paths and patterns stand for, in their order.

    A file that cannot be read becomes an entry of ``source``, ``error`` and the grade ``error``, and the others go on.

    Arguments:
        files: Recordings, patterns for them, or ``dandi:…`` addresses.
        config: How files become sessions, and how many are read at once, each of which holds one session in memory.
        out: Folder for a page ``<session_id>.html`` of each file, ``index.html`` and ``inspect.json``; made where
            missing, unless no file can be read.
        nwb_check: Whether to ask NWB Inspector, where it is installed, about NWB files.
        progress: Whether to show a bar on stderr.

    Example:
        >>> inspect("recordings/*.nwb", out="inspected/")[0]["grade"]  # doctest: +SKIP
        'warning'
    """
    from rich.console import Console
    from rich.progress import Progress

    config, sources = as_config(IngestConfig, config), find_files(files)
    root = None if out is None else Path(out)
    names = _names([session_id_of(source) for source in sources])
    jobs = [(s, None if root is None else root / f"{n}.html") for s, n in zip(sources, names, strict=True)]
    call = partial(_inspect_one, config=config, nwb_check=nwb_check)
    found: dict[int, Entry] = {}
    with Progress(console=Console(stderr=True, soft_wrap=True), disable=not progress) as bar:
        task = bar.add_task("Inspecting", total=len(jobs))
        for i, entry in spread(call, jobs, config.workers, config.cluster):
            found[i] = entry or _failed(InputError(sources[i], "file", "a recording", DIED), sources[i])
            bar.update(task, advance=1, description=f"Inspected {names[i]}")
    entries = [found[i] for i in range(len(jobs))]
    if root is not None and any("error" not in entry for entry in entries):
        from ndt.data.inspection.recording_page import index_page

        write_text(root / "index.html", index_page(entries))
        write_text(root / "inspect.json", json.dumps({"files": entries}, indent=1, allow_nan=False) + "\n")

    return entries


def _names(session_ids: Sequence[str]) -> list[str]:
    """Returns a name for the page of each session, unlike any other and the index's, where case is ignored, too."""
    taken, names = {"index"}, []
    for session_id in session_ids:
        choices = (session_id if n == 1 else f"{session_id}-{n}" for n in range(1, len(session_ids) + 2))
        names.append(next(name for name in choices if name.casefold() not in taken))
        taken.add(names[-1].casefold())

    return names


def _failed(error: InputError, source: "Source") -> Entry:
    return {"source": str(source), "error": str(error), "grade": "error"}


def _inspect_one(job: "tuple[Source, Path | None]", config: IngestConfig, nwb_check: bool) -> Entry:
    source, page = job
    try:
        with _one_at_a_time:
            return _inspect_file(source, page, config, nwb_check)
    except InputError as error:
        return _failed(error, source)
    except Exception as error:  # one odd file of many must not take the others with it
        found = f"{type(error).__name__} {error}"
        return _failed(InputError(source, "inspection", "a recording that can be inspected", found), source)


def _inspect_file(source: "Source", page: Path | None, config: IngestConfig, nwb_check: bool) -> Entry:
    session = read(source, config)
    quality = assess(session)
    entry = examine(session, quality)
    if nwb_check:
        entry["nwb_check"] = check_nwb(source)
    if page is not None:
        from ndt.data.inspection.recording_page import recording_page  # draws: imported where a page is asked for

        entry["page"] = page.name
        text = recording_page(session, quality, entry, config)
        page.parent.mkdir(parents=True, exist_ok=True)
        write_text(page, text)

    return entry
