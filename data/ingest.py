"""NWB files to a store: in parallel, again only what changed, never half a session."""

import os
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed
from rich.console import Console
from rich.progress import Progress

from ndt.config import IngestConfig
from ndt.data.inspect import summarise
from ndt.data.probe import find_files, session_id_of
from ndt.data.store import STORE_VERSION, Store, read_manifest, write_manifest, write_session
from ndt.errors import InputError

__all__ = ["ingest"]

Result = dict[str, Any] | InputError | None  # a manifest's entry, why there is none, or None for nothing to do


def ingest(
    files: Sequence[str | Path] | str | Path,
    out: str | Path,
    config: IngestConfig | None = None,
    progress: bool = True,
) -> Store:
    """Reads recordings into a store; those that are there already, from the same file and options, are left alone.

    A file that fails is reported on stderr while the others go on, and raises `InputError` at the end; with
    `config.strict` at once.

    Arguments:
        files: NWB files, or patterns for them.
        out: Directory of the store; made where missing, added to where not.
        config: How files become sessions.
        progress: Whether to show a bar on stderr.

    Example:
        >>> ingest("recordings/**/*.nwb", "store/").session_ids  # doctest: +SKIP
        ['sub-m1_ses-stevenson2011']
    """
    config, root = config or IngestConfig(), Path(out)
    paths = find_files(files)
    fresh: dict[str, Any] = {"version": STORE_VERSION, "sessions": {}}
    manifest = read_manifest(root) if (root / "manifest.json").exists() else fresh
    _check_ids(paths, manifest["sessions"])
    root.mkdir(parents=True, exist_ok=True)

    failures: list[InputError] = []
    console = Console(stderr=True, soft_wrap=True)
    with Progress(console=console, disable=not progress) as bar:
        task = bar.add_task("Ingesting", total=len(paths))
        for session_id, result in _saved(root, manifest, _results(paths, root, config, manifest["sessions"])):
            bar.update(task, advance=1, description=f"Ingested {session_id}")
            if isinstance(result, InputError):
                failures.append(result)
                if len(paths) > 1:  # a single one is what is raised below
                    console.print(str(result), markup=False, highlight=False)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        found = f"{len(failures)} that failed, the first of them {failures[0]}"
        raise InputError(root, "files", f"{len(paths)} that can be ingested", found)

    return Store(root)


def _check_ids(paths: list[Path], known: dict[str, Any]) -> None:
    """Raises where two files, of this call or of an earlier one, stand for the same session."""
    seen: dict[str, Path] = {}
    for path in paths:
        session_id = session_id_of(path)
        if session_id in seen:
            raise InputError(path, "session_id", "another one for each file", f"{session_id} in {seen[session_id]} too")
        seen[session_id] = path
        earlier = Path(known[session_id]["source"]) if session_id in known else path
        if earlier.exists() and not earlier.samefile(path):
            raise InputError(path, "session_id", "another one for each file", f"{session_id} in {earlier} too")


def _results(
    paths: list[Path], root: Path, config: IngestConfig, known: dict[str, Any]
) -> Iterator[tuple[str, Result]]:
    """Yields each file's session and what became of it, as they end."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(config.workers or cores, len(paths))
    jobs = (delayed(_ingest_file)(path, root, config, known.get(session_id_of(path), {})) for path in paths)
    results: Any = Parallel(n_jobs=workers, return_as="generator_unordered")(jobs)
    yield from results


def _saved(root: Path, manifest: dict[str, Any], results: Iterator[tuple[str, Result]]) -> Iterator[tuple[str, Result]]:
    """Passes results on and keeps the manifest up to date, about once a second and at the end, however that comes."""
    last = time.monotonic()
    try:
        for session_id, result in results:
            if isinstance(result, dict):
                manifest["sessions"][session_id] = result
            if manifest["sessions"] and time.monotonic() - last > 1.0:
                write_manifest(root, manifest)
                last = time.monotonic()
            yield session_id, result
    finally:
        if manifest["sessions"]:
            write_manifest(root, manifest)
        elif not any(root.iterdir()):
            root.rmdir()  # nothing was ingested: leave no empty store behind


def _ingest_file(path: Path, root: Path, config: IngestConfig, entry: dict[str, Any]) -> tuple[str, Result]:
    from ndt.data.nwb import file_source, read_nwb  # pynwb takes a second to import: only where a file is read

    session_id, options = session_id_of(path), {"unit_identity": config.unit_identity, "task": config.task}
    target = root / f"{session_id}.h5"
    try:
        source = file_source(path) if path.is_file() else {}
        same = entry.get("sha256") == source.get("sha256") and entry.get("options") == options
        if same and entry["source"] == source["path"] and target.exists():
            return session_id, None
        session = read_nwb(path, config)
        write_session(session, target, options)
    except InputError as error:
        if config.strict:
            raise  # joblib stops the others
        return session_id, error

    return session_id, summarise(session) | {"options": options, "tool_version": _tool_version()}


def _tool_version() -> str:
    try:
        return version("ndt")
    except PackageNotFoundError:  # an uninstalled clone
        return "unknown"
