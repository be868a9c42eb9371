"""The shapes of the answers to `GET /stats`."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from toril.telemetry.rules.series import Percentiles

Door = Literal["queues", "proxy", "delivery"]
What = Literal["queue", "target", "worker", "instance"]
Kind = Literal[
    "breaker_open", "target_failing", "worker_failing", "not_worked_on", "oldest_grows", "stalled", "paused_long",
    "not_ready", "paused", "held",
]  # fmt: skip


class Place(Struct, frozen=True):
    """The door that a queue belongs to, and the name to show: the target's, or the queue's own."""

    door: Door
    name: str


class Fact(Struct, frozen=True):
    """A fact that needs attention; `since` is when it began, if that is known."""

    kind: Kind
    what: What
    name: str
    since: str | None
    text: str


class DoorStats(Struct, kw_only=True):
    """Statistics of one door: a count per point, what waits now, and how many workers, upstreams or targets it has."""

    accepted: list[int]
    started: list[int]
    finished: list[int]
    failed: list[int]
    attempts: list[int]
    attempts_failed: list[int]
    backlog: int
    oldest_ms: int | None
    late: bool
    wait_ms: Percentiles | None
    attempt_ms: Percentiles | None
    queues: int | UnsetType = UNSET
    workers: int | UnsetType = UNSET
    upstreams: int | UnsetType = UNSET
    targets: int | UnsetType = UNSET


class Doors(Struct, omit_defaults=True):
    """The doors that the token may see."""

    queues: DoorStats | UnsetType = UNSET
    proxy: DoorStats | UnsetType = UNSET
    delivery: DoorStats | UnsetType = UNSET


class MostWaiting(Struct, frozen=True):
    """A queue with many waiting jobs; `finished` has a count for each minute of the last hour."""

    queue: str
    waiting: int
    active: int
    oldest_ms: int
    finished: list[int]


class FailureReason(Struct, frozen=True):
    """A reason why attempts failed in the last hour; `where` is the queue or the target."""

    reason: str
    where: str
    door: Door
    times: int
    last: str


class RegisteredWorker(Struct, frozen=True):
    """The worker that is registered for a queue."""

    url: str
    state: str
    concurrency: int | None


class FinishedOfQueue(Struct, frozen=True):
    """How many jobs of a queue were finished, by point."""

    finished: list[int]


class Stats(Struct, kw_only=True, omit_defaults=True, rename={"from_": "from"}):
    """Statistics of all doors, of one queue, or of some queues.

    Series have a count for each `step_s` seconds, the first from `from` on; the last one is still growing. A door whose
    totals the token may not see is in `left_out`.
    """

    step_s: int
    window: str | UnsetType = UNSET
    from_: str | UnsetType = UNSET
    doors: Doors | UnsetType = UNSET
    left_out: list[Door] | UnsetType = UNSET
    attention: list[Fact] | UnsetType = UNSET
    paused: list[Fact] | UnsetType = UNSET
    most_waiting: list[MostWaiting] | UnsetType = UNSET
    reasons: list[FailureReason] | UnsetType = UNSET
    accepted: list[int] | UnsetType = UNSET
    started: list[int] | UnsetType = UNSET
    finished: list[int] | UnsetType = UNSET
    failed: list[int] | UnsetType = UNSET
    attempts: list[int] | UnsetType = UNSET
    attempts_failed: list[int] | UnsetType = UNSET
    wait_ms: Percentiles | UnsetType | None = UNSET
    attempt_ms: Percentiles | UnsetType | None = UNSET
    worker: RegisteredWorker | UnsetType | None = UNSET
    queues: dict[str, FinishedOfQueue] | UnsetType = UNSET
