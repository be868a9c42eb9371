import asyncio
import hashlib
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.unit.gateway.asgi import ask, scope
from toril.core.access import ALL, ANYBODY, Caller, Grant, RateLimit, Right
from toril.core.errors import Forbidden, RateLimited, StoreUnavailable, Unauthorized
from toril.gateway.admission import Admission
from toril.gateway.app import Gateway
from toril.gateway.auth import Tokens
from toril.gateway.routing import Access, Answer, Request, Route, SocketRoute, Stream
from toril.gateway.sockets.socket import Socket
from toril.testing import FakeClock, FakeRates


async def done(request: Request) -> Answer:
    return Answer(200, b"text/plain", request.caller.name.encode())


ADD = Route("POST", "/queues/{queue}/jobs", Access.TOKEN, done, Right.JOBS_ADD)
LISTEN = Route("GET", "/queues/{queue}/events", Access.TOKEN, done, Right.EVENTS_READ)


def granted(caller: Caller, token: str = "one", expires_at_s: float | None = None) -> Grant:
    return Grant(hashlib.sha256(token.encode()).digest(), caller, expires_at_s)


def shop(*allowed: Right, queues: tuple[str, ...] = ("orders",), limit: RateLimit | None = None) -> Caller:
    return Caller("shop", frozenset(allowed), queues, limit)


def request(path: str = "/queues/orders/jobs", token: str | None = "one") -> Request:
    async def receive() -> Any:
        raise AssertionError("nobody reads this body")

    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    asked = scope("POST", path, headers=headers)
    return Request(asked, receive, asked["raw_path"].split(b"/"))


class Door:
    """An admission with its clock, tokens and limits at hand."""

    def __init__(self, *grants: Grant) -> None:
        self.clock = FakeClock()
        self.tokens = Tokens(("root",), grants, self.clock)
        self.rates = FakeRates(self.clock)
        self.admission = Admission(self.tokens, self.rates)


def test_whoever_has_the_right_on_the_queue_of_the_path_is_let_in() -> None:
    asked = request()
    Door(granted(shop(Right.JOBS_ADD))).admission.check(asked, ADD)
    assert asked.caller.name == "shop"


@pytest.mark.parametrize(
    ("path", "caller"),
    [
        ("/queues/orders/jobs", shop(Right.JOBS_READ)),
        ("/queues/invoices/jobs", shop(Right.JOBS_ADD)),
        ("/queues/orders/jobs", shop(*(ALL - {Right.JOBS_ADD}), queues=("*",))),
    ],
)
def test_whoever_has_not_is_told_no_more_than_that_and_is_known(path: str, caller: Caller) -> None:
    asked = request(path)
    with pytest.raises(Forbidden) as caught:
        Door(granted(caller)).admission.check(asked, ADD)
    assert caught.value.message == "Forbidden"
    assert asked.caller is caller


@pytest.mark.parametrize("token", [None, "two", ""])
def test_who_is_not_known_stays_nobody(token: str | None) -> None:
    asked = request(token=token)
    with pytest.raises(Unauthorized):
        Door(granted(shop(Right.JOBS_ADD))).admission.check(asked, ADD)
    assert asked.caller is ANYBODY


def test_a_name_is_compared_decoded() -> None:
    door = Door(granted(shop(Right.JOBS_ADD, queues=("a/b",))))
    door.admission.check(request("/queues/a%2Fb/jobs"), ADD)
    with pytest.raises(Forbidden):
        door.admission.check(request("/queues/a%252Fb/jobs"), ADD)


async def test_a_limit_is_counted_and_others_cost_nothing() -> None:
    door = Door(granted(shop(Right.JOBS_ADD, limit=RateLimit(2, 10.0))), granted(shop(Right.JOBS_ADD), "two"))
    for token, spent in (("one", 2), ("two", 2), ("root", 2)):
        for _ in range(2):
            asked = request(token=token)
            door.admission.check(asked, ADD)
            await door.admission.spend(asked)
        assert len(door.rates.spent) == spent
    asked = request()
    door.admission.check(asked, ADD)
    with pytest.raises(RateLimited) as caught:
        await door.admission.spend(asked)
    assert caught.value.retry_after_s == 5.0


async def test_a_command_needs_its_own_right_and_counts() -> None:
    door = Door(granted(shop(Right.JOBS_ADD, Right.EVENTS_READ, limit=RateLimit(1, 10.0))))
    asked = request()
    door.admission.check(asked, ADD)
    with pytest.raises(Forbidden):
        await door.admission.command(asked, Right.JOBS_READ, "orders")
    with pytest.raises(Forbidden):
        await door.admission.command(asked, Right.JOBS_ADD, "invoices")
    assert door.rates.spent == []
    await door.admission.command(asked, Right.EVENTS_READ, "orders")
    with pytest.raises(RateLimited):
        await door.admission.command(asked, Right.JOBS_ADD, "orders")


async def test_limits_that_cannot_be_counted_let_nobody_in() -> None:
    door = Door(granted(shop(Right.JOBS_ADD, limit=RateLimit(1, 10.0))))
    door.rates.fault = StoreUnavailable()
    gateway = Gateway([ADD], door.admission)
    answer = await ask(gateway, scope("POST", "/queues/orders/jobs", headers=[(b"authorization", b"Bearer one")]))
    assert answer.status == 503


async def test_over_the_limit_is_429_with_the_seconds_rounded_up() -> None:
    door = Door(granted(shop(Right.JOBS_ADD, limit=RateLimit(2, 5.0))))
    gateway = Gateway([ADD], door.admission)
    asked = scope("POST", "/queues/orders/jobs", headers=[(b"authorization", b"Bearer one")])
    assert [(await ask(gateway, asked)).status for _ in range(2)] == [200, 200]
    answer = await ask(gateway, asked)
    assert answer.status == 429
    assert answer.headers[b"retry-after"] == b"3"
    assert answer.headers[b"toril-code"] == b"rate_limited"


class Stay:
    """Somebody who stays, and whether they were ended."""

    def __init__(self, door: Door, token: str = "one", *more: tuple[Right, str]) -> None:
        self.ended = 0
        self.request = request("/queues/orders/events", token)
        door.admission.check(self.request, LISTEN)
        for right, queue in more:
            self.request.demand(right, queue)
        self._staying = door.admission.staying(self.request, LISTEN, self._end)
        self._staying.__enter__()
        self._door = door

    def _end(self) -> None:
        self.ended += 1

    def leave(self) -> None:
        self._staying.__exit__(None, None, None)


READER = shop(Right.EVENTS_READ)


def test_whose_token_is_gone_may_not_stay_and_may_nothing_more() -> None:
    door = Door(granted(READER))
    stay, other = Stay(door), Stay(door, "root")
    door.admission.recheck()
    assert (stay.ended, stay.request.caller) == (0, READER)
    door.tokens.replace(("root",), [])
    for _ in range(2):
        door.admission.recheck()
    assert (stay.ended, stay.request.caller) == (1, ANYBODY)
    assert (other.ended, other.request.caller.name) == (0, "AUTH_TOKENS")
    door.tokens.replace((), [])
    door.admission.recheck()
    assert other.ended == 1


def test_whose_token_has_expired_may_not_stay() -> None:
    door = Door(granted(READER, expires_at_s=FakeClock()() + 10))
    stay = Stay(door)
    door.clock.jump(9.9)
    door.admission.recheck()
    assert stay.ended == 0
    door.clock.jump(0.1)
    door.admission.recheck()
    assert stay.ended == 1


@pytest.mark.parametrize("now", [shop(Right.JOBS_ADD), shop(Right.EVENTS_READ, queues=("invoices",))])
def test_who_has_lost_the_right_may_not_stay(now: Caller) -> None:
    door = Door(granted(READER))
    stay = Stay(door)
    door.tokens.replace((), [granted(now)])
    door.admission.recheck()
    assert stay.ended == 1


def test_who_still_has_it_stays_with_the_rights_of_now() -> None:
    door = Door(granted(READER))
    stay = Stay(door)
    now = shop(Right.EVENTS_READ, Right.JOBS_ADD)
    door.tokens.replace((), [granted(now)])
    door.admission.recheck()
    assert (stay.ended, stay.request.caller) == (0, now)


def test_who_stays_for_several_queues_needs_the_right_on_all_of_them() -> None:
    door = Door(granted(shop(Right.EVENTS_READ, queues=("orders", "a"))))
    stay = Stay(door, "one", (Right.EVENTS_READ, "a"))
    door.tokens.replace((), [granted(READER)])
    door.admission.recheck()
    assert stay.ended == 1


def test_who_has_left_is_not_ended() -> None:
    door = Door(granted(READER))
    stay = Stay(door)
    stay.leave()
    door.tokens.replace((), [])
    door.admission.recheck()
    assert stay.ended == 0


async def test_a_stream_ends_in_good_order_when_its_token_is_gone() -> None:
    async def listen(_: Request) -> Stream:
        async def parts() -> AsyncGenerator[bytes, None]:
            yield b"more"
            await asyncio.Event().wait()

        return Stream(b"text/event-stream", b"first", parts())

    door = Door(granted(READER))
    route = Route("GET", "/queues/{queue}/events", Access.TOKEN, listen, Right.EVENTS_READ, token_in_url=True)
    gateway = Gateway([route], door.admission)
    sent: list[Any] = []
    more = asyncio.Event()

    async def send(message: Any) -> None:
        sent.append(message)
        if message.get("body") == b"more":
            more.set()

    async def receive() -> Any:
        await asyncio.Event().wait()

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(gateway(scope("GET", "/queues/orders/events", b"token=one"), receive, send))
        await more.wait()
        door.tokens.replace((), [])
        door.admission.recheck()
    assert [message.get("body") for message in sent[1:]] == [b"first", b"more", b""]
    assert not sent[-1].get("more_body")


async def test_a_socket_is_closed_when_its_token_is_gone() -> None:
    async def opened(_: Request) -> Any:
        async def serve(socket: Socket) -> None:
            serving.set()
            while await socket.receive() is not None:
                pass

        return serve

    door = Door(granted(READER))
    gateway = Gateway([], door.admission, [SocketRoute("/ws/{queue}", Access.TOKEN, opened, Right.EVENTS_READ)])
    sent: list[Any] = []
    serving, closed, connects = asyncio.Event(), asyncio.Event(), iter([{"type": "websocket.connect"}])

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "websocket.close":
            closed.set()

    async def receive() -> Any:
        for message in connects:
            return message
        await closed.wait()
        return {"type": "websocket.disconnect"}

    asked = scope("GET", "/ws/orders", headers=[(b"authorization", b"Bearer one")])
    asked |= {"type": "websocket", "subprotocols": []}
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(gateway(asked, receive, send))
        await serving.wait()
        door.tokens.replace((), [])
        door.admission.recheck()
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
    assert sent[-1]["code"] == 4001


async def test_those_who_stay_are_looked_at_every_second() -> None:
    clock = FakeClock()
    with clock.driving():
        door = Door(granted(READER, expires_at_s=clock() + 5))
        door.tokens._now = clock
        stay = Stay(door)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(door.admission.run())
            await asyncio.sleep(4.5)
            assert stay.ended == 0
            await asyncio.sleep(2)
            assert stay.ended == 1
            task.cancel()
