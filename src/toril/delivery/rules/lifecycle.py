"""The states of a delivery, and which may follow which, as a table. `decisions.decide` makes no other transition.

    (none) ──▶ queued ──▶ dispatching ──▶ delivered
                 ▲            │ ▲ └─────▶ dead_lettered ──▶ queued (a replay)
                 └────────────┘ └──────── retrying
    queued, dispatching and retrying may be cancelled or dead-lettered at any time

When a worker is lost or gives its job back, `dispatching` becomes `retrying`, or `queued` where no attempt was spent.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

from msgspec import Struct


class Status(enum.StrEnum):
    """The state of a delivery."""

    QUEUED = "queued"
    DISPATCHING = "dispatching"
    RETRYING = "retrying"
    DELIVERED = "delivered"
    DEAD_LETTERED = "dead_lettered"
    CANCELLED = "cancelled"


TERMINAL = frozenset({Status.DELIVERED, Status.DEAD_LETTERED, Status.CANCELLED})
"""Finished: only a replay changes it."""

OPEN = frozenset(Status) - TERMINAL
"""Unfinished: an attempt is due or under way."""

WAITING = frozenset({Status.QUEUED, Status.RETRYING})
"""A job for it belongs in the target's queue."""

NEXT: Mapping[Status | None, frozenset[Status]] = {
    None: frozenset({Status.QUEUED}),
    Status.QUEUED: frozenset({Status.DISPATCHING, Status.CANCELLED, Status.DEAD_LETTERED}),
    Status.DISPATCHING: frozenset(
        {Status.DELIVERED, Status.RETRYING, Status.QUEUED, Status.CANCELLED, Status.DEAD_LETTERED}
    ),
    Status.RETRYING: frozenset({Status.DISPATCHING, Status.CANCELLED, Status.DEAD_LETTERED}),
    Status.DEAD_LETTERED: frozenset({Status.QUEUED}),
    Status.DELIVERED: frozenset(),
    Status.CANCELLED: frozenset(),
}
"""What may follow each state; None is before there was a delivery."""


class Transition(Struct, frozen=True, kw_only=True):
    """A change of state: `seq` counts from 1 without gaps, `attempt` is the attempt it belongs to, `by` the instance or
    caller that made it.
    """

    seq: int
    source: Status | None
    to: Status
    at_s: float
    reason: str | None = None
    attempt: int | None = None
    by: str = ""


def may_follow(source: Status | None, to: Status) -> bool:
    """Return True if `to` may follow `source`."""
    return to in NEXT[source]


def faults(history: Sequence[Transition]) -> list[str]:
    """Return what is wrong with the transitions of a delivery; empty for a legal history."""
    found = []
    status: Status | None = None
    for number, step in enumerate(history, 1):
        if step.seq != number:
            found.append(f"transition {number} has seq {step.seq}")
        if step.source is not status:
            found.append(f"transition {number} comes from {step.source}, but it was {status}")
        if not may_follow(step.source, step.to):
            found.append(f"transition {number} from {step.source} to {step.to} is not legal")
        status = step.to
    return found or ([] if history else ["there is no transition"])
