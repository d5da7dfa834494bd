"""Finds files, identifies them and their sessions, and tests in a child process whether they open.

libhdf5 itself may hang or crash on a damaged file. Therefore each file is first opened in a child process with limits
on time and memory, and a failure there becomes one error here.
"""

import atexit
import glob
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndt.errors import InputError

if TYPE_CHECKING:
    from ndt.data.read.remote import RemoteFile

__all__ = ["file_source", "find_files", "probe", "session_id_of"]

GIB = 1 << 30


def find_files(files: "Sequence[str | Path] | str | Path") -> "list[Path | RemoteFile]":
    """Returns the files of paths, glob patterns (also ``**``) and addresses on DANDI: each once, sorted.

    An existing path is not treated as a pattern, even with brackets in its name. A pattern or path without a file is an
    error. An address begins with a scheme, as in ``dandi:000129@0.241017.1444``; see `ndt.data.read.remote`.
    """
    found: set[Path] = set()
    remote: dict[str, RemoteFile] = {}
    for pattern in [files] if isinstance(files, str | Path) else files:
        if os.path.exists(pattern):
            found.add(Path(pattern))
        elif re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", str(pattern)):
            from ndt.data.read.remote import expand

            remote |= {str(file): file for file in expand(str(pattern))}
        elif matches := glob.glob(os.path.expanduser(str(pattern)), recursive=True):
            found.update(map(Path, matches))
        else:
            raise InputError(pattern, "files", "at least one file", "no file of that name or pattern")
    if not found and not remote:
        raise InputError("files", "files", "at least one file", "an empty list")
    local = {os.path.realpath(path): path for path in sorted(found, reverse=True)}

    return [*sorted(local.values()), *(remote[name] for name in sorted(remote))]


def session_id_of(path: "str | Path | RemoteFile") -> str:
    """Returns the session id of a file's name.

    Of names on DANDI the modalities are removed: ``sub-x_ses-1_desc-train_behavior+ecephys.nwb`` becomes
    ``sub-x_ses-1_desc-train``. Other names lose only their suffix.
    """
    stem = Path(path if isinstance(path, str | Path) else path.path).stem
    stem = os.fsencode(stem).decode(errors="replace")  # names of files need not be UTF-8; session ids are
    if not stem.startswith("sub-"):
        return stem

    return "_".join(part for part in stem.split("_") if re.match(r"[A-Za-z]+-.", part))


def file_source(path: "str | Path | RemoteFile") -> dict[str, Any]:
    """Returns absolute path, SHA-256 and size in bytes of a file.

    Of a file on DANDI, the SHA-256 is what the archive says, and ``verified`` tells whether reading compares it.
    """
    if not isinstance(path, str | Path):
        return {"path": str(path), "sha256": path.sha256, "size": path.size, "verified": path.verified}
    path = Path(path).resolve()
    stat = path.stat()

    return {"path": str(path), "sha256": _sha256(path, stat.st_mtime_ns, stat.st_size), "size": stat.st_size}


@lru_cache(maxsize=16)  # ingestion needs it twice: to look for changes, and to read the file
def _sha256(path: Path, mtime_ns: int, size: int) -> str:
    del mtime_ns, size
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def probe(
    path: str | Path,
    seconds: float = 60.0,
    memory: int = 4 * GIB,
    command: Sequence[str] | None = None,
    variables: Sequence[str] | None = None,
) -> None:
    """Opens an NWB or MATLAB file in a child process, and raises `InputError` if that fails.

    One child process opens all files, one after another; it is replaced if a file ends it. It ends with this process.

    Arguments:
        path: The file.
        seconds: Time limit of the child; 0 for no test.
        memory: Largest address space of the child, in bytes.
        command: Child to run once instead of `ndt.data.read.file_probe_child`.
        variables: Variables to load of a MATLAB file before 7.3; None for an NWB file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "file", "an NWB file", "a directory" if path.is_dir() else "no such file")
    if seconds <= 0:
        return

    # the child's own alarm ends it if this process no longer waits
    request = json.dumps([str(path), memory, seconds + 1.0, variables])
    child = _ours if command is None else _Child(command)
    try:
        with child.lock:
            trouble = json.loads(child.ask(request, seconds))
    except (TimeoutError, subprocess.TimeoutExpired):
        raise InputError(path, "file", f"a file that opens within {seconds:g} s", "no end (its reader hangs)") from None
    except subprocess.CalledProcessError as error:
        raise _crash(path, -error.returncode, error.stderr) from None
    finally:
        if child is not _ours:
            child.end()
    if trouble is not None:
        raise InputError(path, *trouble)


def _crash(path: Path, code: int, stderr: str) -> InputError:
    name = signal.Signals(code).name if code in set(signal.Signals) else f"exit code {-code}"
    if name in ("SIGALRM", "SIGXCPU"):
        return InputError(path, "file", "a file that opens in time", "no end (its reader hangs)")
    last = (stderr.strip().splitlines() or [""])[-1]
    return InputError(path, "file", "a file that can be opened", f"a crash ({name}) {last}")


class _Child:
    """A process that answers each line with a line; it is started at the first request, and again after it ended."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = command
        self.lock = threading.Lock()  # one question at a time
        self.process: subprocess.Popen[Any] | None = None

    def ask(self, line: str, seconds: float) -> str:
        """Returns the answer.

        Raises:
            TimeoutError: if there is no answer in time.
            CalledProcessError: if the process ends without an answer.
        """
        if self.process is None or self.process.poll() is not None:
            self.start()
        assert self.process is not None
        try:
            return self._answer(self.process, line, time.monotonic() + seconds)
        except BaseException:
            self.end()  # its next answer would belong to this request
            raise

    def start(self) -> None:
        self.end()
        self.errors = tempfile.TemporaryFile()  # a pipe would have to be emptied
        # one BLAS thread: each reserves memory on a large machine
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        self.process = subprocess.Popen(self.command, bufsize=0, env=environment, **pipes)

    def _answer(self, process: "subprocess.Popen[Any]", line: str, deadline: float) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        answer = b""
        with suppress(BrokenPipeError):  # it ended; the exit code is read below
            process.stdin.write(f"{line}\n".encode())
        while not answer.endswith(b"\n"):
            if not wait([process.stdout.fileno()], max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            part = process.stdout.read(1 << 16)
            if not part:
                code = process.wait(max(0.1, deadline - time.monotonic()))
                self.errors.seek(0)
                text = self.errors.read().decode(errors="replace")
                raise subprocess.CalledProcessError(code, self.command, stderr=text)
            answer += part

        return answer.decode()

    def end(self) -> None:
        """Ends the process, if there is one."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        """Closes the pipes; the process ends when its standard input is closed everywhere."""
        if self.process is None:
            return
        for pipe in filter(None, (self.process.stdin, self.process.stdout, self.errors)):
            pipe.close()
        self.process = None


def _forget() -> None:
    """Leaves the child to the process from which this one was forked."""
    _ours.lock = threading.Lock()  # another thread may have held it
    if _ours.process is not None:
        _ours.process.returncode = 0  # only its parent can wait for it
        _ours.close()


# -P: nothing is imported from the working directory
_ours = _Child([sys.executable, "-P", str(Path(__file__).with_name("file_probe_child.py"))])
atexit.register(_ours.end)
os.register_at_fork(after_in_child=_forget)
