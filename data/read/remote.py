"""Lists files on DANDI and reads them, whole or the needed parts.

The archive's JSON interface lists a dandiset's files, and HTTP range requests read parts of them. The interface is
described at https://api.dandiarchive.org/api/docs/swagger/. No answer is trusted: each field has a type, lists stay at
the archive's own address, and time and sizes are limited (`ndt.data.read.transport`).
"""

import fnmatch
import hashlib
import io
import json
import os
import re
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit

from ndt.data.read.transport import PASSING, Answer, Patience, fetch, origin, shown, status
from ndt.errors import InputError

__all__ = ["API", "WHOLE", "RemoteFile", "download", "expand", "open_remote"]

API = "https://api.dandiarchive.org/api"
LISTING = 600.0  # seconds of waiting for a list of files
READING = 120.0  # seconds of waiting for a file, besides 16 s for each MiB (`SLOWEST`)
PAGE = 100  # files in one answer, each with its metadata
MOST_FILES = 100_000
MIB = 1 << 20
MOST_JSON = 8 * MIB  # bytes of one answer of the interface
WHOLE = 64 * MIB  # bytes of a file up to which it is read whole: many small requests take as long
LONGEST = 16  # blocks of one request
VERSION = r"draft|\d+\.\d{6}\.\d{4}"
SPEC = re.compile(rf"dandi:(?P<dandiset>\d{{6}})(?:[@/](?P<version>{VERSION}))?(?:/(?P<pattern>.+))?", re.I)
FORM = "dandi:NNNNNN, optionally with @VERSION and /PATTERN"
LIMITS = {"size": 1 << 50, "path": 4096}  # bytes, characters
AGENT = {"User-Agent": "ndt"}


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

    @property
    def verified(self) -> bool:
        """Whether reading compares the content with `sha256`: of files of up to `WHOLE` bytes, which pass whole."""
        return bool(self.sha256) and self.size <= WHOLE


def expand(spec: str, api: str | None = None) -> list[RemoteFile]:
    """Returns the NWB files of a dandiset that match a pattern, sorted by path.

    Files of an embargoed dandiset need a key in the environment variable ``DANDI_API_KEY``, which is sent to the
    archive's interface alone.

    Arguments:
        spec: ``dandi:000129``, optionally with ``@draft`` or ``@0.220113.0407`` (by default the latest published
            version, else the draft) and a path, folder or pattern after a slash; ``*`` also matches slashes. The
            archive's own form, ``DANDI:000129/0.220113.0407``, works too.
        api: Address of the archive's interface; by default `API`.

    Raises:
        InputError: if `spec` is malformed, there is no such dandiset, version or file, the archive does not answer
            within ten minutes, or its answer is not what the interface describes.

    Example:
        >>> [str(file) for file in expand("dandi:000129/sub-Indy/*train*")]  # doctest: +SKIP
        ['dandi:000129@0.241017.1444/sub-Indy/sub-Indy_desc-train_behavior+ecephys.nwb']
    """
    found = SPEC.fullmatch(spec.strip())
    if found is None:
        raise InputError(spec, "name", FORM, repr(spec))
    archive, pattern = _Archive(api or API, spec, found["dandiset"]), found["pattern"]
    version = (archive.latest() if found["version"] is None else found["version"]).lower()
    rows = list(archive.assets(version, pattern))
    chosen = [archive.file(row, version) for row in rows if _wanted(row, pattern)]
    if not chosen:
        kind = f"an NWB file (HDF5) that matches {pattern}" if pattern else "an NWB file (HDF5)"
        raise InputError(spec, "path", kind, f"none among {len(rows)} files of version {version}")

    return sorted(chosen, key=lambda file: file.path)


def _wanted(row: dict[str, Any], pattern: str | None) -> bool:
    path, pattern = row["path"], (pattern or "*").rstrip("/")
    if not path.lower().endswith(".nwb") or row.get("zarr"):
        return False

    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"{pattern}/*")


class _Archive:
    """The archive's interface for one dandiset: asks, and checks the type of each field of an answer.

    Arguments:
        api: Address of the interface; all answers come from its scheme, host and port.
        where: What was asked for, for error messages.
        dandiset: Six digits.
    """

    def __init__(self, api: str, where: str, dandiset: str) -> None:
        self.api, self.where, self.dandiset = api, where, dandiset
        self.patience = Patience(where, LISTING)
        self.about = self.ask(f"{api}/dandisets/{dandiset}/", "dandiset", "one that exists")

    def latest(self) -> str:
        """Returns the latest published version, else the draft."""
        name = "most_recent_published_version" if self.about.get("most_recent_published_version") else "draft_version"

        return str(self.take(self.take(self.about, name, dict), "version", str, VERSION))

    def assets(self, version: str, pattern: str | None) -> Iterator[dict[str, Any]]:
        """Yields the record of each file whose path has the pattern's constant prefix, page by page."""
        start = re.split(r"[*?\[]", pattern, maxsplit=1)[0].rstrip("/") if pattern else ""
        query = {"page_size": PAGE, "order": "path", "metadata": "true"} | ({"path": start} if start else {})
        url = f"{self.api}/dandisets/{self.dandiset}/versions/{version}/assets/?{urlencode(query)}"
        seen, count = {url}, 0
        while url:
            page = self.ask(url, "version", f"one of dandiset {self.dandiset}")
            count += len(self.take(page, "results", list))
            if count > MOST_FILES:
                raise InputError(self.where, "archive", f"at most {MOST_FILES:,} files (name a folder)", "more")
            for row in page["results"]:
                self.take({"results": row}, "results", dict)
                self.take(row, "path", str)
                yield row
            url = self.following(page, seen)

    def following(self, page: dict[str, Any], seen: set[str]) -> str:
        """Returns the address of the next page, which the archive names; empty after the last one."""
        if page.get("next") is None:
            return ""
        url = str(self.take(page, "next", str))
        scheme, host, port = origin(self.api, self.where)
        if origin(url, self.where) != (scheme, host, port):
            raise InputError(self.where, "archive: next", f"an address at {scheme}://{host}:{port}", shown(url))
        if url in seen:
            raise InputError(self.where, "archive: next", "a new page", shown(url))
        seen.add(url)

        return url

    def file(self, row: dict[str, Any], version: str) -> RemoteFile:
        """Returns the file that a record describes."""
        path, url = str(row["path"]), f"{self.api}/assets/{self.take(row, 'asset_id', str, '[0-9A-Fa-f-]{36}')}/"
        if path.startswith("/") or {".", ".."} & set(PurePosixPath(path).parts):
            raise InputError(self.where, "path", "one inside the dandiset", shown(path))
        if not path.isprintable() or len(path) > LIMITS["path"]:
            raise InputError(self.where, "path", "one of printable characters", shown(path))
        about = row if row.get("metadata") is None else self.take(row, "metadata", dict)
        if about.get("digest") is None:  # the list of a draft has no digests
            about = self.ask(url, "metadata", "some")
        digest = {} if about.get("digest") is None else self.take(about, "digest", dict)
        name = "dandi:sha2-256"
        sha256 = self.take(digest, name, str, "[0-9a-f]{64}") if digest.get(name) is not None else ""
        if not 0 <= (size := self.take(row, "size", int)) <= LIMITS["size"]:
            raise InputError(self.where, "archive: size", f"0 to {LIMITS['size']:,} bytes", shown(size))
        names = {"dandiset": self.dandiset, "version": version, "path": path}

        return RemoteFile(**names, url=f"{url}download/", size=size, sha256=sha256)

    def ask(self, url: str, field: str, expected: str) -> dict[str, Any]:
        """Returns an answer of the archive; `field` and `expected` describe the error if it is 404."""

        def call(until: float) -> Answer:
            return fetch(url, self.where, MOST_JSON, until, AGENT, secret=_key())

        try:
            answer = self.patience.persist(call)
        except HTTPError as error:
            raise _refusal(error, self.where, field, expected) from error
        if len(answer.body) > MOST_JSON:
            raise InputError(self.where, "archive", f"an answer of at most {MOST_JSON:,} bytes", "a longer one")
        try:
            found = json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise InputError(self.where, "archive", f"JSON from {url}", shown(error)) from error

        return cast(dict[str, Any], self.take({"answer": found}, "answer", dict))

    def take(self, found: dict[str, Any], name: str, kind: type, form: str = "") -> Any:
        """Returns a field of an answer if it has the type and, of text, the form of a regular expression."""
        value = found.get(name)
        if type(value) is not kind or (form and not re.fullmatch(form, str(value))):
            words = {str: "text", int: "a whole number", list: "a list", dict: "an object"}[kind]
            raise InputError(self.where, f"archive: {name}", words + (f" like {form}" if form else ""), shown(value))

        return value


def _key() -> str:
    """Returns the value of the header that opens embargoed dandisets; empty without a key."""
    key = os.environ.get("DANDI_API_KEY", "").strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise InputError("DANDI_API_KEY", "value", "letters, digits and signs of ASCII", "others")

    return f"token {key}" if key else ""


def _refusal(error: HTTPError, where: object, field: str, expected: str) -> InputError:
    if error.code in (401, 403):
        return InputError(where, "access", "an open dandiset, or a key to it in DANDI_API_KEY", status(error))

    return InputError(where, field, expected if error.code == 404 else "an answer", status(error))


@contextmanager
def download(file: RemoteFile) -> Iterator[Path]:
    """Yields a temporary copy of a file whose content has been compared with its digest, if it has one."""
    with tempfile.TemporaryDirectory(prefix="ndt-") as folder:
        path, digest = Path(folder) / "content.nwb", hashlib.sha256()
        with path.open("wb") as copy, open_remote(file, cache_mib=LONGEST) as stream:
            while part := stream.read(LONGEST * MIB):
                copy.write(part)
                digest.update(part)
        if file.sha256 and digest.hexdigest() != file.sha256:
            raise InputError(file, "content", f"SHA-256 {file.sha256}, as the archive says", digest.hexdigest())
        yield path


def open_remote(file: RemoteFile, block_mib: float = 1.0, cache_mib: float = 64.0) -> BinaryIO:
    """Opens a file on DANDI for reading; only the needed blocks are fetched, and none is compared with the digest.

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
        self.patience = Patience(file, READING)
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
        self.patience.more(end - first)
        try:
            found = memoryview(self.patience.persist(lambda until: self.ask(first, end, until)))
        except HTTPError as error:
            raise _refusal(error, self.file, "file", "one that can be read") from error
        for i in range(index, stop):
            self.blocks[i] = bytes(found[(i - index) * self.block : (i - index + 1) * self.block])
        while len(self.blocks) > self.most:
            self.blocks.popitem(last=False)
        self.following = stop

    def ask(self, first: int, end: int, until: float) -> bytes:
        headers, own = AGENT | {"Range": f"bytes={first}-{end - 1}"}, self.url == self.file.url
        try:
            answer = fetch(self.url, self.file, end - first, until, headers, secret=_key() if own else "", away=True)
        except HTTPError as error:
            if own or error.code in PASSING:
                raise
            self.url = self.file.url  # the target of the redirect is valid for about an hour
            return self.ask(first, end, until)
        self.check(answer, first, end)
        self.url = answer.url

        return answer.body

    def check(self, answer: Answer, first: int, end: int) -> None:
        """Raises if an answer is not the part that was asked for, or breaks off."""
        if answer.status != 206:
            host = urlsplit(answer.url).hostname
            raise InputError(self.file, "server", "one that answers range requests", f"{host}, which does not")
        given = answer.headers.get("Content-Range", "none")
        part = re.fullmatch(r"bytes (\d{1,20})-(\d{1,20})/(\d{1,20})", given)
        if part is not None and int(part[3]) != self.file.size:
            raise InputError(self.file, "size", f"{self.file.size} bytes, as the archive says", f"{part[3]} bytes")
        if part is None or (int(part[1]), int(part[2])) != (first, end - 1):
            raise InputError(self.file, "server", f"bytes {first} to {end - 1}", shown(given))
        if len(answer.body) > end - first:
            raise InputError(self.file, "server", f"{end - first} bytes", "more")
        if len(answer.body) < end - first:
            raise ConnectionError(f"{len(answer.body)} of {end - first} bytes")
