"""Every metric that toril has, as a table: what is measured, by which labels, in which buckets.

The rooms name a metric of this table and say how much (`toril.core.ports.shared.Meter`); an adapter keeps and shows
them. To add one, add it here and in the table of `docs/operations.md` (a test compares the two). Durations are in
seconds.

Labels never hold what a caller makes up, but for names that are bounded: of `queue` each process shows so many
(`metrics.max_queues`), in the order in which it first works on them, and the rest together as `other`. Upstreams and
targets have queues of their own, so they are told apart by it too; `kind` says what sort of destination it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Literal

from msgspec import Struct

OTHER = "other"
CAPPED = "queue"
"""The label whose values are bounded by the meter."""

QUICK_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
PATIENT_S = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)
LAG_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Metric(Struct, frozen=True, eq=False):
    """One metric. Histograms have buckets: upper bounds, without the infinite one."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


REQUEST_SECONDS = Metric(
    "toril_request_duration_seconds",
    "histogram",
    "From the first byte of a request to its answer, or to the first part of a stream; of a socket, to its handshake",
    ("method", "route", "status"),
    QUICK_S,
)
ACCEPT_SECONDS = Metric(
    "toril_accept_duration_seconds",
    "histogram",
    "From the first byte of a request that adds jobs to their being stored",
    ("door",),
    QUICK_S,
)
WAIT_SECONDS = Metric(
    "toril_job_wait_duration_seconds",
    "histogram",
    "From when a job could have begun (added, and its delay over) to its first attempt",
    ("kind", "queue"),
    PATIENT_S,
)
ATTEMPT_SECONDS = Metric(
    "toril_attempt_duration_seconds",
    "histogram",
    "One attempt at a job, from request to outcome",
    ("kind", "queue"),
    QUICK_S,
)
JOB_SECONDS = Metric(
    "toril_job_duration_seconds",
    "histogram",
    "From a job's being added, its delay included, to its end: complete, or fail for good",
    ("queue", "verdict"),
    PATIENT_S,
)
ATTEMPTS = Metric(
    "toril_attempts_total",
    "counter",
    "Attempts, by what came of them and what was decided",
    ("kind", "queue", "outcome", "verdict"),
)
PROXIED = Metric(
    "toril_proxied_requests_total",
    "counter",
    "Requests to upstreams, by the upstream's queue and why they went past it (`queued`: they did not)",
    ("queue", "way"),
)
LEASES_LOST = Metric(
    "toril_leases_lost_total", "counter", "Jobs in flight that are not ours any more; nothing was written", ("queue",)
)
JOBS_STALLED = Metric(
    "toril_jobs_stalled_total", "counter", "Jobs whose worker was gone, put back to waiting or failed", ("queue",)
)
REDIS_RECONNECTS = Metric(
    "toril_redis_reconnects_total", "counter", "Connections to Redis that were made again", ("connection",)
)
OPEN_SOCKETS = Metric("toril_open_sockets", "gauge", "WebSockets that are open", ("route",))
OPEN_STREAMS = Metric("toril_open_streams", "gauge", "Server-Sent Event streams that are open", ("route",))
LOOP_LAG_SECONDS = Metric(
    "toril_event_loop_lag_seconds", "histogram", "How late the event loop came to a task that was due", (), LAG_S
)
QUEUE_JOBS = Metric("toril_queue_jobs", "gauge", "Jobs by state, read from Redis", ("queue", "state"))
QUEUE_OLDEST_SECONDS = Metric(
    "toril_queue_oldest_waiting_age_seconds",
    "gauge",
    "How long the oldest waiting job has been waiting, read from Redis; 0 where none waits",
    ("queue",),
)
QUEUE_DEPTHS_AGE = Metric(
    "toril_queue_depths_age_seconds",
    "gauge",
    "How long ago the queue was read from Redis that was read longest ago; 0 without queues",
)
REDIS_UP = Metric("toril_redis_up", "gauge", "1 while Redis answers the process that was scraped")
PROCESSES = Metric("toril_processes", "gauge", "Processes of this instance that are alive")
BUILD_INFO = Metric("toril_build_info", "gauge", "1, with toril's version", ("version",))

METRICS = (
    REQUEST_SECONDS, ACCEPT_SECONDS, WAIT_SECONDS, ATTEMPT_SECONDS, JOB_SECONDS, ATTEMPTS, PROXIED, LEASES_LOST,
    JOBS_STALLED, REDIS_RECONNECTS, OPEN_SOCKETS, OPEN_STREAMS, LOOP_LAG_SECONDS, QUEUE_JOBS, QUEUE_OLDEST_SECONDS,
    QUEUE_DEPTHS_AGE, REDIS_UP, PROCESSES, BUILD_INFO,
)  # fmt: skip


class Unmetered:
    """A meter that keeps nothing."""

    def count(self, metric: Metric, labels: tuple[str, ...] = (), by: float = 1.0) -> None:
        """Nothing."""

    def observe(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Nothing."""


UNMETERED = Unmetered()


class QueueDepth(Struct, frozen=True):
    """How many jobs of a queue are in each state, and how long the oldest one has been waiting."""

    queue: str
    jobs: dict[str, int]
    oldest_waiting_s: float = 0.0


def bounded(depths: Iterable[QueueDepth], most: int, sees: Callable[[str], bool]) -> list[QueueDepth]:
    """The depths of the first `most` queues by name, of those that may be seen; those of all others are summed, and
    their age is the greatest.
    """
    in_order = sorted(depths, key=lambda depth: depth.queue)
    shown = [depth for depth in in_order if sees(depth.queue)][:most]
    named = {depth.queue for depth in shown}
    others = [depth for depth in in_order if depth.queue not in named]
    if not others:
        return shown
    rest: dict[str, int] = {}
    for depth in others:
        for state, count in depth.jobs.items():
            rest[state] = rest.get(state, 0) + count
    return [*shown, QueueDepth(OTHER, rest, max(depth.oldest_waiting_s for depth in others))]


_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def word(kind: type) -> str:
    """What a class is called in a label: `push_worker` for PushWorker."""
    return _WORD.sub("_", kind.__name__).lower()
