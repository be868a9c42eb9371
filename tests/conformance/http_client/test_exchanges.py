"""Exchanges over the connections of one pool, streamed ones and whole ones: none may meet another one's answer."""

import asyncio
from collections.abc import AsyncIterator

from tests.conformance.http_client.raw_http import Exchange, RawServer, ok, serving
from tests.conformance.servers import listening, until
from toril.core.blob import StreamedBody
from toril.core.destination import OutboundRequest
from toril.core.http.streaming import StreamHead, StreamRequest
from toril.core.outcome import BODY_UNREADABLE, Answered, ConnectFailed, CutOff, TimedOut
from toril.http_client.client import HttpClient, HttpPool
from toril.http_client.connecting import Network
from toril.http_client.exchange import HttpExchange

WAIT_S = 10.0
GET = StreamRequest(method=b"GET", head=b"GET / HTTP/1.1\r\nhost: a\r\n", length=0)
HEAD = StreamRequest(method=b"HEAD", head=b"HEAD / HTTP/1.1\r\nhost: a\r\n", length=0)
POST = OutboundRequest(b"POST / HTTP/1.1\r\nhost: a\r\n", b"{}", WAIT_S)
PIECE = b"p" * 65_536


def pool_of(server: RawServer, network: Network | None = None) -> HttpPool:
    host = "127.0.0.1" if network is None else "a.example"
    return HttpClient(5.0, 1_000_000, network=network).pool(f"http://{host}:{server.port}/")


async def opened(pool: HttpPool, request: StreamRequest = GET) -> HttpExchange:
    exchange = await pool.open(request, WAIT_S)
    assert not isinstance(exchange, (ConnectFailed, TimedOut)), exchange
    return exchange


async def body_of(exchange: HttpExchange) -> bytes:
    """The body of the answer, to its end."""
    head = await exchange.head(WAIT_S)
    assert isinstance(head, StreamHead), head
    body = b""
    while not exchange.over:
        piece = await exchange.read(WAIT_S)
        assert isinstance(piece, bytes), piece
        body += piece
    return body


async def test_whole_and_streamed_requests_share_connections() -> None:
    async with serving(ok(b"one"), ok(b"two"), ok(b"three")) as server:
        pool = pool_of(server)
        exchange = await opened(pool)
        assert await body_of(exchange) == b"one"
        exchange.close()
        outcome = await pool.send(POST)
        assert isinstance(outcome, Answered)
        assert outcome.body == b"two"
        exchange = await opened(pool)
        assert await body_of(exchange) == b"three"
        exchange.close()
        pool.close()
    assert server.connections == 1


async def test_an_exchange_that_is_closed_twice_gives_its_connection_back_once() -> None:
    gate = asyncio.Event()

    async def late(exchange: Exchange) -> None:
        await gate.wait()
        await exchange.say(ok(b"%d" % exchange.connection))

    async with serving(ok(b"first"), late) as server:
        pool = pool_of(server)
        first = await opened(pool)
        assert await body_of(first) == b"first"
        first.close()
        first.close()
        both = [await opened(pool), await opened(pool)]
        await until(lambda: len(server.exchanges) == 3)
        first.close()
        gate.set()
        assert [await body_of(exchange) for exchange in both] == [b"1", b"2"]
        for exchange in both:
            exchange.close()
        pool.close()


async def test_an_exchange_that_is_closed_while_it_is_repeated_asks_for_nothing_more() -> None:
    asked, gate = 0, asyncio.Event()

    async def resolve(_: str) -> list[str]:
        nonlocal asked
        asked += 1
        if asked > 1:
            await gate.wait()
        return ["127.0.0.1"]

    async def leave(exchange: Exchange) -> None:
        await exchange.hang_up()

    async with serving(ok(), leave, ok(b"not asked for")) as server:
        pool = pool_of(server, Network(resolve))
        exchange = await opened(pool)
        await body_of(exchange)
        exchange.close()
        repeated = await opened(pool)
        async with asyncio.TaskGroup() as tasks:
            head = tasks.create_task(repeated.head(WAIT_S))
            await until(lambda: asked == 2)
            repeated.close()
            gate.set()
        found = head.result()
        assert isinstance(found, CutOff)
        assert found.code == "ECONNABORTED"
        await until(lambda: server.connections == 2 and server.open == 0)
        assert len(server.exchanges) == 2
        pool.close()


async def test_a_connection_with_something_unread_is_not_used_again() -> None:
    async with serving(ok(b"x" * 100_000), ok(b"next")) as server:
        pool = pool_of(server)
        exchange = await opened(pool)
        await exchange.head(WAIT_S)
        await until(lambda: exchange._connection.reader.ended)
        exchange.close()
        exchange = await opened(pool)
        assert await body_of(exchange) == b"next"
        exchange.close()
        pool.close()
    assert server.connections == 2


async def test_the_answer_to_a_head_request_leaves_its_connection_usable() -> None:
    unsent = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n"
    async with serving(unsent, unsent, ok(b"next")) as server:
        pool = pool_of(server)
        for _ in range(2):
            exchange = await opened(pool, HEAD)
            assert await body_of(exchange) == b""
            exchange.close()
        outcome = await pool.send(OutboundRequest(HEAD.head, b"", WAIT_S, head_only=False))
        assert isinstance(outcome, Answered)
        assert outcome.body == b"next"
        pool.close()
    assert server.connections == 1


async def test_a_connection_whose_request_was_not_taken_whole_is_not_used_again() -> None:
    """The receiver answers early and keeps the connection: it may never read what is left of the body."""
    gate = asyncio.Event()

    async def answer_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ok(b"early"))
        await writer.drain()
        await gate.wait()

    async with listening(answer_at_once, limit=1024) as port:
        pool = HttpClient(5.0, 1_000_000).pool(f"http://127.0.0.1:{port}/")
        for _ in range(2):
            outcome = await pool.send(OutboundRequest(POST.head, b"x" * 50_000_000, WAIT_S))
            assert isinstance(outcome, Answered), outcome
            assert outcome.body == b"early"
        gate.set()
        pool.close()


async def test_a_body_that_is_not_as_long_as_it_was_said_to_be_cuts_the_request_off() -> None:
    for said in (len(PIECE) - 1, len(PIECE) + 1):

        async def pieces() -> AsyncIterator[bytes]:
            yield PIECE

        async with serving(ok()) as server:
            pool = pool_of(server)
            outcome = await pool.send(OutboundRequest(POST.head, b"", WAIT_S, stream=StreamedBody(said, pieces)))
            assert isinstance(outcome, CutOff)
            assert outcome.code == BODY_UNREADABLE
            await until(lambda: server.open == 0)
            pool.close()


async def test_a_body_that_is_not_read_to_its_end_is_closed_at_once() -> None:
    closed = False

    async def endless() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            while True:
                await asyncio.sleep(0)
                yield PIECE
        finally:
            closed = True

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        while await reader.read(65_536):
            pass
        writer.close()

    async with listening(refuse) as port:
        pool = HttpClient(5.0, 1_000_000).pool(f"http://127.0.0.1:{port}/")
        outcome = await pool.send(OutboundRequest(POST.head, b"", WAIT_S, stream=StreamedBody(10**12, endless)))
        assert isinstance(outcome, Answered)
        assert closed
        pool.close()
