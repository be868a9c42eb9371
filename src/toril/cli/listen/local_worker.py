"""Calls an endpoint on this machine with a job that came over a socket, as `PushWorker` calls a registered one."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import time

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from toril.core.lease import Lease
from toril.core.outcome import Outcome
from toril.core.stored_job import read_options
from toril.core.verdict import Complete, Fail, HandOver, Retry, Snooze, Verdict
from toril.engine.ports import OutboundPool
from toril.queues.rules.push_worker import PushWorker
from toril.queues.rules.worker import WorkerSpec

MOST_MESSAGE_BYTES = 10 * 1024 * 1024
"""The longest message that a toril takes unless it is told otherwise; a longer one would end the socket."""
_encode = msgspec.json.Encoder().encode


class _Job(Struct, frozen=True, rename="camel"):
    id: str
    name: str
    opts: Raw
    attempts_made: int
    timestamp: int
    queue_qualified_name: str


class _Payload(Struct, frozen=True):
    job: Raw
    token: str
    trace: dict[str, str] = {}


_PAYLOAD = msgspec.json.Decoder(_Payload)
_JOB = msgspec.json.Decoder(_Job)


class ReceivedJob(Struct, frozen=True):
    """A job as it came. `body` is what a registered endpoint gets of it, byte for byte; the trace is in its headers."""

    name: str
    lease: Lease
    prefix: str
    body: bytes


def read_job(queue: str, payload: bytes) -> ReceivedJob:
    """Read the payload of a message with a job.

    Raises:
        msgspec.DecodeError: it is none; this is not a toril, or one of another time.
    """
    found = _PAYLOAD.decode(payload)
    job = _JOB.decode(found.job)
    lease = Lease(
        queue=queue,
        job_id=job.id.encode(),
        token=found.token.encode(),
        fields={b"timestamp": b"%d" % job.timestamp},
        options=replace(read_options(bytes(job.opts)), trace=_encode(found.trace).decode() if found.trace else ""),
        attempts_made=job.attempts_made,
    )
    body = b'{"job":%b,"token":%b}' % (bytes(found.job), _encode(found.token)) if found.trace else payload
    return ReceivedJob(job.name, lease, job.queue_qualified_name.removesuffix(f":{queue}"), body)


class CalledEndpoint(Struct, frozen=True):
    """A call to the endpoint: its outcome, and what becomes of the job."""

    outcome: Outcome
    verdict: Verdict


class LocalWorker:
    """The endpoint, with the settings of a registered worker.

    Args:
        spec: where it is, and how its answers are judged.
        pool: the connections to it.
        agent: what it is told of who calls.
        chance: spreads retries.
    """

    def __init__(
        self, spec: WorkerSpec, pool: OutboundPool, agent: str, chance: Callable[[], float] = random.random
    ) -> None:
        self._spec = spec
        self._pool = pool
        self._agent = agent
        self._chance = chance
        # By the prefix of BullMQ's keys, which the gateway tells with each job.
        self._workers: dict[str, PushWorker] = {}

    async def call(self, job: ReceivedJob) -> CalledEndpoint:
        """Make one attempt."""
        worker = self._workers.get(job.prefix)
        if worker is None:
            worker = self._workers[job.prefix] = PushWorker(self._spec, job.prefix, self._agent, time)
        outcome = await self._pool.send(worker.carrying(job.body, job.lease))
        return CalledEndpoint(outcome, worker.judge(job.lease, outcome, self._chance))


def reply(number: int, verdict: Verdict) -> bytes:
    """Return the message by which the gateway does what was decided."""
    message = _reply(number, verdict)
    if len(message) > MOST_MESSAGE_BYTES:
        reason = f"the answer is longer than the {MOST_MESSAGE_BYTES} bytes that a message may have"
        return _reply(number, Fail(reason, f"Error: {reason}"))
    return message


def _reply(number: int, verdict: Verdict) -> bytes:
    match verdict:
        case Complete(returnvalue=result):
            return b'{"id":%d,"data":{"result":%b}}' % (number, result)
        case HandOver(lock_ms=lock_ms):
            return b'{"id":%d,"data":{"later":%d}}' % (number, lock_ms)
        case Snooze(after_ms=after_ms):
            return b'{"id":%d,"data":{"snooze":%d}}' % (number, after_ms)
        case Retry(after_ms=after_ms, reason=reason, trace=trace):
            error = {"message": reason, "stack": trace, "retryIn": after_ms}
        case Fail(reason=reason, trace=trace):
            error = {"message": reason, "stack": trace, "unrecoverable": True}
        case _:
            # A push worker has no dead letters.
            raise TypeError(f"no worker decides {verdict}")
    return b'{"id":%d,"err":%b}' % (number, _encode(error))
