"""The events of several queues in one stream."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from tests.unit.web.asgi import request, scope
from toril.bullmq.rules.event import Event, Position
from toril.bullmq.rules.queue_name import NameRules
from toril.core.access import Caller
from toril.core.errors import StoreUnavailable
from toril.queues.events import EventRoutes
from toril.web.responses import StreamResponse

QUEUES = ("mails", "orders")


class Follower:
    """The events of one queue, as the test puts them in."""

    def __init__(self) -> None:
        self.position: Position = (0, 0)
        self.came: asyncio.Queue[list[Event] | StoreUnavailable] = asyncio.Queue()

    async def batch(self) -> list[Event]:
        found = await self.came.get()
        if isinstance(found, StoreUnavailable):
            raise found
        return found

    def happen(self, *numbers: int) -> None:
        self.came.put_nowait([Event((number, 0), "waiting", b'{"jobId":"%d"}' % number) for number in numbers])


class Feed:
    def __init__(self) -> None:
        self.followers = {queue: Follower() for queue in QUEUES}

    @asynccontextmanager
    async def follow(self, queue: str, since: Position | None) -> AsyncIterator[Follower]:
        yield self.followers[queue]


async def opened(feed: Feed) -> StreamResponse:
    routes = EventRoutes(cast(Any, feed), cast(Any, None), cast(Any, None), names=NameRules())
    asked = request("/events", b"queues=" + ",".join(QUEUES).encode(), caller=Caller("test"))
    return await routes.events_of_several(asked)


class Listener:
    """A client: what it was sent, and how it takes that."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.reads = asyncio.Event()
        self.reads.set()
        self.hangs_up = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.hangs_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.got += message.get("body", b"")
        if message.get("more_body"):
            await self.reads.wait()

    async def has(self, text: bytes) -> None:
        async with asyncio.timeout(5):
            while text not in self.got:
                await asyncio.sleep(0)


async def test_events_of_all_queues_come_with_their_queue() -> None:
    feed, listener = Feed(), Listener()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task((await opened(feed))(scope("GET", "/events"), listener.receive, listener.send))
        feed.followers["orders"].happen(1, 2)
        feed.followers["mails"].happen(3)
        for number, queue in ((1, b"orders"), (2, b"orders"), (3, b"mails")):
            await listener.has(b'{"jobId":"%d","queue":"%b"}' % (number, queue))
        feed.followers["mails"].happen()
    assert listener.got.count(b"event: waiting") == 3


def hang_up(listener: Listener, revoked: asyncio.Event) -> None:
    listener.hangs_up.set()


def revoke(listener: Listener, revoked: asyncio.Event) -> None:
    revoked.set()


@pytest.mark.parametrize("end", [hang_up, revoke])
async def test_a_slow_reader_can_be_ended_at_any_moment(end: Callable[[Listener, asyncio.Event], None]) -> None:
    feed, listener, revoked = Feed(), Listener(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task((await opened(feed))._send_until(listener.receive, listener.send, revoked))
        await listener.has(b"retry:")
        listener.reads.clear()
        for queue in QUEUES:
            feed.followers[queue].happen(1)
        await listener.has(b"event: waiting")
        end(listener, revoked)


async def test_a_store_that_is_away_ends_the_stream_without_a_crash() -> None:
    feed, listener = Feed(), Listener()
    with capture_logs() as logs:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task((await opened(feed))(scope("GET", "/events"), listener.receive, listener.send))
            feed.followers["orders"].came.put_nowait(StoreUnavailable("Redis is away"))
    assert [(line["event"], line["error"]) for line in logs] == [("stream.ended", "Redis is away")]


async def test_nothing_is_lost_while_the_reader_is_slow() -> None:
    feed, listener = Feed(), Listener()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task((await opened(feed))(scope("GET", "/events"), listener.receive, listener.send))
        await listener.has(b"retry:")
        listener.reads.clear()
        for number in range(1, 200):
            feed.followers[QUEUES[number % 2]].happen(number)
        listener.reads.set()
        for number in range(1, 200):
            await listener.has(b'{"jobId":"%d",' % number)
        feed.followers["mails"].happen()
