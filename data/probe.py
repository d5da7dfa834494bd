"""Which files there are, which session each holds by its name, and whether it opens at all.

libhdf5 itself may hang or crash on a damaged file. So each file is first opened in a child process with limits on time
and memory, and what happens there becomes one clear line here.
"""

import glob
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ndt.errors import InputError

__all__ = ["find_files", "probe", "session_id_of"]

GIB = 1 << 30

# The child has h5py and nothing of ours. It limits its memory once h5py is loaded, walks the file's objects, and reads
# the ends of each units column, which visits the index, the chunks and the filters of the data needed later.
_CHILD = """
import json, sys
path, memory, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
import h5py

def stop(*message):
    print(json.dumps(message))
    sys.exit(3)

try:
    import resource
    for limit, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
        try:
            resource.setrlimit(limit, (value, value))
        except (OSError, ValueError):
            pass
except ImportError:
    pass
try:
    file = h5py.File(path, "r")
except OSError as error:
    stop("file", "an HDF5 file", str(error))
kind = file.attrs.get("neurodata_type", b"")
kind = kind.decode() if isinstance(kind, bytes) else str(kind)
if kind != "NWBFile":
    stop("neurodata_type", "an NWB file (NWBFile at the root)", kind or "an HDF5 file that is not NWB")
try:
    file.visititems(lambda name, thing: None)
    units = file.get("units", {})
    for thing in units.values() if units else ():
        if isinstance(thing, h5py.Dataset) and thing.shape and thing.shape[0]:
            thing[0], thing[-1]
except Exception as error:
    stop("file", "a readable HDF5 file", f"{type(error).__name__} {error}")
"""


def find_files(files: Sequence[str | Path] | str | Path) -> list[Path]:
    """Returns the files that paths and glob patterns (``**`` too) stand for: each once, in order of name.

    A path that exists is taken as it is, even with brackets in its name. A pattern or path without a file is an error.
    """
    found: set[Path] = set()
    for pattern in [files] if isinstance(files, str | Path) else files:
        if Path(pattern).exists():
            found.add(Path(pattern))
            continue
        matches = [Path(match) for match in glob.glob(os.path.expanduser(str(pattern)), recursive=True)]
        if not matches:
            raise InputError(pattern, "files", "at least one file", "no file of that name or pattern")
        found.update(matches)
    if not found:
        raise InputError("files", "files", "at least one file", "an empty list")

    return sorted({path.resolve(): path for path in sorted(found, reverse=True)}.values())


def session_id_of(path: str | Path) -> str:
    """Returns the session that a file's name stands for.

    DANDI's entities are kept and its modalities are not: ``sub-x_ses-1_desc-train_behavior+ecephys.nwb`` is
    ``sub-x_ses-1_desc-train``. Any other name stands for itself.
    """
    stem = Path(path).stem
    if not stem.startswith("sub-"):
        return stem

    return "_".join(part for part in stem.split("_") if re.match(r"[A-Za-z]+-.", part))


def probe(path: str | Path, seconds: float = 60.0, memory: int = 4 * GIB, command: Sequence[str] | None = None) -> None:
    """Opens an NWB file in a child process first; raises `InputError` unless that ends well.

    Arguments:
        path: The file.
        seconds: How long the child may take; nothing is tried where this is 0.
        memory: How much address space the child may use, in bytes.
        command: Child to run in place of ours; it is given the path, the memory and the seconds as arguments.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "file", "an NWB file", "a directory" if path.is_dir() else "no such file")
    if seconds <= 0:
        return

    # -P: nothing is imported from the working directory; one BLAS thread: each reserves memory on a large machine
    command = [sys.executable, "-P", "-c", _CHILD] if command is None else list(command)
    limits = [str(path), str(memory), str(int(seconds) + 1)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        child = subprocess.run([*command, *limits], capture_output=True, text=True, timeout=seconds, env=environment)
    except subprocess.TimeoutExpired:
        raise InputError(path, "file", f"a file that opens within {seconds:g} s", "no end (it hangs HDF5)") from None
    _judge(path, child)


def _judge(path: Path, child: "subprocess.CompletedProcess[str]") -> None:
    code = child.returncode
    if code == 0:
        return
    if code == 3:
        field, expected, found = json.loads(child.stdout)
        raise InputError(path, field, expected, found)
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"
    if name == "SIGXCPU":
        raise InputError(path, "file", "a file that opens in time", "no end (it hangs HDF5)")
    last = (child.stderr.strip().splitlines() or [""])[-1]
    raise InputError(path, "file", "a file that HDF5 can open", f"a crash ({name}) {last}")
