import asyncio
import hashlib
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.responses import Response
from starlette.types import Scope

from tests.unit.web.asgi import application, ask, scope
from toril.core.access import ALL, ANYBODY, Caller, Grant, RateLimit, Right
from toril.core.errors import Forbidden, RateLimited, StoreUnavailable, Unauthorized
from toril.testing import FakeClock, FakeRates
from toril.web.access_control import AccessControl
from toril.web.auth import Tokens
from toril.web.event_stream import SSE
from toril.web.request import Connection, Request
from toril.web.responses import BytesResponse, StreamResponse
from toril.web.routing import Route, SocketRoute
from toril.web.websocket import WebSocket


async def done(request: Request) -> Response:
    return BytesResponse(request.caller.name.encode())


ADD = "/queues/{queue}/jobs", Right.JOBS_ADD
LISTEN = "/queues/{queue}/events", Right.EVENTS_READ


def granted(caller: Caller, token: str = "one", expires_at_s: float | None = None) -> Grant:
    return Grant(hashlib.sha256(token.encode()).digest(), caller, expires_at_s)


def shop(*allowed: Right, queues: tuple[str, ...] = ("orders",), limit: RateLimit | None = None) -> Caller:
    return Caller("shop", frozenset(allowed), queues, limit)


def add_route() -> Route:
    return Route(ADD[0], done, method="POST", right=ADD[1])


def request(path: str = "/queues/orders/jobs", token: str | None = "one", of: tuple[str, Right] = ADD) -> Scope:
    """A request's scope as the router leaves it."""
    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    route = Route(of[0], done, method="POST", right=of[1])
    asked = scope("POST", path, headers=headers) | {"route": route}
    return asked | route.matches(asked)[1]


def caller_of(asked: Scope) -> Caller:
    return Connection(asked).caller


class Door:
    """Access control with its clock, tokens and limits at hand."""

    def __init__(self, *grants: Grant) -> None:
        self.clock = FakeClock()
        self.tokens = Tokens(("root",), grants, self.clock)
        self.rates = FakeRates(self.clock)
        self.control = AccessControl(self.tokens, self.rates)


def test_a_caller_with_the_right_on_the_queue_of_the_path_is_let_in() -> None:
    asked = request()
    Door(granted(shop(Right.JOBS_ADD))).control.check(asked)
    assert caller_of(asked).name == "shop"


@pytest.mark.parametrize(
    ("path", "caller"),
    [
        ("/queues/orders/jobs", shop(Right.JOBS_READ)),
        ("/queues/invoices/jobs", shop(Right.JOBS_ADD)),
        ("/queues/orders/jobs", shop(*(ALL - {Right.JOBS_ADD}), queues=("*",))),
    ],
)
def test_a_caller_without_the_right_is_refused_and_known(path: str, caller: Caller) -> None:
    asked = request(path)
    with pytest.raises(Forbidden) as caught:
        Door(granted(caller)).control.check(asked)
    assert caught.value.message == "Forbidden"
    assert caller_of(asked) is caller


@pytest.mark.parametrize("token", [None, "two", ""])
def test_an_unknown_caller_stays_anonymous(token: str | None) -> None:
    asked = request(token=token)
    with pytest.raises(Unauthorized):
        Door(granted(shop(Right.JOBS_ADD))).control.check(asked)
    assert caller_of(asked) is ANYBODY


def test_a_queue_name_in_a_path_is_compared_decoded() -> None:
    door = Door(granted(shop(Right.JOBS_ADD, queues=("a/b",))))
    door.control.check(request("/queues/a%2Fb/jobs"))
    with pytest.raises(Forbidden):
        door.control.check(request("/queues/a%252Fb/jobs"))


async def test_a_limit_is_counted_and_others_cost_nothing() -> None:
    door = Door(granted(shop(Right.JOBS_ADD, limit=RateLimit(2, 10.0))), granted(shop(Right.JOBS_ADD), "two"))
    for token, spent in (("one", 2), ("two", 2), ("root", 2)):
        for _ in range(2):
            asked = request(token=token)
            door.control.check(asked)
            await door.control.spend(caller_of(asked))
        assert len(door.rates.spent) == spent
    asked = request()
    door.control.check(asked)
    with pytest.raises(RateLimited) as caught:
        await door.control.spend(caller_of(asked))
    assert caught.value.retry_after_s == 5.0


async def test_a_command_needs_its_own_right_and_counts() -> None:
    door = Door(granted(shop(Right.JOBS_ADD, Right.EVENTS_READ, limit=RateLimit(1, 10.0))))
    asked = request()
    door.control.check(asked)
    with pytest.raises(Forbidden):
        await door.control.command(Connection(asked), Right.JOBS_READ, "orders")
    with pytest.raises(Forbidden):
        await door.control.command(Connection(asked), Right.JOBS_ADD, "invoices")
    assert door.rates.spent == []
    await door.control.command(Connection(asked), Right.EVENTS_READ, "orders")
    with pytest.raises(RateLimited):
        await door.control.command(Connection(asked), Right.JOBS_ADD, "orders")


async def test_limits_that_cannot_be_counted_refuse_every_request() -> None:
    door = Door(granted(shop(Right.JOBS_ADD, limit=RateLimit(1, 10.0))))
    door.rates.fault = StoreUnavailable()
    gateway = application([add_route()], door.control)
    answer = await ask(gateway, scope("POST", "/queues/orders/jobs", headers=[(b"authorization", b"Bearer one")]))
    assert answer.status == 503


async def test_over_the_limit_is_429_with_the_seconds_rounded_up() -> None:
    door = Door(granted(shop(Right.JOBS_ADD, limit=RateLimit(2, 5.0))))
    gateway = application([add_route()], door.control)
    asked = scope("POST", "/queues/orders/jobs", headers=[(b"authorization", b"Bearer one")])
    assert [(await ask(gateway, asked)).status for _ in range(2)] == [200, 200]
    answer = await ask(gateway, asked)
    assert answer.status == 429
    assert answer.headers[b"retry-after"] == b"3"
    assert answer.headers[b"toril-code"] == b"rate_limited"


class Stay:
    """A caller with an open stream, and whether it was ended."""

    def __init__(self, door: Door, token: str = "one", *more: tuple[Right, str]) -> None:
        self.ended = 0
        self.request = Connection(request("/queues/orders/events", token, LISTEN))
        door.control.check(self.request.scope)
        for right, queue in more:
            self.request.demand(right, queue)
        self._staying = door.control.staying(self.request.scope, self._end)
        self._staying.__enter__()
        self._door = door

    def _end(self) -> None:
        self.ended += 1

    def leave(self) -> None:
        self._staying.__exit__(None, None, None)


READER = shop(Right.EVENTS_READ)


def test_a_caller_whose_token_was_removed_is_ended_and_has_no_rights() -> None:
    door = Door(granted(READER))
    stay, other = Stay(door), Stay(door, "root")
    door.control.recheck()
    assert (stay.ended, stay.request.caller) == (0, READER)
    door.tokens.replace(("root",), [])
    for _ in range(2):
        door.control.recheck()
    assert (stay.ended, stay.request.caller) == (1, ANYBODY)
    assert (other.ended, other.request.caller.name) == (0, "AUTH_TOKENS")
    door.tokens.replace((), [])
    door.control.recheck()
    assert other.ended == 1


def test_a_caller_whose_token_has_expired_is_ended() -> None:
    door = Door(granted(READER, expires_at_s=FakeClock()() + 10))
    stay = Stay(door)
    door.clock.jump(9.9)
    door.control.recheck()
    assert stay.ended == 0
    door.clock.jump(0.1)
    door.control.recheck()
    assert stay.ended == 1


@pytest.mark.parametrize("now", [shop(Right.JOBS_ADD), shop(Right.EVENTS_READ, queues=("invoices",))])
def test_a_caller_that_has_lost_the_right_is_ended(now: Caller) -> None:
    door = Door(granted(READER))
    stay = Stay(door)
    door.tokens.replace((), [granted(now)])
    door.control.recheck()
    assert stay.ended == 1


def test_a_caller_that_still_has_the_right_stays_with_its_current_rights() -> None:
    door = Door(granted(READER))
    stay = Stay(door)
    now = shop(Right.EVENTS_READ, Right.JOBS_ADD)
    door.tokens.replace((), [granted(now)])
    door.control.recheck()
    assert (stay.ended, stay.request.caller) == (0, now)


def test_a_stream_of_several_queues_needs_the_right_on_all_of_them() -> None:
    door = Door(granted(shop(Right.EVENTS_READ, queues=("orders", "a"))))
    stay = Stay(door, "one", (Right.EVENTS_READ, "a"))
    door.tokens.replace((), [granted(READER)])
    door.control.recheck()
    assert stay.ended == 1


def test_a_caller_that_has_left_is_not_ended() -> None:
    door = Door(granted(READER))
    stay = Stay(door)
    stay.leave()
    door.tokens.replace((), [])
    door.control.recheck()
    assert stay.ended == 0


async def test_a_stream_ends_in_good_order_when_its_token_is_gone() -> None:
    async def listen(_: Request) -> StreamResponse:
        async def parts() -> AsyncGenerator[bytes, None]:
            yield b"more"
            await asyncio.Event().wait()

        return StreamResponse(b"first", parts(), SSE)

    door = Door(granted(READER))
    route = Route("/queues/{queue}/events", listen, right=Right.EVENTS_READ, token_in_url=True)
    gateway = application([route], door.control)
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
        door.control.recheck()
    assert [message.get("body") for message in sent[1:]] == [b"first", b"more", b""]
    assert not sent[-1].get("more_body")


async def test_a_socket_is_closed_when_its_token_is_gone() -> None:
    async def listen(socket: WebSocket) -> None:
        async def serve() -> None:
            serving.set()
            while await socket.receive_message() is not None:
                pass

        await socket.serve(serve)

    door = Door(granted(READER))
    gateway = application([SocketRoute("/ws/{queue}", listen, right=Right.EVENTS_READ)], door.control)
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
        door.control.recheck()
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
    assert sent[-1]["code"] == 4001


async def test_open_streams_and_sockets_are_checked_every_second() -> None:
    clock = FakeClock()
    with clock.driving():
        door = Door(granted(READER, expires_at_s=clock() + 5))
        door.tokens._now = clock
        stay = Stay(door)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(door.control.run())
            await asyncio.sleep(4.5)
            assert stay.ended == 0
            await asyncio.sleep(2)
            assert stay.ended == 1
            task.cancel()
