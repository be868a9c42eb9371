"""What of an answer's head passes on to the client beside its headers, and which requests have no head to pass on."""

import asyncio

import pytest

from tests.conformance.web.bounded import bounded
from tests.conformance.web.passing import Client, answering, passing, serving
from tests.support.upstream import Head

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nhost: client.example\r\n\r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nLink: </b.js>\r\nconnection: x-b\r\nx-b: 1\r\n\r\n"
HINTS = [("link", "</a.css>; rel=preload"), ("Link", "</b.js>")]


async def status_line(client: Client) -> bytes:
    return await asyncio.wait_for(client.reader.readuntil(b"\r\n"), 20)


# Answers


@pytest.mark.parametrize("line", [b"299 Odd", b"200 Fine by me", b"404 R\xe9sum\xe9 \t-", b"200 OK", b"503 ", b"599 "])
async def test_the_reason_phrase_is_the_upstreams(line: bytes) -> None:
    async with serving(answering(b"HTTP/1.1 %b\r\ncontent-length: 0\r\n\r\n" % line)) as port, passing(port) as server:
        client = await server.client()
        await client.say(GET + GET)
        for _ in range(2):
            assert await status_line(client) == b"HTTP/1.1 %b\r\n" % line
            assert await status_line(client) == b"content-length: 0\r\n"
            assert await status_line(client) == b"\r\n"


@pytest.mark.parametrize("reason", [b"a\x01b", b"a\x00b", b"\x7f"])
async def test_a_reason_phrase_that_cannot_be_sent_is_left_out(reason: bytes) -> None:
    raw = b"HTTP/1.1 200 %b\r\ncontent-length: 0\r\n\r\n" % reason
    async with serving(answering(raw)) as port, passing(port) as server:
        client = await server.client()
        await client.say(GET)
        assert await status_line(client) in {b"HTTP/1.1 200 \r\n", b"HTTP/1.1 502 Bad Gateway\r\n"}


@pytest.mark.parametrize("status", [b"600", b"999", b"099", b"000"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_an_upstream_status_that_is_invalid_is_a_502(method: bytes, status: bytes) -> None:
    raw = b"HTTP/1.1 %b Odd\r\ncontent-length: 0\r\n\r\n" % status
    async with serving(answering(raw)) as port, passing(port) as server:
        client = await server.client()
        await client.say(method + GET[3:])
        head = await client.head()
        assert head[0] == 502
        assert ("x-proxq-source", "proxq") in head[1]


@pytest.mark.parametrize(
    "coding",
    [
        b"transfer-encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: gzip\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked, chunked\r\n",
        b"transfer-encoding: deflate\r\n",
    ],
)
async def test_an_unsupported_transfer_coding_is_a_502_unless_there_is_no_body(coding: bytes) -> None:
    raw = b"HTTP/1.1 200 OK\r\n" + coding + b"\r\n3\r\n\x1f\x8b\x08\r\n0\r\n\r\n"
    async with serving(answering(raw)) as port, passing(port) as server:
        answer = await server.ask(GET)
        assert (answer.status, answer.values("x-proxq-source")) == (502, ["proxq"])
    head_alone = b"HTTP/1.1 200 OK\r\n" + coding + b"\r\n"
    async with serving(answering(head_alone)) as port, passing(port) as server:
        client = await server.client()
        await client.say(b"HEAD" + GET[3:])
        assert await client.head() == (200, [])


async def test_the_answer_to_head_has_a_length_only_where_the_upstream_gave_one() -> None:
    async with serving(answering(b"HTTP/1.1 200 OK\r\nx-a: 1\r\n\r\n")) as port, passing(port) as server:
        client = await server.client()
        await client.say(b"HEAD" + GET[3:])
        assert await client.head() == (200, [("x-a", "1")])


async def test_early_hints_come_before_the_answer_is_there() -> None:
    go_on = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(EARLY)
        await writer.drain()
        await go_on.wait()
        writer.write(b"HTTP/1.1 102 Processing\r\ncontent-length: 7\r\n\r\n" + EARLY + OK)
        await writer.drain()

    async with serving(serve) as port, passing(port) as server:
        client = await server.client()
        await client.say(GET)
        assert await status_line(client) == b"HTTP/1.1 103 Early Hints\r\n"
        assert [await status_line(client) for _ in range(3)][2] == b"\r\n"
        go_on.set()
        assert await client.head() == (102, [])
        assert await client.head() == (103, HINTS)
        assert (await client.answer()).body == b"ok"


async def test_an_old_client_gets_no_early_hints() -> None:
    async with serving(answering(EARLY + OK)) as port, passing(port) as server:
        client = await server.client()
        await client.say(b"GET / HTTP/1.0\r\n\r\n")
        assert (await client.head())[0] == 200


async def test_early_hints_before_a_502_are_followed_by_it() -> None:
    async with serving(answering(EARLY + b"HTTP/1.1 600 Odd\r\n\r\n")) as port, passing(port) as server:
        client = await server.client()
        await client.say(GET)
        assert [(await client.head())[0], (await client.head())[0]] == [103, 502]


# Requests


async def test_the_host_header_is_the_upstreams_and_the_clients_host_is_forwarded() -> None:
    seen: list[tuple[Head, bytes]] = []
    async with serving(answering(OK, seen=seen)) as port, passing(port) as server:
        await server.ask(GET)
        await server.ask(GET.replace(b"\r\n\r\n", b"\r\nx-forwarded-host: first.example\r\n\r\n"))
    assert [head.value("host") for head, _ in seen] == [f"127.0.0.1:{port}"] * 2
    assert [head.value("x-forwarded-host") for head, _ in seen] == ["client.example", "first.example"]


HANDSHAKE = b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAA\r\n"


@pytest.mark.parametrize("more", [b"", b"connection: upgrade\r\nupgrade: h2c\r\n", HANDSHAKE])
@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"", 400),
        (b"host: a\r\nhost: a\r\n", 400),
        (b"Host: a\r\nX: 1\r\nHOST: b\r\n", 400),
        (b"host: a, b\r\n", 400),
        (b"host: a/b\r\n", 400),
        (b"host: u@a\r\n", 400),
        (b"host: a:b\r\n", 400),
        (b"host: a\r\ntransfer-encoding: gzip, chunked\r\n", 501),
        (b"host: a\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n", 501),
    ],
)
async def test_a_request_without_exactly_one_host_or_in_an_unsupported_coding_is_refused(
    host: bytes, status: int, more: bytes
) -> None:
    seen: list[tuple[Head, bytes]] = []
    async with serving(answering(OK, seen=seen)) as port, passing(port) as server:
        client = await server.client()
        await client.say(b"POST / HTTP/1.1\r\n" + host + more + b"\r\n0\r\n\r\n")
        found, headers = await client.head()
        assert found == status
        assert ("connection", "close") in headers
        await client.rest()
        assert seen == []


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.0\r\n",
        b"GET / HTTP/1.1\r\nhost:\r\n",
        b"GET / HTTP/1.1\r\nhost: [::1]:80\r\n",
        b"GET / HTTP/1.1\r\nhost: a_b.example:\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n",
    ],
)
async def test_valid_host_headers_and_transfer_codings_pass(head: bytes) -> None:
    async with serving(answering(OK)) as port, passing(port) as server:
        client = await server.client()
        await client.say(head + b"\r\n" + (b"0\r\n\r\n" if b"Chunked" in head else b""))
        assert (await client.answer()).body == b"ok"


async def test_an_invalid_pipelined_head_does_not_cost_the_request_before_its_answer() -> None:
    async with bounded() as server, server.client() as client:
        await client.say(b"GET /a HTTP/1.1\r\nhost: here\r\n\r\nGET /b HTTP/1.1\r\n\r\n")
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 400
