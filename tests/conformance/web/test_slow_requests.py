"""How long a head, a body and a pause between requests may take, and what these limits do not touch."""

import asyncio
import json
import time

import pytest

from tests.conformance.web.bounded import bounded, is_over
from tests.conformance.web.passing import WAIT_S, Client, passing, serving
from toril.config.settings import ConnectionPolicy

SHORT_S = 0.3
# One limit is short, the others are too long to be met in a test.
HEAD = ConnectionPolicy(head_timeout_s=SHORT_S)
BODY = ConnectionPolicy(body_timeout_s=SHORT_S)
IDLE = ConnectionPolicy(idle_timeout_s=SHORT_S)
ALL = ConnectionPolicy(head_timeout_s=SHORT_S, body_timeout_s=SHORT_S, idle_timeout_s=SHORT_S)
GET = b"GET /here HTTP/1.1\r\nhost: here\r\n\r\n"
POST = b"POST /here HTTP/1.1\r\nhost: here\r\ncontent-length: 4\r\n\r\n"
CHUNKED = b"POST /here HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n"
LONG_S = 6 * SHORT_S
"""A pause that is over every short limit, whatever else the machine does."""


async def drip(client: Client, data: bytes) -> int:
    """Send byte after byte, slowly, until the server says something; the status."""
    answer = asyncio.ensure_future(client.head())
    for at in range(len(data)):
        if answer.done():
            break
        await client.say(data[at : at + 1])
        await asyncio.wait([answer], timeout=SHORT_S / 10)
    return (await answer)[0]


async def test_the_head_timeout_covers_a_head_that_comes_byte_by_byte() -> None:
    async with bounded(HEAD) as server, server.client() as client:
        assert await drip(client, GET * 100) == 408
        assert server.seen == []


async def test_the_head_timeout_covers_the_second_request_on_a_connection() -> None:
    async with bounded(HEAD) as server, server.client() as client:
        await client.say(GET)
        assert (await client.answer()).status == 200
        await client.say(b"GET /second")
        assert (await client.head())[0] == 408
        await client.rest()


async def test_a_new_connection_that_says_nothing_is_closed_without_an_answer() -> None:
    async with bounded(HEAD) as server, server.client() as client:
        await is_over(client)


async def test_an_idle_connection_is_closed_and_no_sooner() -> None:
    async with bounded(IDLE) as server, server.client() as client:
        await client.say(GET)
        assert (await client.answer()).status == 200
        await is_over(client)
    async with bounded(HEAD) as server, server.client() as client:
        for _ in range(2):
            await client.say(GET)
            assert (await client.answer()).status == 200
            await asyncio.sleep(LONG_S)  # the head's limit is not the idle connection's


@pytest.mark.parametrize(
    "begun",
    [POST + b"ha", POST, CHUNKED, CHUNKED + b"4\r\nha", CHUNKED + b"2\r\nha\r\n0\r\nx: y", CHUNKED + b"2;exten"],
    ids=["half a body", "no body", "no chunk", "half a chunk", "half a trailer", "half an extension"],
)
async def test_a_body_that_stands_still_is_answered_408(begun: bytes) -> None:
    async with bounded(BODY) as server, server.client() as client:
        await client.say(begun)
        status, headers = await client.head()
        assert (status, ("connection", "close") in headers) == (408, True)
        await client.rest()
        assert server.seen == []
        assert server.broken_off == 1


async def test_a_body_that_comes_slowly_is_not_timed_out() -> None:
    async with bounded(BODY) as server, server.client() as client:
        await client.say(POST.replace(b"length: 4", b"length: 25"))
        for _ in range(25):
            await client.say(b"x")
            await asyncio.sleep(SHORT_S / 5)
        assert json.loads((await client.answer()).body)["body"] == "x" * 25


async def test_a_body_that_the_handler_does_not_read_is_not_timed_out() -> None:
    """More than fits into any buffer is sent for a request that is not read yet."""
    body = b"x" * 20_000_000
    head = b"POST /deaf HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with bounded(BODY) as server, server.client() as client, asyncio.TaskGroup() as tasks:
        saying = tasks.create_task(client.say(head + body))
        await asyncio.sleep(LONG_S)
        assert not saying.done()
        server.go_on.set()
        assert (await client.head())[0] == 200


async def test_the_body_timeout_does_not_run_before_100_continue_is_sent() -> None:
    expecting = POST.replace(b"/here", b"/deaf").replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n")
    async with bounded(BODY) as server, server.client() as client:
        await client.say(expecting)
        await asyncio.sleep(LONG_S)
        server.go_on.set()
        assert (await client.head())[0] == 100
        await client.say(b"body")
        assert (await client.answer()).status == 200


@pytest.mark.parametrize("path", [b"/slow", b"/stream"])
async def test_the_request_timeouts_do_not_limit_the_answer(path: bytes) -> None:
    async with bounded(ALL) as server, server.client() as client:
        await client.say(GET.replace(b"/here", path))
        await asyncio.sleep(LONG_S)
        server.go_on.set()
        assert (await client.answer()).status == 200


async def test_the_body_timeout_covers_the_rest_of_a_body_after_its_answer() -> None:
    async with bounded(BODY) as server, server.client() as client:
        await client.say(POST.replace(b"/here", b"/early").replace(b"length: 4", b"length: 4000"))
        assert (await client.answer()).body == b"early"
        over = asyncio.ensure_future(is_over(client))
        async with asyncio.timeout(WAIT_S):
            while not over.done():
                client.writer.write(b"x")
                await asyncio.sleep(SHORT_S / 10)
        await over


async def test_the_request_timeouts_do_not_apply_to_tunnels() -> None:
    upgraded = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
    handshake = (
        b"GET /ws HTTP/1.1\r\nhost: here\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(LONG_S)
        writer.write(upgraded)
        writer.write(await reader.readexactly(4))
        await writer.drain()

    async with serving(echo) as port, passing(port, connections=ALL) as server:
        client = await server.client()
        await client.say(handshake)
        assert (await client.head())[0] == 101
        await asyncio.sleep(LONG_S)
        await client.say(b"ping")
        assert await client.exactly(4) == b"ping"


async def test_time_while_the_process_was_stopped_does_not_time_out_requests() -> None:
    """The clock goes on by two looks at most, however long the event loop was held up."""
    async with bounded(HEAD) as server, server.client() as client:
        await client.say(GET[:10])
        time.sleep(LONG_S)
        await client.say(GET[10:])
        assert (await client.answer()).status == 200
