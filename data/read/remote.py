"""Lists files on DANDI and reads the needed parts of them.

The archive's JSON interface lists a dandiset's files, and HTTP range requests read parts of them. The interface is
described at https://api.dandiarchive.org/api/docs/swagger/.
"""

import fnmatch
import http.client
import io
import json
import os
import re
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import Request, urlopen

from ndt.errors import InputError

__all__ = ["API", "RemoteFile", "expand", "open_remote"]

API = "https://api.dandiarchive.org/api"
TIMEOUT = 30.0  # seconds without a byte
PAUSES = (0.5, 1.0, 2.0)  # seconds before each retry
PAGE = 100  # files in one answer, each with its metadata
MIB = 1 << 20
LONGEST = 16  # blocks of one request
PASSING = (408, 425, 429, 500, 502, 503, 504)  # status codes of temporary errors
BROKEN = (URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
SPEC = re.compile(r"dandi:(?P<dandiset>\d{6})(?:[@/](?P<version>draft|\d+\.\d{6}\.\d{4}))?(?:/(?P<pattern>.+))?", re.I)
FORM = "dandi:NNNNNN, optionally with @VERSION and /PATTERN"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file of a dandiset.

    Arguments:
        dandiset: Six digits.
        version: ``draft``, or the number of a published version.
        path: Path of the file in the dandiset.
        url: Address of its content, which redirects to storage.
        size: Bytes.
        sha256: Digest of its content; empty if the archive has not computed it yet.
    """

    dandiset: str
    version: str
    path: str
    url: str
    size: int
    sha256: str = ""

    def __str__(self) -> str:
        return f"dandi:{self.dandiset}@{self.version}/{self.path}"


def expand(spec: str, api: str | None = None) -> list[RemoteFile]:
    """Returns the NWB files of a dandiset that match a pattern, sorted by path.

    Files of an embargoed dandiset need a key in the environment variable ``DANDI_API_KEY``.

    Arguments:
        spec: ``dandi:000129``, optionally with ``@draft`` or ``@0.220113.0407`` (by default the latest published
            version, else the draft) and a path, folder or pattern after a slash; ``*`` also matches slashes. The
            archive's own form, ``DANDI:000129/0.220113.0407``, works too.
        api: Address of the archive's interface; by default `API`.

    Raises:
        InputError: if `spec` is malformed, there is no such dandiset, version or file, or the archive does not answer.

    Example:
        >>> [str(file) for file in expand("dandi:000129/sub-Indy/*train*")]  # doctest: +SKIP
        ['dandi:000129@0.241017.1444/sub-Indy/sub-Indy_desc-train_behavior+ecephys.nwb']
    """
    api, found = api or API, SPEC.fullmatch(spec.strip())
    if found is None:
        raise InputError(spec, "name", FORM, repr(spec))
    dandiset, version, pattern = found["dandiset"], found["version"], found["pattern"]
    about = _json(f"{api}/dandisets/{dandiset}/", spec, "dandiset", "one that exists")
    if version is None:
        version = (about.get("most_recent_published_version") or about["draft_version"])["version"]
    version = version.lower()

    rows = list(_assets(api, dandiset, version, pattern, spec))
    chosen = sorted((row for row in rows if _wanted(row, pattern)), key=lambda row: row["path"])
    if not chosen:
        kind = f"an NWB file (HDF5) that matches {pattern}" if pattern else "an NWB file (HDF5)"
        raise InputError(spec, "path", kind, f"none among {len(rows)} files of version {version}")

    return [_file(row, api, dandiset, version) for row in chosen]


def _assets(api: str, dandiset: str, version: str, pattern: str | None, spec: str) -> Iterator[dict[str, Any]]:
    """Yields the archive's record of each file whose path has the pattern's constant prefix, page by page."""
    start = re.split(r"[*?\[]", pattern, maxsplit=1)[0].rstrip("/") if pattern else ""
    query = {"page_size": PAGE, "order": "path", "metadata": "true"} | ({"path": start} if start else {})
    url = f"{api}/dandisets/{dandiset}/versions/{version}/assets/?{urlencode(query)}"
    while url:
        page = _json(url, spec, "version", f"one of dandiset {dandiset}")
        yield from page["results"]
        url = page.get("next") or ""


def _wanted(row: dict[str, Any], pattern: str | None) -> bool:
    path, pattern = row["path"], (pattern or "*").rstrip("/")
    if not path.lower().endswith(".nwb") or row.get("zarr"):
        return False

    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"{pattern}/*")


def _file(row: dict[str, Any], api: str, dandiset: str, version: str) -> RemoteFile:
    path, url = row["path"], f"{api}/assets/{quote(row['asset_id'])}/"
    where = f"dandi:{dandiset}@{version}/{path}"
    if path.startswith("/") or {".", ".."} & set(PurePosixPath(path).parts):
        raise InputError(where, "path", "one inside the dandiset", path)
    digest = (row.get("metadata") or {}).get("digest")
    if digest is None:  # the list of a draft has no digests
        digest = _json(url, where, "metadata", "some").get("digest") or {}

    return RemoteFile(
        dandiset=dandiset,
        version=version,
        path=path,
        url=f"{url}download/",
        size=int(row["size"]),
        sha256=digest.get("dandi:sha2-256", ""),
    )


def _json(url: str, where: object, field: str, expected: str) -> dict[str, Any]:
    """Returns an answer of the archive; `field` and `expected` describe the error if it is 404."""

    def ask() -> bytes:
        with _answer(url, key=True) as response:
            return response.read()

    try:
        answer = _retry(ask, where)
    except HTTPError as error:
        raise _refusal(error, where, field, expected) from error
    try:
        return cast(dict[str, Any], json.loads(answer))
    except ValueError as error:
        raise InputError(where, "archive", f"JSON from {url}", error) from error


def _refusal(error: HTTPError, where: object, field: str, expected: str) -> InputError:
    found = f"{error.code} {error.reason}"
    if error.code in (401, 403):
        return InputError(where, "access", "an open dandiset, or a key to it in DANDI_API_KEY", found)

    return InputError(where, field, expected if error.code == 404 else "an answer", found)


@contextmanager
def _answer(url: str, first: int = 0, last: int | None = None, key: bool = False) -> Iterator[http.client.HTTPResponse]:
    """Yields the answer to a request, for bytes `first` to `last` if given."""
    request = Request(url, headers={"User-Agent": "ndt"})
    if first or last is not None:
        request.add_header("Range", f"bytes={first}-{'' if last is None else last}")
    if key and os.environ.get("DANDI_API_KEY"):  # only to the archive itself, never to the target of a redirect
        request.add_unredirected_header("Authorization", f"token {os.environ['DANDI_API_KEY']}")
    try:
        with urlopen(request, timeout=TIMEOUT) as response:
            yield response
    except HTTPError as error:
        error.close()
        raise


def _retry(call: Callable[[], T], where: object) -> T:
    """Returns the result of `call`, with retries after errors of the network or the server."""
    for pause in (*PAUSES, None):
        try:
            return call()
        except HTTPError as error:
            if error.code not in PASSING:
                raise
            found = f"{error.code} {error.reason}"
        except BROKEN as error:
            reason = error.reason if isinstance(error, URLError) else error
            found = str(reason) or type(reason).__name__
        if pause is not None:
            time.sleep(pause)

    raise InputError(where, "network", f"an answer within {TIMEOUT:g} s", f"{found}, {len(PAUSES) + 1} times")


def open_remote(file: RemoteFile, block_mib: float = 1.0, cache_mib: float = 64.0) -> BinaryIO:
    """Opens a file on DANDI for reading; only the needed blocks are fetched.

    A cache in memory holds the blocks read last. Sequential reads fetch up to 16 blocks in one request. A request that
    fails is repeated.

    Arguments:
        file: The file.
        block_mib: Size of a block in MiB.
        cache_mib: Size of the cache in MiB.

    Example:
        >>> with h5py.File(open_remote(file), "r") as h5, NWBHDF5IO(file=h5) as io:  # doctest: +SKIP
        ...     nwb = io.read()
    """
    block = max(int(block_mib * MIB), 1)

    return cast(BinaryIO, _Ranges(file, block, max(int(cache_mib * MIB) // block, 1)))


class _Ranges(io.RawIOBase):
    """A seekable file over range requests, with a cache of the blocks read last."""

    def __init__(self, file: RemoteFile, block: int, most: int) -> None:
        self.file, self.block, self.most = file, block, most
        self.name = str(file)
        self.url = file.url  # after the first answer, the target of its redirect
        self.blocks: OrderedDict[int, bytes] = OrderedDict()
        self.at = 0
        self.following, self.ahead = -1, 1  # the block after the last request, and the number of blocks of the next one

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.file.size}[whence]
        if self.at < 0:
            raise ValueError(f"negative position {self.at}")
        return self.at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        end = min(self.at + len(view), self.file.size)
        begin = self.at
        while self.at < end:
            index, offset = divmod(self.at, self.block)
            if index not in self.blocks:
                self.fetch(index, (end - 1) // self.block)
            self.blocks.move_to_end(index)
            part = self.blocks[index][offset : offset + end - self.at]
            view[self.at - begin : self.at - begin + len(part)] = part
            self.at += len(part)

        return max(end - begin, 0)

    def fetch(self, index: int, last: int) -> None:
        """Fetches block `index` and missing blocks up to `last`, and more in sequential reads."""
        self.ahead = min(2 * self.ahead, LONGEST) if index == self.following else 1
        blocks = (self.file.size - 1) // self.block + 1
        stop = min(max(last + 1, index + self.ahead), index + LONGEST, index + self.most, blocks)
        stop = next((i for i in range(index + 1, stop) if i in self.blocks), stop)
        first, end = index * self.block, min(stop * self.block, self.file.size)
        try:
            found = memoryview(_retry(lambda: self.ask(first, end), self.file))
        except HTTPError as error:
            raise _refusal(error, self.file, "file", "one that can be read") from error
        for i in range(index, stop):
            self.blocks[i] = bytes(found[(i - index) * self.block : (i - index + 1) * self.block])
        while len(self.blocks) > self.most:
            self.blocks.popitem(last=False)
        self.following = stop

    def ask(self, first: int, end: int) -> bytes:
        try:
            with _answer(self.url, first, end - 1, key=self.url == self.file.url) as response:
                if response.status != 206:
                    host = urlsplit(response.url).netloc
                    raise InputError(self.file, "server", "one that answers range requests", f"{host}, which does not")
                size = response.headers.get("Content-Range", "").rpartition("/")[2]
                if size.isdigit() and int(size) != self.file.size:
                    expected = f"{self.file.size} bytes, as the archive says"
                    raise InputError(self.file, "size", expected, f"{size} bytes")
                found = response.read(end - first)
                self.url = response.url
        except HTTPError as error:
            if self.url == self.file.url or error.code in PASSING:
                raise
            self.url = self.file.url  # the target of the redirect is valid for about an hour
            return self.ask(first, end)
        if len(found) < end - first:
            raise ConnectionError(f"{len(found)} of {end - first} bytes")

        return found
