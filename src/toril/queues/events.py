"""Server-Sent Events of queues, and waiting for a job's result. Both use the shared event reader; neither polls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack
from typing import Annotated, Any

import msgspec
import structlog
from msgspec import Meta, Raw, Struct
from starlette.responses import Response

from toril.bullmq.job_ends import end_of_job
from toril.bullmq.ports.jobs import EventFeed, EventFollower, JobControl, JobReader
from toril.bullmq.rules.event import Bookmark, Event, Position, position_of
from toril.bullmq.rules.job import is_job_id
from toril.bullmq.rules.queue_name import NameRules
from toril.core.access import Right
from toril.core.errors import InvalidRequest, JobFailed, JobNotFound, unwrapped
from toril.core.redaction import Redaction
from toril.queues import job_json
from toril.queues.shapes import answers
from toril.web.event_stream import HEARTBEAT_S, SSE, before_heartbeat, event_stream, event_text, first_text
from toril.web.openapi.description import About, Parameter, Reply
from toril.web.parameters import seconds
from toril.web.request import Request
from toril.web.responses import StreamResponse, json_response
from toril.web.routing import Route

log = structlog.get_logger(__name__)

MAX_WAIT_S = 60.0
MAX_QUEUES = 50


class _Ended(Struct):
    """The parts of a `completed` or `failed` event that answer a wait."""

    returnvalue: Raw = Raw(b"null")
    failedReason: str = ""  # noqa: N815 - BullMQ's spelling


_EVENTS = Reply(
    str,
    "Server-Sent Events: the event's name in BullMQ, its fields as JSON, and an id to resume from",
    200,
    "text/event-stream",
)
_RESUME = (
    Parameter("Last-Event-ID", str, "Begin after this event; takes precedence over `since`", place="header"),
    Parameter("since", str, "Begin after this event"),
)
_RESULT = About(
    (Reply(Any, "The job's return value"), Reply(answers.JobState, "There is no result yet", 202)),
    parameters=(
        Parameter("wait", Annotated[float, Meta(ge=0, le=MAX_WAIT_S)], "Seconds to wait for it; 0 by default"),
    ),
    errors=(JobNotFound, JobFailed),
)


class EventRoutes:
    """Routes that stream events, and wait for the result of a job."""

    def __init__(self, feed: EventFeed, reader: JobReader, control: JobControl, *, names: NameRules) -> None:
        self._feed = feed
        self._reader = reader
        self._control = control
        self._names = names

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(
                "/queues/{queue}/events",
                self.events,
                right=Right.EVENTS_READ,
                own=True,
                token_in_url=True,
                about=About((_EVENTS,), parameters=_RESUME),
            ),
            Route(
                "/events",
                self.events_of_several,
                right=Right.EVENTS_READ,
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
                "/queues/{queue}/jobs/{id}/result",
                self.result,
                right=Right.JOBS_READ,
                own=True,
                about=_RESULT,
            ),
        ]

    def _queue(self, request: Request) -> str:
        queue = request.queue
        self._names.check(queue)
        return queue

    async def events(self, request: Request) -> StreamResponse:
        """Stream the events of a queue, from now on or after a given event."""
        queue = self._queue(request)
        resumed = _resumed(request)
        return await _begun(self._events(request, queue, position_of(resumed) if resumed else None))

    async def events_of_several(self, request: Request) -> StreamResponse:
        """Stream the events of several queues."""
        queues = sorted({name for name in request.query().get("queues", "").split(",") if name})
        if not 0 < len(queues) <= MAX_QUEUES:
            raise InvalidRequest(f"queues must name from 1 to {MAX_QUEUES} queues, with commas", field="queues")
        for queue in queues:
            request.demand(Right.EVENTS_READ, queue)
            self._names.check(queue)
        resumed = _resumed(request)
        bookmark = Bookmark.read(resumed) if resumed else Bookmark()
        return await _begun(self._events_of_several(request, queues, bookmark))

    async def _events(self, request: Request, queue: str, since: Position | None) -> AsyncGenerator[bytes, None]:
        async with self._feed.follow(queue, since) as follower:

            async def following() -> bytes | None:
                events = await before_heartbeat(follower.batch)
                if events is None:
                    return b""
                hide = request.hides(queue)
                return b"".join(event_text(event.name, _data(event, hide=hide), event.id) for event in events) or None

            async for text in event_stream(first_text(b"%d-%d" % follower.position[:2]), following):
                yield text

    async def _events_of_several(
        self, request: Request, queues: list[str], bookmark: Bookmark
    ) -> AsyncGenerator[bytes, None]:
        async with AsyncExitStack() as stack:
            followers: dict[str, EventFollower] = {}
            for queue in queues:
                since = bookmark.of(queue)
                followers[queue] = await stack.enter_async_context(self._feed.follow(queue, since))
                bookmark.move(queue, followers[queue].position)

            async def following() -> bytes | None:
                texts: list[bytes] = []
                for queue, events in await _batches(followers):
                    if not events:  # the instance shuts down: the caller resumes elsewhere
                        return b"".join(texts) or None
                    texts += _texts(queue, events, bookmark, hide=request.hides(queue))
                return b"".join(texts)

            async for text in event_stream(first_text(bookmark.text()), following):
                yield text

    async def result(self, request: Request) -> Response:
        """Get the return value of a job, or wait for it."""
        queue, job_id = self._queue(request), request.path_params["id"]
        text = request.query().get("wait", "0")
        fault = f"Invalid wait {text[:100]}, must be from 0 to {MAX_WAIT_S:g} seconds"
        wait_s = seconds(text, "wait", MAX_WAIT_S, fault)
        if not is_job_id(job_id):
            raise JobNotFound
        if not wait_s:
            return await self._result_now(request, queue, job_id)
        # First listen, then look: what happens in between is heard.
        async with self._feed.ending(queue, job_id) as ending:
            answer = await self._result_now(request, queue, job_id)
            if answer.status_code != 202:
                return answer

            async def has_ended() -> bool:
                return (await self._result_now(request, queue, job_id)).status_code != 202

            event = await end_of_job(ending, has_ended, wait_s)
        if event is None:
            return await self._result_now(request, queue, job_id)
        return _ended(event, hide=request.hides(queue))

    async def _result_now(self, request: Request, queue: str, job_id: str) -> Response:
        # The state first: what a finished job says no longer changes.
        state = await self._control.state(queue, job_id)
        fields = await self._reader.get(queue, job_id)
        if fields is None:
            raise JobNotFound
        if state == "completed":
            return json_response(
                job_json.value(fields.get(b"returnvalue") or b"null", b"returnvalue", hide=request.hides(queue))
            )
        if state == "failed":
            raise JobFailed(fields.get(b"failedReason", b"").decode(errors="replace"))
        return json_response(msgspec.json.encode(answers.JobState(state)), 202)


async def _batches(followers: dict[str, EventFollower]) -> list[tuple[str, list[Event]]]:
    """Return the next events of the queues that have some; none if no event comes before the next heartbeat.

    No task goes on while the caller sends what came: a slow reader makes the followers wait, not the memory grow.
    """
    with unwrapped():
        async with asyncio.TaskGroup() as tasks:
            waiting = {tasks.create_task(follower.batch()): queue for queue, follower in followers.items()}
            # Not asyncio.timeout: it could drop what has come in the moment in which the time is over.
            await asyncio.wait(waiting, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
    return [(queue, task.result()) for task, queue in waiting.items() if not task.cancelled()]


def _resumed(request: Request) -> str:
    header = request.header(b"last-event-id")
    return header.decode("latin-1") if header else request.query().get("since", "")


async def _begun(parts: AsyncGenerator[bytes, None]) -> StreamResponse:
    return StreamResponse(await anext(parts), parts, SSE)


def _texts(queue: str, events: list[Event], bookmark: Bookmark, *, hide: Redaction | None) -> Iterator[bytes]:
    """Yield the events of one of several queues, each with its queue's name and a bookmark for all of them."""
    name = b',"queue":%b}' % msgspec.json.encode(queue)
    for event in events:
        bookmark.move(queue, event.position)
        data = _data(event, hide=hide)
        data = data[:-1] + (name if len(data) > 2 else name[1:])
        yield event_text(event.name, data, bookmark.text())


def _data(event: Event, *, hide: Redaction | None) -> bytes:
    return hide.event(event.data) if hide else event.data


def _ended(event: Event, *, hide: Redaction | None) -> Response:
    if event.name == "removed":
        raise JobNotFound
    ended = msgspec.json.decode(event.data, type=_Ended)
    if event.name == "failed":
        raise JobFailed(ended.failedReason)
    returned = bytes(ended.returnvalue)
    return json_response(hide.text(returned, b"returnvalue") if hide else returned)
