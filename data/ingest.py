"""Ingests recordings into a store: in parallel, only files that changed, and each session completely or not at all.

A session's file holds its own entry of the manifest, and is written under a temporary name first. A run may therefore
be killed at any moment; the next one reuses every finished file, even if the manifest does not list it.
"""

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from ndt.config import IngestConfig
from ndt.config.reader import as_config
from ndt.data.inspection.summary import summarise
from ndt.data.manifest import Manifest, present
from ndt.data.read.file_probe import file_source, find_files, session_id_of
from ndt.data.store import Store, read_entry, remove_drafts, write_session
from ndt.data.workers import DIED, spread
from ndt.errors import InputError
from ndt.session import Session
from ndt.text import escaped

if TYPE_CHECKING:
    from ndt.data.read.remote import RemoteFile

    Source = Path | RemoteFile | Session

__all__ = ["ingest", "options_of"]

Result = dict[str, Any] | InputError  # an entry of the manifest, or why there is none

HOW = ("workers", "cluster", "probe_seconds", "evaluate")  # settings that do not change a session's content
_one_at_a_time = threading.Lock()  # pynwb is not safe in the threads that a Dask worker may have


def ingest(
    files: "Sequence[str | Path | RemoteFile | Session] | str | Path | RemoteFile | Session",
    out: str | Path,
    config: IngestConfig | str | Path | None = None,
    progress: bool = True,
) -> Store:
    """Reads recordings into a store; sessions from the same file and settings that are in the store are kept.

    The error of a file is printed on stderr and listed in the manifest under `failed` until the file succeeds; the
    other files are read, and an `InputError` is raised at the end.

    Arguments:
        files: Files, patterns, ``dandi:…`` addresses, or sessions (`ndt.data.read.arrays.from_arrays`), which are
            written each time.
        out: Directory of the store; created if missing, else sessions are added.
        config: Settings of ingestion. The workers of a `cluster` need the same paths of files and store, as on a shared
            file system, and read one file at a time: give them one thread (``dask worker --nthreads 1``).
        progress: Whether to show a progress bar on stderr.

    Example:
        >>> ingest("recordings/**/*.nwb", "store/").session_ids  # doctest: +SKIP
        ['sub-m1_ses-stevenson2011']
    """
    config, root = as_config(IngestConfig, config), Path(out)
    sources, manifest = _sources(files), Manifest(root)
    _check(sources, manifest.known)
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    names = {*manifest.known, *map(_session_id, sources)}
    for pattern in config.evaluate:
        if not any(fnmatchcase(name, pattern) for name in names):
            console.print(f"evaluate: no session is named {pattern}")
    failures: list[InputError] = []
    with present(root), _recording(manifest, config) as keep, Progress(console=console, disable=not progress) as bar:
        remove_drafts(root)
        task = bar.add_task("Ingesting", total=len(sources))
        for source, result in _results(sources, root, config):
            keep(source, result)
            bar.update(task, advance=1, description=f"Ingested {escape(escaped(_session_id(source)))}")
            if isinstance(result, InputError):
                failures.append(result)
                if len(sources) > 1:  # a single error is raised below
                    console.print(str(result))
    if not manifest.safe:
        console.print(f"{root}: its file system has no locks: run one ingestion into this store at a time")
    failures += manifest.clashes.values()
    if len(failures) == 1:
        raise failures[0]
    if failures:
        found = f"{len(failures)} that failed, the first of them {failures[0]}"
        raise InputError(root, "files", f"{len(sources)} that can be ingested", found)

    return Store(root)


def options_of(config: IngestConfig, session_id: str) -> dict[str, Any]:
    """Returns the settings on which a session's content depends, as JSON values."""
    chosen = {name: value for name, value in asdict(config).items() if name not in HOW}
    chosen["split"] = config.split if config.splits(session_id) else ""

    return dict(json.loads(json.dumps(chosen)))  # tuples become lists, as in a stored entry


def _sources(files: Any) -> "list[Source]":
    many = list(files) if isinstance(files, Iterable) and not isinstance(files, str) else [files]
    named = [file for file in many if isinstance(file, str | Path)]
    given = [file for file in many if not isinstance(file, str | Path)]

    return [*(find_files(named) if named or not given else ()), *given]


def _session_id(source: "Source") -> str:
    return source.session_id if isinstance(source, Session) else session_id_of(source)


def _name(source: "Source") -> str:
    """Returns the name of a source in the manifest."""
    if isinstance(source, Session):
        return str(source.source.get("path") or source.session_id)

    return os.path.realpath(source) if isinstance(source, Path) else str(source)


def _check(sources: "list[Source]", known: dict[str, Any]) -> None:
    """Raises if two sources, of this call or of an earlier one, have the same session id."""
    seen: dict[str, str] = {}
    for source in sources:
        session_id, name = _session_id(source), _name(source)
        if Path(session_id).name != session_id:
            raise InputError(name, "session_id", "a name that a file can have", repr(session_id))
        earlier = seen.get(session_id) or known.get(session_id, {}).get("source", "")
        if session_id in seen or (earlier and earlier != name and Path(earlier).exists()):
            raise InputError(name, "session_id", "another one for each file", f"{session_id} in {earlier} too")
        seen[session_id] = name


@contextmanager
def _recording(manifest: Manifest, config: IngestConfig) -> Iterator[Any]:
    """Yields a function that keeps a result for the manifest, which is written regularly and at the end."""
    due = time.monotonic() + 1.0

    def keep(source: "Source", result: Result) -> None:
        nonlocal due
        session_id = _session_id(source)
        if not isinstance(result, InputError):
            result = result | {"role": "evaluate" if config.evaluates(session_id) else "train"}
        manifest.keep(_name(source), session_id, result)
        if time.monotonic() > due:
            began = time.monotonic()
            manifest.write()
            due = time.monotonic() + max(1.0, 50 * (time.monotonic() - began))  # a large manifest is slow to write

    try:
        yield keep
    finally:
        manifest.write()


def _results(sources: "list[Source]", root: Path, config: IngestConfig) -> "Iterator[tuple[Source, Result]]":
    """Yields each source and its result, in order of completion."""
    if config.cluster:  # its workers have folders of their own
        root, sources = root.absolute(), [s.absolute() if isinstance(s, Path) else s for s in sources]
    one = partial(_ingest_one, root=root, config=config)
    files = [source for source in sources if not isinstance(source, Session)]
    for session in sources:
        if isinstance(session, Session):  # already in this process
            yield session, one(session)
    for i, result in spread(one, files, config.workers, config.cluster) if files else ():
        if result is None:
            result = InputError(files[i], "file", "a recording that can be read", DIED)
        yield files[i], result


def _ingest_one(source: "Source", root: Path, config: IngestConfig) -> Result:
    try:
        with _one_at_a_time:
            return _entry(source, root / f"{_session_id(source)}.h5", config)
    except InputError as error:
        return error
    except Exception as error:  # an unexpected error of one file must not end the others
        found = f"{type(error).__name__} {error}"
        return InputError(_name(source), "file", "a recording that can be ingested", found)


def _entry(source: "Source", target: Path, config: IngestConfig) -> dict[str, Any]:
    """Ingests one recording unless the store has it; returns its entry of the manifest."""
    from ndt import __version__

    options = options_of(config, target.stem)
    made_by: dict[str, Any] = {"options": options, "tool_version": __version__}
    if not isinstance(source, Session | Path) or (isinstance(source, Path) and source.is_file()):
        origin, entry = file_source(source), read_entry(target)
        if origin["sha256"] and (made_by | {"sha256": origin["sha256"]}).items() <= entry.items():
            return entry | {"source": origin["path"]}
    session = replace(_read(source, config), session_id=target.stem)
    entry = summarise(session) | made_by
    # without the path of its source, the same recording gives the same bytes
    write_session(session, target, options, {key: value for key, value in entry.items() if key != "source"})

    return entry


def _read(source: "Source", config: IngestConfig) -> Session:
    if isinstance(source, Session):
        from ndt.data.selection import prepare

        return prepare(source, config)
    from ndt.data.reading import read  # its readers take a second to import

    return read(source, config)
