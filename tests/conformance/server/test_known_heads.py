"""A request whose header lines have come before goes past the parser, and means what it would mean to the parser."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from random import Random

import msgspec
import pytest
from starlette.types import Receive, Scope, Send

from toril.config.settings import ConnectionPolicy
from toril.server.proxied_http import ProxiedProtocol
from toril.server.server import Front, bind, listening
from toril.web.raw_target import raw_target
from toril.web.request import read_body

_TIMES = 5
_FRONT = Front()
_DATE = re.compile(rb"date: [^\r]*\r\n")
_HOST = b"Host: toril.test\r\n"


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with all that the application is told of a request."""
    body = await read_body(scope, receive, 2**20)
    seen = [scope["method"], scope["http_version"], raw_target(scope), scope["path"], scope["headers"], body]
    answer = msgspec.json.encode(seen)
    scope["headers"].append((b"added", b"by the application"))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer})


class _Parsed:
    """Counts the heads that the parser reads."""

    count = 0


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> _Parsed:
    counted, complete = _Parsed(), ProxiedProtocol.on_headers_complete

    def counting(self: ProxiedProtocol) -> None:
        counted.count += 1
        complete(self)

    monkeypatch.setattr(ProxiedProtocol, "on_headers_complete", counting)
    return counted


@asynccontextmanager
async def _served(front: Front = _FRONT) -> AsyncIterator[tuple[str, int]]:
    with bind("127.0.0.1", 0) as sock:
        async with listening(_echo, sock, front):
            yield sock.getsockname()


class _Client:
    """One connection, whose writes leave one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def ask(self, *parts: bytes) -> tuple[bytes, bytes]:
        """Send a request in these parts; return the status line and the body of the answer."""
        for part in parts[:-1]:
            self._writer.write(part)
            await asyncio.sleep(0.02)
        self._writer.write(parts[-1])
        return await self.answer(bodiless=parts[0].startswith(b"HEAD"))

    async def answer(self, *, bodiless: bool = False) -> tuple[bytes, bytes]:
        """Return the next answer."""
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 10)
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
        return head.split(b"\r\n")[0], b"" if bodiless else await self._reader.readexactly(length)

    async def is_closed(self) -> bool:
        """Return True if nothing more comes, and the server has closed."""
        return await asyncio.wait_for(self._reader.read(1), 10) == b""

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


@asynccontextmanager
async def _client(address: tuple[str, int]) -> AsyncIterator[_Client]:
    client = _Client(*await asyncio.open_connection(*address))
    try:
        yield client
    finally:
        client.close()


async def _first_answer(address: tuple[str, int], *parts: bytes) -> tuple[bytes, bytes]:
    async with _client(address) as client:
        return await client.ask(*parts)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /queues/a%2Fb/jobs/1?x=%20y HTTP/1.1\r\n" + _HOST + b"Authorization: Bearer x\r\n\r\n",
        b"POST /a HTTP/1.1\r\n" + _HOST + b"Content-Length: 7\r\n\r\n[1,\r\n2]",
        b"PUT /a HTTP/1.1\r\n" + _HOST + b"Connection: keep-alive\r\ncontent-length: 0\r\n\r\n",
        b"DELETE / HTTP/1.1\r\n" + _HOST + b"x-twice: 1\r\nX-Twice: 2\r\nx-empty:\r\nx-latin: \xe9\r\n\r\n",
        b"HEAD /a HTTP/1.1\r\n" + _HOST + b"\r\n",
        b"GET /a HTTP/1.1\r\n" + _HOST + b"Content-Length: 4\r\n\r\n\r\n\r\n",
        b"POST /a HTTP/1.1\r\n" + _HOST + b"Content-Length: 60000\r\n\r\n" + b"x" * 60_000,
    ],
)
async def test_what_comes_again_is_read_without_the_parser_and_means_the_same(parsed: _Parsed, request_: bytes) -> None:
    async with _served() as address, _client(address) as client:
        answers = [await client.ask(request_) for _ in range(_TIMES)]
        assert {answer[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
        assert len(set(answers)) == 1
        assert parsed.count == 2
        assert await _first_answer(address, request_) == answers[0]  # known to all connections
        assert parsed.count == 2


@pytest.mark.parametrize(
    "parts",
    [
        (b"POST /a HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",),
        (b"GET http://toril.test/a HTTP/1.1\r\n" + _HOST + b"\r\n",),
        (b"GET //a HTTP/1.1\r\n" + _HOST + b"\r\n",),
        (b"OPTIONS * HTTP/1.1\r\n" + _HOST + b"\r\n",),
        (b"\r\nGET /a HTTP/1.1\r\n" + _HOST + b"\r\n",),
        (b"GET /a HTTP/1.1\r\n" + _HOST, b"\r\n"),
        (b"POST /a HTTP/1.1\r\n" + _HOST + b"Content-Length: 4\r\n\r\n", b"abcd"),
        (b"POST /a HTTP/1.1\r\n" + _HOST + b"Content-Length: 4\r\n\r\nab", b"cd"),
        (b"GET /a HTTP/1.1\r\n" + _HOST + b"Upgrade: h2c\r\nConnection: upgrade\r\n\r\n",),
        (b"GET /a HTTP/1.1\r\n" + _HOST + b"X-Long: " + b"x" * 1024 + b"\r\n\r\n",),
    ],
)
async def test_what_only_the_parser_can_tell_is_left_to_it(parsed: _Parsed, parts: tuple[bytes, ...]) -> None:
    async with _served() as address:
        first = await _first_answer(address, *parts)
        before = parsed.count
        async with _client(address) as client:
            assert {await client.ask(*parts) for _ in range(_TIMES)} == {first}
        assert parsed.count >= before + _TIMES


@pytest.mark.parametrize(
    "line",
    [
        b"get /a HTTP/1.1",
        b"GET  /a HTTP/1.1",
        b"GET /a  HTTP/1.1",
        b"GET /a HTTP/1.2",
        b"GET /a http/1.1",
        b"GET a HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET /\xe9 HTTP/1.1",
        b"GET /a",
        b"BREW /a HTTP/1.1",
        b"CONNECT /a HTTP/1.1",
        b"",
    ],
)
async def test_a_request_line_is_not_believed_for_the_sake_of_its_headers(parsed: _Parsed, line: bytes) -> None:
    lines = b"\r\n" + _HOST + b"\r\n"
    async with _served() as address:
        first = await _first_answer(address, line + lines)
        async with _client(address) as client:
            before = parsed.count
            for _ in range(3):
                assert (await client.ask(b"GET /a HTTP/1.1" + lines))[0] == b"HTTP/1.1 200 OK"
            assert parsed.count == before + 2
            assert await client.ask(line + lines) == first


async def test_http_1_0_is_answered_and_closed_whatever_was_known(parsed: _Parsed) -> None:
    lines = _HOST + b"X: y\r\n\r\n"
    async with _served() as address, _client(address) as client:
        for _ in range(3):
            await client.ask(b"GET /a HTTP/1.1\r\n" + lines)
        assert parsed.count == 2
        _, body = await client.ask(b"GET /a HTTP/1.0\r\n" + lines)
        assert msgspec.json.decode(body)[1] == "1.0"
        assert await client.is_closed()


async def test_pipelined_requests_are_each_answered_in_their_order() -> None:
    lines = b" HTTP/1.1\r\n" + _HOST + b"Content-Length: 3\r\n\r\n"
    async with _served() as address, _client(address) as client:
        for _ in range(3):
            await client.ask(b"POST /warm" + lines + b"abc")
        both = b"POST /one" + lines + b"abcPOST /two" + lines + b"defPOST /three" + lines
        _, one = await client.ask(both)
        _, two = await client.answer()
        _, three = await client.ask(b"ghi")
        seen = [msgspec.json.decode(body) for body in (one, two, three)]
        assert [(each[2], each[5]) for each in seen] == [
            ("L29uZQ==", "YWJj"),
            ("L3R3bw==", "ZGVm"),
            ("L3RocmVl", "Z2hp"),
        ]


async def test_a_body_that_is_longer_than_announced_is_the_next_request() -> None:
    lines = b" HTTP/1.1\r\n" + _HOST + b"Content-Length: 3\r\n\r\n"
    async with _served() as address, _client(address) as client:
        for _ in range(3):
            await client.ask(b"POST /warm" + lines + b"abc")
        assert (await client.ask(b"POST /warm" + lines + b"abc!!"))[0] == b"HTTP/1.1 200 OK"
        assert (await client.answer())[0] == b"HTTP/1.1 400 Bad Request"
        assert await client.is_closed()


async def test_a_head_has_its_limit_also_where_its_lines_are_known(parsed: _Parsed) -> None:
    lines = b" HTTP/1.1\r\n" + _HOST + b"X: y\r\n\r\n"
    policy = ConnectionPolicy(max_head_bytes=1024)
    async with _served(Front(connections=policy)) as address, _client(address) as client:
        for _ in range(3):
            await client.ask(b"GET /a" + lines)
        assert parsed.count == 2
        room = 1024 - len(b"GET /" + lines)
        assert (await client.ask(b"GET /" + b"a" * room + lines))[0] == b"HTTP/1.1 200 OK"
        assert (await client.ask(b"GET /" + b"a" * (room + 1) + lines))[0].startswith(b"HTTP/1.1 431")


_PLAIN = (_HOST, _HOST + b"X: y\r\n", _HOST + b"Connection: keep-alive\r\nAccept: */*\r\n")
_LINES = (b"GET /a", b"POST /a", b"PUT /b?c", b"DELETE /%41", b"GET //a", b"OPTIONS *", b"get /a", b"GET /a b")
_ODD = (b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"X: a\n", b" folded\r\n", b"Host: b\r\n")
_LAST = b"GET /last HTTP/1.1\r\n" + _HOST + b"Connection: close\r\n\r\n"


def _stream(chance: Random) -> list[bytes]:
    """Return the writes of one connection: requests that are alike, some odd ones among them, cut anywhere."""
    writes: list[bytes] = []
    for _ in range(chance.randint(3, 8)):
        line = _LINES[min(int(chance.expovariate(0.8)), len(_LINES) - 1)]
        headers, body = chance.choice(_PLAIN), chance.choice((b"", b"abc", b"\r\n\r\n", b"GET /a HTTP/1.1\r\n"))
        if body or chance.random() < 0.2:
            headers += b"Content-Length: %d\r\n" % len(body)
        if chance.random() < 0.1:
            headers += chance.choice(_ODD)
        version = b"1.0" if chance.random() < 0.02 else b"1.1"
        request = b"%b HTTP/%b\r\n%b\r\n%b" % (line, version, headers, body)
        if chance.random() < 0.1:  # more or less of it than announced
            request = request[: chance.randint(1, len(request))] + chance.choice((b"", b"\r\n", b"x"))
        if writes and chance.random() < 0.2:
            writes[-1] += request
        elif chance.random() < 0.2:
            cut = chance.randint(1, len(request) - 1) if len(request) > 1 else 1
            writes += [part for part in (request[:cut], request[cut:]) if part]
        else:
            writes.append(request)
    return [*writes, _LAST]


async def _all_answers(address: tuple[str, int], writes: list[bytes]) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    answers = b""
    try:
        for write in writes:
            writer.write(write)
            with suppress(TimeoutError):  # the answer, if there is one before the next write
                answers += await asyncio.wait_for(reader.read(2**20), 0.005)
        with suppress(TimeoutError):  # it waits for more of the last body
            while part := await asyncio.wait_for(reader.read(2**20), 0.3):
                answers += part
    except ConnectionError:
        pass
    finally:
        writer.close()
    return _DATE.sub(b"", answers)


async def test_whatever_a_client_sends_is_answered_as_if_nothing_were_known(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = Random(13)
    streams = [_stream(chance) for _ in range(150)]
    taken, take_known = 0, ProxiedProtocol.take_known

    def counting(self: ProxiedProtocol, data: bytes) -> bool:
        nonlocal taken
        is_taken = take_known(self, data)
        taken += is_taken
        return is_taken

    async with _served() as address:
        monkeypatch.setattr(ProxiedProtocol, "take_known", lambda *_: False)
        parsed = [await _all_answers(address, writes) for writes in streams]
        monkeypatch.setattr(ProxiedProtocol, "take_known", counting)
        known = [await _all_answers(address, writes) for writes in streams]
    assert taken > len(streams)
    for writes, before, after in zip(streams, parsed, known, strict=True):
        assert after == before, writes
