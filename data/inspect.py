"""Inspects recordings before training: a JSON-able summary and an HTML page of each."""

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
from ndt.data.reading import read
from ndt.data.workers import DIED, spread
from ndt.errors import InputError
from ndt.reports.page import write_text
from ndt.text import escaped

if TYPE_CHECKING:
    from ndt.data.read.remote import RemoteFile

    Source = Path | RemoteFile

__all__ = ["inspect"]

_one_at_a_time = threading.Lock()  # pynwb and matplotlib are not thread-safe, and Dask workers may have threads


def inspect(
    files: Sequence[str | Path] | str | Path,
    config: IngestConfig | str | Path | None = None,
    out: str | Path | None = None,
    *,
    nwb_check: bool = True,
    progress: bool = False,
) -> list[Entry]:
    """Returns the summary (`ndt.data.inspection.summary.examine`) of each file, in the order of paths and patterns.

    The summary of an unreadable file has ``source``, ``error`` and the grade ``error``.

    Arguments:
        files: Recordings, patterns, or ``dandi:…`` addresses.
        config: How files become sessions, and how many processes read them; each holds one session in memory.
        out: Folder for a page ``<session_id>.html`` of each file, ``index.html`` and ``inspect.json``; not made if no
            file can be read.
        nwb_check: Whether to run NWB Inspector, if installed, on NWB files.
        progress: Whether to show a progress bar on stderr.

    Example:
        >>> inspect("recordings/*.nwb", out="inspected/")[0]["grade"]  # doctest: +SKIP
        'warning'
    """
    from rich.console import Console
    from rich.markup import escape
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
            bar.update(task, advance=1, description=f"Inspected {escape(escaped(names[i]))}")
    entries = [found[i] for i in range(len(jobs))]
    if root is not None and any("error" not in entry for entry in entries):
        from ndt.data.inspection.recording_page import index_page

        write_text(root / "index.html", index_page(entries))
        write_text(root / "inspect.json", json.dumps({"files": entries}, indent=1, allow_nan=False) + "\n")

    return entries


def _names(session_ids: Sequence[str]) -> list[str]:
    """Returns a unique name, ignoring case, for the page of each session; none is ``index``."""
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
            session = read(source, config)
            quality = assess(session)
            entry = examine(session, quality)
            if nwb_check:
                entry["nwb_check"] = check_nwb(source)
            if page is not None:
                from ndt.data.inspection.recording_page import recording_page  # matplotlib only for pages

                entry["page"] = page.name
                page.parent.mkdir(parents=True, exist_ok=True)
                write_text(page, recording_page(session, quality, entry, config))
            return entry
    except InputError as error:
        return _failed(error, source)
    except Exception as error:  # one odd file must not end the inspection of the others
        found = f"{type(error).__name__} {error}"
        return _failed(InputError(source, "inspection", "a recording that can be inspected", found), source)
