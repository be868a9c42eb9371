"""Bodies that are read while they are sent, and answers that are longer than wanted."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from tests.conformance.http_client.raw_http import Exchange, ok, serving
from tests.conformance.servers import listening, until
from toril.core.blob import StreamedBody
from toril.core.destination import OutboundRequest
from toril.core.errors import BlobsUnavailable
from toril.core.outcome import BODY_UNREADABLE, Answered, CutOff, Outcome, TimedOut
from toril.http_client.client import HttpClient

HEAD = b"POST / HTTP/1.1\r\nhost: a\r\n"
PIECE = bytes(range(256)) * 256


def body_of(count: int, opened: list[int] | None = None, fault: Exception | None = None) -> StreamedBody:
    """A body of so many pieces; `opened` counts how often it is begun, `fault` comes in place of the last one."""

    async def pieces() -> AsyncIterator[bytes]:
        if opened is not None:
            opened.append(1)
        for number in range(count):
            if fault is not None and number == count - 1:
                raise fault
            yield PIECE

    return StreamedBody(count * len(PIECE), pieces)


def post(body: StreamedBody, timeout_s: float = 20.0) -> OutboundRequest:
    return OutboundRequest(HEAD, b"", timeout_s, stream=body)


def outbound(max_bytes: int = 1_000_000, *, truncate: bool = False) -> HttpClient:
    return HttpClient(5.0, max_bytes, truncate=truncate)


async def test_a_streamed_body_arrives_as_it_is() -> None:
    async with serving(ok(b"thanks")) as server:
        pool = outbound().pool(server.url)
        for _ in range(2):
            outcome = await pool.send(post(body_of(40)))
            assert isinstance(outcome, Answered)
            assert outcome.body == b"thanks"
        pool.close()
    assert [exchange.body == PIECE * 40 for exchange in server.exchanges] == [True, True]
    assert server.connections == 1, "the connection carries the next request"


async def test_a_framed_head_says_itself_how_long_the_stream_is() -> None:
    async with serving(ok()) as server:
        pool = outbound().pool(server.url)
        body = body_of(2)
        head = HEAD + b"content-length: %d\r\n" % body.size_bytes
        await pool.send(OutboundRequest(head, b"", 20.0, framed=True, stream=body))
        pool.close()
    (exchange,) = server.exchanges
    assert exchange.head == head + b"\r\n"
    assert exchange.body == PIECE * 2


async def test_a_slow_receiver_does_not_make_the_body_pile_up() -> None:
    count, seen = 800, 0

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        await reader.readuntil(b"\r\n\r\n")
        while seen < count * len(PIECE):
            seen += len(await reader.read(256 * 1024))
        writer.write(ok())
        await writer.drain()
        writer.close()

    async with listening(slowly) as port:
        pool = outbound().pool(f"http://127.0.0.1:{port}/")
        tracemalloc.start()
        try:
            outcome = await pool.send(post(body_of(count), timeout_s=60.0))
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        pool.close()
    assert isinstance(outcome, Answered)
    assert seen == count * len(PIECE)
    assert most < 16 * 1024 * 1024, f"{most} bytes were held of {seen}"


async def test_an_answer_that_comes_before_the_body_is_over_ends_the_sending() -> None:
    async def at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        while await reader.read(65_536):
            pass
        writer.close()

    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            await asyncio.sleep(0)
            yield PIECE

    async with listening(at_once) as port:
        pool = outbound().pool(f"http://127.0.0.1:{port}/")
        outcome = await pool.send(post(StreamedBody(10**12, endless)))
        pool.close()
    assert isinstance(outcome, Answered)
    assert outcome.status == 413
    assert sent < 10**6


async def test_a_body_that_cannot_be_read_to_its_end_cuts_the_request_off() -> None:
    async with serving(ok()) as server:
        pool = outbound().pool(server.url)
        outcome = await pool.send(post(body_of(3, fault=BlobsUnavailable("the store is away"))))
        pool.close()
    assert isinstance(outcome, CutOff)
    assert (outcome.code, outcome.detail) == (BODY_UNREADABLE, "the store is away")
    assert server.exchanges == []


async def test_a_body_is_read_anew_for_another_connection() -> None:
    async def answer_and_hang_up(exchange: Exchange) -> None:
        await exchange.say(ok())
        await exchange.hang_up()

    opened: list[int] = []
    async with serving(answer_and_hang_up) as server:
        pool = outbound().pool(server.url)
        for _ in range(3):
            outcome: Outcome = await pool.send(post(body_of(3, opened)))
            assert isinstance(outcome, Answered)
            await until(lambda: server.open == 0)
        pool.close()
    assert [exchange.body for exchange in server.exchanges] == [PIECE * 3] * 3
    assert len(opened) >= 3


@pytest.mark.parametrize("stuck", ["receiver", "source"])
async def test_a_stream_that_stands_still_times_out(stuck: str) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async def never() -> AsyncIterator[bytes]:
        yield PIECE
        await asyncio.sleep(60)

    async with listening(hang) as port:
        pool = outbound().pool(f"http://127.0.0.1:{port}/")
        body = body_of(5000) if stuck == "receiver" else StreamedBody(10**9, never)
        outcome = await pool.send(post(body, timeout_s=0.3))
        pool.close()
    assert isinstance(outcome, TimedOut)


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_longer_answer_is_taken_without_the_rest(chunked: bool) -> None:
    whole = b"z" * 5000
    answer = (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1388\r\n%b\r\n0\r\n\r\n" % whole
        if chunked
        else ok(whole)
    )
    async with serving(answer) as server:
        pool = outbound(1000, truncate=True).pool(server.url)
        for _ in range(2):
            outcome = await pool.send(OutboundRequest(HEAD, b"{}", 20.0))
            assert isinstance(outcome, Answered)
            assert (outcome.status, outcome.body, outcome.truncated) == (200, b"z" * 1000, True)
        pool.close()
    assert server.connections == 2, "a connection with an answer half read carries no other request"


async def test_an_answer_of_just_the_length_is_whole() -> None:
    async with serving(ok(b"z" * 1000)) as server:
        pool = outbound(1000, truncate=True).pool(server.url)
        outcome = await pool.send(OutboundRequest(HEAD, b"{}", 20.0))
        pool.close()
    assert isinstance(outcome, Answered)
    assert (outcome.body, outcome.truncated) == (b"z" * 1000, False)
