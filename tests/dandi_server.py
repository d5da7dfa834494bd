"""A small archive on this machine that answers as DANDI's interface does: lists, metadata, redirects, ranges."""

import hashlib
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass
class Archive:
    """What is in the archive, how it misbehaves, and what it was asked.

    Attributes:
        versions: Files by path, of each (dandiset, version); the last version that is not the draft is published last.
        key: What embargoed dandisets ask for; empty for none.
        digests: Whether lists come with digests, as those of published versions do.
        page: Files in a list at most.
        ranges: Whether range requests are answered.
        cuts: How many of the next answers break off after `cut_at` bytes.
        longer: Bytes that a file has more than the list says.
        delay: Seconds before an answer.
        failures: Codes of the next answers.
        signed: How many requests a redirect is good for.
        asked: Path of each request, in order.
        sent: Bytes of files that were sent.
        leaked: Whether a key went where it should not.
        hostile: Answers of the test's own, by the beginning of the path.
    """

    versions: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    key: str = ""
    digests: bool = True
    page: int = 1000
    ranges: bool = True
    cuts: int = 0
    cut_at: int = 1000
    longer: int = 0
    delay: float = 0.0
    failures: list[int] = field(default_factory=list)
    signed: int = 1000
    asked: list[str] = field(default_factory=list)
    sent: int = 0
    leaked: bool = False
    hostile: dict[str, Callable[["_Handler"], None]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)  # by path, instead of the true ones
    api: str = ""
    signature: int = 0
    uses: int = 0

    def assets(self, dandiset: str, version: str) -> list[dict]:
        """Returns the rows of a list, in no order that helps."""
        rows = []
        for path, content in reversed(self.versions[dandiset, version].items()):
            zarr = str(uuid.UUID(int=1)) if path.endswith(".zarr") else None
            name = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{dandiset}/{version}/{path}"))
            rows.append({"asset_id": name, "path": path, "size": len(content), "zarr": zarr, "content": content})
        return rows

    def asset(self, name: str) -> dict | None:
        """Returns the row of one file."""
        return next((row for key in self.versions for row in self.assets(*key) if row["asset_id"] == name), None)

    def digest(self, row: dict) -> dict[str, str]:
        """Returns what the archive says of a file's content."""
        sha256 = self.hashes.get(row["path"], hashlib.sha256(row["content"]).hexdigest())
        return {"dandi:dandi-etag": "d41d8cd98f00b204e9800998ecf8427e-1"} | (
            {"dandi:sha2-256": sha256} if sha256 else {}
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    archive: Archive

    def log_message(self, *args: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):  # the other side has had enough
            super().handle()

    def do_GET(self) -> None:
        archive, url = self.archive, urlsplit(self.path)
        archive.asked.append(url.path)
        time.sleep(archive.delay)
        own = [answer for start, answer in archive.hostile.items() if self.path.startswith(start)]
        if own:
            archive.leaked |= "Authorization" in self.headers and url.path.startswith("/blobs/")
            self.close_connection = True
            own[-1](self)
        elif archive.failures:
            self.say(archive.failures.pop(0), {"detail": "no"})
        elif url.path.startswith("/blobs/"):
            archive.leaked |= "Authorization" in self.headers
            self.blob(url.path.split("/")[2], url.query)
        elif archive.key and self.headers.get("Authorization") != f"token {archive.key}":
            self.say(401, {"detail": "Authentication credentials were not provided."})
        else:
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            self.interface(url.path.removeprefix("/api/").strip("/").split("/"), query)

    def interface(self, parts: list[str], query: dict[str, str]) -> None:
        archive = self.archive
        match parts:
            case ["dandisets", dandiset] if any(key[0] == dandiset for key in archive.versions):
                published = [{"version": v} for d, v in archive.versions if d == dandiset and v != "draft"]
                latest = published[-1] if published else None
                self.say(200, {"most_recent_published_version": latest, "draft_version": {"version": "draft"}})
            case ["dandisets", dandiset, "versions", version, "assets"] if (dandiset, version) in archive.versions:
                self.list(dandiset, version, query)
            case ["assets", name] if row := archive.asset(name):
                self.say(200, {"path": row["path"], "contentSize": row["size"], "digest": archive.digest(row)})
            case ["assets", name, "download"] if archive.asset(name):
                archive.signature, archive.uses = archive.signature + 1, 0
                self.send_response(302)
                self.send_header("Location", f"/blobs/{name}?signature={archive.signature}")
                self.send_header("Content-Length", "0")
                self.end_headers()
            case _:
                self.say(404, {"detail": "Not found."})

    def list(self, dandiset: str, version: str, query: dict[str, str]) -> None:
        archive = self.archive
        rows = [
            r for r in archive.assets(dandiset, version) if r["path"].lower().startswith(query.get("path", "").lower())
        ]
        if "glob" in query:  # * crosses folders, nothing else is special, case does not matter
            form = re.escape(query["glob"]).replace(r"\*", ".*")
            rows = [r for r in rows if re.fullmatch(form, r["path"], re.IGNORECASE)]
        if query.get("order") == "path":
            rows.sort(key=lambda row: row["path"])
        page, size = int(query.get("page", 1)), min(int(query.get("page_size", 100)), archive.page)
        shown = rows[(page - 1) * size : page * size]
        more = "&".join(f"{k}={v}" for k, v in (query | {"page": str(page + 1)}).items())
        following = (
            f"{archive.api}/dandisets/{dandiset}/versions/{version}/assets/?{more}" if rows[page * size :] else None
        )
        results = [{k: row[k] for k in ("asset_id", "path", "size", "zarr")} for row in shown]
        if query.get("metadata") == "true":
            for result, row in zip(results, shown, strict=True):
                result["metadata"] = {"digest": archive.digest(row)} if archive.digests else {"schemaVersion": "0.6"}
        self.say(200, {"count": len(rows) if page == 1 else None, "next": following, "results": results})

    def say(self, code: int, thing: object) -> None:
        content = json.dumps(thing).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def blob(self, name: str, query: str) -> None:
        archive = self.archive
        row = archive.asset(name)
        archive.uses += 1
        if row is None or query != f"signature={archive.signature}" or archive.uses > archive.signed:
            self.say(403, {"detail": "Request has expired"})
            return
        content = row["content"] + bytes(archive.longer)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if archive.ranges else None
        first, last = (int(asked[1]), int(asked[2] or len(content) - 1)) if asked else (0, len(content) - 1)
        part = content[first : last + 1]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if archive.cuts > 0:
            archive.cuts -= 1
            part, self.close_connection = part[: archive.cut_at], True
        archive.sent += len(part)
        self.wfile.write(part)


@contextmanager
def serve(archive: Archive) -> Iterator[Archive]:
    """Serves an archive on a free port of this machine; `archive.api` is its interface."""
    handler = type("Handler", (_Handler,), {"archive": archive})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        archive.api = f"http://127.0.0.1:{server.server_address[1]}/api"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield archive
        finally:
            server.shutdown()
            thread.join()
