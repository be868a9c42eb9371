"""`Request`: Starlette's, with additions for toril's handlers."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.requests import HTTPConnection
from starlette.requests import Request as StarletteRequest
from starlette.types import Receive, Scope, Send

from toril.bullmq.rules.job import is_job_id
from toril.bullmq.rules.queue_name import NameRules
from toril.core.access import ANYBODY, Caller, Right
from toril.core.errors import InvalidRequest, JobNotFound, PayloadTooLarge
from toril.core.redaction import USUAL, Redaction
from toril.web.raw_target import CYCLE

AUTHORIZATION = "toril.authorization"
"""A key of the scope: what the caller shows as an `Authorization` header, where it came in another way."""
REDACTION = "toril.redaction"
"""A key of the scope: the `Redaction` for callers without the right `payloads:read`."""
REDACTED = "toril.redacted"
"""A key of the scope: secrets are hidden from this request, whatever the caller's rights."""
DEMANDED = "toril.demanded"
"""A key of the scope: the rights on queues that a handler has asked for, beside the right of the route."""
_HEX = frozenset(b"0123456789abcdefABCDEF")


class Connection(HTTPConnection):
    """What requests and WebSockets have in common."""

    @property
    def caller(self) -> Caller:
        """Who makes the request: Starlette's `user`. While a stream or a socket lasts it is kept up to date; a caller
        who has lost the right to it becomes `ANYBODY`.
        """
        caller: Caller = self.scope.get("user", ANYBODY)
        return caller

    @property
    def authorization(self) -> bytes | None:
        """The credentials of the caller, as an `Authorization` header, wherever they came from."""
        return authorization_of(self.scope)

    @property
    def queue(self) -> str:
        """The queue that the path names. Its name has not been checked yet."""
        queue: str = self.scope["path_params"]["queue"]
        return queue

    @property
    def address(self) -> str:
        """The address that the connection comes from; empty if that is not known."""
        client = self.scope.get("client")
        return client[0] if client else ""

    def demand(self, right: Right, queue: str) -> None:
        """Check the caller's right on a queue that is not named in the path; it is checked again for as long
        as a stream lasts.

        Raises:
            Forbidden: the caller has not that right.
        """
        self.scope.setdefault(DEMANDED, []).append((right, queue))
        self.caller.demand(right, queue)

    def hides(self, queue: str) -> Redaction | None:
        """Return what must be hidden from the caller in this queue or target; None if it may see everything."""
        if (self.caller.everything or self.caller.may(Right.PAYLOADS_READ, queue)) and REDACTED not in self.scope:
            return None
        hidden: Redaction = self.scope.get(REDACTION, USUAL)
        return hidden

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header, by its lower-case name."""
        return next((value for key, value in self.scope["headers"] if key == name), None)

    def query(self) -> dict[str, str]:
        """Return the query parameters; the last of a name wins.

        Unlike Starlette's `query_params` this refuses malformed queries.

        Raises:
            InvalidRequest: the percent-encoding is malformed.
        """
        raw: bytes = self.scope["query_string"]
        if not raw:
            return {}
        for pair in raw.replace(b"+", b"%20").split(b"&"):
            for half in pair.split(b"=", 1):
                percent_decoded(half)
        return dict(parse_qsl(raw.decode(), keep_blank_values=True))

    def job(self, names: NameRules) -> tuple[str, str]:
        """Return the queue and the job that a path `/queues/{queue}/jobs/{id}` names.

        Raises:
            InvalidRequest: the queue's name is not valid.
            JobNotFound: no job can have such an id.
        """
        queue, job_id = self.queue, self.path_params["id"]
        names.check(queue)
        if not is_job_id(job_id):
            raise JobNotFound
        return queue, job_id


class Request(Connection, StarletteRequest):
    """One HTTP request. Nothing of its body is read before a handler asks."""

    _stream_consumed = False
    _is_disconnected = False
    _form = None

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Starlette's own, without its calls to the classes above it: half a microsecond on each request.
        self.scope = scope
        self._receive = receive
        self._send = send

    async def disconnected(self) -> None:
        """Wait until the caller has hung up. Call it only after the body has been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def json_text(self, limit_bytes: int) -> bytes:
        """Return the whole body, which should be JSON, without a byte order mark (RFC 8259 8.1).

        Raises:
            PayloadTooLarge: it is larger than the limit; reading stopped there.
        """
        self._body = await read_body(self.scope, self._receive, limit_bytes)
        self._stream_consumed = True
        return self._body.removeprefix(BOM_UTF8)

    async def body(self, limit_bytes: int | None = None) -> bytes:
        """Return the whole body, of at most this size.

        Raises:
            PayloadTooLarge: it is larger than the limit; reading stopped there.
            InvalidRequest: the caller hung up before the end of the body.
        """
        if limit_bytes is None:
            return await super().body()
        body: bytes | None = self.__dict__.get("_body")
        if body is None:
            body = self._body = await read_body(self.scope, self._receive, limit_bytes)
            self._stream_consumed = True
        return body


async def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """Return the whole body of a request; raises as `Request.body`."""
    cycle = scope.get(CYCLE)
    if cycle is not None and receive == cycle.receive and (whole := cycle.whole_body()) is not None:
        if len(whole) > limit_bytes:
            raise _too_large(limit_bytes)
        come: bytes = whole
        return come
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > limit_bytes:
            raise _too_large(limit_bytes)
    message = await receive()
    part: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body", False):
        if len(part) > limit_bytes:
            raise _too_large(limit_bytes)
        return part
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise InvalidRequest("The request was broken off")
        size += len(part)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()
        part = message.get("body", b"")


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body must be at most {limit_bytes} bytes")


def authorization_of(scope: Scope) -> bytes | None:
    """Return the `Authorization` header; the last one of several."""
    found: bytes | None = scope.get(AUTHORIZATION)
    if found is None:
        for name, value in scope["headers"]:
            if name == b"authorization":
                found = value
    return found


class PathParams(dict[str, str]):
    """Parameters of a path. Reading one that was not well-formed raises, so a route is found, and its token is checked,
    before the caller hears of that.
    """

    def __init__(self, params: Mapping[str, str], faults: Mapping[str, str]) -> None:
        super().__init__(params)
        self._faults = faults

    def __missing__(self, name: str) -> str:
        """Raise what is wrong with this parameter."""
        raise InvalidRequest(self._faults[name])


def path_params(raw: list[bytes], names: tuple[tuple[int, str], ...]) -> dict[str, str]:
    """Return the decoded parameters of a path.

    Args:
        raw: the raw path split at `/`.
        names: the parameters, and where in the path they stand.
    """
    params: dict[str, str] = {}
    faults: dict[str, str] = {}
    for place, name in names:
        segment = raw[place]
        if b"%" not in segment and segment.isascii():
            params[name] = segment.decode("ascii")
            continue
        try:
            params[name] = percent_decoded(segment)
        except InvalidRequest as exc:
            faults[name] = exc.message
    return PathParams(params, faults) if faults else params


def percent_decoded(raw: bytes) -> str:
    """Percent-decode strictly: every `%` has two hex digits behind it, and the result is UTF-8 (RFC 3986 2.1).

    Raises:
        InvalidRequest: it is not so.
    """
    first, *rest = raw.split(b"%")
    parts = [first]
    for piece in rest:
        if len(piece) < 2 or piece[0] not in _HEX or piece[1] not in _HEX:
            raise InvalidRequest("Malformed percent-encoding in the URL")
        parts.append(bytes((int(piece[:2], 16),)) + piece[2:])
    try:
        return b"".join(parts).decode()
    except UnicodeDecodeError as exc:
        raise InvalidRequest("Malformed percent-encoding in the URL: not UTF-8") from exc
