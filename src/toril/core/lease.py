"""Our right to a job until a deadline, and what comes instead when there is no job to lease."""

from __future__ import annotations

from msgspec import Struct

from toril.core.stored_job import Fields, StoredOptions, render

MIN_LOCK_MS = 1000
MAX_LOCK_MS = 24 * 3600 * 1000
"""How long a lease may be that its holder renews by itself."""
LENGTH_FIELD = "toril:lease"
"""A field of a job's hash: how long its lease is, where that is another time than usual, and whose: `600000:TOKEN`."""


class Lease(Struct, eq=False, kw_only=True):
    """A job that is ours while its lock in Redis holds `token`. `entry` is what its destination
    has noted of it, and means nothing to others.

    `renewed_at` is the event loop's time of the last renewal. `lost` is set by the lease keeper when the lock is
    not ours any more; nothing may be written from then on. `handed_over` says that whom it was sent to renews it.
    """

    queue: str
    job_id: bytes
    token: bytes
    fields: Fields
    options: StoredOptions
    attempts_made: int
    renewed_at: float = 0.0
    lost: bool = False
    handed_over: bool = False
    entry: object = None

    @property
    def attempt(self) -> int:
        """The number of the attempt under way, 1-based."""
        return self.attempts_made + 1

    @property
    def length_ms(self) -> int | None:
        """How long the lease was made for; None where that is the usual time."""
        length, _, token = self.fields.get(LENGTH_FIELD.encode(), b"").partition(b":")
        return int(length) if length.isdigit() and token == self.token else None


def held_job(qualified: bytes, lease: Lease) -> bytes:
    """Return what a worker gets of a job that it holds: `{"job": <job JSON>, "token": "<lock>"}`.

    The job has the token too, as BullMQ's own JSON of a job that a worker has. `qualified` is as for `render`.
    """
    job = render(qualified, lease.job_id, lease.fields, lease.options.text)
    return b'{"job":%b,"token":"%b"},"token":"%b"}' % (job[:-1], lease.token, lease.token)


class NoJob(Struct, frozen=True):
    """Nothing to lease now. `retry_in_s` is set by a rate limit, `next_at_s` (wall clock) by a delayed job."""

    retry_in_s: float = 0.0
    next_at_s: float = 0.0


NOTHING = NoJob()

Next = Lease | NoJob
