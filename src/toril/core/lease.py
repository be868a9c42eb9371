"""A lease, the right to a job until a deadline; and the answer if there is no job to lease."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from toril.core.http.headers import Header
from toril.core.http.trace_context import metadata
from toril.core.made_attempt import MadeAttempt
from toril.core.stored_job import Fields, StoredOptions, render

MIN_LOCK_MS = 1000
MAX_LOCK_MS = 24 * 3600 * 1000
"""The longest lease that a worker may ask for."""
LENGTH_FIELD = "toril:lease"
"""A field of a job's hash: the length of a lease where it is unusual, and its holder: `600000:TOKEN`."""


class Lease(Struct, eq=False, kw_only=True):
    """A job that this instance holds while its lock in Redis has `token`. `entry` is a note of its destination.

    `renewed_at` is the event loop's time of the last renewal. The lease keeper sets `lost` once the job is not ours;
    nothing may be written from then on. `settling`: its attempt has ended, and its verdict is being written. With
    `handed_over` its receiver renews it. `failed` is the attempt that has just failed or was broken off, to be kept
    with the job when that is settled or given back. `trace` is the context of the span of the attempt, where spans are
    made. `unanswered`: a call for it had no answer and may still be carried out, so its token must not hold the same
    job again.
    """

    queue: str
    job_id: bytes
    token: bytes
    fields: Fields
    options: StoredOptions
    attempts_made: int
    renewed_at: float = 0.0
    lost: bool = False
    settling: bool = False
    handed_over: bool = False
    entry: object = None
    failed: MadeAttempt | None = None
    trace: list[Header] | None = None
    unanswered: bool = False

    @property
    def attempt(self) -> int:
        """The number of the attempt under way, 1-based."""
        return self.attempts_made + 1

    @property
    def length_ms(self) -> int | None:
        """The length of the lease; None if that is the usual one."""
        length, _, token = self.fields.get(LENGTH_FIELD.encode(), b"").partition(b":")
        return int(length) if length.isdigit() and token == self.token else None


def held_job(qualified: bytes, lease: Lease) -> bytes:
    """Return what a worker gets of a job that it holds: `{"job": <job JSON>, "token": "<lock>"}`.

    The job has the token too, as BullMQ's own JSON of a job that a worker has. `qualified` is as for `render`.
    """
    job = render(qualified, lease.job_id, lease.fields, lease.options.text)
    return b'{"job":%b,"token":"%b"},"token":"%b"}' % (job[:-1], lease.token, lease.token)


def in_trace(held: bytes, context: Sequence[Header]) -> bytes:
    """Return a `held_job` with the trace context that its worker continues, as `"trace": {"traceparent": …}`.

    It is for workers that get no headers with a job.
    """
    return b'%b,"trace":%b}' % (held[:-1], metadata(context).encode()) if context else held


class NoJob(Struct, frozen=True):
    """The answer if no job can be leased. A rate limit sets `retry_in_s`, a delayed job `next_at_s` (wall clock)."""

    retry_in_s: float = 0.0
    next_at_s: float = 0.0


NOTHING = NoJob()

Next = Lease | NoJob
