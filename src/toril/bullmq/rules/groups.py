"""Groups of jobs: their limits, and the algorithm that chooses whose job starts next.

`GroupSchedule` is the algorithm in Python: weighted fair queueing by virtual time over members, turns within a member,
GCRA for rates, and slots. The functions in `toril.bullmq.lua.groups` do the same in Redis, and the tests compare both.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping

from msgspec import UNSET, Struct, UnsetType

from toril.core.errors import InvalidRequest
from toril.core.group_limits import GroupDefault, GroupRate
from toril.core.integers import MAX_SAFE_INTEGER

MAX_ID = 256
"""Characters of a group's id."""
MAX_WEIGHT = 1000
MAX_PRIORITY = 2_097_152
_DOTS = frozenset({".", ".."})
_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class GroupLimits(Struct, frozen=True):
    """The limits of one group. `weight` is its share beside others; it counts for all ids of a member."""

    concurrency: int | None = None
    limit: GroupRate | None = None
    weight: int | None = None
    max_waiting: int | None = None
    paused: bool = False

    def with_default(self, default: GroupDefault) -> GroupDefault:
        """Return the limits that hold: those of the group, and the default in place of each that it does not have."""
        concurrency = default.concurrency if self.concurrency is None else self.concurrency
        return GroupDefault(concurrency, self.limit or default.limit)

    def stored(self) -> str:
        """Return the limits as the scripts read them; empty where there are none."""
        most, duration = (None, None) if self.limit is None else (self.limit.max, self.limit.duration)
        parts = (self.concurrency, most, duration, self.weight, self.max_waiting, 1 if self.paused else None)
        return "" if parts.count(None) == len(parts) else ",".join("" if part is None else str(part) for part in parts)


def read_limits(stored: str) -> GroupLimits:
    """Read a text of `GroupLimits.stored`."""
    concurrency, most, duration, weight, max_waiting, paused = (
        int(part) if part else None for part in (stored or ",,,,,").split(",")
    )
    limit = None if most is None or duration is None else GroupRate(most, duration)
    return GroupLimits(concurrency, limit, weight, max_waiting, paused == 1)


class GroupState(Struct, frozen=True):
    """What a group has. `arrival_ms` is the theoretical arrival time of its next start, on the wall clock."""

    id: str
    waiting: int
    active: int
    limits: GroupLimits
    default: GroupDefault
    arrival_ms: float

    def held_until_ms(self, now_ms: float) -> float | None:
        """Return until when its rate keeps it from starting a job; None where it does not."""
        rate = self.limits.with_default(self.default).limit
        if rate is None:
            return None
        at = self.arrival_ms - rate.duration + rate.duration / rate.max
        return at if at > now_ms else None


class GroupOption(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The group of a job: `priority` 0 goes first."""

    id: str | int
    priority: int | UnsetType = UNSET

    @property
    def name(self) -> str:
        """The id as text."""
        return str(self.id)

    @property
    def order(self) -> int:
        """The priority, 0 where there is none."""
        return 0 if self.priority is UNSET else self.priority


def check_group(group: GroupOption) -> None:
    """Refuse a group without a usable id, or with a priority that is out of bounds."""
    # JavaScript and Lua read a greater number as another one.
    if isinstance(group.id, int) and abs(group.id) > MAX_SAFE_INTEGER:
        raise InvalidRequest("Invalid group.id, an integer beyond 2^53 - 1 must be a string", field="group.id")
    check_group_id(group.name)
    if group.priority is not UNSET and not 0 <= group.priority <= MAX_PRIORITY:
        raise InvalidRequest(f"Invalid group.priority, must be from 0 to {MAX_PRIORITY}", field="group.priority")


def check_group_id(name: str) -> None:
    """Refuse the id of a group that is empty or too long, no text, or no segment of a path.

    The scripts in Redis take no such id from other programs either (`toril.bullmq.lua.groups`).
    """
    if not 1 <= len(name) <= MAX_ID:
        raise InvalidRequest(f"Invalid group.id, must have from 1 to {MAX_ID} characters", field="group.id")
    # Clients and proxies remove these from a path, also where they are percent-encoded (WHATWG URL, dot segments).
    if name in _DOTS:
        raise InvalidRequest(f"Invalid group.id, must not be {name}, which no path can hold", field="group.id")
    if _NO_TEXT.search(name):
        raise InvalidRequest("Invalid group.id, must not contain control characters", field="group.id")


def member_of(group: str) -> str:
    """Return the member that a group shares with others: the first segment of its id."""
    return group.partition("/")[0]


class Chosen(Struct, frozen=True):
    """The answer of `GroupSchedule.start`: a job and its group (None for one without), or when to ask again."""

    job: str | None = None
    group: str | None = None
    at: float = math.inf


class _Group:
    def __init__(self) -> None:
        self.waiting: list[tuple[int, int, int, str]] = []
        self.busy: set[str] = set()
        self.arrival = 0.0


PROMOTED, RETRIED, NEW = -2, -1, 0
"""The order in which jobs of a group start: what a person promoted, what has been tried before, the rest."""


class GroupSchedule:
    """Chooses the next job of a queue. Times are milliseconds, and are given.

    Virtual time is the tag of the member that started last. A member with jobs has a tag, and the least one starts;
    each start adds 1 / weight to it. A member that comes gets the virtual time as its tag, or the tag with which it
    left if that is later, so leaving and coming back gains nothing.
    """

    def __init__(self, default: GroupDefault | None = None) -> None:
        self.default = default or GroupDefault()
        self.limits: dict[str, GroupLimits] = {}
        self.plain: deque[str] = deque()
        self._groups: dict[str, _Group] = {}
        self._time = 0.0
        self._plain_tag = 0.0
        self._ready: dict[str, float] = {}
        self._turns: dict[str, list[str]] = {}
        self._past: dict[str, float] = {}
        self._later: dict[str, float] = {}
        self._number = 0

    def _group(self, name: str) -> _Group:
        return self._groups.setdefault(name, _Group())

    def waiting(self) -> Mapping[str, int]:
        """Return how many jobs of each group wait."""
        return {name: len(group.waiting) for name, group in self._groups.items() if group.waiting}

    def busy(self) -> Mapping[str, int]:
        """Return how many jobs of each group hold a slot."""
        return {name: len(group.busy) for name, group in self._groups.items() if group.busy}

    def add(self, name: str, job: str, priority: int = 0, band: int = NEW) -> None:
        """Let a job of a group wait."""
        self._number += 1
        group = self._group(name)
        was_empty = not group.waiting
        group.waiting.append((band, priority, self._number, job))
        group.waiting.sort()
        if was_empty or band == PROMOTED:
            self._later.pop(name, None)
            self._enter(name)

    def promote(self, name: str, job: str) -> None:
        """Let a waiting job pass rate and pause, but not concurrency."""
        group = self._group(name)
        (found,) = [waiting for waiting in group.waiting if waiting[3] == job]
        group.waiting.remove(found)
        self.add(name, job, found[1], PROMOTED)
        self._enter(name)

    def set_limits(self, name: str, limits: GroupLimits) -> None:
        """Replace the limits of a group; a new rate starts afresh."""
        if limits.limit != self.limits.get(name, GroupLimits()).limit:
            self._group(name).arrival = 0.0
        self.limits[name] = limits
        self._later.pop(name, None)
        if self._group(name).waiting:
            self._enter(name)

    def set_default(self, default: GroupDefault) -> None:
        """Replace the limits of groups that have none."""
        if default != self.default:
            self.default = default
            self._later = dict.fromkeys(self._later, 0.0)

    def jobs(self, name: str) -> list[str]:
        """Return the waiting jobs of a group, the next one first."""
        return [job for *_, job in self._groups[name].waiting] if name in self._groups else []

    def free(self, name: str, job: str) -> None:
        """Free the slot of a job that has ended, was put back, or lost its lock."""
        self._group(name).busy.discard(job)
        if self._later.pop(name, None) is not None:
            self._enter(name)

    def start(self, now_ms: float) -> Chosen:
        """Start the next job: it leaves the waiting ones and holds a slot of its group."""
        if not self.waiting():
            self._reset()
            return Chosen(self.plain.popleft()) if self.plain else Chosen()
        for _, name in sorted((at, name) for name, at in self._later.items() if at <= now_ms):
            del self._later[name]
            self._enter(name)
        while True:
            member, tag = min(self._ready.items(), key=lambda item: (item[1], item[0]), default=("", math.inf))
            own = max(self._time, self._plain_tag)
            if self.plain and own < tag:
                self._pass(own)
                self._plain_tag = own + 1
                return Chosen(self.plain.popleft())
            if tag == math.inf:
                return Chosen(at=min(self._later.values(), default=math.inf))
            name = self._turns[member][0]
            if self._may_start(name, now_ms):
                return self._begin(name, member, tag, now_ms)

    def _begin(self, name: str, member: str, tag: float, now_ms: float) -> Chosen:
        group, limits = self._group(name), self.limits.get(name, GroupLimits())
        weight = self.limits.get(member, GroupLimits()).weight or 1
        self._pass(tag)
        self._ready[member] = tag + 1 / weight
        job = group.waiting.pop(0)[3]
        if not group.waiting:
            self._leave(name)
        else:
            self._turns[member].remove(name)
            self._turns[member].append(name)
        group.busy.add(job)
        limit = limits.with_default(self.default).limit
        if limit is not None:
            group.arrival = max(group.arrival, now_ms) + limit.duration / limit.max
        return Chosen(job, name)

    def _may_start(self, name: str, now_ms: float) -> bool:
        group, limits = self._group(name), self.limits.get(name, GroupLimits())
        holds = limits.with_default(self.default)
        if holds.concurrency is not None and len(group.busy) >= holds.concurrency:
            self._park(name, math.inf)
            return False
        if group.waiting[0][0] == PROMOTED:
            return True
        if limits.paused:
            self._leave(name)
            return False
        if holds.limit is not None:
            at = group.arrival - holds.limit.duration + holds.limit.duration / holds.limit.max
            if at > now_ms:
                self._park(name, at)
                return False
        return True

    def _park(self, name: str, at: float) -> None:
        self._leave(name)
        self._later[name] = at

    def _enter(self, name: str) -> None:
        member = member_of(name)
        turns = self._turns.setdefault(member, [])
        if name in turns:
            return
        turns.append(name)
        if member not in self._ready:
            self._ready[member] = max(self._time, self._past.pop(member, 0.0))

    def _leave(self, name: str) -> None:
        member = member_of(name)
        turns = self._turns.get(member, [])
        if name not in turns:
            return
        turns.remove(name)
        if not turns:
            del self._turns[member]
            tag = self._ready.pop(member)
            if tag > self._time:
                self._past[member] = tag

    def _pass(self, tag: float) -> None:
        self._time = tag
        self._past = {member: left for member, left in self._past.items() if left > tag}

    def _reset(self) -> None:
        self._time = self._plain_tag = 0.0
        self._past.clear()
