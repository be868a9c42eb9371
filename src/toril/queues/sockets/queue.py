"""`/ws/queues/{queue}`: carries out the commands of a client concurrently, and answers each when it is done."""

from __future__ import annotations

import asyncio
import contextlib
from typing import assert_never

import msgspec
import structlog
from msgspec import Struct

from toril.bullmq.ports.jobs import JobReader
from toril.bullmq.ports.queues import QueueControl
from toril.bullmq.rules.job import is_job_id
from toril.bullmq.rules.queue_name import NameRules
from toril.bullmq.rules.traced import own_trace, traced_job
from toril.core.access import Right
from toril.core.errors import InvalidRequest, TorilError
from toril.core.http.trace_context import metadata
from toril.queues import job_json
from toril.queues.acknowledging import AT_ONCE, Acknowledging
from toril.queues.large_answers import array_of_jobs, gathered, page_of_lines
from toril.queues.queues import JobAdder
from toril.queues.rules.commands import (
    MAX_JOBS,
    Add,
    Command,
    CommandFrame,
    GetJobCounts,
    GetJobLogs,
    GetJobs,
    GetWorkers,
    Pause,
    Resume,
    read_command,
    request_id,
)
from toril.queues.shapes import socket_messages
from toril.telemetry.tracing.requests import sent_over_socket
from toril.web.access_control import admit
from toril.web.audit import AuditLog
from toril.web.openapi.description import SocketAbout
from toril.web.routing import SocketRoute
from toril.web.websocket import GOING_AWAY, WebSocket

log = structlog.get_logger(__name__)

_encode = msgspec.json.Encoder().encode
_IN_FLIGHT = 256
# Answers with whole jobs can be large: so many of them at once are read from Redis, or wait to be sent.
_LARGE_IN_FLIGHT = 4
_LARGE = (GetJobs, GetJobLogs)
RIGHTS: dict[type[Command], Right] = {
    Add: Right.JOBS_ADD,
    Pause: Right.QUEUES_MANAGE,
    Resume: Right.QUEUES_MANAGE,
    GetJobs: Right.JOBS_READ,
    GetJobCounts: Right.QUEUES_READ,
    GetJobLogs: Right.JOBS_READ,
    GetWorkers: Right.QUEUES_READ,
}


class _Asked(Struct, frozen=True):
    """A message and the socket that received it."""

    socket: WebSocket
    queue: str
    message: bytes


class QueueSocketRoutes:
    """The route of sockets for commands."""

    def __init__(
        self,
        adder: JobAdder,
        reader: JobReader,
        control: QueueControl,
        audit: AuditLog,
        *,
        names: NameRules,
        acknowledging: Acknowledging = AT_ONCE,
    ) -> None:
        self._adder = adder
        self._reader = reader
        self._control = control
        self._audit = audit
        self._names = names
        self._acknowledging = acknowledging

    def routes(self) -> list[SocketRoute]:
        """Return the routes."""
        about = SocketAbout(CommandFrame, socket_messages.SocketAnswer)
        return [SocketRoute("/ws/queues/{queue}", self.take, about=about)]

    async def take(self, socket: WebSocket) -> None:
        """Run commands on a queue over a WebSocket."""
        queue = socket.queue
        self._names.check(queue)
        await socket.serve(lambda: self._take(socket, queue))

    async def _take(self, socket: WebSocket, queue: str) -> None:
        # A client that sends faster than Redis answers is read no further, so its messages wait on its side.
        room, large = asyncio.Semaphore(_IN_FLIGHT), asyncio.Semaphore(_LARGE_IN_FLIGHT)
        async with asyncio.TaskGroup() as tasks:
            socket.on_drain = lambda: tasks.create_task(self._end(socket, room))
            while (message := await socket.receive_message()) is not None:
                await room.acquire()
                tasks.create_task(self._answer(_Asked(socket, queue, message), room, large))

    async def _end(self, socket: WebSocket, room: asyncio.Semaphore) -> None:
        """Wait for the answers of commands under way, then close the socket."""
        for _ in range(_IN_FLIGHT):
            await room.acquire()
        await socket.close(GOING_AWAY, "shutting down")

    async def _answer(self, asked: _Asked, room: asyncio.Semaphore, large: asyncio.Semaphore) -> None:
        try:
            number, command = read_command(asked.message)
        except InvalidRequest as error:
            await asked.socket.send_message(refusal(request_id(asked.message), error))
        else:
            async with large if isinstance(command, _LARGE) else contextlib.nullcontext():
                await asked.socket.send_message(await self._answered(asked, number, command))
        finally:
            room.release()

    async def _answered(self, asked: _Asked, number: bytes, command: Command) -> bytes:
        right, status = RIGHTS[type(command)], TorilError.status
        try:
            await admit(asked.socket, right, asked.queue)
            result = await self._do(asked, command)
            status = 200
        except TorilError as error:
            status = error.status
            return refusal(number, error)
        except Exception:
            # A task boundary: an internal error costs one command, not the socket.
            log.exception("command.crashed", queue=asked.queue)
            return refusal(number, TorilError())
        finally:
            fn = str(command.__struct_config__.tag)
            self._audit.command(fn, asked.socket.caller, right, asked.queue, status)
        # As the original has it: what returns nothing is `{}`, not `{"ok": null}`.
        data = b"{}" if result is None else b'{"ok":%b}' % result
        return b'{"id":%b,"data":%b}' % (number, data)

    async def _do(self, asked: _Asked, command: Command) -> bytes | None:
        queue = asked.queue
        match command:
            case Add():
                return await self._add(asked, command)
            case Pause():
                await self._acknowledging.after(queue, lambda: self._control.pause(queue))
                return None
            case Resume():
                await self._acknowledging.after(queue, lambda: self._control.resume(queue))
                return None
            case GetJobs():
                return await self._jobs(asked, command)
            case GetJobCounts():
                return _encode(await self._reader.counts(queue, command.states))
            case GetJobLogs(args=args):
                if not is_job_id(args.job_id):
                    return job_json.log_page([], 0)
                return await self._logs(queue, args.job_id, args.window)
            case GetWorkers():
                return _encode(await self._control.workers(queue))
            case _:
                assert_never(command)

    async def _add(self, asked: _Asked, command: Add) -> bytes:
        job = command.job()
        with sent_over_socket(asked.socket.scope, asked.queue, own_trace(job)) as trace:
            if trace:
                job = traced_job(job, metadata(trace))
            (added,) = await self._adder.add(asked.queue, [job], hide=asked.socket.hides(asked.queue))
        return added

    async def _jobs(self, asked: _Asked, command: GetJobs) -> bytes:
        queue = asked.queue
        start, end = command.args.window
        states = command.states
        if start < 0 or end < 0 or end - start >= MAX_JOBS:
            # The window is open: what matters is how many there are.
            counts = await self._reader.counts(queue, states)
            if max(counts.values(), default=0) > MAX_JOBS:
                raise InvalidRequest(f"At most {MAX_JOBS} jobs at a time; ask for a smaller window")
        jobs = self._reader.jobs(queue, states, (start, end), oldest_first=bool(command.args.oldest_first))
        qualified, hide = job_json.qualified(self._adder.prefix, queue), asked.socket.hides(queue)
        return await gathered(array_of_jobs(qualified, jobs, hide=hide), "ask for a smaller window")

    async def _logs(self, queue: str, job_id: str, window: tuple[int, int]) -> bytes:
        count = await self._reader.log_count(queue, job_id)
        parts = page_of_lines(self._reader.logs(queue, job_id, *window), count)
        return await gathered(parts, "ask for fewer lines")


def refusal(number: bytes, error: TorilError) -> bytes:
    """Return the answer to a message that failed, with our code in it.

    The error is there twice: BullMQ Proxy's clients read it in `data`, its documentation has it beside `data`.
    """
    body = msgspec.json.encode({"message": error.message, "stack": "", "code": error.code})
    return b'{"id":%b,"err":%b,"data":{"err":%b}}' % (number, body, body)
