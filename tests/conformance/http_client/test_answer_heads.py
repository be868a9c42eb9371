"""What of an answer is a header and what is not, and how much of it may be something else than its body."""

import asyncio
import tracemalloc
from itertools import repeat

import pytest

from tests.conformance.http_client.raw_http import Exchange, ok, serving
from tests.conformance.servers import until
from toril.core.destination import OutboundRequest
from toril.core.http.headers import ANSWER_HEAD_BYTES
from toril.core.outcome import Answered, CutOff, Outcome
from toril.http_client.client import HttpClient

POST = OutboundRequest(b"POST / HTTP/1.1\r\nhost: a\r\n", b"{}", 20.0)
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def outcome_of(*pieces: bytes, head_bytes: int = ANSWER_HEAD_BYTES, head_only: bool = False) -> Outcome:
    """What one request comes to whose answer comes in these pieces."""

    async def say(exchange: Exchange) -> None:
        await exchange.say(*pieces)
        await exchange.gone()

    async with serving(say) as server:
        pool = HttpClient(2.0, 100_000_000, max_head_bytes=head_bytes).pool(server.url)
        found = await pool.send(OutboundRequest(POST.head, POST.body, POST.timeout_s, head_only=head_only))
        pool.close()
        await until(lambda: server.open == 0)
        return found


def headers_of(outcome: Outcome) -> list[tuple[bytes, bytes]]:
    assert isinstance(outcome, Answered), outcome
    return outcome.headers


def is_too_large(outcome: Outcome) -> None:
    assert isinstance(outcome, CutOff), outcome
    assert outcome.code == "ERR_HEADERS_TOO_LARGE"
    assert outcome.detail == f"The answer's headers are larger than {ANSWER_HEAD_BYTES} bytes"


# What is no header


async def test_a_trailer_is_no_header() -> None:
    found = await outcome_of(CHUNKED, b"2\r\nok\r\n0\r\nset-cookie: a=b\r\nContent-Type: x/y\r\n\r\n")
    assert headers_of(found) == [(b"transfer-encoding", b"chunked")]


async def test_the_headers_of_informational_answers_are_not_the_answers() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nset-cookie: early=1\r\n\r\n"
    found = await outcome_of(early, early + b"HTTP/1.1 100 Continue\r\nx-one: 1\r\n\r\n" + ok(b"", b"x-two: 2"))
    assert headers_of(found) == [(b"x-two", b"2"), (b"content-length", b"0")]


async def test_bytes_after_the_answer_to_a_head_request_are_no_headers() -> None:
    found = await outcome_of(ok(b"hello", b"x-one: 1") + ok(b"", b"x-two: 2"), head_only=True)
    assert headers_of(found) == [(b"x-one", b"1"), (b"content-length", b"5")]


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_bytes_after_an_answer_without_a_body_are_no_headers(status: bytes) -> None:
    found = await outcome_of(b"HTTP/1.1 %b\r\nx-one: 1\r\n\r\n" % status + ok(b"", b"x-two: 2"))
    assert headers_of(found) == [(b"x-one", b"1")]


# What its body is in


@pytest.mark.parametrize(
    "coding",
    [
        b"transfer-encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: GZIP\r\nTransfer-Encoding: chunked\r\n",
        b"transfer-encoding: identity\r\n",
    ],
)
async def test_a_body_in_an_unsupported_transfer_coding_is_cut_off_with_the_reason(coding: bytes) -> None:
    packed = b"HTTP/1.1 200 OK\r\n" + coding + b"\r\n"
    found = await outcome_of(packed, b"3\r\n\x1f\x8b\x08\r\n0\r\n\r\n")
    assert isinstance(found, CutOff)
    assert found.code == "ERR_TRANSFER_CODING"
    assert found.detail.startswith("The answer's body is in the transfer coding ")
    assert isinstance(await outcome_of(packed, head_only=True), Answered)


async def test_a_status_below_100_is_no_answer() -> None:
    found = await outcome_of(b"HTTP/1.1 099 Odd\r\ncontent-length: 0\r\n\r\n")
    assert isinstance(found, CutOff)
    assert found.detail == "The answer has the status 99"


# How much may come that is no body

MANY = 64


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(b"y" * 65_536, id="a line"),
        pytest.param(b"x: y\r\n" * 10_000, id="short headers"),
        pytest.param(b"x-%b: y\r\n" % (b"z" * 60_000), id="long names"),
    ],
)
@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nx: ", id="a header"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nx: ", id="an informational answer's header"),
        pytest.param(CHUNKED + b"2\r\nok\r\n0\r\nx: ", id="a trailer"),
    ],
)
async def test_a_head_without_end_is_cut_off(start: bytes, piece: bytes) -> None:
    is_too_large(await outcome_of(start, *repeat(piece, MANY)))


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        pytest.param(b"HTTP/1.1 200 O", b"K" * 65_536, id="reason phrase"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx", b"x" * 65_536, id="header name"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, id="informational answers"),
        pytest.param(b"", b"\r\n" * 30_000, id="empty lines"),
        pytest.param(CHUNKED + b"2;", b"x" * 65_536, id="chunk extension"),
        pytest.param(CHUNKED, b"1;" + b"x" * 1000 + b"\r\ny\r\n", id="chunks of next to nothing"),
        pytest.param(CHUNKED, b"0" * 65_536, id="chunk size"),
    ],
)
async def test_an_endless_part_outside_the_body_is_cut_off(start: bytes, piece: bytes) -> None:
    found = await outcome_of(start, *repeat(piece, MANY * 4))
    assert isinstance(found, CutOff)
    assert found.code in {"ERR_HEADERS_TOO_LARGE", "ERR_HTTP"}


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nx: %b\r\n" % (b"y" * 70_000),
        b"HTTP/1.1 200 O%b\r\n" % (b"K" * 70_000),
        b"HTTP/1.1 200 OK\r\n" + b"x:\r\n" * 17_000,
    ],
)
async def test_a_head_over_the_limit_is_cut_off_also_where_it_comes_at_once(head: bytes) -> None:
    is_too_large(await outcome_of(head + b"content-length: 0\r\n\r\n"))


async def test_a_head_below_the_limit_is_whole() -> None:
    long = b"y" * (ANSWER_HEAD_BYTES - 200)
    assert headers_of(await outcome_of(ok(b"", b"x: " + long)))[0] == (b"x", long)


async def test_the_head_limit_is_configurable() -> None:
    found = await outcome_of(ok(b"", b"x: " + b"y" * 3000), head_bytes=2048)
    assert isinstance(found, CutOff)
    assert found.detail == "The answer's headers are larger than 2048 bytes"


async def test_a_large_body_in_small_chunks_is_read() -> None:
    chunk = b"64\r\n" + b"x" * 100 + b"\r\n"
    found = await outcome_of(CHUNKED, *repeat(chunk * 500, 100), b"0\r\n\r\n")
    assert isinstance(found, Answered)
    assert len(found.body) == 5_000_000


async def test_many_small_chunks_make_no_room_for_a_long_trailer() -> None:
    chunks = b"1\r\ny\r\n" * 10_000
    is_too_large(await outcome_of(CHUNKED, *repeat(chunks, 5), b"0\r\nx: ", *repeat(b"y" * 65_536, 12)))


async def test_a_body_in_very_many_chunks_takes_no_more_memory_than_its_size_several_times() -> None:
    tracemalloc.start()
    try:
        found = await outcome_of(CHUNKED, *repeat(b"2\r\nxy\r\n" * 10_000, 8), b"0\r\n\r\n")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(found, Answered)
    assert found.body == b"xy" * 80_000
    assert most < 20 * len(found.body)


async def test_each_answer_on_a_connection_has_the_whole_limit() -> None:
    async with serving(ok(b"ok", b"x: " + b"y" * 40_000)) as server:
        pool = HttpClient(2.0, 1000).pool(server.url)
        for _ in range(5):
            assert isinstance(await pool.send(POST), Answered)
        assert server.connections == 1
        pool.close()


async def test_an_endless_head_costs_no_more_than_its_limit() -> None:
    sent = 0

    async def flood(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.say(b"HTTP/1.1 200 OK\r\nx: ")
        while True:
            await exchange.say(b"y" * 65_536)
            sent += 65_536
            await asyncio.sleep(0)

    async with serving(flood) as server:
        pool = HttpClient(2.0, 1_000_000).pool(server.url)
        is_too_large(await pool.send(POST))
        await until(lambda: server.open == 0)
    # What the buffers of two sockets take, and not the hundreds of megabytes that 20 seconds allow.
    assert sent < 32 * 1024 * 1024
