"""Asks web servers for bytes, within limits of time, of size and of where a server may send its client.

Three habits of `urllib.request` are dangerous if the server is not trusted: it follows redirects to any host and reads
their bodies without limit; it opens ``file:``, ``ftp:`` and ``data:`` addresses; and its time limit begins anew with
each byte. Here only http and https are known, redirects are followed one by one, and an answer has to end in time.
"""

import http.client
import io
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from functools import cache, partial
from typing import Any, TypeVar
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin, urlsplit

from ndt.errors import InputError

__all__ = ["PASSING", "Answer", "Patience", "fetch", "origin", "shown", "status"]

TIMEOUT = 30.0  # seconds without a byte
SLOWEST = 1 << 16  # bytes per second
PAUSES = (0.5, 1.0, 2.0)  # seconds before each repetition
REDIRECTS = 5
MOVED = (301, 302, 303, 307, 308)
PASSING = (408, 425, 429, 500, 502, 503, 504)  # status codes of temporary errors
BROKEN = (URLError, http.client.HTTPException, OSError)
LONGEST = 200  # characters of a server's words in a message

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer: address after redirects, status code, headers and body, of which only the first bytes may be read."""

    url: str
    status: int
    headers: Message
    body: bytes


def origin(url: str, where: object) -> tuple[str, str, int]:
    """Returns scheme, host and port of an address.

    Raises:
        InputError: if the address has no host, a user or a password, or is not of http or https.
    """
    try:
        found = urlsplit(url)
        usual = {"http": 80, "https": 443}[found.scheme]
        port = usual if found.port is None else found.port
        (found.hostname or "").encode("idna")  # as the network does; parts of a name may be too long
    except (ValueError, KeyError):
        found, port = urlsplit(""), 0
    if not found.hostname or "@" in found.netloc or not re.fullmatch(r"[!-~]{1,8192}", url):
        raise InputError(where, "address", "one of http or https with a host", shown(url))

    return found.scheme, found.hostname, port


def shown(text: object) -> str:
    """Returns the words of a server so that they can be printed: quoted, escaped and not too long."""
    words = ascii(text)

    return words if len(words) <= LONGEST else f"{words[:LONGEST]} …"


def status(error: HTTPError) -> str:
    """Returns the code of a refusal, with its standard words instead of the server's."""
    return f"{error.code} {http.client.responses.get(error.code, '')}".strip()


class Patience:
    """The seconds of waiting that remain for one purpose, such as a file.

    Arguments:
        where: What is asked for, for error messages.
        seconds: Seconds for all its requests, with their repetitions, redirects and bodies.
    """

    def __init__(self, where: object, seconds: float) -> None:
        self.where, self.left = where, seconds

    def more(self, num_bytes: int) -> None:
        """Adds the time that bytes may take."""
        self.left += num_bytes / SLOWEST

    def persist(self, call: Callable[[float], T]) -> T:
        """Returns the result of a call, repeated after temporary errors of the network or the server.

        Arguments:
            call: Called with the time, of `time.monotonic`, at which it has to be finished.

        Raises:
            HTTPError: for a status code that is not temporary.
            InputError: if no call succeeds.
        """
        began, allowed = time.monotonic(), self.left
        try:
            return self._persist(call, began + allowed)
        finally:
            self.left -= time.monotonic() - began

    def _persist(self, call: Callable[[float], T], until: float) -> T:
        tries, allowed = 0, self.left
        for pause in (*PAUSES, None):
            tries += 1
            try:
                return call(until)
            except HTTPError as error:
                if error.code not in PASSING:
                    raise
                found = status(error)
            except BROKEN as error:
                reason = error.reason if isinstance(error, URLError) else error
                found = str(reason) or type(reason).__name__
                found = found if found.isprintable() and len(found) <= LONGEST else shown(found)
            if pause is None or time.monotonic() + pause > until:
                break
            time.sleep(pause)

        expected = f"an answer within {TIMEOUT:g} s, complete within {max(allowed, 0):.3g} s"
        raise InputError(self.where, "network", expected, f"{found}, {tries} time{'s' if tries > 1 else ''}")


def fetch(
    url: str, where: object, most: int, until: float, headers: Mapping[str, str], secret: str = "", away: bool = False
) -> Answer:
    """Returns the answer to one request, after its redirects.

    Arguments:
        url: Address.
        where: What is asked for, for error messages.
        most: Largest expected body, in bytes; one more is read of a longer one.
        until: Time, of `time.monotonic`, at which the answer has to be complete.
        headers: Headers of the request.
        secret: Value of the header ``Authorization``; sent to `url` alone, to no target of a redirect.
        away: Whether redirects may lead to another host.

    Raises:
        InputError: for a redirect that may not be followed.
        HTTPError: for any other status code than 2xx.
        OSError: if the network fails.
    """
    origin(url, where)
    own = {"Authorization": secret} if secret else {}
    for _ in range(REDIRECTS + 1):
        question, own = _Question(url, headers={**headers, **own}, until=until), {}
        try:
            with _opener().open(question, timeout=_left(until)) as response:
                body = bytes(response.read(most + 1))
                if response.length and len(body) <= most:
                    raise ConnectionError(f"{len(body)} of {len(body) + response.length} bytes")
                return Answer(url=url, status=response.status, headers=response.headers, body=body)
        except HTTPError as error:
            error.close()  # without its body, which may have no end
            target = error.headers.get("Location")
            if error.code not in MOVED or not target:
                raise
        url = _followed(url, target, where, away)

    raise InputError(where, "redirect", f"at most {REDIRECTS}", f"another to {shown(url)}")


def _followed(url: str, target: str, where: object, away: bool) -> str:
    """Returns the target of a redirect, if it may be followed."""
    if not re.fullmatch(r"[!-~]+", target):  # urljoin would drop some characters
        raise InputError(where, "address", "one of http or https with a host", shown(target))
    try:
        new = urljoin(url, target)
    except ValueError:  # brackets that do not enclose an address
        new = ""
    here, there = origin(url, where), origin(new, where)
    if not away and there != here:
        raise InputError(where, "redirect", f"one that stays at {here[0]}://{here[1]}", shown(new))
    if here[0] == "https" and there[0] != "https":
        raise InputError(where, "redirect", "one that stays with https", shown(new))

    return new


def _left(until: float) -> float:
    """Returns the seconds to wait for the next byte."""
    left = min(TIMEOUT, until - time.monotonic())
    if left <= 0:
        raise TimeoutError("one that comes too slowly")

    return left


class _Question(request.Request):
    """A request whose answer has to be complete in time."""

    def __init__(self, url: str, headers: dict[str, str], until: float) -> None:
        super().__init__(url, headers=headers)
        self.until = until


class _Timed(io.RawIOBase):
    """The bytes of a connection; reading ends with an error in time, however slowly bytes arrive."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self.connection, self.until = connection, until
        self.raw: Any = connection.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.connection.settimeout(_left(self.until))
        return self.raw.readinto(buffer)

    def makefile(self, mode: str) -> io.BufferedReader:
        del mode
        return io.BufferedReader(self)

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, connection: socket.socket, *args: Any, until: float, **options: Any) -> None:
        timed: Any = _Timed(connection, until)  # of a socket, the parent uses `makefile` alone
        super().__init__(timed, *args, **options)


def _connected(kind: Any, until: float, host: str, **options: Any) -> http.client.HTTPConnection:
    connection: http.client.HTTPConnection = kind(host, **options)
    connection.response_class = partial(_Response, until=until)  # type: ignore[assignment]

    return connection


class _Http(request.HTTPHandler):
    def http_open(self, req: Any) -> Any:
        return self.do_open(partial(_connected, http.client.HTTPConnection, req.until), req)


class _Https(request.HTTPSHandler):
    def https_open(self, req: Any) -> Any:
        kind: Any = partial(_connected, http.client.HTTPSConnection, req.until)
        return self.do_open(kind, req, context=_context())


@cache
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()  # reading the certificates takes 20 ms


def _opener() -> request.OpenerDirector:
    """Returns an opener that knows http and https, and the proxies of the environment, and follows no redirect."""
    opener = request.OpenerDirector()
    handlers = (request.ProxyHandler, _Http, _Https, request.HTTPDefaultErrorHandler, request.HTTPErrorProcessor)
    for handler in (*handlers, request.UnknownHandler):
        opener.add_handler(handler())

    return opener
