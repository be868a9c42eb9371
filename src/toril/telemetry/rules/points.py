"""Points of statistics: the counts of a period, the resolutions of periods, and the keys that hold them.

A point has sparse counts: by the number of a counter or of a histogram's bucket, without zeros. Points of one block of
time share a key, and a block is short enough for Redis to keep it compact.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from toril.core.metrics import PATIENT_S, QUICK_S

Counts = dict[int, int]
"""How often what happened, by the numbers below."""

# From 64 on, because Redis' cmsgpack would write a table with the keys 1, 2, 3 as an array.
ACCEPTED = 64
FINISHED = 65
FAILED = 66
ATTEMPTS_FAILED = 67
STALLED = 68
WAITS = 80
"""The first bucket of how long jobs waited for their first attempt."""
TOOK = WAITS + len(PATIENT_S) + 1
"""The first bucket of how long attempts took."""
END = TOOK + len(QUICK_S) + 1


class Resolution(Struct, frozen=True):
    """Points of `step_s` seconds, which are kept for `kept_s`, in blocks of `block_s`."""

    name: str
    step_s: int
    kept_s: int
    block_s: int

    @property
    def life_s(self) -> int:
        """How long a block is kept after its last write: its first and its last point are a block apart."""
        return self.kept_s + self.block_s

    def slot(self, at_s: float) -> int:
        """Return the number of the point that this time belongs to."""
        return int(at_s // self.step_s)

    def block(self, slot: int) -> int:
        """Return the number of the block that a point is in."""
        return slot * self.step_s // self.block_s


MINUTES = Resolution("1m", 60, 3600, 3600)
FIVE_MINUTES = Resolution("5m", 300, 24 * 3600, 6 * 3600)
HOURS = Resolution("1h", 3600, 30 * 24 * 3600, 3 * 24 * 3600)
RESOLUTIONS = (MINUTES, FIVE_MINUTES, HOURS)


class Window(Struct, frozen=True):
    """The last `points` points of a resolution; the last one is still growing."""

    resolution: Resolution
    points: int

    def first(self, now_s: float) -> int:
        """Return the number of the oldest point."""
        return self.resolution.slot(now_s) - self.points + 1

    def blocks(self, now_s: float) -> Iterator[int]:
        """Return the blocks that have these points, the oldest first."""
        resolution = self.resolution
        yield from range(resolution.block(self.first(now_s)), resolution.block(resolution.slot(now_s)) + 1)


WINDOWS = {"1h": Window(MINUTES, 60), "24h": Window(FIVE_MINUTES, 288), "7d": Window(HOURS, 168)}


class Scope(Struct, frozen=True, order=True):
    """The scope of a point: a queue, or a whole door."""

    kind: str
    name: str

    def key(self, prefix: str, resolution: Resolution, block: int) -> str:
        """Return the key of a block."""
        return f"toril:stats:{prefix}:{self.kind}:{self.name}:{resolution.name}:{block}"


def queue_scope(queue: str) -> Scope:
    """Return the scope of a queue."""
    return Scope("queue", queue)


def door_scope(door: str) -> Scope:
    """Return the scope of a door."""
    return Scope("door", door)


def add(to: Counts, more: Counts) -> None:
    """Add counts to others, in place."""
    for number, count in more.items():
        to[number] = to.get(number, 0) + count
