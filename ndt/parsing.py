"""Reads JSON, YAML and NumPy archives that may be damaged or hostile: bounded in size and depth, and never executed.

Each reader gives an `InputError` that names the file for whatever is wrong with it. Only regular files are read: a pipe
would make the reader wait, a device never ends.
"""

import json
import math
import stat
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from ndt.errors import InputError
from ndt.schema import typed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "ERRORS", "check_regular", "parse_json", "read_embeddings", "read_json", "read_lines", "read_npz", "read_store",
    "read_text", "read_yaml",
]  # fmt: skip

MIB = 1 << 20
MOST_TEXT = 256 * MIB  # bytes of a text file
MOST_SETTINGS = MIB  # bytes of a YAML file, whose parser is slow
MOST_ARRAY = 8192 * MIB  # bytes of one array of an archive
RATIO = 1100  # of array to file: deflate reaches 1,032
DEPTH = 40  # of nested lists and mappings
NODES = 100_000  # values of a YAML file, with aliases written out
ERRORS = (  # of parsers on damaged text; yaml's constructors raise plain ones
    ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, OverflowError, MemoryError,
)  # fmt: skip


def check_regular(path: str | Path, expected: str, field: str = "content") -> None:
    """Raises an InputError unless a path leads to a regular file."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError) as error:
        found = "no such file" if isinstance(error, FileNotFoundError | NotADirectoryError) else error
        raise InputError(path, field, expected, found) from error
    if not stat.S_ISREG(mode):
        found = "a folder" if stat.S_ISDIR(mode) else "a device or pipe"
        raise InputError(path, field, expected, found)


def read_text(path: str | Path, expected: str = "a text file", most: int = MOST_TEXT) -> str:
    """Returns the text of a file in UTF-8.

    Arguments:
        path: The file.
        expected: Description of the file in errors.
        most: Largest size in bytes.

    Raises:
        InputError: if there is no such file, it is too large, or it is not text.
    """
    check_regular(path, expected)
    try:
        with Path(path).open("rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise InputError(path, "size", f"at most {most // MIB} MiB", "more")
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, "content", expected, error) from error


def read_json(path: str | Path, kind: Any = Any, expected: str = "a JSON file") -> Any:
    """Returns the content of a JSON file, of the kind that `ndt.schema.typed` checks.

    Arguments:
        path: The file.
        kind: Schema of the content; any by default.
        expected: Description of the file in errors.

    Raises:
        InputError: if the file is missing, not JSON, nested too deeply, or not of the kind.
    """
    return parse_json(read_text(path, expected), kind, path, expected=expected)


def parse_json(text: str, kind: Any, where: object, field: str = "content", expected: str = "JSON") -> Any:
    """Returns the value of a JSON text, of the kind that `ndt.schema.typed` checks; see `read_json`."""
    try:
        found = json.loads(text)
    except ERRORS as error:
        raise InputError(where, field, expected, _message(error)) from error
    _check_bounds(found, where, field, math.inf)

    return typed(kind, found, where, field)


class _Run(TypedDict):
    store: NotRequired[str]


def read_store(run: Path) -> Path | None:
    """Returns the path of the store that a run was trained on, from its run.json; None if it has none."""
    store = read_json(run / "run.json", _Run).get("store") if (run / "run.json").exists() else None

    return Path(store) if store else None


def read_lines(path: Path, kind: Any) -> list[Any]:
    """Returns the values of a file with one JSON value a line; none if it is missing.

    Lines from the first incomplete one on, which a crash cut short, are left out.
    """
    if not path.exists():
        return []
    found = []
    for i, line in enumerate(read_text(path, "a log of JSON lines").splitlines()):
        try:
            value = json.loads(line)
        except ERRORS:
            break
        _check_bounds(value, path, f"line {i + 1}", math.inf)
        found.append(typed(kind, value, path, f"line {i + 1}"))

    return found


def read_yaml(path: str | Path, field: str = "content", expected: str = "a YAML file") -> Any:
    """Returns the value of a YAML file: mappings, lists and plain values, without tags of other types.

    Arguments:
        path: The file.
        field: Field in errors.
        expected: Description of the file in errors.

    Raises:
        InputError: if the file is missing, not YAML, nested too deeply, or has too many values.
    """
    import yaml

    text = read_text(path, expected, MOST_SETTINGS)
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, *ERRORS) as error:
        raise InputError(path, field, expected, _message(error)) from error
    _check_bounds(found, path, field, NODES)

    return found


def _message(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "lists or mappings that are nested too deeply"

    return str(error) or type(error).__name__


def _check_bounds(found: Any, where: object, field: str, most: float) -> None:
    """Raises for a value that is nested deeper than `DEPTH` or holds more than `most` values.

    Aliases of YAML are followed each time, since so does whoever walks the value.
    """
    level, number = [found], 1
    for _ in range(DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, list | dict | tuple | set)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        number += len(level)
        if number > most:
            raise InputError(where, field, f"at most {most:,} values", "more")
        if not level:
            return
    raise InputError(where, field, f"lists and mappings at most {DEPTH} deep", "deeper ones")


def read_npz(
    path: str | Path, required: Collection[str] = (), expected: str = "an .npz file of arrays"
) -> "dict[str, NDArray[Any]]":
    """Returns the arrays of a NumPy archive by name: Booleans, numbers or text, never objects.

    Arguments:
        path: The file.
        required: Names that it must hold.
        expected: Description of the file in errors.

    Raises:
        InputError: if the file is missing or not such an archive, an array is required and missing, holds objects,
            which would have to be unpickled, or is larger than memory or than its file can unpack to.
    """
    check_regular(path, expected)
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = Path(path).stat().st_size
            found = {name.removesuffix(".npy"): _array(archive, name, path, sizes) for name in archive.namelist()}
    except InputError:
        raise
    except Exception as error:  # the exceptions that zipfile raises for broken files cannot be listed
        raise InputError(path, "content", expected, _message(error)) from error
    for name in required:
        if name not in found:
            raise InputError(path, name, "an array of that name", ", ".join(found) or "none")

    return found


def _array(archive: zipfile.ZipFile, name: str, path: str | Path, size: int) -> "NDArray[Any]":
    from numpy.lib import format as npy

    with archive.open(name) as file:
        shape, dtype = _header(file)
    if dtype.hasobject or dtype.kind not in "biufUS":
        raise InputError(path, name, "an array of numbers or text", f"values of type {dtype}")
    if math.prod(shape) * dtype.itemsize > min(MOST_ARRAY, RATIO * size):
        raise InputError(path, name, "an array that the file can hold", f"shape {shape} of {dtype}")
    with archive.open(name) as file:
        found: NDArray[Any] = npy.read_array(file, allow_pickle=False)
        if file.read(1):
            raise InputError(path, name, f"shape {shape} of {dtype}", "more bytes")

    return found


def _header(file: Any) -> "tuple[tuple[int, ...], np.dtype[Any]]":
    from numpy.lib import format as npy

    major, _ = npy.read_magic(file)
    shape, _, dtype = (npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0)(file)

    return shape, dtype


def read_embeddings(path: str | Path) -> "dict[str, NDArray[Any]]":
    """Returns the arrays that `ndt embed` wrote: ``latents`` (R, D), ``time`` (R,), ``segment`` (R,), ``options``.

    Raises:
        InputError: as of `read_npz`, or if shapes do not fit together, a number is not finite, or times do not ascend.
    """
    import numpy as np

    found = read_npz(path, ("latents", "time", "options"))
    latents, time, segment = found["latents"], found["time"], found.get("segment", found["time"])
    if latents.ndim != 2 or latents.dtype.kind != "f" or not np.isfinite(latents).all():
        raise InputError(path, "latents", "finite numbers (R, D)", f"{latents.dtype} {latents.shape}, or others")
    if (
        time.shape != latents.shape[:1]
        or segment.shape != time.shape
        or {time.dtype.kind, segment.dtype.kind} - {*"fi"}
    ):
        raise InputError(path, "time", f"numbers ({len(latents)},), as segment", f"{time.shape} and {segment.shape}")
    if not np.isfinite(time).all() or not (np.diff(time) >= 0).all():
        raise InputError(path, "time", "ascending finite times", "others")
    if found["options"].dtype.kind != "U" or found["options"].ndim:
        raise InputError(path, "options", "a text", f"{found['options'].dtype} {found['options'].shape}")

    return found
