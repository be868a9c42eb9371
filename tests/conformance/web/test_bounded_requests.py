"""How many bytes a head may have, wherever they stand and however they come, and that what is within bounds passes."""

import asyncio
import json

import pytest

from tests.conformance.web.bounded import bounded, is_over, say
from toril.config.settings import ConnectionPolicy

MOST = 1024
SMALL = ConnectionPolicy(max_head_bytes=MOST)
POST = b"POST /first HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n"
GET = b"GET /second HTTP/1.1\r\nhost: here\r\n\r\n"
HOW = [0, 1, 300]
STEPS = pytest.mark.parametrize("step", HOW, ids=["whole", "byte by byte", "in hundreds"])


def head_of(size: int, first: bytes = b"GET /first HTTP/1.1\r\nhost: here\r\n") -> bytes:
    """A head of so many bytes."""
    return first + b"x-pad: " + b"p" * (size - len(first) - len(b"x-pad: \r\n\r\n")) + b"\r\n\r\n"


@STEPS
async def test_a_head_of_the_greatest_size_passes_and_one_byte_more_does_not(step: int) -> None:
    async with bounded(SMALL) as server:
        assert (await server.ask(head_of(MOST), step=step)).status == 200
        assert (await server.ask(head_of(MOST + 1), step=step)).status == 431
        assert len(server.seen) == 1


@pytest.mark.parametrize(
    "behind",
    [
        GET,
        b"POST /p HTTP/1.1\r\nhost: here\r\ncontent-length: 2100\r\n\r\n" + b"\r\n\r\n".ljust(2100, b"b"),
        POST + b"834\r\n" + b"\r\n\r\n".ljust(2100, b"b") + b"\r\n0\r\n\r\n",
        POST + b"0\r\nsome: trailer\r\n\r\n",
    ],
    ids=["a head", "a body of known length", "chunks", "a trailer"],
)
@STEPS
async def test_the_head_behind_another_request_is_counted_from_where_it_begins(behind: bytes, step: int) -> None:
    async with bounded(SMALL) as server:
        for size, status in ((MOST, 200), (MOST + 1, 431)):
            async with server.client() as client:
                await say(client, behind + head_of(size), step)
                assert [(await client.answer()).status for _ in range(2)] == [200, status]


@pytest.mark.parametrize(
    "endless",
    [
        b"p" * 2500,
        b"GET /" + b"p" * 2500,
        b"GET / HTTP/1.1\r\nhost: here\r\n" + b"n" * 2500,
        b"GET / HTTP/1.1\r\nhost: here\r\nx:" + b" " * 2500,
        b"GET / HTTP/1.1\r\nhost: here\r\nx: " + b"v" * 2500,
        b"GET / HTTP/1.1\r\nhost: here\r\n" + b"a: b\r\n" * 600,
        b"GET / HTTP/1.1\r\nhost: here\r\n" + b"a:\r\n" * 600,
        b"\r\n" * 1200,
    ],
    ids=["method", "target", "name", "blanks", "value", "short headers", "empty headers", "empty lines"],
)
async def test_a_head_that_never_ends_is_refused(endless: bytes) -> None:
    async with bounded(SMALL) as server:
        for step in HOW:
            async with server.client() as client:
                await say(client, endless, step)
                status, headers = await client.head()
                # What is no method at all is refused before it is too long.
                assert status == (400 if endless.startswith(b"p") else 431)
                assert ("connection", "close") in headers


@pytest.mark.parametrize(
    "endless",
    [
        b"0" * 2500,
        b"3;" + b"e" * 2500,
        b"3;a=b" * 1 + b";c=d" * 600,
        b"0;" + b"e" * 2500,
        b"0\r\n" + b"n" * 2500,
        b"0\r\nx: " + b"v" * 2500,
        b"0\r\nx:" + b" " * 2500,
        b"0\r\n" + b"a: b\r\n" * 600,
        b"3\r\nabc\r\n0\r\n" + b"a: b\r\n" * 600,
        b"1;" + b"e" * 100 + b"\r\nx\r\n" + (b"1;" + b"e" * 100 + b"\r\nx\r\n") * 20,
    ],
    ids=["size", "extension", "extensions", "last extension", "name", "value", "blanks", "trailers", "behind", "many"],
)
async def test_endless_chunk_extensions_and_trailers_are_refused(endless: bytes) -> None:
    async with bounded(SMALL) as server:
        for step in HOW:
            async with server.client() as client:
                await say(client, POST + endless, step)
                assert (await client.head())[0] == 431
                await client.rest()
        assert server.seen == []


async def test_a_trailer_over_the_bound_that_comes_whole_is_refused_too() -> None:
    async with bounded(SMALL) as server:
        trailer = b"".join(b"x-%d: y\r\n" % number for number in range(1000))
        assert (await server.ask(POST + b"3\r\nabc\r\n0\r\n" + trailer + b"\r\n")).status == 431
        assert server.seen == []
        assert server.broken_off == 1


async def test_a_body_of_very_many_small_chunks_passes() -> None:
    async with bounded(SMALL) as server:
        answer = await server.ask(POST + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n", step=5000)
    assert json.loads(answer.body)["body"] == "x" * 20_000


@STEPS
async def test_a_body_of_empty_lines_passes_unchanged(step: int) -> None:
    body = b"\r\n\r\n" * 500
    async with bounded(SMALL) as server:
        chunked = await server.ask(POST + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), step=step)
        sized = await server.ask(
            b"POST /p HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body), step=step
        )
    assert json.loads(chunked.body)["body"] == json.loads(sized.body)["body"] == body.decode()


@pytest.mark.parametrize("step", [1, 2, 3, 5, 11, 64, 300])
async def test_pipelined_requests_of_all_kinds_are_answered_in_order_however_they_are_split(step: int) -> None:
    requests = [
        GET,
        b"POST /a HTTP/1.1\r\nhost: here\r\ncontent-length: 6\r\n\r\n\r\n\r\nab",
        POST + b"5;x=y\r\nhello\r\n0\r\nt: u\r\n\r\n",
        b"POST /b HTTP/1.1\r\nhost: here\r\ncontent-length: 0\r\n\r\n",
        b"\r\n" + GET,
        b"POST /c HTTP/1.1\r\nhost: here\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\nhi",
        b"POST /d HTTP/1.1\r\nhost: here\r\nexpect: 100-continue\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
    ]
    async with bounded() as server, server.client() as client:
        await say(client, b"".join(requests), step)
        got = []
        while len(got) < len(requests):
            status, headers = await client.head()
            if status == 100:
                continue
            length = next(int(value) for name, value in headers if name == "content-length")
            document = json.loads(await client.exactly(length))
            got.append((document["path"], document["body"]))
        await is_over(client)
    assert got == [
        ("/second", ""),
        ("/a", "\r\n\r\nab"),
        ("/first", "hello"),
        ("/b", ""),
        ("/second", ""),
        ("/c", "hi"),
        ("/d", "ok"),
    ]


async def test_an_invalid_pipelined_request_does_not_cost_the_previous_one_its_answer() -> None:
    slow = b"GET /slow HTTP/1.1\r\nhost: here\r\n\r\n"
    async with bounded(SMALL) as server:
        for wrong, status in ((head_of(MOST + 1), 431), (b"no such method\r\n\r\n", 400)):
            async with server.client() as client:
                server.go_on.clear()
                await client.say(slow + wrong)
                server.go_on.set()
                assert (await client.answer()).status == 200
                assert (await client.head())[0] == status


async def test_a_caller_that_hangs_up_is_noticed_even_after_it_has_sent_more() -> None:
    async with bounded() as server:
        async with server.client() as client:
            await client.say(b"GET /stream HTTP/1.1\r\nhost: here\r\n\r\n" + GET)
            await client.head()
        server.go_on.set()
        assert (await server.ask(GET)).status == 200


async def test_an_answer_that_has_begun_is_not_followed_by_a_refusal() -> None:
    async with bounded(SMALL) as server, server.client() as client:
        await client.say(POST.replace(b"/first", b"/stream"))
        assert (await client.head())[0] == 200
        await say(client, b"0\r\n" + b"a: b\r\n" * 600)
        await is_over(client)


async def test_a_complete_answer_is_not_followed_by_a_refusal() -> None:
    async with bounded(SMALL) as server, server.client() as client:
        await client.say(POST.replace(b"/first", b"/early"))
        assert (await client.answer()).body == b"early"
        await say(client, b"0\r\n" + b"a: b\r\n" * 600)
        await is_over(client)


async def test_very_many_pipelined_requests_are_not_begun_before_their_turn() -> None:
    async with bounded() as server, server.client() as client:
        await client.say(b"GET /slow HTTP/1.1\r\nhost: here\r\n\r\n" + GET * 5000)
        async with asyncio.timeout(10):
            assert (await server.ask(GET)).status == 200
        assert len(server.seen) == 1
        server.go_on.set()
        for _ in range(5001):
            assert (await client.answer()).status == 200
