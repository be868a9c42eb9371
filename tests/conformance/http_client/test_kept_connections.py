"""Connections that the outbound client uses again: when it does, when not, and that nothing is sent twice."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from tests.conformance.http_client.raw_http import Exchange, RawServer, Say, ok, serving
from tests.conformance.servers import CERTIFICATE, server_tls, until
from toril.core.destination import OutboundRequest
from toril.core.outcome import Answered, CutOff, Outcome, TimedOut
from toril.http_client import idle_connections
from toril.http_client.client import HttpClient, HttpPool
from toril.http_client.connecting import Network
from toril.http_client.idle_connections import idle_s

UNANSWERED = "The connection was closed before an answer came"
BEGUN = "The connection was closed before the answer was whole"


def pool_of(url: str) -> HttpPool:
    return HttpClient(2.0, 1_000_000).pool(url)


def asks(method: bytes = b"POST", body: bytes = b"{}", timeout_s: float = 3.0) -> OutboundRequest:
    return OutboundRequest(b"%b / HTTP/1.1\r\nhost: a\r\n" % method, body, timeout_s)


def body_of(outcome: Outcome) -> bytes:
    assert isinstance(outcome, Answered), outcome
    return outcome.body


def cut_off(outcome: Outcome) -> tuple[str, str]:
    assert isinstance(outcome, CutOff), outcome
    return outcome.code, outcome.detail


async def hang_up(exchange: Exchange) -> None:
    await exchange.hang_up()


async def reset(exchange: Exchange) -> None:
    exchange.reset()


@asynccontextmanager
async def warmed(count: int, *answers: bytes | Say) -> AsyncIterator[tuple[RawServer, HttpPool]]:
    """A server, and a pool with so many idle connections to it; what is sent next is answered so."""
    gate = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await gate.wait()
        await exchange.say(ok())

    async with serving(*[wait] * count, *answers) as server:
        pool = pool_of(server.url)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(count):
                tasks.create_task(pool.send(asks()))
            await until(lambda: server.open == count)
            gate.set()
        yield server, pool
        pool.close()


# Each request has its own time


@pytest.mark.parametrize(("first_s", "second_s"), [(0.5, 20.0), (20.0, 0.5)])
async def test_a_request_on_a_kept_connection_has_its_own_time(first_s: float, second_s: float) -> None:
    async def slowly(exchange: Exchange) -> None:
        await asyncio.sleep(1.0)
        await exchange.say(ok(b"slow"))

    async with serving(ok(), slowly) as server:
        pool = pool_of(server.url)
        assert isinstance(await pool.send(asks(timeout_s=first_s)), Answered)
        outcome = await pool.send(asks(timeout_s=second_s))
        assert server.connections == 1
        assert isinstance(outcome, Answered if second_s > 1 else TimedOut)
        pool.close()


# What was sent is not sent again


@pytest.mark.parametrize("leave", [hang_up, reset])
@pytest.mark.parametrize(
    ("method", "body"),
    [
        (b"POST", b"{}"),
        (b"POST", b""),
        (b"PATCH", b""),
        (b"TRACE", b""),
        (b"get", b""),
        (b"PUT", b"x"),
        (b"DELETE", b"x"),
        (b"GET", b"x"),
    ],
)
async def test_a_request_that_the_server_may_have_read_is_not_sent_again(
    method: bytes, body: bytes, leave: Any
) -> None:
    async with warmed(20, leave, ok(b"next")) as (server, pool):
        outcome = await pool.send(asks(method, body))
        assert cut_off(outcome) == ("ECONNRESET", UNANSWERED)
        assert len(server.exchanges) == 21
        # The others are as good as before.
        assert body_of(await pool.send(asks())) == b"next"
        assert (server.connections, len(server.exchanges)) == (20, 22)


@pytest.mark.parametrize("leave", [hang_up, reset])
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"])
async def test_a_repeatable_request_is_sent_once_more_on_a_new_connection(method: bytes, leave: Any) -> None:
    async with warmed(3, leave, ok(b"second")) as (server, pool):
        assert body_of(await pool.send(asks(method, b""))) == b"second"
        assert server.exchanges[-1].connection == 4
        assert len(server.exchanges) == 5


@pytest.mark.parametrize("method", [b"GET", b"DELETE"])
async def test_a_repeatable_request_is_not_sent_a_third_time(method: bytes) -> None:
    async with warmed(3, hang_up) as (server, pool):
        assert cut_off(await pool.send(asks(method, b""))) == ("ECONNRESET", UNANSWERED)
        assert len(server.exchanges) == 5


@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_an_answer_that_has_begun_is_not_asked_for_again(method: bytes) -> None:
    async def begin(exchange: Exchange) -> None:
        await exchange.say(b"HTTP/1.1 200 OK\r\ncontent-le")
        await exchange.hang_up()

    async with serving(ok(), begin) as server:
        pool = pool_of(server.url)
        await pool.send(asks())
        assert cut_off(await pool.send(asks(method, b""))) == ("ECONNRESET", BEGUN)
        assert (server.connections, len(server.exchanges)) == (1, 2)


# What is closed is seen before anything is written


async def test_a_connection_that_the_server_closed_while_idle_is_replaced() -> None:
    async def answer_and_leave(exchange: Exchange) -> None:
        await exchange.say(ok())
        await exchange.hang_up()

    async with serving(answer_and_leave) as server:
        pool = pool_of(server.url)
        for times in range(1, 4):
            assert body_of(await pool.send(asks())) == b"ok"
            assert server.connections == times
            await until(lambda: server.open == 0)


@contextmanager
def leaving_after_each_answer() -> Iterator[tuple[int, threading.Event]]:
    """A server in a thread that closes after each answer without saying so; the event says that it has."""
    left = threading.Event()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65_536)
                connection.sendall(ok())
            left.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], left
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


async def test_a_close_that_the_event_loop_has_not_seen_yet_is_noticed() -> None:
    with leaving_after_each_answer() as (port, left):
        pool = pool_of(f"http://127.0.0.1:{port}")
        for _ in range(5):
            left.clear()
            assert body_of(await pool.send(asks())) == b"ok"
            # The loop stands still: bytes that have arrived meanwhile are not noticed yet.
            assert left.wait(5)
            time.sleep(0.01)
        pool.close()


async def test_a_server_that_closes_at_once_has_no_connection_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end may come when the next request is under way: of 2,000 requests over 20 connections, 20 were lost."""
    monkeypatch.setattr(idle_connections, "_AT_ONCE_S", 60.0)  # the test's own machine may be busy

    async def answer_and_leave(exchange: Exchange) -> None:
        await exchange.say(ok())
        await exchange.hang_up()

    async with serving(answer_and_leave, ok(b"stays")) as server:
        pool = pool_of(server.url)
        await pool.send(asks())
        await until(lambda: server.open == 0)
        for times in range(2, 5):
            assert body_of(await pool.send(asks())) == b"stays"
            assert server.connections == times
        monkeypatch.setattr(pool._idle, "_kept_from", 0.0)
        for _ in range(2):
            assert body_of(await pool.send(asks())) == b"stays"
        assert server.connections == 5
        pool.close()


async def test_a_server_that_closes_later_has_its_connections_kept() -> None:
    async def answer_twice_and_leave(exchange: Exchange) -> None:
        await exchange.say(ok())
        if len(server.exchanges) == 2:
            await exchange.hang_up()

    async with serving(answer_twice_and_leave) as server:
        pool = pool_of(server.url)
        for _ in range(2):
            await pool.send(asks())
        await until(lambda: server.open == 0)
        for _ in range(2):
            await pool.send(asks())
        assert server.connections == 2
        pool.close()


async def test_a_second_answer_to_one_request_is_dropped() -> None:
    async with serving(ok(b"first") + ok(b"unasked", b"set-cookie: a"), ok(b"second")) as server:
        pool = pool_of(server.url)
        first = await pool.send(asks())
        assert isinstance(first, Answered)
        assert (first.body, first.headers) == (b"first", [(b"content-length", b"5")])
        assert body_of(await pool.send(asks())) == b"second"
        assert server.connections == 2
        pool.close()


async def test_bytes_that_come_while_a_connection_is_idle_end_it() -> None:
    async def chatter(exchange: Exchange) -> None:
        await exchange.say(ok(b"first"))
        await asyncio.sleep(0.02)
        await exchange.say(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")

    async with serving(chatter, ok(b"second")) as server:
        pool = pool_of(server.url)
        assert body_of(await pool.send(asks())) == b"first"
        await until(lambda: server.open == 0)
        assert body_of(await pool.send(asks())) == b"second"
        pool.close()


async def test_bytes_behind_an_answer_do_not_spoil_it() -> None:
    async with serving(ok(b"first") + b"\x00\x01garbage", ok(b"second")) as server:
        pool = pool_of(server.url)
        assert body_of(await pool.send(asks())) == b"first"
        assert body_of(await pool.send(asks())) == b"second"
        assert server.connections == 2
        pool.close()


async def test_a_connection_with_tls_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    async with serving(ok(), tls=server_tls()) as server:
        pool = pool_of(f"https://localhost:{server.port}/")
        for _ in range(5):
            assert body_of(await pool.send(asks())) == b"ok"
        assert server.connections == 1
        pool.close()


# How long one is kept


async def test_an_unused_connection_is_let_go_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle_connections, "IDLE_S", 0.1)
    async with serving(ok()) as server:
        pool = pool_of(server.url)
        await pool.send(asks())
        assert server.open == 1
        await until(lambda: server.open == 0)
        assert body_of(await pool.send(asks())) == b"ok"


async def test_an_expired_idle_connection_is_not_used_even_before_its_timer_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(idle_connections, "IDLE_S", 0.1)
    async with serving(ok()) as server:
        pool = pool_of(server.url)
        await pool.send(asks())
        time.sleep(0.2)  # so that no timer has run
        await pool.send(asks())
        assert server.connections == 2
        pool.close()


async def test_the_keep_alive_header_limits_how_long_a_connection_is_idle() -> None:
    async with serving(ok(b"", b"Keep-Alive: timeout=0")) as server:
        pool = pool_of(server.url)
        for times in range(1, 4):
            await pool.send(asks())
            assert server.connections == times


@pytest.mark.parametrize(
    ("value", "expected_s"),
    [
        (b"timeout=5, max=100", 4.0),
        (b"max=100,Timeout = 3", 2.0),
        (b"timeout=1", 0.5),
        (b"timeout=0", 0.0),
        (b"timeout=120", 4.0),
        (b"timeout=soon", 4.0),
        (b"xtimeout=1", 4.0),
        (b"timeout=" + b"9" * 5000, 4.0),
        (b"", 4.0),
    ],
)
def test_the_idle_time_of_a_connection_is_read_from_keep_alive(value: bytes, expected_s: float) -> None:
    assert idle_s([(b"server", b"timeout=1"), (b"Keep-Alive", value)]) == expected_s


async def test_a_connection_in_use_is_replaced_when_it_is_old_and_the_name_is_looked_up_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(idle_connections, "OLDEST_S", 0.2)
    async with serving(ok(b"old")) as before, serving(ok(b"new"), host="127.0.0.2", port=before.port) as after:
        leads_to = ["127.0.0.1"]

        async def resolve(_: str) -> list[str]:
            return leads_to

        pool = HttpClient(2.0, 1000, network=Network(resolve)).pool(f"http://moves.example:{before.port}")
        assert body_of(await pool.send(asks())) == b"old"
        leads_to[:] = ["127.0.0.2"]
        until_s = time.monotonic() + 10
        while body_of(await pool.send(asks())) == b"old":
            assert time.monotonic() < until_s, "the traffic never stops, and stays where it was"
        assert (before.connections, after.connections) == (1, 1)
        pool.close()


async def test_a_name_is_looked_up_once_for_a_connection() -> None:
    asked = []

    async def resolve(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    async with serving(ok()) as server:
        pool = HttpClient(2.0, 1000, network=Network(resolve)).pool(f"http://one.example:{server.port}")
        for _ in range(3):
            await pool.send(asks())
        assert asked == ["one.example"]
        pool.close()
