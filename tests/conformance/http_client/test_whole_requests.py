"""Requests whose answer is read whole, against servers of raw bytes: what goes out, and what comes back."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.conformance.http_client.raw_http import Exchange, Say, ok, serving
from tests.conformance.servers import listening, until
from toril.core.destination import OutboundRequest
from toril.core.http.headers import FRAMING, request_head
from toril.core.outcome import Answered, CutOff, Outcome
from toril.http_client.client import HttpClient

LIMIT = 1_000_000


def pool_of(url: str, connect_timeout_s: float = 2.0) -> Any:
    return HttpClient(connect_timeout_s, LIMIT).pool(url)


def post(
    body: bytes = b"{}", head: bytes = b"POST / HTTP/1.1\r\nhost: a\r\n", timeout_s: float = 3.0
) -> OutboundRequest:
    return OutboundRequest(head, body, timeout_s)


async def outcome_of(*answers: bytes | Say, **request: Any) -> Outcome:
    """What one request to a server that answers so comes to."""
    async with serving(*answers) as server:
        pool = pool_of(server.url)
        try:
            found: Outcome = await pool.send(post(**request))
            return found
        finally:
            pool.close()


def answered(outcome: Outcome) -> tuple[int, str, bytes]:
    assert isinstance(outcome, Answered), outcome
    return outcome.status, outcome.reason, outcome.body


# What comes back


async def test_an_answer_comes_back_whole() -> None:
    outcome = await outcome_of(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Two:  b\r\nContent-Length: 5\r\n\r\nhello"
    )
    assert answered(outcome) == (200, "OK", b"hello")
    assert isinstance(outcome, Answered)
    assert outcome.headers == [(b"Content-Type", b"text/plain"), (b"X-Two", b"b"), (b"Content-Length", b"5")]
    assert outcome.header(b"content-type") == b"text/plain"
    assert 0 <= outcome.duration_s < 10


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK", 200, "OK"),
        (b"HTTP/1.1 404 Not Found", 404, "Not Found"),
        (b"HTTP/1.1 503 Come  back:  later!", 503, "Come  back:  later!"),
        (b"HTTP/1.1 500 ", 500, ""),
        (b"HTTP/1.1 500", 500, ""),
        (b"HTTP/1.1 599 \xdcberlastet", 599, "Überlastet"),
        (b"HTTP/1.0 201 Made", 201, "Made"),
        (b"HTTP/1.1 418 " + b"x" * 5000, 418, "x" * 5000),
    ],
)
async def test_the_reason_phrase_comes_back_verbatim(line: bytes, status: int, reason: str) -> None:
    outcome = await outcome_of(line + b"\r\ncontent-length: 0\r\n\r\n")
    assert answered(outcome) == (status, reason, b"")


async def test_a_body_in_chunks_is_put_together() -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    outcome = await outcome_of(head + b"3\r\nabc\r\n5;ext=1\r\ndefgh\r\n0\r\nx-trailer: 1\r\n\r\n")
    assert answered(outcome) == (200, "OK", b"abcdefgh")


async def test_a_body_may_end_with_the_connection() -> None:
    async def until_the_end(exchange: Exchange) -> None:
        await exchange.say(b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo", pause_s=0.01)
        await exchange.hang_up()

    assert answered(await outcome_of(until_the_end)) == (200, "OK", b"hello")


async def test_an_http_1_0_answer_ends_with_the_connection() -> None:
    async def old(exchange: Exchange) -> None:
        await exchange.say(b"HTTP/1.0 200 OK\r\nserver: old\r\n\r\nhello")
        await exchange.hang_up()

    assert answered(await outcome_of(old)) == (200, "OK", b"hello")


@pytest.mark.parametrize(
    "before",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + b"HTTP/1.1 102 Processing\r\n\r\n",
    ],
)
async def test_informational_answers_come_before_the_answer(before: bytes) -> None:
    outcome = await outcome_of(before + ok(b"hello"))
    assert answered(outcome) == (200, "OK", b"hello")
    assert isinstance(outcome, Answered)
    assert outcome.headers == [(b"content-length", b"5")]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nconnection: keep-alive\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
    ],
)
async def test_answers_that_have_no_body_by_their_status_ignore_the_length_header(answer: bytes) -> None:
    outcome = await outcome_of(answer)
    assert isinstance(outcome, Answered)
    assert outcome.body == b""


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_answers_and_not_followed(status: int) -> None:
    async with serving(ok()) as other:
        answer = b"HTTP/1.1 %d Elsewhere\r\nlocation: %b\r\ncontent-length: 0\r\n\r\n" % (status, other.url.encode())
        assert answered(await outcome_of(answer)) == (status, "Elsewhere", b"")
        assert other.connections == 0


async def test_repeated_headers_come_back_in_order() -> None:
    outcome = await outcome_of(ok(b"", b"set-cookie: a", b"x: 1", b"Set-Cookie: b"))
    assert isinstance(outcome, Answered)
    assert outcome.headers[:3] == [(b"set-cookie", b"a"), (b"x", b"1"), (b"Set-Cookie", b"b")]


async def test_a_compressed_body_is_not_touched() -> None:
    assert (
        answered(await outcome_of(ok(b"\x1f\x8b\x08nonsense", b"content-encoding: gzip")))[2] == b"\x1f\x8b\x08nonsense"
    )


async def test_an_answer_that_comes_before_the_request_is_read_counts() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 413 Too Much\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(5)

    async with listening(refuse) as port:
        outcome = await pool_of(f"http://127.0.0.1:{port}").send(post(body=b"x" * 20_000_000))
    assert answered(outcome) == (413, "Too Much", b"")


WHOLE = (
    b"HTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 503 Not now, please\r\nX-One: 1\r\ntransfer-encoding: chunked\r\nx-two: \r\n\r\n"
    b"b\r\nhello world\r\n2\r\n!!\r\n0\r\n\r\n"
)  # fmt: skip


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(1, len(WHOLE) - 1), max_size=8).map(sorted))
@example(list(range(1, len(WHOLE))))
def test_an_answer_is_read_the_same_however_it_is_split(cuts: list[int]) -> None:
    pieces = [WHOLE[start:end] for start, end in zip([0, *cuts], [*cuts, len(WHOLE)], strict=True)]

    async def piecemeal(exchange: Exchange) -> None:
        await exchange.say(*pieces, pause_s=0.0005)

    outcome = asyncio.run(outcome_of(piecemeal))
    assert answered(outcome) == (503, "Not now, please", b"hello world!!")
    assert isinstance(outcome, Answered)
    assert outcome.headers == [(b"X-One", b"1"), (b"transfer-encoding", b"chunked"), (b"x-two", b"")]


# What goes out


async def test_the_head_goes_out_byte_for_byte() -> None:
    head = b"PATCH /a/../b?c=%2e&{} HTTP/1.1\r\nHOST: example.org\r\nX-MiXeD: \xe9\r\nx-mixed: 2\r\n"
    async with serving(ok()) as server:
        await pool_of(server.url).send(post(b"hello", head))
    assert server.exchanges[0].request == head + b"content-length: 5\r\n\r\nhello"


async def test_an_empty_body_has_its_length_too() -> None:
    async with serving(ok()) as server:
        await pool_of(server.url).send(post(b""))
    assert server.exchanges[0].request.endswith(b"\r\ncontent-length: 0\r\n\r\n")


_tokens = st.text("abcXYZ019-_.!#$%&'*+^`|~", min_size=1, max_size=12).map(str.encode)
_values = st.binary(max_size=20).map(lambda raw: bytes(byte for byte in raw if byte >= 0x20 and byte != 0x7F).strip())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(_tokens.filter(lambda name: name.lower() not in FRAMING), _values), max_size=6),
    st.binary(max_size=3000),
    st.sampled_from((b"/", b"/a%20b", b"/x?y=%2F&z", b"*")),
)
def test_the_server_sees_exactly_what_was_given(headers: list[tuple[bytes, bytes]], body: bytes, target: bytes) -> None:
    async def exchange() -> bytes:
        async with serving(ok()) as server:
            head = request_head(b"POST", target, b"example.org", headers)
            outcome = await pool_of(server.url).send(post(body, head))
            assert answered(outcome) == (200, "OK", b"ok")
            return server.exchanges[0].request

    request = asyncio.run(exchange())
    head, _, received = request.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    assert first == b"POST %b HTTP/1.1" % target
    seen = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    host = [] if any(name.lower() == b"host" for name, _ in headers) else [(b"host", b"example.org")]
    assert seen == [*host, *headers, (b"content-length", b"%d" % len(body))]
    assert received == body


async def test_a_large_body_arrives_whole() -> None:
    body = bytes(range(256)) * 20_000
    async with serving(ok()) as server:
        await pool_of(server.url).send(post(body))
    assert server.exchanges[0].body == body


# Connections


async def test_a_connection_is_used_again() -> None:
    async with serving(ok()) as server:
        pool = pool_of(server.url)
        for _ in range(5):
            assert answered(await pool.send(post()))[0] == 200
        assert (server.connections, len(server.exchanges)) == (1, 5)
        pool.close()


async def test_each_concurrent_request_has_a_separate_connection() -> None:
    gate = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await gate.wait()
        await exchange.say(ok(exchange.body))

    async with serving(wait) as server:
        pool = pool_of(server.url)
        for _ in range(3):
            gate.clear()
            async with asyncio.TaskGroup() as tasks:
                sent = [tasks.create_task(pool.send(post(b"%d" % number))) for number in range(10)]
                await until(lambda: server.open == 10)
                gate.set()
            assert [answered(task.result())[2] for task in sent] == [b"%d" % number for number in range(10)]
        assert server.connections == 10
        pool.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nConnection: Close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ],
)
async def test_a_connection_that_is_to_be_closed_is_closed(answer: bytes) -> None:
    async with serving(answer) as server:
        pool = pool_of(server.url)
        for times in range(1, 4):
            assert answered(await pool.send(post())) == (200, "OK", b"ok")
            await until(lambda: server.open == 0)
            assert server.connections == times


async def test_an_old_connection_that_says_keep_alive_is_kept() -> None:
    async with serving(b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok") as server:
        pool = pool_of(server.url)
        for _ in range(3):
            await pool.send(post())
        assert server.connections == 1
        pool.close()


@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_a_new_connection_that_ends_without_an_answer_is_not_tried_again(how: str) -> None:
    async def leave(exchange: Exchange) -> None:
        if how == "reset":
            exchange.reset()
        else:
            await exchange.hang_up()

    async with serving(leave) as server:
        outcome = await pool_of(server.url).send(post())
        assert isinstance(outcome, CutOff)
        assert (outcome.code, outcome.detail) == ("ECONNRESET", "The connection was closed before an answer came")
        assert server.connections == 1


async def test_closing_lets_idle_connections_go_and_ends_the_others_with_their_request() -> None:
    gate = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await gate.wait()
        await exchange.say(ok())

    async with serving(ok(), ok(), wait) as server:
        pool = pool_of(server.url)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(2):
                tasks.create_task(pool.send(post()))
        sending = asyncio.ensure_future(pool.send(post()))
        await until(lambda: len(server.exchanges) == 3)
        pool.close()
        await until(lambda: server.open == 1)
        gate.set()
        assert answered(await sending)[0] == 200
        await until(lambda: server.open == 0)


async def test_a_cancelled_request_ends_its_connection() -> None:
    async def late(exchange: Exchange) -> None:
        await exchange.gone()

    async with serving(late, ok(b"second")) as server:
        pool = pool_of(server.url)
        sending = asyncio.ensure_future(pool.send(post()))
        await until(lambda: server.exchanges)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert answered(await pool.send(post()))[2] == b"second"
        assert server.connections == 2
        await until(lambda: server.open == 1)
        pool.close()


async def test_pools_share_nothing() -> None:
    async with serving(ok()) as server:
        outbound = HttpClient(2.0, LIMIT)
        one, other = outbound.pool(server.url), outbound.pool(server.url)
        await one.send(post())
        await other.send(post())
        assert server.connections == 2
        one.close()
        await other.send(post())
        assert server.connections == 2
        other.close()
