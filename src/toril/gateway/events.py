"""Server-Sent Events of a queue, and the wait for a job's result: both on the shared readers, neither polls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Annotated, Any

import msgspec
import structlog
from msgspec import Meta, Raw, Struct

from toril.core.access import Right
from toril.core.errors import InvalidRequest, JobFailed, JobNotFound, unwrapped
from toril.core.event import GAP, Bookmark, Event, Position, position_of
from toril.core.job import is_job_id
from toril.core.ports.jobs import EventFeed, EventFollower, JobControl, JobReader
from toril.core.queue_name import NameRules
from toril.core.redaction import event_without_secrets, without_secrets
from toril.gateway import shapes, wire
from toril.gateway.description import About, Parameter, Reply
from toril.gateway.routing import SSE, Access, Answer, Request, Route, Stream

log = structlog.get_logger(__name__)

MAX_WAIT_S = 60.0
MAX_QUEUES = 50
# Proxies between here and the listener close what is silent for a minute.
_BEAT_S = 15.0
_BEAT = b":\n\n"
_NO_BREAKS = str.maketrans("\r\n", "  ")


class _Ended(Struct):
    """The parts of a `completed` or `failed` event that matter to whoever waits."""

    returnvalue: Raw = Raw(b"null")
    failedReason: str = ""  # noqa: N815 - BullMQ's spelling


_EVENTS = Reply(
    str, "Server-Sent Events: BullMQ's name, its fields as JSON, a place to resume from", 200, "text/event-stream"
)
_RESUME = (
    Parameter("Last-Event-ID", str, "Go on behind this event; beats `since`", place="header"),
    Parameter("since", str, "Go on behind this event"),
)
_RESULT = About(
    (Reply(Any, "The job's return value"), Reply(shapes.JobState, "There is none yet", 202)),
    parameters=(
        Parameter("wait", Annotated[float, Meta(ge=0, le=MAX_WAIT_S)], "Seconds to wait for it; 0 unless told"),
    ),
    errors=(JobNotFound, JobFailed),
)


class EventRoutes:
    """Tells callers what happens."""

    def __init__(self, feed: EventFeed, reader: JobReader, control: JobControl, *, names: NameRules) -> None:
        self._feed = feed
        self._reader = reader
        self._control = control
        self._names = names

    def routes(self) -> list[Route]:
        """The routes of this module."""
        return [
            Route(
                "GET",
                "/queues/{queue}/events",
                Access.TOKEN,
                self.events,
                Right.EVENTS_READ,
                own=True,
                token_in_url=True,
                about=About((_EVENTS,), parameters=_RESUME),
            ),
            Route(
                "GET",
                "/events",
                Access.TOKEN,
                self.events_of_several,
                Right.EVENTS_READ,
                own=True,
                token_in_url=True,
                about=About(
                    (_EVENTS,),
                    parameters=(
                        Parameter("queues", str, f"Names of up to {MAX_QUEUES} queues, with commas", required=True),
                        *_RESUME,
                    ),
                ),
            ),
            Route(
                "GET",
                "/queues/{queue}/jobs/{id}/result",
                Access.TOKEN,
                self.result,
                Right.JOBS_READ,
                own=True,
                about=_RESULT,
            ),
        ]

    def _queue(self, request: Request) -> str:
        queue = request.segment(1)
        self._names.check(queue)
        return queue

    async def events(self, request: Request) -> Stream:
        """The events of a queue from now on, or from behind `Last-Event-ID` or `?since=`."""
        queue = self._queue(request)
        resumed = _resumed(request)
        return await _begun(self._lines(request, queue, position_of(resumed) if resumed else None))

    async def events_of_several(self, request: Request) -> Stream:
        """The events of the queues in `?queues=`, each event with its queue's name."""
        queues = sorted({name for name in request.query().get("queues", "").split(",") if name})
        if not 0 < len(queues) <= MAX_QUEUES:
            raise InvalidRequest(f"queues must name from 1 to {MAX_QUEUES} queues, with commas", field="queues")
        for queue in queues:
            request.demand(Right.EVENTS_READ, queue)
            self._names.check(queue)
        resumed = _resumed(request)
        bookmark = Bookmark.read(resumed) if resumed else Bookmark()
        return await _begun(self._lines_of_several(request, queues, bookmark))

    async def _lines(self, request: Request, queue: str, since: Position | None) -> AsyncGenerator[bytes, None]:
        async with self._feed.follow(queue, since) as follower:
            yield _first(b"%d-%d" % follower.position[:2])
            while True:
                try:
                    async with asyncio.timeout(_BEAT_S):
                        events = await follower.batch()
                except TimeoutError:
                    yield _BEAT
                    continue
                if not events:
                    return
                hide = request.hides(queue)
                yield b"".join(_line(event.id, event, _data(event, hide=hide)) for event in events)

    async def _lines_of_several(
        self, request: Request, queues: list[str], bookmark: Bookmark
    ) -> AsyncGenerator[bytes, None]:
        async with AsyncExitStack() as following:
            followers: dict[str, EventFollower] = {}
            for queue in queues:
                since = bookmark.of(queue)
                followers[queue] = await following.enter_async_context(self._feed.follow(queue, since))
                bookmark.move(queue, followers[queue].position)
            yield _first(bookmark.text())
            while True:
                batches = await _batches(followers)
                if not batches:
                    yield _BEAT
                for queue, events in batches:
                    if not events:  # the instance shuts down: the caller comes back
                        return
                    name = b',"queue":%b}' % msgspec.json.encode(queue)
                    parts, hide = [], request.hides(queue)
                    for event in events:
                        bookmark.move(queue, event.position)
                        data = _data(event, hide=hide)
                        data = data[:-1] + (name if len(data) > 2 else name[1:])
                        parts.append(_line(bookmark.text(), event, data))
                    yield b"".join(parts)

    async def result(self, request: Request) -> Answer:
        """A job's return value, waited for as long as the caller likes, within limits."""
        queue, job_id = self._queue(request), request.segment(3)
        wait_s = _wait_s(request.query().get("wait", "0"))
        if not is_job_id(job_id):
            raise JobNotFound
        if not wait_s:
            return await self._result_now(request, queue, job_id)
        # First listen, then look: what happens in between is heard.
        async with self._feed.ending(queue, job_id) as ending:
            answer = await self._result_now(request, queue, job_id)
            if answer.status != 202:
                return answer
            try:
                async with asyncio.timeout(wait_s):
                    event = await ending()
                    while event is not None and event.name == GAP:
                        # The end may be among the events that are lost.
                        answer = await self._result_now(request, queue, job_id)
                        if answer.status != 202:
                            return answer
                        event = await ending()
            except TimeoutError:
                event = None
        if event is None:
            return await self._result_now(request, queue, job_id)
        return _ended(event, hide=request.hides(queue))

    async def _result_now(self, request: Request, queue: str, job_id: str) -> Answer:
        # The state first: what a finished job says does not change any more.
        state = await self._control.state(queue, job_id)
        fields = await self._reader.get(queue, job_id)
        if fields is None:
            raise JobNotFound
        if state == "completed":
            return wire.json_answer(wire.value(fields.get(b"returnvalue") or b"null", hide=request.hides(queue)))
        if state == "failed":
            raise JobFailed(fields.get(b"failedReason", b"").decode(errors="replace"))
        return wire.json_answer(msgspec.json.encode({"state": state}), 202)


async def _batches(followers: dict[str, EventFollower]) -> list[tuple[str, list[Event]]]:
    """The next events of those queues that have some, waited for until it is time for a heartbeat.

    No task goes on while the caller sends what came: a slow reader makes the followers wait, not the memory grow.
    """
    with unwrapped():
        async with asyncio.TaskGroup() as tasks:
            waiting = {tasks.create_task(follower.batch()): queue for queue, follower in followers.items()}
            # Not asyncio.timeout: it could drop what has come in the moment in which the time is over.
            await asyncio.wait(waiting, timeout=_BEAT_S, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
    return [(queue, task.result()) for task, queue in waiting.items() if not task.cancelled()]


def _resumed(request: Request) -> str:
    header = request.header(b"last-event-id")
    return header.decode("latin-1") if header else request.query().get("since", "")


async def _begun(parts: AsyncGenerator[bytes, None]) -> Stream:
    return Stream(SSE, await anext(parts), parts)


def _first(place: bytes) -> bytes:
    """How soon to come back, and where to: a connection may break before the first event."""
    return b"retry: 1000\nid: %b\n\n" % place


def _line(place: bytes, event: Event, data: bytes) -> bytes:
    # Anybody may add to BullMQ's streams: a name may hold a line break, and so may JSON, between its values.
    name = event.name.translate(_NO_BREAKS).encode()
    if b"\n" in data or b"\r" in data:
        data = data.replace(b"\n", b" ").replace(b"\r", b" ")
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (place, name, data)


def _data(event: Event, *, hide: bool) -> bytes:
    return event_without_secrets(event.data) if hide else event.data


def _ended(event: Event, *, hide: bool) -> Answer:
    if event.name == "removed":
        raise JobNotFound
    ended = msgspec.json.decode(event.data, type=_Ended)
    if event.name == "failed":
        raise JobFailed(ended.failedReason)
    returned = bytes(ended.returnvalue)
    return wire.json_answer(without_secrets(returned) if hide else returned)


def _wait_s(text: str) -> float:
    try:
        wait_s = float(text)
    except ValueError:
        wait_s = -1.0
    if not 0 <= wait_s <= MAX_WAIT_S:
        raise InvalidRequest(f"Invalid wait {text[:100]}, must be from 0 to {MAX_WAIT_S:g} seconds", field="wait")
    return wait_s
