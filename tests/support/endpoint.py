"""A real HTTP server that plays the registered worker: it records every call and misbehaves on request."""

import asyncio
import inspect
import json
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from tests.support.waiting import eventually

Headers = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Call:
    """One request, as it arrived. ``at`` is Unix time in seconds, ``client`` the name in a client certificate."""

    number: int
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    at: float
    client: str | None = None

    def header(self, name: str) -> str | None:
        """The value of the first header of that name in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @cached_property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def job(self) -> dict[str, Any]:
        """The pushed job."""
        job = self.json["job"]
        assert isinstance(job, dict)
        return job

    @property
    def token(self) -> str:
        """The lock token that came with the job."""
        token = self.json["token"]
        assert isinstance(token, str)
        return token


@dataclass(frozen=True)
class Answer:
    """What goes back, step by step: bytes are sent, numbers are waited for (seconds), then ``end``.

    ``end`` is ``keep`` (the connection may carry the next request), ``close`` or ``hang`` (nothing more
    comes until the caller goes away).
    """

    steps: tuple[bytes | float, ...]
    end: str = "keep"

    def after(self, seconds: float) -> "Answer":
        """The same answer, later."""
        return Answer((seconds, *self.steps), self.end)


Behaviour = Callable[[Call], "Answer | Awaitable[Answer]"]


def respond(status: int = 200, reason: str = "OK", headers: Headers = (), body: bytes = b"") -> Answer:
    """An ordinary answer with exactly this reason phrase; ``content-length`` is added."""
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    if status != 204:
        lines.append(f"content-length: {len(body)}")
    return Answer(("\r\n".join([*lines, "", ""]).encode() + body,))


def reply_json(value: Any, status: int = 200, reason: str = "OK") -> Answer:
    """A JSON answer."""
    return respond(status, reason, [("content-type", "application/json")], json.dumps(value).encode())


def reply_text(text: str, status: int = 200, reason: str = "OK") -> Answer:
    """A plain text answer."""
    return respond(status, reason, [("content-type", "text/plain; charset=utf-8")], text.encode())


def no_content() -> Answer:
    """An empty 204."""
    return respond(204, "No Content")


def no_reason(status: int, *, space: bool = True) -> Answer:
    """An answer whose status line has no reason phrase, with or without the space before it."""
    return Answer((f"HTTP/1.1 {status}{' ' if space else ''}\r\ncontent-length: 0\r\n\r\n".encode(),))


def in_chunks(parts: Iterable[bytes], content_type: str = "application/json") -> Answer:
    """A chunked 200, each part in a separate write."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in parts]
    steps: list[bytes | float] = [head.encode()]
    for chunk in chunks:
        steps += [chunk, 0.01]
    return Answer((*steps, b"0\r\n\r\n"))


def huge(size_bytes: int) -> Answer:
    """A text answer of that many bytes, in pieces of 64 KiB."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {size_bytes}\r\n\r\n"
    whole, rest = divmod(size_bytes, 65_536)
    return Answer((head.encode(), *[b"x" * 65_536] * whole, b"x" * rest))


def hang() -> Answer:
    """Never an answer."""
    return Answer((), "hang")


_HALF = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 10\r\n\r\nhalf "


def hang_in_body() -> Answer:
    """Headers and half a body, and then never the rest."""
    return Answer((b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 10\r\n\r\nhalf ",), "hang")


def drop() -> Answer:
    """The connection is closed without a byte."""
    return Answer((), "close")


def cut() -> Answer:
    """Headers and half a body, and then the connection is closed."""
    return Answer((b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 10\r\n\r\nhalf ",), "close")


def garbage(data: bytes = b"\x00\x01 this is not HTTP \xff\xfe\r\n\r\n") -> Answer:
    """Bytes that are no HTTP at all, and then the connection is closed."""
    return Answer((data,), "close")


class Gate:
    """Holds calls back until the test opens it. Opening works from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._event = asyncio.Event()

    async def passed(self) -> None:
        """Wait, inside a behaviour, until the gate is open."""
        await self._event.wait()

    def open(self) -> None:
        """Let everybody through, now and later."""
        self._loop.call_soon_threadsafe(self._event.set)


@dataclass
class _Record:
    """What the endpoint has seen; written by its own thread only."""

    calls: list[Call] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)
    answered: set[int] = field(default_factory=set)
    open_calls: int = 0
    max_concurrent: int = 0


class Endpoint:
    """An HTTP/1.1 server on loopback, in a separate thread.

    ``behaviour`` decides each answer; it may be replaced at any time, and may be a coroutine function. An
    exception in it is kept in ``errors`` (the fixture raises it) and answered with a 500. With ``tls`` its
    name is ``localhost``.
    """

    def __init__(self, behaviour: Behaviour | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.behaviour: Behaviour = behaviour or (lambda _: reply_json({"done": True}))
        self._record = _Record()
        self._loop = asyncio.new_event_loop()
        self._connections: set[_Connection] = set()
        self._thread = threading.Thread(target=self._run, name="endpoint", daemon=True)
        self._started = threading.Event()
        self._stop = asyncio.Event()
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10), "the endpoint did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, drop every connection and end the thread. A second call does nothing."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)

    @property
    def url(self) -> str:
        """The address to register."""
        return self.at("/hook")

    def at(self, target: str) -> str:
        """The address of another path (and query) on this server."""
        origin = "http://127.0.0.1" if self._tls is None else "https://localhost"
        return f"{origin}:{self.port}{target}"

    @property
    def calls(self) -> list[Call]:
        """Every call so far, in order of arrival."""
        return list(self._record.calls)

    @property
    def errors(self) -> list[BaseException]:
        """What behaviours raised."""
        return self._record.errors

    @property
    def max_concurrent(self) -> int:
        """The largest number of calls that were open at one time."""
        return self._record.max_concurrent

    @property
    def open_calls(self) -> int:
        """How many calls are open right now."""
        return self._record.open_calls

    def gone(self, call: Call) -> bool:
        """Whether the caller hung up before this call was answered."""
        return call.number in self._record.gone

    def job_ids(self) -> list[str]:
        """The ids of the pushed jobs, in order of arrival."""
        return [call.job["id"] for call in self.calls]

    def wait_for_calls(self, count: int, timeout_s: float = 30.0) -> list[Call]:
        """The calls, as soon as there are ``count`` of them."""
        eventually(lambda: len(self._record.calls) >= count, timeout_s=timeout_s, what=f"{count} endpoint calls")
        return self.calls

    def gate(self) -> Gate:
        """A new gate that behaviours of this endpoint can wait at."""
        return Gate(self._loop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=1024, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        tasks = [connection.task for connection in self._connections if connection.task]
        for connection in list(self._connections):
            connection.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
        await asyncio.sleep(0)


class _Connection(asyncio.Protocol):
    """One keep-alive connection: requests are read and answered one after the other."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._record = endpoint._record
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._can_write = asyncio.Event()
        self._can_write.set()
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._endpoint._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._endpoint._connections.discard(self)
        self._can_write.set()
        self._transport = None
        if self.task:
            self.task.cancel()

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    def abort(self) -> None:
        if self._transport:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self.task is None:
            self._next()

    def _next(self) -> None:
        """Start answering the next whole request of the buffer, if there is one."""
        self.task = None
        parsed = _parse(self._buffer)
        if parsed is None:
            return
        (method, target, headers, body), self._buffer = parsed
        record = self._record
        call = Call(len(record.calls), method, target, headers, body, time.time(), self._client())
        record.calls.append(call)
        record.open_calls += 1
        record.max_concurrent = max(record.max_concurrent, record.open_calls)
        try:
            decided = self._endpoint.behaviour(call)
        except Exception as exc:
            record.errors.append(exc)
            decided = reply_text(repr(exc), 500, "Behaviour Raised")
        if isinstance(decided, Answer) and decided.end == "keep" and len(decided.steps) == 1:
            assert self._transport
            self._transport.write(_bytes(decided.steps[0]))
            self._closed(call)
            self._next()
        else:
            self.task = asyncio.get_running_loop().create_task(self._answer(call, decided))

    def _client(self) -> str | None:
        assert self._transport
        certificate = self._transport.get_extra_info("peercert") or {}
        names = (pair for part in certificate.get("subject", ()) for pair in part)
        return next((value for key, value in names if key == "commonName"), None)

    def _closed(self, call: Call) -> None:
        self._record.open_calls -= 1
        self._record.answered.add(call.number)

    async def _answer(self, call: Call, decided: Answer | Awaitable[Answer]) -> None:
        try:
            answer = await self._decide(decided)
            await self._send(answer)
        except asyncio.CancelledError:
            self._record.gone.add(call.number)
            self._record.open_calls -= 1
            return
        self._closed(call)
        if answer.end == "close":
            if self._transport:
                self._transport.close()
        else:
            self._next()

    async def _decide(self, decided: Answer | Awaitable[Answer]) -> Answer:
        if not inspect.isawaitable(decided):
            return decided
        try:
            return await decided
        except Exception as exc:
            self._record.errors.append(exc)
            return reply_text(repr(exc), 500, "Behaviour Raised")

    async def _send(self, answer: Answer) -> None:
        for step in answer.steps:
            if isinstance(step, bytes):
                await self._can_write.wait()
                if self._transport is None:
                    raise asyncio.CancelledError
                self._transport.write(step)
            else:
                await asyncio.sleep(step)
        if answer.end == "hang":
            await asyncio.Event().wait()


def _bytes(step: bytes | float) -> bytes:
    assert isinstance(step, bytes)
    return step


Request = tuple[str, str, tuple[tuple[str, str], ...], bytes]


def _parse(buffer: bytes) -> tuple[Request, bytes] | None:
    """The first request of the buffer and what follows it, or None while it is not whole."""
    head, found, rest = buffer.partition(b"\r\n\r\n")
    if not found:
        return None
    lines = head.decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ", 2)
    headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:]))
    lower = {name.lower(): value for name, value in headers}
    if lower.get("transfer-encoding", "").lower() == "chunked":
        chunked = _parse_chunks(rest)
        return chunked and ((method, target, headers, chunked[0]), chunked[1])
    length = int(lower.get("content-length", "0"))
    if len(rest) < length:
        return None
    return (method, target, headers, rest[:length]), rest[length:]


def _parse_chunks(rest: bytes) -> tuple[bytes, bytes] | None:
    body = b""
    while True:
        size_line, found, rest = rest.partition(b"\r\n")
        if not found:
            return None
        size = int(size_line.split(b";")[0], 16)
        if len(rest) < size + 2:
            return None
        body += rest[:size]
        rest = rest[size + 2 :]
        if size == 0:
            return body, rest


StartEndpoint = Callable[..., Endpoint]
