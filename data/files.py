"""What identifies a source: where it is, how large, and the hash of its content."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndt.data.remote import RemoteFile

__all__ = ["file_source"]


def file_source(path: "str | Path | RemoteFile") -> dict[str, Any]:
    """Returns where a session comes from: absolute path, SHA-256 and size in bytes of the file."""
    if not isinstance(path, str | Path):
        return {"path": str(path), "sha256": path.sha256, "size": path.size}
    path = Path(path).resolve()
    stat = path.stat()

    return {"path": str(path), "sha256": _sha256(path, stat.st_mtime_ns, stat.st_size), "size": stat.st_size}


@lru_cache(maxsize=16)  # ingesting asks twice: is this file known, and what is in it
def _sha256(path: Path, mtime_ns: int, size: int) -> str:
    del mtime_ns, size
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
