"""`/ws/queues/{queue}/process/{concurrency}`: one socket, one consumer.

Jobs go out as they are leased, and their locks are renewed as long as the socket lives and answers pings. When it is
closed or drops, its jobs go back to waiting at once; a drop counts as a stall of each, a close does not. When the
instance shuts down, nothing more is sent; a worker that gets whole jobs is told so, and the socket is closed behind its
last answer, with 1012: connect again elsewhere.
"""

from __future__ import annotations

import asyncio
import math
from time import perf_counter
from typing import Annotated, Literal

from msgspec import Meta

from toril.core.access import Right
from toril.core.destinations.base import OutboundRequest
from toril.core.destinations.socket_worker import SocketWorker
from toril.core.errors import InvalidRequest, JobNotFound, TorilError
from toril.core.outcome import Outcome, Replied, TimedOut
from toril.core.ports.jobs import JobReporter
from toril.core.ports.work import Seat, Seats
from toril.core.queue_name import NameRules
from toril.core.replies import Done, LogLine, Progress, is_ping, is_stop, read_reply
from toril.gateway import shapes, wire
from toril.gateway.description import Parameter, SocketAbout
from toril.gateway.routing import Access, Request, Serve, SocketRoute
from toril.gateway.sockets.queue import refusal
from toril.gateway.sockets.socket import GOING_AWAY, Socket

MAX_CONCURRENCY = 10_000
_REPORTS_IN_FLIGHT = 256
_MOMENT_S = 0.001
_MAX_STALLED_COUNT = 1_000_000
_MAX_TIMEOUT_MS = 7 * 24 * 3600 * 1000

_ABOUT = SocketAbout(
    shapes.SocketReplyMessage,
    shapes.SocketWorkMessage,
    (
        Parameter("payload", Literal["data", "job"], "What a job is sent as: its data unless told, or all of it"),
        Parameter(
            "timeout", Annotated[int, Meta(ge=1, le=_MAX_TIMEOUT_MS)], "Milliseconds after which an attempt fails; none"
        ),
        Parameter(
            "maxStalledCount",
            Annotated[int, Meta(ge=0, le=_MAX_STALLED_COUNT)],
            "How many drops of its socket a job survives before it fails; 1",
        ),
    ),
)


class WorkerSocketRoutes:
    """Lets workers on sockets consume queues."""

    def __init__(self, seats: Seats, reporter: JobReporter, *, names: NameRules, prefix: str) -> None:
        self._seats = seats
        self._reporter = reporter
        self._names = names
        self._prefix = prefix

    def routes(self) -> list[SocketRoute]:
        """The routes of this module."""
        template = "/ws/queues/{queue}/process/{concurrency}"
        return [SocketRoute(template, Access.TOKEN, self.open, Right.JOBS_LEASE, about=_ABOUT)]

    async def open(self, request: Request) -> Serve:
        """Check what is asked for; what serves the socket."""
        queue = request.segment(2)
        self._names.check(queue)
        concurrency = _whole("concurrency", request.segment(4), MAX_CONCURRENCY)
        query = request.query()
        payload = query.get("payload", "data")
        if payload not in {"data", "job"}:
            raise InvalidRequest(f"Invalid payload {payload}, must be data or job", field="payload")
        timeout = query.get("timeout")
        destination = SocketWorker(
            queue,
            concurrency,
            wire.qualified(self._prefix, queue),
            payload == "job",
            math.inf if timeout is None else _whole("timeout", timeout, _MAX_TIMEOUT_MS) / 1000,
            _whole("maxStalledCount", query.get("maxStalledCount", "1"), _MAX_STALLED_COUNT, least=0),
        )
        return lambda socket: self._serve(socket, destination)

    async def _serve(self, socket: Socket, destination: SocketWorker) -> None:
        async with asyncio.TaskGroup() as tasks:
            line = _Line(socket, destination, self._reporter, tasks)
            seat = self._seats.join(destination, line)
            socket.on_drain = lambda: tasks.create_task(_end(socket, destination, seat))
            try:
                while (message := await socket.receive()) is not None:
                    if destination.whole and is_stop(message):
                        seat.stop()
                        tasks.create_task(_close_when_done(socket, seat, 1000, "stopped"))
                    elif destination.whole and is_ping(message):
                        await socket.send(b'{"data":{"type":"pong"}}')
                    else:
                        await line.hear(message)
            finally:
                socket.gone = True
                await line.heard_out()
                await seat.leave(stalled=socket.vanished)


async def _end(socket: Socket, destination: SocketWorker, seat: Seat) -> None:
    if destination.whole:
        await socket.send(b'{"data":{"type":"drain"}}')
    await _close_when_done(socket, seat, GOING_AWAY, "shutting down")


async def _close_when_done(socket: Socket, seat: Seat, code: int, reason: str) -> None:
    await seat.done()
    await socket.close(code, reason)


def _whole(name: str, text: str, most: int, least: int = 1) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16 and least <= int(text) <= most):
        raise InvalidRequest(f"Invalid {name} {text[:100]}, must be a whole number from {least} to {most}", field=name)
    return int(text)


class _Held:
    """A job that the worker has now."""

    __slots__ = ("answer", "job_id", "reports")

    def __init__(self, job_id: str, answer: asyncio.Future[Done]) -> None:
        self.job_id = job_id
        self.answer = answer
        self.reports: set[asyncio.Task[None]] = set()


class _Line:
    """What the engine sees of a worker: a pool with one connection that takes many requests at a time."""

    def __init__(
        self, socket: Socket, destination: SocketWorker, reporter: JobReporter, tasks: asyncio.TaskGroup
    ) -> None:
        self._socket = socket
        self._destination = destination
        self._reporter = reporter
        self._tasks = tasks
        self._held: dict[int, _Held] = {}
        self._next = 0
        self._room = asyncio.Semaphore(_REPORTS_IN_FLIGHT)

    async def send(self, request: OutboundRequest) -> Outcome:
        """Hand one job to the worker and wait for its reply."""
        began = perf_counter()
        number = self._next
        self._next += 1
        held = _Held(request.job_id.decode(errors="replace"), asyncio.get_running_loop().create_future())
        self._held[number] = held
        try:
            if math.isinf(request.timeout_s):
                done = await self._answered(number, held, request.body)
            else:
                async with asyncio.timeout(request.timeout_s):
                    done = await self._answered(number, held, request.body)
        except TimeoutError:
            self._call_off(number, b"timeout")
            return TimedOut("answer", perf_counter() - began)
        except asyncio.CancelledError:
            self._call_off(number, b"lease_lost")
            raise
        finally:
            self._held.pop(number, None)
        return Replied(done.result, done.error, perf_counter() - began)

    async def _answered(self, number: int, held: _Held, payload: bytes) -> Done:
        await self._socket.send(b'{"id":%d,"data":{"type":"process","payload":%b}}' % (number, payload))
        done = await held.answer
        if held.reports:
            await asyncio.wait(held.reports)
        return done

    def close(self) -> None:
        """Nothing to let go: the socket is its handler's."""

    async def heard_out(self) -> None:
        """Wait until every answer that came before the socket was closed is on its way to Redis."""
        # Rare and short, where an event for each job would cost every job.
        while any(held.answer.done() for held in self._held.values()):  # noqa: ASYNC110
            await asyncio.sleep(_MOMENT_S)

    def _call_off(self, number: int, why: bytes) -> None:
        """Tell a worker that understands it that nobody waits for this job any more."""
        if self._destination.whole and not self._socket.gone:
            text = b'{"id":%d,"data":{"type":"cancel","reason":"%b"}}' % (number, why)
            self._tasks.create_task(self._socket.send(text))

    async def hear(self, message: bytes) -> None:
        """What the worker says: the end of a job, progress, a log line."""
        whole = self._destination.whole
        try:
            number, said = read_reply(message, reports=whole)
            held = self._held.get(number)
            if held is None or held.answer.done():
                raise JobNotFound("No job with this id is held here")
        except TorilError as error:
            if whole:  # the original's clients would take an answer for a job
                await self._socket.send(refusal(b"null", error))
            return
        if isinstance(said, Done):
            held.answer.set_result(said)
            return
        await self._room.acquire()
        report = self._tasks.create_task(self._report(number, held.job_id, said))
        held.reports.add(report)
        report.add_done_callback(held.reports.discard)

    async def _report(self, number: int, job_id: str, said: Progress | LogLine) -> None:
        queue = self._destination.queue
        try:
            if isinstance(said, Progress):
                there = await self._reporter.progress(queue, job_id, said.value)
            else:
                there = await self._reporter.log(queue, job_id, said.line)
            if not there:
                raise JobNotFound
        except TorilError as error:
            await self._socket.send(refusal(b"%d" % number, error))
        finally:
            self._room.release()
