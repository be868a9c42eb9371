"""`/ws/queues/{queue}/process/{concurrency}`: one socket, one consumer.

Jobs go out as they are leased, and their locks are renewed as long as the socket lives and answers pings. When it is
closed or drops, its jobs go back to waiting at once; a drop counts as a stall of each, a close does not. When the
instance shuts down, nothing more is sent; a worker that gets whole jobs hears of it, and the socket is closed after
its last answer, with 1012: connect again elsewhere.
"""

from __future__ import annotations

import asyncio
import math
from time import perf_counter
from typing import Annotated, Literal

from msgspec import Meta

from toril.bullmq.ports.jobs import JobReporter
from toril.bullmq.rules.queue_name import NameRules
from toril.core.access import Right
from toril.core.destination import OutboundRequest
from toril.core.errors import InvalidRequest, JobNotFound, TorilError
from toril.core.lease import Lease
from toril.core.outcome import Outcome, Replied, TimedOut
from toril.queues import job_json
from toril.queues.connected.open_workers import OpenWorkers
from toril.queues.rules.replies import Done, LogLine, Progress, is_ping, is_stop, read_reply
from toril.queues.rules.socket_worker import SocketWorker
from toril.queues.shapes import socket_messages
from toril.queues.sockets.queue import refusal
from toril.queues.sockets.socket_workers import SocketConsumer, SocketConsumers
from toril.redis.confirmations import Unconfirmed
from toril.web.openapi.description import Parameter, SocketAbout
from toril.web.parameters import integer
from toril.web.routing import SocketRoute
from toril.web.websocket import GOING_AWAY, WebSocket

MAX_CONCURRENCY = 10_000
_REPORTS_IN_FLIGHT = 256
_MOMENT_S = 0.001
_MAX_STALLED_COUNT = 1_000_000
_MAX_TIMEOUT_MS = 7 * 24 * 3600 * 1000

_ABOUT = SocketAbout(
    socket_messages.SocketReplyMessage,
    socket_messages.SocketWorkMessage,
    (
        Parameter("payload", Literal["data", "job"], "What is sent of a job: its data (the default), or the whole job"),
        Parameter(
            "timeout",
            Annotated[int, Meta(ge=1, le=_MAX_TIMEOUT_MS)],
            "Milliseconds after which an attempt fails; no limit by default",
        ),
        Parameter(
            "maxStalledCount",
            Annotated[int, Meta(ge=0, le=_MAX_STALLED_COUNT)],
            "How many dropped sockets a job survives before it fails; 1 by default",
        ),
    ),
)


class WorkerSocketRoutes:
    """The route of sockets for workers: one consumer for each socket."""

    def __init__(
        self,
        consumers: SocketConsumers,
        reporter: JobReporter,
        workers: OpenWorkers,
        *,
        names: NameRules,
        prefix: str,
    ) -> None:
        self._workers = workers
        self._consumers = consumers
        self._reporter = reporter
        self._names = names
        self._prefix = prefix

    def routes(self) -> list[SocketRoute]:
        """Return the routes."""
        template = "/ws/queues/{queue}/process/{concurrency}"
        return [SocketRoute(template, self.work, right=Right.JOBS_LEASE, about=_ABOUT)]

    async def work(self, socket: WebSocket) -> None:
        """Work on the jobs of a queue over a WebSocket."""
        queue = socket.queue
        self._names.check(queue)
        concurrency = _whole("concurrency", socket.path_params["concurrency"], 1, MAX_CONCURRENCY)
        query = socket.query()
        payload = query.get("payload", "data")
        if payload not in {"data", "job"}:
            raise InvalidRequest(f"Invalid payload {payload}, must be data or job", field="payload")
        timeout = query.get("timeout")
        destination = SocketWorker(
            queue,
            concurrency,
            job_json.qualified(self._prefix, queue),
            payload == "job",
            math.inf if timeout is None else _whole("timeout", timeout, 1, _MAX_TIMEOUT_MS) / 1000,
            _whole("maxStalledCount", query.get("maxStalledCount", "1"), 0, _MAX_STALLED_COUNT),
        )
        await socket.serve(lambda: self._work(socket, destination))

    async def _work(self, socket: WebSocket, destination: SocketWorker) -> None:
        async with asyncio.TaskGroup() as tasks:
            line = _Line(socket, destination, self._reporter, tasks)
            consumer = self._consumers.start(destination, line, line.told)
            line.confirms = consumer.confirms
            socket.on_drain = lambda: tasks.create_task(_end(socket, destination, consumer))
            shown = self._workers.including(
                destination.queue, socket.caller.name, socket.address, destination.concurrency, line.jobs
            )
            try:
                with shown:
                    while (message := await socket.receive_message()) is not None:
                        if destination.whole and is_stop(message):
                            consumer.stop()
                            tasks.create_task(_close_when_done(socket, consumer, 1000, "stopped"))
                        elif destination.whole and is_ping(message):
                            await socket.send_message(b'{"data":{"type":"pong"}}')
                        else:
                            await line.hear(message)
            finally:
                socket.gone = True
                await line.heard_out()
                await consumer.end(stalled=socket.vanished)


async def _end(socket: WebSocket, destination: SocketWorker, consumer: SocketConsumer) -> None:
    if destination.whole:
        await socket.send_message(b'{"data":{"type":"drain"}}')
    await _close_when_done(socket, consumer, GOING_AWAY, "shutting down")


async def _close_when_done(socket: WebSocket, consumer: SocketConsumer, code: int, reason: str) -> None:
    await consumer.drained()
    await socket.close(code, reason)


def _whole(name: str, text: str, least: int, most: int) -> int:
    fault = f"Invalid {name} {text[:100]}, must be a whole number from {least} to {most}"
    return integer(text, name, least, most, fault)


class _Held:
    """A job that the worker holds."""

    __slots__ = ("answer", "job_id", "reports")

    def __init__(self, job_id: str, answer: asyncio.Future[Done]) -> None:
        self.job_id = job_id
        self.answer = answer
        self.reports: set[asyncio.Task[None]] = set()


class _Line:
    """The engine's view of a worker: a pool with one connection that takes many requests at once."""

    def __init__(
        self, socket: WebSocket, destination: SocketWorker, reporter: JobReporter, tasks: asyncio.TaskGroup
    ) -> None:
        self._socket = socket
        self._destination = destination
        self._reporter = reporter
        self._tasks = tasks
        self._held: dict[int, _Held] = {}
        self._next = 0
        self.confirms = False
        # Of results that are not confirmed yet: the numbers of each job, the first one first.
        self._unconfirmed: dict[bytes, list[int]] = {}
        self._room = asyncio.Semaphore(_REPORTS_IN_FLIGHT)

    async def send(self, request: OutboundRequest) -> Outcome:
        """Send one job to the worker and wait for its reply."""
        began = perf_counter()
        number = self._next
        self._next += 1
        held = _Held(request.job_id.decode(errors="replace"), asyncio.get_running_loop().create_future())
        self._held[number] = held
        payload = self._destination.payload_of(request)
        try:
            if math.isinf(request.timeout_s):
                done = await self._answered(number, held, payload)
            else:
                async with asyncio.timeout(request.timeout_s):
                    done = await self._answered(number, held, payload)
        except TimeoutError:
            self._call_off(number, b"timeout")
            return TimedOut("answer", perf_counter() - began)
        except asyncio.CancelledError:
            self._call_off(number, b"lease_lost")
            raise
        finally:
            self._held.pop(number, None)
        if self.confirms:
            self._unconfirmed.setdefault(request.job_id, []).append(number)
        return Replied(done.result, done.error, perf_counter() - began, done.asks)

    async def told(self, lease: Lease, fault: Unconfirmed | None) -> None:
        """Tell a worker that gets whole jobs of a result that was settled, but could not be confirmed."""
        numbers = self._unconfirmed.get(lease.job_id)
        if not numbers:
            return  # it has sent no result of this attempt
        number = numbers.pop(0)
        if not numbers:
            del self._unconfirmed[lease.job_id]
        if fault is not None and self._destination.whole and not self._socket.gone:
            await self._socket.send_message(refusal(b"%d" % number, fault))

    async def _answered(self, number: int, held: _Held, payload: bytes) -> Done:
        await self._socket.send_message(b'{"id":%d,"data":{"type":"process","payload":%b}}' % (number, payload))
        done = await held.answer
        if held.reports:
            await asyncio.wait(held.reports)
        return done

    def jobs(self) -> list[str]:
        """Return the jobs that the worker has, those that it was sent first coming first."""
        return [held.job_id for held in self._held.values()]

    def close(self) -> None:
        """Do nothing: the handler closes the socket."""

    async def heard_out(self) -> None:
        """Wait until every reply that came before the socket was closed is being written to Redis."""
        # Rare and short, where an event for each job would cost every job.
        while any(held.answer.done() for held in self._held.values()):  # noqa: ASYNC110
            await asyncio.sleep(_MOMENT_S)

    def _call_off(self, number: int, why: bytes) -> None:
        """Tell a worker that understands `cancel` that this job is cancelled."""
        if self._destination.whole and not self._socket.gone:
            text = b'{"id":%d,"data":{"type":"cancel","reason":"%b"}}' % (number, why)
            self._tasks.create_task(self._socket.send_message(text))

    async def hear(self, message: bytes) -> None:
        """Handle a message of the worker: the result of a job, progress or a log line."""
        whole = self._destination.whole
        try:
            number, said = read_reply(message, reports=whole)
            held = self._held.get(number)
            if held is None or held.answer.done():
                raise JobNotFound("No job with this id is held here")
        except TorilError as error:
            if whole:  # the original's clients would take an answer for a job
                await self._socket.send_message(refusal(b"null", error))
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
            await self._socket.send_message(refusal(b"%d" % number, error))
        finally:
            self._room.release()
