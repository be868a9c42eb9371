"""What a run does, as its seed decides: the scripts of the cases, and the faults.

A script is made from the seed, the door and the number of the case alone, so the endpoint and the caller know the same
one. Faults happen at shares of what is to be accepted, so they meet the same part of the work however fast it goes.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import Struct


class DoorName(enum.StrEnum):
    """The doors of toril."""

    QUEUES = "queues"
    PROXY = "proxy"
    DELIVERY = "delivery"


class Reply(enum.StrEnum):
    """What the endpoint does with a request."""

    OK = "ok"
    SLOW = "slow"
    TWICE = "twice"
    """The answer, a second answer behind it, and the end of the connection."""
    ERROR = "error"
    REFUSAL = "refusal"
    LATE = "late"
    """An answer after the caller's timeout."""
    CUT = "cut"
    TORN = "torn"
    """Half an answer, and the end of the connection."""
    GARBAGE = "garbage"
    EXTENDED = "extended"
    """A pull worker extends its lease twice before it settles."""
    RELEASED = "released"
    """A pull worker gives the job back."""
    VANISHED = "vanished"
    """A pull worker is gone before it has done anything."""
    DONE_AND_VANISHED = "done and vanished"
    """A pull worker is gone when it has done the job, and settles nothing."""


ANSWERED = frozenset({Reply.OK, Reply.SLOW, Reply.TWICE})
"""Replies with a 2xx."""

COMPLETING = frozenset({*ANSWERED, Reply.LATE, Reply.EXTENDED})
"""Replies with which a pull worker completes a job, or tries to."""

_UNANSWERED = (Reply.CUT, Reply.TORN, Reply.GARBAGE)


_UNSETTLED = (Reply.ERROR, Reply.RELEASED, Reply.VANISHED, Reply.DONE_AND_VANISHED, Reply.LATE)
_PULLED_SHARE = 0.2
_SQL_SHARE = 0.15


class Sql(enum.StrEnum):
    """What a program does with a delivery that it enqueues in a transaction."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    THEN_COMMITTED = "rolled back, then committed"
    """In two transactions, under the same key where there is one."""
    SAVEPOINT = "rolled back to a savepoint, then committed"
    """In one transaction."""


class Script(Struct, frozen=True, array_like=True):
    """What happens to one case.

    Attributes:
        replies: how the endpoint answers its requests, one after the other; the last one is repeated.
        keyed: whether the caller names an id or key, and so may repeat a call without an answer.
        again: whether the caller repeats the call after it was accepted.
        cancelled: whether the caller cancels it at once, or when it is at the endpoint if that answers late.
        delay_ms: how long it waits before its first attempt.
        replayed: whether the caller has it done once more: a failed one again, a finished request a second time.
        watched: whether the caller waits for its end, and notes the result.
        in_line: whether it goes to the queue that takes one job at a time.
        pulled: whether it goes to the queue of the pull workers.
        sql: how it is enqueued in a transaction; None for what is posted.
    """

    replies: tuple[Reply, ...]
    keyed: bool = True
    again: bool = False
    cancelled: bool = False
    delay_ms: int = 0
    replayed: bool = False
    watched: bool = False
    in_line: bool = False
    pulled: bool = False
    sql: Sql | None = None

    @property
    def plain(self) -> bool:
        """True if the caller does nothing but add it, under an id or key, to the queue with room for many."""
        more = self.again or self.cancelled or self.replayed or self.watched
        return self.keyed and not (more or self.in_line or self.pulled or self.sql)


def is_batched(script: Script, number: int) -> bool:
    """Return True if a case is added with others in one call, where its door can do that: three of four plain ones."""
    return script.plain and number % 4 != 0


def script(seed: int, door: DoorName, number: int) -> Script:
    """Return the script of a case."""
    chance = random.Random(f"{seed}/{door}/{number}")
    if door is DoorName.QUEUES and chance.random() < 0.04:
        return Script((Reply.OK,), in_line=True)
    if door is DoorName.QUEUES and chance.random() < _PULLED_SHARE:
        return _pulled(chance)
    kind = chance.random()
    last = Reply.OK if (roll := chance.random()) < 0.88 else Reply.SLOW if roll < 0.985 else Reply.TWICE
    if kind < 0.015 and door is DoorName.DELIVERY:
        return Script((Reply.LATE,), cancelled=True)
    if kind < 0.05:
        return Script((last,), cancelled=True, delay_ms=chance.choice((0, 300, 1500)))
    if kind < 0.08:
        first = {DoorName.QUEUES: Reply.ERROR, DoorName.PROXY: Reply.OK, DoorName.DELIVERY: Reply.REFUSAL}[door]
        return Script((first, last), replayed=True)
    first_replies: tuple[Reply, ...] = ()
    if (roll := chance.random()) < 0.05:
        first_replies = (Reply.ERROR,)
    elif roll < 0.09:
        first_replies = (chance.choice(_UNANSWERED),)
    elif roll < 0.10:
        first_replies = (chance.choice(_UNANSWERED), Reply.ERROR)
    elif roll < 0.103:
        first_replies = (Reply.LATE,)
    keyed = chance.random() < 0.85
    return Script(
        (*first_replies, last),
        keyed=keyed,
        again=keyed and chance.random() < 0.1,
        delay_ms=chance.randrange(50, 2000) if door is not DoorName.PROXY and chance.random() < 0.05 else 0,
        watched=chance.random() < 0.05,
        sql=chance.choice(list(Sql)) if door is DoorName.DELIVERY and chance.random() < _SQL_SHARE else None,
    )


def _pulled(chance: random.Random) -> Script:
    """Return the script of a job for pull workers."""
    kind, roll = chance.random(), chance.random()
    last = Reply.OK if roll < 0.8 else Reply.SLOW if roll < 0.92 else Reply.TWICE if roll < 0.97 else Reply.EXTENDED
    if kind < 0.05:
        return Script((last,), cancelled=True, delay_ms=chance.choice((0, 300, 1500)), pulled=True)
    if kind < 0.08:
        return Script((Reply.ERROR, last), replayed=True, pulled=True)
    first = chance.choice(_UNSETTLED) if chance.random() < 0.12 else None
    keyed = chance.random() < 0.85
    return Script(
        (last,) if first is None else (first, last),
        keyed=keyed,
        again=keyed and chance.random() < 0.1,
        delay_ms=chance.randrange(50, 2000) if chance.random() < 0.05 else 0,
        watched=chance.random() < 0.05,
        pulled=True,
    )


class Fault(enum.StrEnum):
    """What is done to the fleet."""

    KILL_TORIL = "toril killed"
    FREEZE_TORIL = "toril stood still"
    KILL_PROCESS = "one process of a toril killed"
    FREEZE_PROCESS = "one process of a toril stood still"
    KILL_REDIS = "Redis killed"
    FREEZE_REDIS = "Redis stood still"
    KILL_POSTGRES = "PostgreSQL killed"
    FREEZE_POSTGRES = "PostgreSQL stood still"
    CUT_REDIS = "connections to Redis cut"
    CUT_POSTGRES = "connections to PostgreSQL cut"
    PART_REDIS = "Redis unreachable for one toril"
    PART_POSTGRES = "PostgreSQL unreachable for one toril"
    SLOW_STORES = "slow network to both stores"
    FULL_REDIS = "disk of Redis full"
    FULL_POSTGRES = "disk of PostgreSQL full"
    FLUSH_REDIS = "Redis flushed"
    FAIL_OVER = "Redis failed over, as asked"
    KILL_MASTER = "master of Redis killed"
    FREEZE_MASTER = "master of Redis stood still"
    MOVE_CLOCK = "clock of one toril moved"
    RESTART_TORIL = "toril restarted in good order"
    RELOAD = "configuration reloaded"
    PAUSE_QUEUE = "queue paused"
    PAUSE_TARGET = "target paused"
    STALL = "the checker stood still, and the relays with it"
    """Not planned: it happens on a machine with too much to do."""


HARMLESS = frozenset({Fault.MOVE_CLOCK, Fault.RESTART_TORIL, Fault.RELOAD, Fault.PAUSE_QUEUE, Fault.PAUSE_TARGET})
"""What excuses nothing: with these alone, nothing may be done twice."""

FAILOVERS = frozenset({Fault.FAIL_OVER, Fault.KILL_MASTER, Fault.FREEZE_MASTER})
"""After which another Redis is the master: what was not confirmed may be gone."""

_ONE_REDIS = frozenset(
    {
        Fault.KILL_REDIS,
        Fault.FREEZE_REDIS,
        Fault.CUT_REDIS,
        Fault.PART_REDIS,
        Fault.FULL_REDIS,
        Fault.FLUSH_REDIS,
    }
)
_OF_PROCESS = frozenset({Fault.KILL_PROCESS, Fault.FREEZE_PROCESS})
_NEEDS_LEDGER = frozenset({Fault.KILL_POSTGRES, Fault.FREEZE_POSTGRES, Fault.CUT_POSTGRES, Fault.PART_POSTGRES,
                           Fault.FULL_POSTGRES, Fault.PAUSE_TARGET})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault that happens when this share of all cases has been accepted.

    Attributes:
        member: which toril it is done to, where it is done to one.
        lasts_s: how long it lasts, where it does not end by itself.
    """

    share: float
    fault: Fault
    member: int
    lasts_s: float


def faults_for(doors: Sequence[DoorName], *, replicated: bool = False, processes: int = 1) -> list[Fault]:
    """Return the faults that a run with these doors can have, on one Redis or on a replicated one.

    One process of a toril is harmed only where it has several. Redis loses its data only where the ledger is to put
    everything back: when deliveries are alone.
    """
    left_out = {Fault.STALL, *(_ONE_REDIS if replicated else FAILOVERS)}
    if processes == 1:
        left_out |= _OF_PROCESS
    if list(doors) != [DoorName.DELIVERY]:
        left_out.add(Fault.FLUSH_REDIS)
    if DoorName.DELIVERY not in doors:
        left_out |= _NEEDS_LEDGER
    if DoorName.QUEUES not in doors:
        left_out.add(Fault.PAUSE_QUEUE)
    return [fault for fault in Fault if fault not in left_out]


def planned_faults(seed: int, kinds: Sequence[Fault], count: int) -> list[Planned]:
    """Return so many faults, by the time at which they happen; each kind about as often as the others."""
    chance = random.Random(f"{seed}/faults")
    chosen: list[Fault] = []
    while len(chosen) < count:
        chosen += chance.sample(list(kinds), min(len(kinds), count - len(chosen)))
    return sorted(
        (
            Planned(chance.uniform(0.02, 0.98), fault, chance.randrange(2), round(chance.uniform(0.3, 5.0), 2))
            for fault in chosen
        ),
        key=lambda planned: planned.share,
    )
