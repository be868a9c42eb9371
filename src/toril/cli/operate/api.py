"""The HTTP API of a gateway, as the commands of operators call it: one connection, one call at a time."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

from toril import __version__
from toril.cli.gateway_address import GatewayAddress
from toril.cli.operate.faults import GatewayRefused, GatewayUnreachable

_TIMEOUT_S = 75.0
"""Longer than the longest wait that a route takes."""
_SILENCE_S = 45.0
"""A stream is never silent for longer, as a heartbeat comes every fifteen seconds."""
_MOST_ERROR_BYTES = 4096

Query = Mapping[str, str | int | None]


class StreamedEvent(Struct, frozen=True):
    """An event of a stream: its name, its JSON, and the id to resume after it. Both are empty for a heartbeat."""

    name: str = ""
    data: bytes = b""
    id: str = ""


class Api:
    """The API of one gateway.

    Args:
        address: where it is, and the token.
        timeout_s: how long an answer may take.
    """

    def __init__(self, address: GatewayAddress, timeout_s: float = _TIMEOUT_S) -> None:
        self.url = address.url
        self._address = address
        parts = urlsplit(address.url)
        self._below = parts.path
        self._headers = {
            "authorization": f"Bearer {address.token}",
            "user-agent": f"toril/{__version__}",
            "content-type": "application/json",
        }
        if parts.scheme == "https":
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname or "", parts.port, timeout=timeout_s, context=ssl.create_default_context()
            )
        else:
            self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)

    def another(self) -> Api:
        """Return the same API on another connection, for calls while a stream is read."""
        return Api(self._address)

    def get(self, path: str, **query: str | int | None) -> Any:
        """Return the JSON of an answer."""
        return self.send("GET", path, query=query)

    def send(self, method: str, path: str, body: object = None, *, query: Query | None = None) -> Any:
        """Make a request, with a value as JSON unless it is None; return the JSON of the answer, None without a body.

        Raises:
            GatewayRefused: the answer is an error, or no JSON.
            GatewayUnreachable: there is no answer.
        """
        text = self.text(method, path, body, query=query)
        if not text or text == b"OK":  # BullMQ Proxy's routes say OK
            return None
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as exc:
            raise GatewayUnreachable(f"{self.url} does not answer as a toril does: {method} {path}: {exc}") from exc

    def text(
        self, method: str, path: str, body: object = None, *, query: Query | None = None, accepted: tuple[int, ...] = ()
    ) -> bytes:
        """Make a request; return the body of the answer, also of an error whose status is `accepted`."""
        with self._answered(method, path, body, query) as answer:
            status, text = answer.status, answer.read()
        if 200 <= status < 300 or status in accepted:
            return text
        raise self._refused(method, path, answer, text[:_MOST_ERROR_BYTES])

    def stream(
        self, method: str, path: str, body: object = None, *, query: Query | None = None, after: str = ""
    ) -> Iterator[StreamedEvent]:
        """Yield the events of a stream as they come, and an empty one for each heartbeat, until the gateway ends it.

        Raises:
            GatewayRefused: there is no such stream.
            GatewayUnreachable: the connection broke.
        """
        more = {"accept": "text/event-stream"} | ({"last-event-id": after} if after else {})
        with self._answered(method, path, body, query, more) as answer:
            if answer.status != 200:
                raise self._refused(method, path, answer, answer.read(_MOST_ERROR_BYTES))
            if self._connection.sock is not None:
                self._connection.sock.settimeout(_SILENCE_S)
            try:
                yield from _events(answer)
            except (OSError, http.client.HTTPException) as exc:
                raise GatewayUnreachable(f"the connection to {self.url} broke: {exc or type(exc).__name__}") from exc
            finally:
                self._connection.close()

    def _answered(
        self, method: str, path: str, body: object, query: Query | None, more: Mapping[str, str] | None = None
    ) -> http.client.HTTPResponse:
        asked = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"{self._below}{path}" + (f"?{urlencode(asked)}" if asked else "")
        text = None if body is None else msgspec.json.encode(body)
        for kept in (self._connection.sock is not None, False):
            try:
                self._connection.request(method, target, text, self._headers | dict(more or {}))
                return self._connection.getresponse()
            except (OSError, http.client.HTTPException) as exc:
                self._connection.close()
                # The gateway may have closed a connection that was kept; what changes something is never sent twice.
                if kept and method == "GET" and isinstance(exc, (ConnectionError, http.client.BadStatusLine)):
                    continue
                raise GatewayUnreachable(f"{self.url} cannot be reached: {_why(exc)}") from exc
        raise AssertionError  # the second turn returns or raises

    def _refused(self, method: str, path: str, answer: http.client.HTTPResponse, text: bytes) -> GatewayRefused:
        code = answer.getheader("toril-code") or ""
        detail = text.decode(errors="replace")
        try:
            problem = msgspec.json.decode(text)
        except msgspec.DecodeError:
            problem = None
        if isinstance(problem, dict):
            code, detail = str(problem.get("code") or code), str(problem.get("detail") or detail)
        return GatewayRefused(self.url, f"{method} {path}", answer.status, code, detail)


def _events(answer: http.client.HTTPResponse) -> Iterator[StreamedEvent]:
    name, data, place = "", b"", ""
    while line := answer.readline():
        field, _, value = line.rstrip(b"\r\n").partition(b":")
        value = value.removeprefix(b" ")
        match field:
            case b"event":
                name = value.decode(errors="replace")
            case b"data":
                data += value
            case b"id":
                place = value.decode(errors="replace")
            case b"" if not line.strip():
                yield StreamedEvent(name, data, place)
                name, data = "", b""
            case _:
                pass


def _why(exc: Exception) -> str:
    if isinstance(exc, TimeoutError):
        return "it does not answer in time"
    if isinstance(exc, socket.gaierror):
        return f"its name is not found ({exc.strerror})"
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {exc.verify_message}"
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
