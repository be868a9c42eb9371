"""Every metric that toril has, as a table: what is measured, by which labels, in which buckets.

The rooms name a metric of this table and say how much (`toril.core.ports.Meter`); an adapter keeps and shows
them. To add one, add it here; the table of `docs/reference/metrics.md` is generated from this one
(`make reference`). Durations are in seconds.

Labels never hold values that a caller makes up, except a limited number of names: each process shows
`metrics.max_queues` names as `queue`, in the order in which it first works on them, and the rest together as `other`.
Of each of these at most twenty groups are shown as `group`. Each upstream and target has a separate queue, so `queue`
names it too; `kind` is the kind of its destination.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from msgspec import Struct

from toril.core.http.headers import Header

OTHER = "other"
CAPPED = "queue"
"""The label whose values are bounded by the meter."""
GROUP = "group"
MOST_GROUPS = 20
"""How many groups of a queue are shown by name."""

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
    "Time from the first byte of a request to its answer, to the head of a stream, or to the handshake of a socket",
    ("method", "route", "status"),
    QUICK_S,
)
ACCEPT_SECONDS = Metric(
    "toril_accept_duration_seconds",
    "histogram",
    "Time from the first byte of a request that adds jobs until they are stored",
    ("door",),
    QUICK_S,
)
WAIT_SECONDS = Metric(
    "toril_job_wait_duration_seconds",
    "histogram",
    "Time from when a job could have begun (added, and its delay over) to its first attempt",
    ("kind", "queue"),
    PATIENT_S,
)
ATTEMPT_SECONDS = Metric(
    "toril_attempt_duration_seconds",
    "histogram",
    "Time of one attempt at a job, from request to outcome",
    ("kind", "queue"),
    QUICK_S,
)
JOB_SECONDS = Metric(
    "toril_job_duration_seconds",
    "histogram",
    "Time from adding a job, its delay included, to its end: complete, or fail for good",
    ("queue", "verdict"),
    PATIENT_S,
)
ATTEMPTS = Metric(
    "toril_attempts_total",
    "counter",
    "Attempts, by their outcome and verdict",
    ("kind", "queue", "outcome", "verdict"),
)
PROXIED = Metric(
    "toril_proxied_requests_total",
    "counter",
    "Requests to upstreams of the async proxy, queued or, with the reason, past the queue",
    ("queue", "way"),
)
JOBS_ADDED = Metric(
    "toril_jobs_added_total",
    "counter",
    "Jobs added by requests, with those of flows; a duplicate counts like the job that is there",
    ("queue",),
)
LEASES_LOST = Metric(
    "toril_leases_lost_total",
    "counter",
    "Jobs in flight whose lock was lost; nothing was written, and they run again elsewhere",
    ("queue",),
)
JOBS_STALLED = Metric(
    "toril_jobs_stalled_total",
    "counter",
    "Jobs whose lock expired because their worker was gone; put back to waiting, or failed",
    ("queue",),
)
REDIS_RECONNECTS = Metric(
    "toril_redis_reconnects_total", "counter", "Connections to Redis that were made again after a loss", ("connection",)
)
OPEN_SOCKETS = Metric("toril_open_sockets", "gauge", "WebSockets that are open", ("route",))
OPEN_STREAMS = Metric("toril_open_streams", "gauge", "Server-Sent Event streams that are open", ("route",))
LOOP_LAG_SECONDS = Metric(
    "toril_event_loop_lag_seconds", "histogram", "How late the event loop ran a task that was due", (), LAG_S
)
QUEUE_JOBS = Metric("toril_queue_jobs", "gauge", "Jobs by state, read from Redis", ("queue", "state"))
QUEUE_OLDEST_SECONDS = Metric(
    "toril_queue_oldest_waiting_age_seconds",
    "gauge",
    "How long the oldest waiting job has been waiting, read from Redis; 0 if none waits",
    ("queue",),
)
QUEUE_DEPTHS_AGE = Metric(
    "toril_queue_depths_age_seconds",
    "gauge",
    "Age of the oldest reading of a queue's depth; 0 without queues",
)
GROUP_JOBS = Metric(
    "toril_group_jobs",
    "gauge",
    "Jobs of the twenty largest groups of a queue, waiting or active, read from Redis",
    ("queue", "group", "state"),
)
GROUP_OLDEST_SECONDS = Metric(
    "toril_group_oldest_waiting_age_seconds",
    "gauge",
    "How long the oldest waiting job of such a group has been waiting; 0 if none waits",
    ("queue", "group"),
)
GROUP_HELD = Metric(
    "toril_group_held_total",
    "counter",
    "How often the next job of such a group was held back, by its rate, its concurrency or a pause",
    ("queue", "group", "reason"),
)
REDIS_UP = Metric("toril_redis_up", "gauge", "1 while Redis answers the process that was scraped")
PROCESSES = Metric("toril_processes", "gauge", "Processes of this instance that are alive")
BUILD_INFO = Metric("toril_build_info", "gauge", "1, with toril's version", ("version",))

DEAD_LETTERS = Metric(
    "toril_dead_letters_total", "counter", "Deliveries that were given up, by why", ("queue", "reason")
)
BREAKER_OPEN = Metric("toril_breaker_open", "gauge", "1 while the breaker of a target is open or half-open", ("queue",))
TARGET_HELD_SECONDS = Metric(
    "toril_target_held_seconds", "gauge", "For how long nothing is sent to a target that asked for it", ("queue",)
)
TARGET_DELIVERIES = Metric(
    "toril_target_deliveries", "gauge", "Deliveries of a target by state, read from the ledger", ("queue", "state")
)
TARGET_OLDEST_SECONDS = Metric(
    "toril_target_oldest_age_seconds", "gauge", "Age of the oldest unfinished delivery of a target", ("queue",)
)
LEDGER_UP = Metric("toril_ledger_up", "gauge", "1 while the ledger can be written to")
LEDGER_COMMIT_SECONDS = Metric(
    "toril_ledger_commit_duration_seconds",
    "histogram",
    "Time of one commit to the ledger, of many changes",
    (),
    QUICK_S,
)
LEDGER_WAITING = Metric("toril_ledger_waiting", "gauge", "Changes that wait for the ledger, or for its answer")
IDEMPOTENT_REPLAYS = Metric(
    "toril_idempotent_replays_total", "counter", "Envelopes whose key had a delivery already", ("queue",)
)
RECOVERED = Metric(
    "toril_deliveries_recovered_total",
    "counter",
    "Deliveries whose worker was lost, whose deadline passed, or whose job was missing in its queue",
    ("queue", "change"),
)
JANITOR_REMOVED = Metric(
    "toril_janitor_removed_total", "counter", "Deliveries past their retention and orphaned bodies, removed", ("kind",)
)
JANITOR_FAILURES = Metric("toril_janitor_failures_total", "counter", "Sweeps of the janitor that failed")
PAYLOAD_FAILURES = Metric(
    "toril_payload_failures_total", "counter", "Large bodies that could not be stored or read", ("way",)
)
CONFIG_REFUSED = Metric(
    "toril_config_refused", "gauge", "1 while the configuration on disk has faults and was not taken"
)
CONFIG_PENDING = Metric("toril_config_pending", "gauge", "Changed settings that wait for a rollout")
EVENTS_WAITING = Metric("toril_events_waiting", "gauge", "Events that wait to be accepted as deliveries")
EVENTS_TOLD = Metric("toril_events_total", "counter", "Events that were accepted for the target of `events`", ("type",))
EVENTS_DROPPED = Metric(
    "toril_events_not_told_total", "counter", "Events that could not be accepted, and are only logged", ("type",)
)

METRICS = (
    REQUEST_SECONDS, ACCEPT_SECONDS, WAIT_SECONDS, ATTEMPT_SECONDS, JOB_SECONDS, ATTEMPTS, PROXIED, JOBS_ADDED,
    LEASES_LOST, JOBS_STALLED, REDIS_RECONNECTS, OPEN_SOCKETS, OPEN_STREAMS, LOOP_LAG_SECONDS, QUEUE_JOBS,
    QUEUE_OLDEST_SECONDS, QUEUE_DEPTHS_AGE, GROUP_JOBS, GROUP_OLDEST_SECONDS, GROUP_HELD, EVENTS_TOLD, EVENTS_DROPPED,
    EVENTS_WAITING, DEAD_LETTERS, BREAKER_OPEN, TARGET_HELD_SECONDS, TARGET_DELIVERIES, TARGET_OLDEST_SECONDS,
    LEDGER_UP, LEDGER_COMMIT_SECONDS, LEDGER_WAITING, IDEMPOTENT_REPLAYS, RECOVERED, JANITOR_REMOVED, JANITOR_FAILURES,
    PAYLOAD_FAILURES, CONFIG_REFUSED, CONFIG_PENDING, REDIS_UP, PROCESSES, BUILD_INFO,
)  # fmt: skip


def as_other(metric: Metric, labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return labels with `other` in place of the queue, and of its group, which no other queue may be shown to have."""
    return tuple(OTHER if name in (CAPPED, GROUP) else label for name, label in zip(metric.labels, labels, strict=True))


class Unmetered:
    """A meter that keeps nothing."""

    def count(self, metric: Metric, labels: tuple[str, ...] = (), by: float = 1.0) -> None:
        """Keep nothing."""

    def observe(
        self, metric: Metric, labels: tuple[str, ...], value: float, trace: Sequence[Header] | None = None
    ) -> None:
        """Keep nothing."""

    def forget(self, metric: Metric, labels: tuple[str, ...]) -> None:
        """Forget nothing."""


UNMETERED = Unmetered()


class GroupDepth(Struct, frozen=True):
    """How many jobs of a group wait and are active, and how long the oldest has been waiting (None: not known)."""

    group: str
    waiting: int
    active: int
    oldest_waiting_s: float | None = None


class QueueDepth(Struct, frozen=True):
    """The number of jobs of a queue in each state, how long the oldest one has been waiting, and if it is paused.

    `groups` are its largest groups, and the others together as `other`.
    """

    queue: str
    jobs: dict[str, int]
    oldest_waiting_s: float = 0.0
    paused: bool = False
    groups: tuple[GroupDepth, ...] = ()

    @property
    def waiting(self) -> int:
        """How many jobs could begin now, were the queue not paused or its workers not busy."""
        return sum(self.jobs.get(state, 0) for state in ("waiting", "paused", "prioritized"))


def bounded(depths: Iterable[QueueDepth], most: int, sees: Callable[[str], bool]) -> list[QueueDepth]:
    """Return the depths of the first `most` visible queues by name, and of all others together as `other`.

    Of the others, jobs are summed, and the age is the greatest.
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
    """Return the name of a class as a label has it: `push_worker` for PushWorker."""
    return _WORD.sub("_", kind.__name__).lower()
