"""What needs attention: facts about queues, from their depths and the results of their attempts. Functions without I/O.

A queue that is paused or held needs no attention for a day.
"""

from __future__ import annotations

from msgspec import Struct

from toril.core.metrics import QueueDepth
from toril.core.times import moment_text
from toril.telemetry.failures import STALLED, Failure
from toril.web.operations.stats_shapes import Fact, Kind, Place, What

LATE_S = 300.0
"""A queue is late if its oldest job has waited for longer."""
UNWORKED_S = 60.0
"""A queue may have no worker if a job has waited for longer and none is active."""
_LONG_S = 24 * 3600.0
_LEAST_FAILED = 5
_STALLED_S = 600.0


class Working(Struct, frozen=True):
    """Whether a queue has a worker of any kind, for how long it is held, and since when it is paused."""

    has_worker: bool
    held_ms: int = 0
    paused_since_s: float | None = None


def is_late(depth: QueueDepth) -> bool:
    """Return True if the queue is not paused and its oldest job has waited too long."""
    return not depth.paused and depth.waiting > 0 and depth.oldest_waiting_s >= LATE_S


def is_in_doubt(depth: QueueDepth) -> bool:
    """Return True if it has to be checked whether the queue has a worker."""
    return not depth.paused and depth.waiting > 0 and depth.oldest_waiting_s >= UNWORKED_S


def about_depth(place: Place, depth: QueueDepth, working: Working) -> Fact | None:
    """Return the fact about the depth of a queue, if there is one."""
    what: What = "target" if place.door == "delivery" else "queue"
    waiting = _jobs(depth.waiting)
    old = _age(depth.oldest_waiting_s)

    def fact(kind: Kind, text: str) -> Fact:
        since_s = working.paused_since_s
        return Fact(kind, what, place.name, None if since_s is None else moment_text(since_s), text)

    if depth.paused:
        if depth.waiting and depth.oldest_waiting_s >= _LONG_S:
            return fact("paused_long", f"{_wait(depth.waiting)}, the oldest for {old}.")
        return fact("paused", f"{_wait(depth.waiting)}." if depth.waiting else "Nothing waits.")
    if not is_in_doubt(depth):
        return None
    if working.held_ms and depth.oldest_waiting_s < _LONG_S:
        return fact("held", f"Nothing starts for another {_age(working.held_ms / 1000)}. {_wait(depth.waiting)}.")
    if not (working.has_worker or depth.jobs.get("active")):
        return fact("not_worked_on", f"No worker takes its jobs. {_wait(depth.waiting)}, the oldest for {old}.")
    if is_late(depth):
        return fact("oldest_grows", f"The oldest of {waiting} that wait is {old} old.")
    return None


def about_attempts(place: Place, made: int, failed: int, last: Failure) -> Fact | None:
    """Return a fact if at least half of the attempts of the last ten minutes have failed."""
    if failed < _LEAST_FAILED or 2 * failed < made:
        return None
    kind: Kind = "target_failing" if place.door == "delivery" else "worker_failing"
    what: What = {"delivery": "target", "proxy": "queue", "queues": "worker"}[place.door]  # type: ignore[assignment]
    text = f"{failed} of {made} attempts failed in the last ten minutes, the last one with: {last.reason}"
    return Fact(kind, what, place.name, None, text)


def about_stalls(place: Place, failure: Failure, now_s: float) -> Fact | None:
    """Return a fact if jobs have stalled in the last ten minutes."""
    if failure.reason != STALLED or now_s - failure.last_s > _STALLED_S:
        return None
    what: What = "target" if place.door == "delivery" else "queue"
    times = "time" if failure.times == 1 else "times"
    text = f"{failure.times} {times} in the last hour a worker was gone while it had a job; the job runs again."
    return Fact("stalled", what, place.name, moment_text(failure.last_s), text)


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count:,} jobs"


def _wait(count: int) -> str:
    return f"{_jobs(count)} {'waits' if count == 1 else 'wait'}"


def _age(seconds: float) -> str:
    """Return a duration for people to read: `6m 40s`."""
    whole = round(seconds)
    for unit, size, below, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size}{unit}" + (f" {rest}{below}" if rest else "")
    return f"{whole}s"
