"""`/ws/queues/{queue}`: commands, as many under way at once as a client cares to send, answered as they are done."""

from __future__ import annotations

import asyncio
import contextlib
from typing import assert_never

import msgspec
import structlog
from msgspec import Struct

from toril.core.access import Right
from toril.core.commands import (
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
from toril.core.errors import InvalidRequest, TorilError
from toril.core.job import is_job_id
from toril.core.ports.jobs import JobProducer, JobReader
from toril.core.ports.queues import QueueControl
from toril.core.ports.shared import Now
from toril.core.queue_name import NameRules
from toril.gateway import shapes, wire
from toril.gateway.audit import Audit
from toril.gateway.description import SocketAbout
from toril.gateway.large_answers import array_of_jobs, gathered, page_of_lines
from toril.gateway.routing import Access, Request, Serve, SocketRoute
from toril.gateway.sockets.socket import GOING_AWAY, Socket

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
    """A message, and whose it is."""

    request: Request
    queue: str
    message: bytes


class QueueSocketRoutes:
    """Commands on a queue, over a socket."""

    def __init__(
        self,
        producer: JobProducer,
        reader: JobReader,
        control: QueueControl,
        *,
        names: NameRules,
        prefix: str,
        now: Now,
    ) -> None:
        self._producer = producer
        self._reader = reader
        self._control = control
        self._audit = Audit()
        self._names = names
        self._prefix = prefix
        self._now = now

    def routes(self) -> list[SocketRoute]:
        """The routes of this module."""
        about = SocketAbout(CommandFrame, shapes.SocketAnswer)
        return [SocketRoute("/ws/queues/{queue}", Access.TOKEN, self.open, about=about)]

    async def open(self, request: Request) -> Serve:
        """Check the queue's name; what serves the socket."""
        queue = request.segment(2)
        self._names.check(queue)
        return lambda socket: self._serve(socket, request, queue)

    async def _serve(self, socket: Socket, request: Request, queue: str) -> None:
        # A client that sends faster than Redis answers is read no further, so its messages wait on its side.
        room, large = asyncio.Semaphore(_IN_FLIGHT), asyncio.Semaphore(_LARGE_IN_FLIGHT)
        async with asyncio.TaskGroup() as tasks:
            socket.on_drain = lambda: tasks.create_task(self._end(socket, room))
            while (message := await socket.receive()) is not None:
                await room.acquire()
                tasks.create_task(self._answer(socket, _Asked(request, queue, message), room, large))

    async def _end(self, socket: Socket, room: asyncio.Semaphore) -> None:
        """Let what is under way be answered, then close."""
        for _ in range(_IN_FLIGHT):
            await room.acquire()
        await socket.close(GOING_AWAY, "shutting down")

    async def _answer(self, socket: Socket, asked: _Asked, room: asyncio.Semaphore, large: asyncio.Semaphore) -> None:
        try:
            number, command = read_command(asked.message)
        except InvalidRequest as error:
            await socket.send(refusal(request_id(asked.message), error))
        else:
            async with large if isinstance(command, _LARGE) else contextlib.nullcontext():
                await socket.send(await self._answered(asked, number, command))
        finally:
            room.release()

    async def _answered(self, asked: _Asked, number: bytes, command: Command) -> bytes:
        right, status = RIGHTS[type(command)], TorilError.status
        try:
            await asked.request.admit(right, asked.queue)
            result = await self._do(asked, command)
            status = 200
        except TorilError as error:
            status = error.status
            return refusal(number, error)
        except Exception:
            # A task boundary: a fault of ours costs one command, not the socket.
            log.exception("command.crashed", queue=asked.queue)
            return refusal(number, TorilError())
        finally:
            fn = str(command.__struct_config__.tag)
            self._audit.command(fn, asked.request.caller, right, asked.queue, status)
        # As the original has it: what returns nothing is `{}`, not `{"ok": null}`.
        data = b"{}" if result is None else b'{"ok":%b}' % result
        return b'{"id":%b,"data":%b}' % (number, data)

    async def _do(self, asked: _Asked, command: Command) -> bytes | None:
        queue = asked.queue
        match command:
            case Add():
                return await self._add(asked, command)
            case Pause():
                await self._control.pause(queue)
                return None
            case Resume():
                await self._control.resume(queue)
                return None
            case GetJobs():
                return await self._jobs(asked, command)
            case GetJobCounts():
                return _encode(await self._reader.counts(queue, command.states))
            case GetJobLogs(args=args):
                if not is_job_id(args.job_id):
                    return wire.log_page([], 0)
                return await self._logs(queue, args.job_id, args.window)
            case GetWorkers():
                return _encode(await self._control.workers(queue))
            case _:
                assert_never(command)

    async def _add(self, asked: _Asked, command: Add) -> bytes:
        queue, job = asked.queue, command.job()
        now_ms = int(self._now() * 1000)
        (job_id,) = await self._producer.add(queue, [job], now_ms)
        hide = asked.request.hides(queue)
        return wire.added(wire.qualified(self._prefix, queue), job, job_id, now_ms, hide=hide)

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
        qualified, hide = wire.qualified(self._prefix, queue), asked.request.hides(queue)
        return await gathered(array_of_jobs(qualified, jobs, hide=hide), "ask for a smaller window")

    async def _logs(self, queue: str, job_id: str, window: tuple[int, int]) -> bytes:
        count = await self._reader.log_count(queue, job_id)
        parts = page_of_lines(self._reader.logs(queue, job_id, *window), count)
        return await gathered(parts, "ask for fewer lines")


def refusal(number: bytes, error: TorilError) -> bytes:
    """An error as the answer to a message, with our code in it. BullMQ Proxy's own clients look for it in `data`, its
    documentation has it beside that.
    """
    body = msgspec.json.encode({"message": error.message, "stack": "", "code": error.code})
    return b'{"id":%b,"err":%b,"data":{"err":%b}}' % (number, body, body)
