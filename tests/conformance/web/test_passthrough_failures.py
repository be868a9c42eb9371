"""Requests that pass through and fail: no answer, half an answer, a client or an upstream that goes."""

import asyncio

import pytest

from tests.conformance.web.passing import WAIT_S, answering, passing, serving
from tests.support.ports import free_port
from tests.support.upstream import Head, gone, read_body, read_head

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
Seen = list[tuple[Head, bytes]]


async def test_an_unreachable_upstream_is_answered_with_a_502_by_toril() -> None:
    async with passing(free_port()) as server:
        answer = await server.ask(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (answer.status, answer.values("x-proxq-source")) == (502, ["proxq"])
    assert answer.body == b'{"code":"BAD_GATEWAY","message":"Bad Gateway"}'


@pytest.mark.parametrize("raw", [
    b"", b"HTTP/1.1 20", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
    b"HTTP/1.1 101 Sure\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000 + b"\r\n\r\n",
])  # fmt: skip
async def test_an_invalid_upstream_answer_is_a_502_by_toril(raw: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        await read_body(reader, head)
        writer.write(raw)
        await writer.drain()

    async with serving(serve) as port, passing(port) as server:
        answer = await server.ask(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi")
    assert (answer.status, answer.values("x-proxq-source")) == (502, ["proxq"])


async def test_an_upstream_timeout_is_a_504_by_toril_and_closes_the_connection() -> None:
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        await gone(reader)
        left.set()

    async with serving(serve) as port, passing(port, timeout_s=0.2) as server:
        answer = await server.ask(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (answer.status, answer.values("x-proxq-source")) == (504, ["proxq"])
        await asyncio.wait_for(left.wait(), WAIT_S)


async def test_a_slow_client_is_not_the_upstreams_fault() -> None:
    seen: Seen = []
    async with serving(answering(OK, seen=seen)) as port, passing(port, timeout_s=0.2) as server:
        client = await server.client()
        await client.say(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab")
        await asyncio.sleep(0.6)
        await client.say(b"cd")
        assert (await client.answer()).status == 200
    assert seen[0][1] == b"abcd"


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("head", [b"content-length: 100", b"transfer-encoding: chunked"])
async def test_an_answer_that_breaks_off_does_not_look_whole(head: bytes, version: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n5\r\nhello\r\n" % head)
        await writer.drain()

    async with serving(serve) as port, passing(port) as server:
        client = await server.client()
        await client.say(b"GET / HTTP/%b\r\nhost: x\r\nconnection: close\r\n\r\n" % version)
        await client.head()
        if version == b"1.0" and head != b"content-length: 100":
            with pytest.raises(ConnectionResetError):
                await client.rest()
        else:
            rest = await client.rest()
            assert b"hello" in rest
            assert not rest.endswith(b"0\r\n\r\n")
            assert len(rest) < 100


async def test_a_body_that_stands_still_is_cut_off() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello")
        await gone(reader)

    async with serving(serve) as port, passing(port, timeout_s=0.3) as server:
        client = await server.client()
        await client.say(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await client.head()
        assert await client.rest() == b"hello"


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n\r\nhello"])
async def test_a_client_that_hangs_up_ends_the_upstream_request(said: bytes) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(said)
        asked.set()
        await gone(reader)
        left.set()

    async with serving(serve) as port, passing(port) as server:
        client = await server.client()
        await client.say(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.wait_for(asked.wait(), WAIT_S)
        client.writer.close()
        await asyncio.wait_for(left.wait(), WAIT_S)


async def test_a_client_that_hangs_up_in_its_body_leaves_half_a_request() -> None:
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await read_body(reader, head)
        left.set()

    async with serving(serve) as port, passing(port) as server:
        client = await server.client()
        await client.say(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        client.writer.close()
        await asyncio.wait_for(left.wait(), WAIT_S)


async def test_a_connection_that_the_upstream_has_closed_is_replaced() -> None:
    """A server closes an idle connection whenever it likes; a request that may be repeated is."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await read_head(reader)
        writer.write(OK)
        if connections == 1:
            await read_head(reader)  # and close without a word, in the same moment as a request comes

    async with serving(serve) as port, passing(port) as server:
        for _ in range(2):
            answer = await server.ask(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert answer.status == 200
    assert connections == 2


async def test_a_request_that_must_not_be_repeated_gets_a_new_connection() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await read_body(reader, await read_head(reader))
            writer.write(OK)

    async with serving(serve) as port, passing(port) as server:
        for method in (b"POST", b"POST", b"GET", b"GET"):
            answer = await server.ask(method + b" / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert answer.status == 200
    assert connections == 2


async def test_a_body_after_an_upgrade_to_another_protocol_belongs_to_the_request() -> None:
    """As curl --http2 sends it: h2c is not supported, so it is a plain request."""
    seen: Seen = []
    async with serving(answering(OK, seen=seen)) as port, passing(port) as server:
        client = await server.client()
        request = (
            b"POST / HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
            b"http2-settings: AAMAAABk\r\ncontent-length: 4\r\n\r\nbo"
        )
        await client.say(request)
        await client.say(b"dyGET /next HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 200
    assert [(head.target, body) for head, body in seen] == [("/", b"body"), ("/next", b"")]
    assert not {"upgrade", "connection", "http2-settings"} & {name for name, _ in seen[0][0].headers}


async def test_requests_under_way_at_a_shutdown_get_the_grace_period_and_are_then_cut_off() -> None:
    finish = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab")
        if head.target == "/ends":
            await finish.wait()
            writer.write(b"cd")
        await gone(reader)

    async with serving(serve) as port, passing(port) as server:
        ends, hangs = await server.client(), await server.client()
        await ends.say(b"GET /ends HTTP/1.1\r\nhost: x\r\n\r\n")
        await hangs.say(b"GET /hangs HTTP/1.1\r\nhost: x\r\n\r\n")
        await ends.head()
        await hangs.head()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.passthrough.drain(1.0))
            finish.set()
            assert await ends.exactly(4) == b"abcd"
        assert await hangs.rest() == b"ab"
