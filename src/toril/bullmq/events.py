"""Reads BullMQ's event streams: one reader for all queues that have listeners.

The latest events are kept in memory, and all listeners share them. A listener that resumes from an old position, or
reads too slowly, reads the missing events from the stream itself, at its own pace, and takes no memory for them. A
`gap` event says that the stream no longer holds some events.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog

from toril.bullmq.keys import QueueKeys
from toril.bullmq.rules.event import GAP, Event, Position, position_of
from toril.core.errors import StoreError, StoreRefused
from toril.core.metrics import UNMETERED
from toril.core.ports import Meter
from toril.core.stored_job import json_or_text, text_json
from toril.redis.links import FollowingLink, KeyLink, KeyPlace, Links
from toril.redis.policy import StorePolicy
from toril.redis.resp import Wire, pack

log = structlog.get_logger(__name__)

_BLOCK_MS = 10_000
_BATCH = 500
_BATCH_BYTES = 2**18
_FIRST_BATCH = 25
_LEAST_BATCH = 10
_KEPT = 2000
_KEPT_BYTES = 4 * 2**20
# Redis trims a stream by nodes of about so many entries: fewer new ones cannot have pushed out unread ones.
_TRIMMED_BY = 50
_AGAIN_S = 0.1
_BETWEEN_S = 0.005
_ENDS = frozenset({"completed", "failed", "removed"})


class EventStreams:
    """The event streams of one process. A connection is opened for the first listener."""

    def __init__(self, links: Links, policy: StorePolicy, tasks: asyncio.TaskGroup, meter: Meter = UNMETERED) -> None:
        self.links = links
        self.meter = meter
        self.policy = policy
        self.tasks = tasks
        self.closed = asyncio.Event()
        self._readers: dict[int, _Reader] = {}
        self._feeds: dict[str, _Feed] = {}

    def close(self) -> None:
        """End all listeners and waits: the instance shuts down."""
        self.closed.set()
        for feed in self._feeds.values():
            feed.wake()
            feed.tell(None)

    @asynccontextmanager
    async def follow(self, queue: str, since: Position | None) -> AsyncIterator[Follower]:
        """Listen to a queue, from now on or from after a position."""
        async with self._feed(queue) as feed:
            yield Follower(self, feed, feed.last if since is None else since, resumes=since is not None)

    @asynccontextmanager
    async def ending(self, queue: str, job_id: str) -> AsyncIterator[Callable[[], Awaitable[Event | None]]]:
        """Wait within this block for the event that ends a job: completed, failed or removed.

        The yielded function returns that event, None when the instance shuts down, or a `gap` when events were lost,
        of which that one may be one.
        """
        async with self._feed(queue) as feed:
            waiter = _Waiter()
            waiters = feed.waiters.setdefault(job_id.encode(errors="replace"), set())
            waiters.add(waiter)
            if self.closed.is_set():
                waiter.tell(None)
            try:
                yield waiter.heard
            finally:
                waiters.discard(waiter)
                if not waiters:
                    feed.waiters.pop(job_id.encode(errors="replace"), None)

    @asynccontextmanager
    async def _feed(self, queue: str) -> AsyncIterator[_Feed]:
        feed = self._feeds.get(queue)
        if feed is None:
            key = QueueKeys(self.policy.queue_prefix, queue).key("events")
            feed = self._feeds[queue] = _Feed(key, self.links)
        feed.users += 1
        try:
            await feed.begin()
            group = self.links.group(feed.key)
            reader = self._readers.get(group)
            if reader is None:
                reader = self._readers[group] = _Reader(self, feed.key)
            reader.add(feed)
            yield feed
        finally:
            feed.users -= 1
            if not feed.users:
                self._feeds.pop(queue, None)
                for reader in self._readers.values():
                    reader.discard(feed)


class Follower:
    """One listener's place in a queue's events."""

    def __init__(self, streams: EventStreams, feed: _Feed, position: Position, *, resumes: bool) -> None:
        self._streams = streams
        self._feed = feed
        self.position = position
        self._resumes = resumes

    async def batch(self) -> list[Event]:
        """Return the next events, at least one; an empty list when the instance shuts down."""
        feed = self._feed
        while not self._streams.closed.is_set():
            if self._resumes or self.position < feed.floor:
                self._resumes = False
                events, self.position = await feed.stored(self.position)
            else:
                events = feed.after(self.position)
                if events:
                    self.position = events[-1].position
            if events:
                return events
            if self.position >= feed.last:
                await feed.news.wait()
        return []


class _Waiter:
    """A caller that waits for the end of one job."""

    def __init__(self) -> None:
        self._told: asyncio.Queue[Event | None] = asyncio.Queue()
        self.heard = self._told.get

    def tell(self, event: Event | None) -> None:
        """Pass an event to the caller."""
        self._told.put_nowait(event)


class _Feed:
    """The latest events of one queue. Every event after the position `floor` is kept."""

    def __init__(self, key: bytes, links: Links) -> None:
        self.key = key
        self.users = 0
        self.floor: Position = (0, 0)
        self.last: Position = (0, 0)
        self.news = asyncio.Event()
        self.waiters: dict[bytes, set[_Waiter]] = {}
        self._links = links
        self._events: list[Event] = []
        self._bytes = 0
        # How many events of this queue are sent, or read from the stream, at once: fewer if they are large.
        self.batch = _FIRST_BATCH
        self._positions: list[Position] = []
        self._beginning = asyncio.Lock()
        self._begun = False

    async def begin(self) -> None:
        """Read the current end of the stream, once for all listeners that start together."""
        async with self._beginning:
            if not self._begun:
                newest = await self._links.of(self.key).call("XREVRANGE", self.key, "+", "-", "COUNT", 1)
                if newest:
                    self.last = self.floor = position_of(newest[0][0].decode())
                self._begun = True

    def after(self, position: Position) -> list[Event]:
        """Return the kept events after a position, at most one batch."""
        first = bisect_right(self._positions, position)
        return self._events[first : first + self.batch]

    async def take(self, entries: Sequence[Any]) -> None:
        """Keep the events that the reader has read, and wake the listeners."""
        if len(entries) >= min(_TRIMMED_BY, self.batch) and await self._trimmed_behind(
            self._links.of(self.key), self.last
        ):
            # More events were added at once than the stream holds: those in between are lost.
            gap = _gap(self.last)
            self._keep(gap)
            self.tell(gap)
        for entry in entries:
            event = _event(entry)
            if event.position <= self.last:
                continue
            self._keep(event)
            if event.name in _ENDS and event.job_id in self.waiters:
                for waiter in self.waiters[event.job_id]:
                    waiter.tell(event)
        self.batch = max(_LEAST_BATCH, min(_BATCH, _BATCH_BYTES * len(self._events) // (self._bytes or 1)))
        if len(self._events) > 2 * _KEPT or self._bytes > 2 * _KEPT_BYTES:
            self._trim()
        self.wake()

    def _keep(self, event: Event) -> None:
        self.last = event.position
        self._events.append(event)
        self._positions.append(event.position)
        self._bytes += len(event.data)

    def _trim(self) -> None:
        """Drop the older part of what is kept."""
        first = 0
        while len(self._events) - first > _KEPT or self._bytes > _KEPT_BYTES:
            self._bytes -= len(self._events[first].data)
            first += 1
        self.floor = self._positions[first - 1]
        del self._events[:first], self._positions[:first]

    def tell(self, event: Event | None) -> None:
        """Pass an event to all callers that wait for the end of a job."""
        for waiters in self.waiters.values():
            for waiter in waiters:
                waiter.tell(event)

    def doubt(self) -> None:
        """Drop the kept events after a broken connection: listeners read the stream, which may have been trimmed."""
        self._events.clear()
        self._positions.clear()
        self._bytes = 0
        self.floor = (*self.last[:2], 1)
        self.wake()

    def wake(self) -> None:
        """Wake all listeners."""
        news, self.news = self.news, asyncio.Event()
        news.set()

    async def stored(self, position: Position) -> tuple[list[Event], Position]:
        """Return a batch of the stream's events after a position, and the position that it reaches."""
        here = b"%d-%d" % position[:2]
        link, floor, batch = self._links.of(self.key), self.floor, self.batch
        own, entries = await link.pipeline(
            [
                pack("XRANGE", self.key, here, here),
                pack("XRANGE", self.key, b"(" + here, "+", "COUNT", batch),
            ]
        )
        events = [_event(entry) for entry in entries]
        if not own and await self._trimmed_behind(link, position):
            events.insert(0, _gap(position))
        if len(entries) == batch:
            return events, events[-1].position
        # The stream has no more: the listener goes on with the kept events.
        return events, max(floor, events[-1].position if events else position)

    async def _trimmed_behind(self, link: KeyLink, position: Position) -> bool:
        """Return True if the stream has dropped entries after a position."""
        try:
            flat = await link.call("XINFO", "STREAM", self.key)
        except StoreRefused:  # the stream does not exist (yet), or was removed
            return position > (0, 0)
        info = dict(zip(flat[::2], flat[1::2], strict=True))
        if info.get(b"entries-added") == info[b"length"]:  # Redis 6 does not tell
            return False
        first = info.get(b"first-entry")
        return not first or position_of(first[0].decode()) > position


class _Reader:
    """A blocking connection that reads the streams of all feeds (in a cluster, of one slot)."""

    def __init__(self, streams: EventStreams, key: bytes) -> None:
        self._streams = streams
        self._key = key
        self._feeds: dict[bytes, _Feed] = {}
        self._reading: frozenset[bytes] = frozenset()
        self._changed = asyncio.Event()
        self._client_id = 0
        self._link = FollowingLink(
            KeyPlace(streams.links, key),
            streams.policy,
            name="toril:events",
            prepare=self._prepare,
            patience_s=_BLOCK_MS / 1000 + 5,
            meter=streams.meter,
        )
        self._link.on_reconnect(self._doubt)
        for work in (self._link.run(), self._run(), self._interrupt()):
            streams.tasks.create_task(work, name="events")

    def add(self, feed: _Feed) -> None:
        """Read the stream of this feed too."""
        if feed.key not in self._feeds:
            self._feeds[feed.key] = feed
            self._changed.set()

    def discard(self, feed: _Feed) -> None:
        """Stop reading the stream of this feed."""
        if self._feeds.get(feed.key) is feed:
            del self._feeds[feed.key]

    async def _prepare(self, wire: Wire) -> None:
        self._client_id = int(await wire.call("CLIENT", "ID"))

    def _doubt(self) -> None:
        for feed in self._feeds.values():
            feed.doubt()

    async def _run(self) -> None:
        while True:
            if not self._feeds:
                self._changed.clear()
                await self._changed.wait()
            try:
                await self._link.up(60)
                await self._read()
            except StoreError as exc:
                log.debug("events.read_failed", error=exc.message)
                await asyncio.sleep(_AGAIN_S)
            finally:
                self._reading = frozenset()

    async def _read(self) -> None:
        feeds = dict(self._feeds)
        if not feeds:
            return
        self._reading = frozenset(feeds)
        positions = [b"%d-%d" % feed.last[:2] for feed in feeds.values()]
        batch = min(feed.batch for feed in feeds.values())
        reply = await self._link.call("XREAD", "COUNT", batch, "BLOCK", _BLOCK_MS, "STREAMS", *feeds, *positions)
        for key, entries in reply or ():
            await feeds[key].take(entries)

    async def _interrupt(self) -> None:
        """Unblock the connection when a queue is added, so that it blocks again with the new stream too."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while not self._feeds.keys() <= self._reading:
                if self._reading:
                    try:
                        await self._streams.links.of(self._key).call("CLIENT", "UNBLOCK", self._client_id)
                    except StoreError as exc:
                        log.debug("events.unblock_failed", error=exc.message)
                        await asyncio.sleep(_AGAIN_S)
                await asyncio.sleep(_BETWEEN_S)


def _gap(position: Position) -> Event:
    return Event((*position[:2], 1), GAP, b'{"since":"%d-%d"}' % position[:2])


def _event(entry: Sequence[Any]) -> Event:
    stream_id, flat = entry
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    name = fields.pop(b"event", b"").decode(errors="replace")
    # BullMQ's QueueEvents parses these fields only.
    parsed = {"completed": b"returnvalue", "progress": b"data"}.get(name)
    data = b",".join(
        b"%b:%b" % (text_json(key), json_or_text(value) if key == parsed else text_json(value))
        for key, value in fields.items()
    )
    return Event(position_of(stream_id.decode()), name, b"{%b}" % data, fields.get(b"jobId"))
