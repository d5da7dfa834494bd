"""Changes to the manifest of a store into which several processes ingest at once.

The manifest is read, changed and written under a lock, so that each process adds its own sessions to those of the
others. Sessions' files need none: each is written beside its place and renamed.
"""

import errno
import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ndt.data.store import STORE_VERSION, draft_of, read_entry, read_manifest, write_manifest
from ndt.errors import InputError

__all__ = ["Manifest", "locked", "present"]

LOCK = ".lock"
WAIT = 60.0  # seconds; a manifest is read and written in less than one
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def present(root: Path) -> Iterator[None]:
    """Makes a store's folder and keeps it while this runs; afterwards it is removed if it is empty."""
    marker = draft_of(root / f"ingest-{uuid.uuid4().hex}")  # with it in the folder, no other process can remove it
    while True:
        root.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process removed the folder, which was empty
            marker.touch()
            break
    try:
        yield
    finally:
        marker.unlink(missing_ok=True)
        with suppress(OSError):
            root.rmdir()


@contextmanager
def locked(root: Path) -> Iterator[bool]:
    """Holds the lock of a store; yields False if the file system has no locks.

    Raises:
        InputError: if another process holds the lock for a minute.
    """
    path, until = root / LOCK, time.monotonic() + WAIT
    while time.monotonic() < until:
        with path.open("w") as file:
            held = _hold(file, path)
            if held or held is None:
                try:
                    yield bool(held)
                finally:
                    path.unlink(missing_ok=True)  # who waits for this file sees that its path leads to another
                return
        time.sleep(0.01)

    raise InputError(root, LOCK, f"a lock that is free within {WAIT:g} s", "one that another process holds")


def _hold(file: IO[str], path: Path) -> bool | None:
    """Locks a file and returns whether that is the one at a path; None if the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.ENOENT):  # held by another process, or removed by it
            return False
        raise


class Manifest:
    """The results of one ingestion, for the manifest of a store.

    Arguments:
        root: The store; it need not exist.

    Attributes:
        known: Entries at the beginning, by session id.
        clashes: Errors of sessions that another process ingested from another file at the same time.
        safe: Whether the file system has locks.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.known: dict[str, Any] = self._read()["sessions"]
        self.added: dict[str, Any] = {}
        self.failed: dict[str, str] = {}
        self.done: set[str] = set()  # names of sources whose earlier failures are forgotten
        self.clashes: dict[str, InputError] = {}
        self.safe = True

    def keep(self, name: str, session_id: str, result: dict[str, Any] | InputError) -> None:
        """Keeps a session's entry, or the reason why there is none, for the next `write`."""
        self.done.add(name)
        if isinstance(result, InputError):
            self.failed[name] = f"{result.field}: expected {result.expected}, found {result.found}"
        else:
            self.added[session_id] = result

    def write(self) -> None:
        """Adds what was kept to the manifest as it is now; a store without sessions gets none."""
        with locked(self.root) as self.safe:
            manifest = self._read()
            for session_id, entry in self.added.items():
                if not self._clash(session_id, entry, manifest["sessions"].get(session_id, {})):
                    manifest["sessions"][session_id] = entry
            failed = {k: v for k, v in manifest["failed"].items() if k not in self.done} | self.failed
            if manifest["sessions"]:
                write_manifest(self.root, manifest | {"failed": failed})
                self.added, self.failed, self.done = {}, {}, set()  # later changes of other processes stay

    def _read(self) -> dict[str, Any]:
        fresh: dict[str, Any] = {"version": STORE_VERSION, "sessions": {}}

        return {"failed": {}} | (read_manifest(self.root) if (self.root / "manifest.json").exists() else fresh)

    def _clash(self, session_id: str, entry: dict[str, Any], other: dict[str, Any]) -> bool:
        """Whether another process wrote this session from another file, which the session's file now holds.

        Both wrote the same path. The manifest follows the file, and the process that adds its entry last reports it.
        """
        source, theirs = entry["source"], other.get("source", "")
        if theirs in ("", source, self.known.get(session_id, {}).get("source")) or not Path(theirs).exists():
            return False
        found = f"{session_id} in {theirs} too"
        self.clashes[session_id] = InputError(source, "session_id", "another one for each file", found)

        return bool(read_entry(self.root / f"{session_id}.h5").get("sha256") == other.get("sha256"))
