"""What of an upstream's answer is passed on as a header, how large a head may be, and how long it may take."""

import asyncio
from itertools import repeat

import pytest

from tests.conformance.web.passing import WAIT_S, Serve, answering, passing, serving
from tests.support.upstream import gone, read_body, read_head
from toril.core.http.headers import ANSWER_HEAD_BYTES

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def saying(*pieces: bytes, pause_s: float = 0.0) -> Serve:
    """An upstream's behaviour: each connection's first request is answered in these pieces."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(reader, await read_head(reader))
        for piece in pieces:
            if writer.is_closing():
                return
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        await gone(reader)

    return serve


def counting(serve: Serve, connections: list[int]) -> Serve:
    """The same, and each connection is noted."""

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(len(connections))
        await serve(reader, writer)

    return counted


# What is no header


@pytest.mark.parametrize(
    "pieces",
    [
        (CHUNKED + b"2\r\nok\r\n0\r\nset-cookie: a=b\r\nx-late: 1\r\n\r\n",),
        (CHUNKED + b"2\r\nok\r\n", b"0\r\nset-cookie: a=b\r\n", b"x-late: 1\r\n\r\n"),
    ],
)
async def test_a_trailer_is_not_passed_on_as_a_header(pieces: tuple[bytes, ...]) -> None:
    async with serving(saying(*pieces, pause_s=0.01)) as port, passing(port) as server:
        client = await server.client()
        await client.say(GET)
        status, headers = await client.head()
        assert (status, headers) == (200, [("transfer-encoding", "chunked")])
        assert await client.chunks() == b"ok"


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize(
    "first", [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n", b"HTTP/1.1 304 Not Modified\r\n"], ids=["empty", "304"]
)
async def test_a_second_answer_to_one_request_adds_nothing_to_the_first(method: bytes, first: bytes) -> None:
    second = b"HTTP/1.1 200 OK\r\nset-cookie: other=1\r\ncontent-length: 2\r\n\r\nno"
    connections: list[int] = []
    async with serving(counting(answering(first + b"\r\n" + second), connections)) as port, passing(port) as server:
        for _ in range(2):
            client = await server.client()
            await client.say(method + GET[3:])
            _, headers = await client.head()
            assert [name for name, _ in headers] == ([] if b"304" in first else ["content-length"])
    assert len(connections) == 2, "the connection that said more than it was asked for is not used again"


async def test_a_second_answer_behind_a_body_adds_nothing_to_it() -> None:
    connections: list[int] = []
    behaviour = counting(answering(OK + b"HTTP/1.1 200 OK\r\nset-cookie: b=1\r\n\r\n"), connections)
    async with serving(behaviour) as port, passing(port) as server:
        for _ in range(2):
            answer = await server.ask(GET)
            assert (answer.headers, answer.body) == ([("content-length", "2")], b"ok")
    assert len(connections) == 2


async def test_a_body_behind_the_answer_to_a_head_request_ends_the_connection() -> None:
    connections: list[int] = []
    async with serving(counting(answering(OK), connections)) as port, passing(port) as server:
        for _ in range(2):
            client = await server.client()
            await client.say(b"HEAD" + GET[3:])
            assert await client.head() == (200, [("content-length", "2")])
            await asyncio.sleep(0)
    assert len(connections) == 2


async def test_headers_of_informational_answers_are_not_passed_on() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nset-cookie: early=1\r\n\r\n"
    async with serving(answering(early * 3 + OK)) as port, passing(port) as server:
        answer = await server.ask(GET)
    assert (answer.status, answer.headers, answer.body) == (200, [("content-length", "2")], b"ok")


# How large a head is


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        pytest.param(b"HTTP/1.1 200 O", b"K" * 65_536, id="reason phrase"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: ", b"y" * 65_536, id="header"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 10_000, id="short headers"),
        pytest.param(b"", b"HTTP/1.1 103 Early\r\nx: y\r\n\r\n" * 1000, id="informational answers"),
    ],
)
async def test_a_head_without_end_is_a_502(start: bytes, piece: bytes) -> None:
    async with serving(saying(start, *repeat(piece, 200))) as port, passing(port) as server:
        assert (await server.ask(GET)).status == 502


@pytest.mark.parametrize(
    "head", [b"x: " + b"y" * ANSWER_HEAD_BYTES + b"\r\n", b"x:\r\n" * 17_000], ids=["a line", "lines"]
)
async def test_a_head_over_the_limit_is_a_502_also_where_it_comes_at_once(head: bytes) -> None:
    raw = b"HTTP/1.1 200 OK\r\n" + head + b"content-length: 0\r\n\r\n"
    async with serving(answering(raw)) as port, passing(port) as server:
        assert (await server.ask(GET)).status == 502


async def test_a_head_below_the_limit_passes() -> None:
    value = "y" * (ANSWER_HEAD_BYTES - 200)
    raw = b"HTTP/1.1 200 OK\r\nx: %b\r\ncontent-length: 2\r\n\r\nok" % value.encode()
    async with serving(answering(raw)) as port, passing(port) as server:
        for _ in range(3):
            assert (await server.ask(GET)).values("x") == [value]


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        pytest.param(b"2\r\nok\r\n0\r\nx: ", b"y" * 65_536, id="trailer"),
        pytest.param(b"2\r\nok\r\n0\r\n", b"x: y\r\n" * 10_000, id="short trailers"),
        pytest.param(b"2\r\nok\r\n2;", b"x" * 65_536, id="chunk extension"),
        pytest.param(b"1\r\ny\r\n" * 50_000 + b"0\r\nx: ", b"y" * 65_536, id="trailer behind many chunks"),
    ],
)
async def test_an_endless_part_after_the_head_breaks_the_answer_off(start: bytes, piece: bytes) -> None:
    async with serving(saying(CHUNKED + start, *repeat(piece, 12))) as port, passing(port) as server:
        client = await server.client()
        await client.say(GET)
        assert (await client.head())[0] == 200
        try:
            rest = await client.rest()
        except ConnectionResetError:
            rest = b""
        assert not rest.endswith(b"0\r\n\r\n")


async def test_a_large_body_in_small_chunks_passes() -> None:
    pieces = repeat((b"64\r\n" + b"x" * 100 + b"\r\n") * 500, 100)
    async with serving(saying(CHUNKED, *pieces, b"0\r\n\r\n")) as port, passing(port) as server:
        client = await server.client()
        await client.say(GET)
        assert (await client.head())[0] == 200
        assert len(await client.chunks()) == 5_000_000


# How long a head takes


@pytest.mark.parametrize(
    "piece", [b"x: y\r\n", b"x", b"HTTP/1.1 103 Early Hints\r\n\r\n"], ids=["headers", "a line", "informational"]
)
async def test_the_timeout_for_the_head_is_a_total(piece: bytes) -> None:
    start = b"" if piece.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\n"
    async with (
        serving(saying(start, *repeat(piece, 1000), pause_s=0.05)) as port,
        passing(port, timeout_s=0.5) as server,
    ):
        # A thousand pieces are sent within 50 s, which is longer than this waits.
        answer = await asyncio.wait_for(server.ask(GET), WAIT_S)
    assert answer.status == 504


async def test_the_time_to_the_head_begins_when_the_upstream_has_the_whole_request() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(reader, await read_head(reader))
        await asyncio.sleep(0.4)
        writer.write(OK)

    async with serving(serve) as port, passing(port, timeout_s=2.0) as server:
        client = await server.client()
        await client.say(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 12\r\n\r\n")
        for _ in range(12):  # longer than the timeout
            await asyncio.sleep(0.2)
            await client.say(b"x")
        assert (await client.answer()).status == 200


async def test_a_slow_trailer_is_timed_out_like_a_stalled_body() -> None:
    pieces = (CHUNKED + b"2\r\nok\r\n0\r\n", *repeat(b"x: y\r\n", 1000))
    async with serving(saying(*pieces, pause_s=0.05)) as port, passing(port, timeout_s=0.5) as server:
        client = await server.client()
        await client.say(GET)
        assert (await client.head())[0] == 200
        try:
            rest = await client.rest()
        except ConnectionResetError:
            rest = b""
        assert not rest.endswith(b"0\r\n\r\n")


# What was sent is not sent again


def answering_once(heard: list[str]) -> Serve:
    """An upstream's behaviour: the first request is answered, and each later one reads and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heard.append((await read_head(reader)).method)
            if len(heard) > 1:
                return
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    return serve


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_a_repeatable_request_is_sent_once_more(method: str) -> None:
    heard: list[str] = []
    async with serving(answering_once(heard)) as port, passing(port) as server:
        assert (await server.ask(GET)).status == 204
        client = await server.client()
        await client.say(method.encode() + GET[3:])
        assert (await client.head())[0] == 502
    assert heard == ["GET", method, method]


@pytest.mark.parametrize("method", ["POST", "PATCH", "TRACE"])
async def test_a_request_that_must_not_be_repeated_is_sent_once(method: str) -> None:
    heard: list[str] = []
    async with serving(answering_once(heard)) as port, passing(port) as server:
        assert (await server.ask(GET)).status == 204
        assert (await server.ask(method.encode() + GET[3:])).status == 502
    assert heard == ["GET", method]
