"""What every `Outbound` promises, over the fake and over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Protocol

import pytest

from tests.conformance.holding import held
from tests.conformance.http_client.raw_http import Exchange, serving
from tests.conformance.servers import until
from toril.core.destination import OutboundRequest
from toril.core.outcome import Answered, Outcome, TimedOut
from toril.engine.ports import Outbound
from toril.http_client.client import HttpClient
from toril.testing import FakeOutbound, answered

# What the receiver does with a body: the body of its 200.
Behaviour = Callable[[bytes], Coroutine[None, None, bytes]]


class Place(Protocol):
    """A receiver and the way to it."""

    url: str
    outbound: Outbound
    behaviour: Behaviour

    @property
    def open(self) -> int:
        """How many requests the receiver is working on."""
        ...


async def echo(body: bytes) -> bytes:
    return body


class FakePlace:
    def __init__(self) -> None:
        self.url = "http://fake.example/"
        self.behaviour: Behaviour = echo
        self._fake = FakeOutbound(self._answer)
        self.outbound: Outbound = self._fake

    @property
    def open(self) -> int:
        return self._fake.in_flight

    async def _answer(self, request: OutboundRequest) -> Outcome:
        return answered(200, await self.behaviour(request.body))


class HttpPlace:
    def __init__(self) -> None:
        self.url = ""
        self.behaviour: Behaviour = echo
        self.outbound: Outbound = HttpClient(2.0, 1_000_000)
        self.open = 0

    async def answer(self, exchange: Exchange) -> None:
        self.open += 1
        try:
            async with asyncio.TaskGroup() as tasks:
                gone = tasks.create_task(exchange.gone())
                answering = tasks.create_task(self.behaviour(exchange.body))
                await asyncio.wait({gone, answering}, return_when=asyncio.FIRST_COMPLETED)
                if answering.done():
                    body = answering.result()
                    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
                    await exchange.say(head + body)
                gone.cancel()
                answering.cancel()
        finally:
            self.open -= 1
            await exchange.hang_up()


@asynccontextmanager
async def over_http() -> AsyncIterator[HttpPlace]:
    place = HttpPlace()
    async with serving(place.answer) as server:
        place.url = server.url
        yield place


@pytest.fixture(params=["fake", "http"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    if request.param == "fake":
        yield FakePlace()
        return
    async for made in held(over_http()):
        yield made


def post(body: bytes, timeout_s: float = 3.0) -> OutboundRequest:
    return OutboundRequest(b"POST / HTTP/1.1\r\nhost: a\r\n", body, timeout_s)


async def test_a_request_has_one_answer(place: Place) -> None:
    pool = place.outbound.pool(place.url)
    for body in (b"one", b"two", b""):
        outcome = await pool.send(post(body))
        assert isinstance(outcome, Answered)
        assert (outcome.status, outcome.reason, outcome.body) == (200, "OK", body)
    pool.close()


async def test_many_requests_are_under_way_at_once(place: Place) -> None:
    gate = asyncio.Event()

    async def wait(body: bytes) -> bytes:
        await gate.wait()
        return body

    place.behaviour = wait
    pool = place.outbound.pool(place.url)
    async with asyncio.TaskGroup() as tasks:
        sent = [tasks.create_task(pool.send(post(b"%d" % number))) for number in range(20)]
        await until(lambda: place.open == 20)
        gate.set()
    outcomes = [task.result() for task in sent]
    assert [outcome.body for outcome in outcomes if isinstance(outcome, Answered)] == [b"%d" % n for n in range(20)]
    pool.close()


async def test_a_request_takes_no_longer_than_it_may(place: Place) -> None:
    async def hang(_: bytes) -> bytes:
        await asyncio.sleep(10)
        return b""

    place.behaviour = hang
    pool = place.outbound.pool(place.url)
    outcome = await pool.send(post(b"x", 0.1))
    assert isinstance(outcome, TimedOut)
    assert (outcome.phase, 0.09 < outcome.duration_s < 8) == ("answer", True)
    await until(lambda: place.open == 0)
    place.behaviour = echo
    assert isinstance(await pool.send(post(b"x")), Answered)
    pool.close()


async def test_a_cancelled_request_is_given_up(place: Place) -> None:
    async def hang(_: bytes) -> bytes:
        await asyncio.sleep(10)
        return b""

    place.behaviour = hang
    pool = place.outbound.pool(place.url)
    sending = asyncio.ensure_future(pool.send(post(b"x")))
    await until(lambda: place.open == 1)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await until(lambda: place.open == 0)
    place.behaviour = echo
    assert isinstance(await pool.send(post(b"x")), Answered)
    pool.close()


async def test_a_closed_pool_still_serves_requests_under_way(place: Place) -> None:
    pool = place.outbound.pool(place.url)
    pool.close()
    pool.close()
    assert isinstance(await pool.send(post(b"x")), Answered)
