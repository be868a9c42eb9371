"""The record of a run: for each case its calls, the requests that arrived, and what is left of it in the end.

All times are of one clock, in seconds (`time.monotonic` of the process that calls and is called).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Struct
from msgspec import field as struct_field

from benchmarks.histories.plan import ANSWERED, DoorName, Fault, Reply, Script

UNKNOWN = 0
"""The status of a call that got no answer: what it asked for may have happened, or happens later."""

UNSURE = frozenset({UNKNOWN, 500, 502, 503})
"""Statuses of calls that may not have been carried out, or may have been without our knowing: they can be repeated."""


@dataclass(slots=True)
class Answer:
    """An answer that a caller got, or none (`status` 0)."""

    status: int
    body: bytes = b""

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return msgspec.json.decode(self.body)

    @property
    def uncertain(self) -> bool:
        """True if the call may not have been carried out, or may have been without our knowing: it can be repeated."""
        return self.status in UNSURE


class Call(Struct, array_like=True):
    """A request of the caller. `job_id` is the one that the answer names."""

    kind: str
    began: float
    ended: float
    status: int
    job_id: str | None = None

    def __str__(self) -> str:
        said = self.status or "no answer"
        return f"{self.kind} → {said} after {self.ended - self.began:.3f} s {self.job_id or ''}"

    @property
    def accepted(self) -> bool:
        """True for an answer that says it is done."""
        return 200 <= self.status < 300


class Held(Struct, array_like=True):
    """The lease that a pull worker has had.

    Attributes:
        asked_from: when it asked for jobs; the lease began between then and its arrival.
        until: when the lease ended at the earliest, unless it was settled.
        asked_at: when the first call began that settled it, or tried to.
        status: the answer to that call; None where it was not made, or where it is not known what came of it.
        again: the answer to a second settlement.
    """

    asked_from: float
    until: float
    asked_at: float | None = None
    status: int | None = None
    again: int | None = None

    @property
    def accepted(self) -> bool:
        """True if its settlement was accepted."""
        return self.status is not None and 200 <= self.status < 300


class Arrival(Struct, array_like=True):
    """A request that the endpoint got, or a job that a pull worker got.

    Attributes:
        serial: which one it was of all; it is in the answer.
        job_id: the job that the request names, if it does.
        attempt: the number of the attempt that the request names, if it does.
        ended: when the answer was written or the connection closed; None while it is being worked on.
        whole: whether all of the answer was written to an open connection.
        member: the number of the toril that sent it, if that is known.
        held: the lease, of a pull worker.
    """

    serial: int
    at: float
    reply: Reply
    job_id: str | None = None
    attempt: int | None = None
    ended: float | None = None
    whole: bool = False
    member: int | None = None
    held: Held | None = None

    def __str__(self) -> str:
        took_s = (self.ended or self.at) - self.at
        if self.held is not None:
            asked = "not settled" if self.held.asked_at is None else f"settled at {self.held.asked_at:.3f}"
            return (
                f"arrival {self.serial} at a pull worker, asked for from {self.held.asked_from:.3f} → {self.reply}, "
                f"{asked} → {self.held.status}, {self.held.again}, held until {self.held.until:.3f}, job {self.job_id}"
            )
        return (
            f"arrival {self.serial} → {self.reply}, {'whole' if self.whole else 'not whole'} after {took_s:.3f} s, "
            f"job {self.job_id}, attempt {self.attempt}, of toril {self.member}"
        )

    @property
    def done(self) -> bool:
        """True if the endpoint has answered it with a 2xx."""
        return self.whole and self.reply in ANSWERED


class Final(Struct, array_like=True):
    """What toril says of a job in the end.

    Attributes:
        status: the state, in the words of the door; None if there is no such job.
        serial: the serial in the result or the replayed answer.
        result_status: the HTTP status of the replayed answer.
        attempts: how many attempts were made.
        numbers: the numbers of the attempts that are recorded.
        transitions: source and state of each transition, and its sequence number.
        shown: the answer, for a report of what is wrong with it.
        listed: whether it was read from a list, which has no records of attempts and transitions.
        committed: whether the program that enqueued it in a transaction has committed that.
        lost: the numbers of the attempts that are, or were, recorded as lost with their workers.
    """

    status: str | None
    serial: int | None = None
    result_status: int | None = None
    attempts: int | None = None
    numbers: list[int] = struct_field(default_factory=list)
    transitions: list[tuple[int, str | None, str]] = struct_field(default_factory=list)
    shown: Any = None
    listed: bool = False
    lost: list[int] = struct_field(default_factory=list)
    committed: bool = False


@dataclass(slots=True)
class Case:
    """One thing that a caller wanted, and what came of it.

    `results` are those that callers saw: job, serial, time.
    """

    door: DoorName
    number: int
    script: Script
    calls: list[Call] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    finals: dict[str, Final] = field(default_factory=dict)
    results: list[tuple[str, int, float]] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[Call]:
        """Return the calls of one kind."""
        return [call for call in self.calls if call.kind == kind]

    @property
    def ids(self) -> list[str]:
        """The jobs that were acknowledged, in order."""
        named = (call.job_id for call in self.calls if call.kind in {"add", "replay"} and call.accepted)
        return list(dict.fromkeys(job_id for job_id in named if job_id is not None))

    @property
    def began(self) -> float:
        """When the first call was made."""
        return self.calls[0].began

    @property
    def ended(self) -> float:
        """When the last thing happened to it."""
        ends = [call.ended for call in self.calls] + [arrival.ended or arrival.at for arrival in self.arrivals]
        return max(ends)

    def lines(self) -> Iterator[str]:
        """Yield the history for people, in order of time."""
        yield f"{self.door} {self.number}: {self.script}"
        events = [(call.began, str(call)) for call in self.calls]
        events += [(arrival.at, str(arrival)) for arrival in self.arrivals]
        yield from (f"  {at:10.3f}  {text}" for at, text in sorted(events))
        for job_id, final in self.finals.items():
            yield f"  in the end  {job_id}: {final.status}, serial {final.serial}, {final.shown}"


@dataclass(slots=True)
class Harm:
    """A fault that was carried out; `ended` is when everything was up again."""

    fault: Fault
    member: int
    began: float
    ended: float


@dataclass(slots=True)
class History:
    """A whole run."""

    seed: int
    cases: Mapping[DoorName, Iterable[Case]] = field(default_factory=dict)
    harms: list[Harm] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """What was found wrong beside the cases: jobs that are left in queues, processes that ended badly."""
    versions: dict[str, str] = field(default_factory=dict)
    untried: set[Fault] = field(default_factory=set)
    """Faults that this machine has not the means for."""
    silences: list[tuple[int, float, float]] = field(default_factory=list)
    """Which toril answered nothing, not even its `/health`, from when until when."""
    pauses: list[tuple[DoorName, float, float]] = field(default_factory=list)
    """From when until when a door's work was paused: from the answer to the pause until the call to go on."""
