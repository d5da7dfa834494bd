"""An archive that is broken or hostile: each answer is refused in one line, in time, and nothing secret leaves."""

import gc
import time
from contextlib import suppress

import numpy as np
import pytest

from ndt.cli import main
from ndt.config import IngestConfig
from ndt.data.ingest import ingest
from ndt.data.inspect import inspect
from ndt.data.read import remote, transport
from ndt.data.read.nwb import read_nwb
from ndt.data.read.remote import download, expand, open_remote
from ndt.errors import InputError
from ndt.reports.console import show_ingest, show_inspect
from tests.dandi_server import Archive, serve
from tests.recordings import units, write_nwb

NAME, CONTENT = "sub-x/sub-x_ses-1.nwb", np.random.default_rng(0).bytes(50_000)
ABOUT, LIST, ASSET = "/api/dandisets/000129/", "/api/dandisets/000129/versions/draft/assets/", "/api/assets/"
LIMIT, SHORT, GRACE = 30.0, 0.4, 5.0  # seconds of waiting that are allowed, and of work on a busy machine
ONE = IngestConfig(workers=1, probe_seconds=0.0)
ID = "0" * 36
ROW = {"asset_id": ID, "path": NAME, "size": len(CONTENT), "metadata": {"digest": {"dandi:sha2-256": "0" * 64}}}


@pytest.fixture
def archive(monkeypatch):
    """An archive of one file, with a client that has a key and little patience."""
    monkeypatch.setattr(transport, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(transport, "TIMEOUT", LIMIT)
    monkeypatch.setattr(transport, "SLOWEST", 1 << 30)
    monkeypatch.setattr(remote, "LISTING", LIMIT)
    monkeypatch.setattr(remote, "READING", LIMIT)
    monkeypatch.setenv("DANDI_API_KEY", "secret")
    with serve(Archive({("000129", "draft"): {NAME: CONTENT}})) as archive:
        monkeypatch.setattr(remote, "API", archive.api)
        yield archive


@pytest.fixture
def stranger():
    """Another host, which keeps what it is asked, and with which key."""
    asked = []

    def keep(handler):
        asked.append(handler.headers.get("Authorization", "no key"))
        handler.say(200, {"results": [ROW], "next": None})

    with serve(Archive({}, hostile={"/": keep})) as other:
        yield other.api.removesuffix("/api"), asked


def refused(call, limit: float = LIMIT) -> str:
    """Returns the line with which a call is refused, after a check of the time that this took."""
    began = time.monotonic()
    with pytest.raises(InputError) as error:
        call()
    assert time.monotonic() - began < limit + GRACE
    line = str(error.value)
    assert line.isprintable()
    assert len(line) < 1000
    assert "secret" not in line

    return line


def listed() -> list:
    return expand("dandi:000129@draft")


def content() -> bytes:
    (file,) = listed()
    with download(file) as path:
        return path.read_bytes()


def json_of(thing):
    return lambda handler: handler.say(200, thing)


def raw(data: bytes, *, times: int = 1, pause: float = 0.0):
    """An answer of these bytes, again and again, whatever HTTP wants."""

    def answer(handler):
        with suppress(OSError):
            for _ in range(times):
                handler.wfile.write(data)
                handler.wfile.flush()
                time.sleep(pause)

    return answer


def drop_by_drop(data: bytes):
    def answer(handler):
        with suppress(OSError):
            for i in range(len(data)):
                handler.wfile.write(data[i : i + 1])
                time.sleep(0.1)

    return answer


def to(address: str, code: int = 302):
    """A redirect."""
    return raw(f"HTTP/1.1 {code} Moved\r\nLocation: {address}\r\nContent-Length: 0\r\n\r\n".encode("latin-1"))


def parts(*headers: str, body: bytes = CONTENT, status: str = "206 Partial Content"):
    return raw("\r\n".join([f"HTTP/1.1 {status}", *headers, "\r\n"]).encode() + body)


def test_the_archive_is_read_if_it_is_honest(archive):
    assert content() == CONTENT
    assert not archive.leaked


@pytest.mark.parametrize(
    "answer",
    [
        *([], "text", 3, None, True, {}, {"draft_version": None}, {"draft_version": {"version": 3}}),
        *({"draft_version": {"version": "../../../users"}}, {"draft_version": {"version": "draft\nX: y"}}),
        *({"most_recent_published_version": [1]}, {"most_recent_published_version": {"version": "1.2.3"}}),
    ],
)
def test_a_dandiset_of_wrong_types(archive, answer):
    archive.hostile[ABOUT] = json_of(answer)
    assert refused(lambda: expand("dandi:000129")).startswith("dandi:000129: archive: ")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"1" * 10_000,
        b"NaN",
        b"<html>",
        b'{"results": [1e400]}',
    ],
)
def test_an_answer_that_is_no_json_object(archive, data):
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    archive.hostile[ABOUT] = raw(head + data)
    assert (
        refused(listed).startswith("dandi:000129@draft: ")
        if data[-1:] != b"}"
        else refused(lambda: expand("dandi:000129"))
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        *[({"results": value}, "results") for value in (None, {}, "text", 3, [3], [None], [[]])],
        *[({"next": value}, "next") for value in (3, [], {}, True)],
        *[({"path": value}, "path") for value in (3, None, [], {"a": 1})],
        *[({"size": value}, "size") for value in ("9", None, -1, 1.5, True, 1e300, 10**30, [])],
        *[({"asset_id": value}, "asset_id") for value in (3, None, "../../../../etc", "0" * 35 + "/", "0" * 36 + "\n")],
        *[({"metadata": value}, "metadata") for value in (3, [], "text")],
        *[({"metadata": {"digest": value}}, "digest") for value in (3, [], "text")],
        *[({"metadata": {"digest": {"dandi:sha2-256": v}}}, "dandi:sha2-256") for v in (3, "", "ab", "Z" * 64, ["a"])],
    ],
)
def test_a_list_of_wrong_types(archive, change, field):
    page = {"results": [ROW | change], "next": None} | {k: v for k, v in change.items() if k in ("results", "next")}
    archive.hostile[LIST] = json_of(page)
    assert refused(listed).startswith(f"dandi:000129@draft: archive: {field}: expected ")


@pytest.mark.parametrize(
    "path", ["/etc/x.nwb", "a/../../x.nwb", "a\nb.nwb", "a\x1b[2J.nwb", "\u202ebwn.nwb", "a" * 5000 + ".nwb"]
)
def test_a_path_that_is_none(archive, path):
    archive.hostile[LIST] = json_of({"results": [ROW | {"path": path}], "next": None})
    assert "path: expected one" in refused(listed)


AWAY = [
    "file:///etc/passwd",
    "ftp://127.0.0.1/x",
    "data:application/json,{}",
    "gopher://x",
    "//",
    "",
    "x",
    "http:",
    "http://[",
]
AWAY += [
    "http://127.0.0.1/" + "a" * 10**5,
    "http://127.0.0.1:99999/",
    "http://u:p@127.0.0.1/",
    "http://" + "a" * 300 + "/",
    "http://127.0.0.1/\r\nX: y",
]


@pytest.mark.parametrize("address", AWAY)
def test_the_next_page_is_at_the_archive_by_http(archive, address):
    archive.hostile[LIST] = json_of({"results": [], "next": address})
    assert "one of http or https" in refused(listed)


def test_the_key_goes_to_no_other_host(archive, stranger):
    """It went with the next page, wherever that was."""
    host, asked = stranger
    archive.hostile[LIST] = json_of({"results": [], "next": f"{host}/api/dandisets/000129/"})
    assert f"found '{host}" in refused(listed)
    archive.hostile[LIST] = to(f"{host}/list")
    assert "redirect: expected one that stays at http://127.0.0.1" in refused(listed)
    assert asked == []

    archive.hostile = {
        f"{ASSET}": to(f"{host}/blob")
    }  # content lies elsewhere: this host may be asked, without the key
    (file,) = listed()
    assert "answers range requests" in refused(lambda: open_remote(file).read(10))
    assert asked == ["no key"]


def test_a_key_that_is_no_header_is_not_sent_and_not_shown(archive, monkeypatch):
    monkeypatch.setenv("DANDI_API_KEY", "secret\r\nHost: elsewhere")
    assert refused(listed).startswith("DANDI_API_KEY: value: expected letters")


def test_pages_without_end(archive, monkeypatch):
    """The same page again, or always another one."""
    archive.hostile[LIST] = json_of({"results": [], "next": f"{archive.api}/dandisets/000129/versions/draft/assets/?a"})
    assert "next: expected a new page" in refused(listed)

    def following(handler):
        url = f"{archive.api}/dandisets/000129/versions/draft/assets/?{time.monotonic_ns()}"
        handler.say(200, {"results": [], "next": url})

    archive.hostile[LIST] = following
    monkeypatch.setattr(remote, "LISTING", SHORT)
    assert "complete within" in refused(listed, SHORT)


def test_more_files_than_there_can_be(archive, monkeypatch):
    monkeypatch.setattr(remote, "MOST_FILES", 50)
    archive.hostile[LIST] = json_of({"results": [ROW] * 51, "next": None})
    assert "at most 50 files" in refused(listed)


@pytest.mark.parametrize("begin", [ABOUT, LIST, ASSET, "/blobs/"])
@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "data:,x",
        "http://[",
        "http://u:p@127.0.0.1/",
        "http://x/ \x01",
        "",
    ],
)
def test_a_redirect_leads_to_http_alone(archive, begin, address):
    archive.hostile[begin] = to(address)
    line = refused(content)
    assert "one of http or https" in line or "302 Found" in line
    assert "root:" not in line


@pytest.mark.parametrize("begin", [ABOUT, LIST, ASSET, "/blobs/"])
def test_redirects_in_a_circle(archive, begin):
    count = iter(range(1000))
    archive.hostile[begin] = lambda handler: to(f"{begin}?{next(count)}")(handler)
    assert "redirect: expected at most 5" in refused(content)


def test_a_redirect_stays_with_https():
    where = "dandi:000129"
    assert transport._followed("https://a.b/c", "https://d.e/f", where, away=True) == "https://d.e/f"
    assert transport._followed("https://a.b/c", "/f", where, away=False) == "https://a.b/f"
    for target, away in (("http://a.b/c", True), ("http://a.b/c", False), ("https://a.b:8443/c", False)):
        with pytest.raises(InputError, match="redirect: expected one that stays"):
            transport._followed("https://a.b/c", target, where, away=away)


OK = b"HTTP/1.1 200 OK\r\n"
ENDLESS = {
    "nothing": raw(b"", pause=0.6),
    "a status line": raw(b"HTTP/1.1 200 " + b"O" * 60_000, times=9, pause=0.1),
    "a status drop by drop": drop_by_drop(OK * 100),
    "continue": raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, times=10**6),
    "headers": raw(OK + b"X: y\r\n" * 1000, times=10**6),
    "headers drop by drop": drop_by_drop(OK + b"X: y\r\n" * 100),
    "body drop by drop": drop_by_drop(OK + b"\r\n" + b" " * 1000),
    "declared and not sent": raw(OK + b"Content-Length: 1000\r\n\r\n", pause=0.6),
    "a chunk drop by drop": drop_by_drop(OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 1000),
    "a body": raw(OK + b"\r\n" + b" " * 10**5, times=10**6),
    "a huge body": raw(OK + b"Content-Length: 99999999999999999999\r\n\r\n" + b" " * 10**5),
    "chunks": raw(OK + b"Transfer-Encoding: chunked\r\n\r\n" + (b"ffff\r\n" + b" " * 65535 + b"\r\n") * 500, times=1),
    "a redirect": raw(b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n" + b" " * 10**5, times=10**6),
    "a refusal": raw(b"HTTP/1.1 404 No\r\n\r\n" + b" " * 10**5, times=10**6),
    "no HTTP": raw(b"\x00\x01\x02" * 1000),
    "HTTP 0.9": raw(b"{}"),
    "a broken length": raw(OK + b"Content-Length: -5\r\n\r\n{}"),
    "a broken chunk": raw(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}"),
}


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("begin", [LIST, "/blobs/"])
def test_answers_without_end_or_form_end_in_time(archive, monkeypatch, begin, kind):
    monkeypatch.setattr(remote, "MOST_JSON", 10**6)
    monkeypatch.setattr(transport, "TIMEOUT", 0.2)
    monkeypatch.setattr(remote, "READING" if begin == "/blobs/" else "LISTING", SHORT)
    archive.hostile[begin] = ENDLESS[kind]
    assert refused(content, SHORT).startswith(f"dandi:000129@draft{f'/{NAME}' if begin == '/blobs/' else ''}: ")


LAST = len(CONTENT) - 1


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ([f"Content-Range: bytes 1-{LAST + 1}/{LAST + 2}"], "size: expected 50000 bytes, as the archive says"),
        ([f"Content-Range: bytes 1-{LAST}/{LAST + 1}"], "server: expected bytes 0 to 49999, found 'bytes 1-"),
        ([f"Content-Range: bytes 0-{LAST - 1}/{LAST + 1}"], "server: expected bytes 0 to 49999"),
        ([f"Content-Range: bytes {LAST}-0/{LAST + 1}"], "server: expected bytes 0 to 49999"),
        ([f"Content-Range: bytes 0-{LAST}/*"], "server: expected bytes 0 to 49999"),
        ([f"Content-Range: bytes */{LAST + 1}"], "server: expected bytes 0 to 49999"),
        (["Content-Range: bytes " + "9" * 5000], "server: expected bytes 0 to 49999"),
        (["Content-Range: lines 0-1/2"], "server: expected bytes 0 to 49999"),
        (["Content-Type: multipart/byteranges; boundary=x"], "server: expected bytes 0 to 49999, found 'none'"),
        ([f"Content-Range: bytes 0-{LAST}/{LAST + 1}", "Content-Length: 10"], "network: "),
        ([f"Content-Range: bytes 0-{LAST}/{LAST + 1}", "Content-Length: 99999"], "network: "),
    ],
)
def test_parts_that_are_not_those_asked_for(archive, headers, said):
    """A part that began elsewhere was taken for the one that was asked for."""
    archive.hostile["/blobs/"] = parts(*headers)
    assert refused(content).startswith(f"dandi:000129@draft/{NAME}: {said}")


def test_parts_that_are_longer_or_shorter_than_they_say(archive):
    head = f"Content-Range: bytes 0-{LAST}/{LAST + 1}"
    archive.hostile["/blobs/"] = parts(head, body=CONTENT + b"more")
    assert "server: expected 50000 bytes, found more" in refused(content)
    archive.hostile["/blobs/"] = parts(head, body=CONTENT[:-1])
    assert "network: " in (line := refused(content))
    assert "found 49999 of 50000 bytes, 4 times" in line


def test_other_bytes_of_the_right_length(archive):
    """Only the digest tells them."""
    (file,) = listed()
    archive.hostile["/blobs/"] = parts(f"Content-Range: bytes 0-{LAST}/{LAST + 1}", body=CONTENT[::-1])
    assert f"content: expected SHA-256 {file.sha256}, as the archive says" in refused(content)
    assert open_remote(file).read() == CONTENT[::-1]  # parts cannot be compared: `RemoteFile.verified` says so


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write_nwb(tmp_path_factory.mktemp("archive") / "sub-x_ses-1.nwb", units())


@pytest.mark.parametrize(("whole", "verified"), [(10**8, True), (10, False)])
def test_the_manifest_says_whether_the_digest_was_compared(
    archive, recording, tmp_path, monkeypatch, capsys, whole, verified
):
    archive.versions["000129", "draft"] = {NAME: recording.read_bytes()}
    monkeypatch.setattr(remote, "WHOLE", whole)
    store = ingest("dandi:000129@draft", tmp_path / "store", ONE, progress=False)
    assert store.manifest["sessions"]["sub-x_ses-1"]["sha256_verified"] is verified
    show_ingest({"store": str(store.root), "sessions": store.manifest["sessions"]})
    assert ("content of 1 session not compared with the archive's SHA-256" in capsys.readouterr().out) is not verified
    show_inspect({"files": inspect("dandi:000129@draft", ONE), "failed": []})
    assert ("content not compared with the archive's SHA-256" in capsys.readouterr().out) is not verified


@pytest.fixture
def collected():
    """No garbage is collected meanwhile: in the server's thread it would wait for the HDF5 library, which reads."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("whole", [10**8, 10])
@pytest.mark.parametrize("damage", ["nothing", "noise", "cut", "zeros"])
def test_content_that_is_no_recording(archive, recording, monkeypatch, damage, whole):
    monkeypatch.setattr(remote, "WHOLE", whole)
    data = recording.read_bytes()
    wrong = {
        "nothing": b"",
        "noise": CONTENT,
        "cut": data[: len(data) // 2],
        "zeros": data[:512] + bytes(len(data) - 512),
    }
    archive.versions["000129", "draft"] = {NAME: wrong[damage]}
    (file,) = listed()
    assert refused(lambda: read_nwb(file)).startswith(f"dandi:000129@draft/{NAME}: file: ")


def test_the_command_line_says_it_in_one_line_and_leaves_nothing(archive, tmp_path, capsys):
    for hostile in (
        {LIST: to("file:///etc/passwd")},
        {LIST: json_of({"results": [], "next": "http://example.org/"})},
        {"/blobs/": parts(f"Content-Range: bytes 1-{LAST}/{LAST + 1}")},
        {"/blobs/": parts(f"Content-Range: bytes 0-{LAST}/{LAST + 1}", body=CONTENT[::-1])},
    ):
        archive.hostile = hostile
        argv = ["ingest", "dandi:000129@draft", "--out", str(tmp_path / "store"), "--quiet", "--workers", "1"]
        assert main(argv) == 2
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)
        assert not (tmp_path / "store").exists()
