"""Counts how often groups were held back, by the names of the largest groups of each queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from toril.core.metrics import GROUP_HELD, MOST_GROUPS, OTHER, UNMETERED
from toril.core.ports import Meter, Now

REASONS = ("rate", "concurrency", "paused")
_PARTS = 3
_OLD_S = 300.0
_MOST_QUEUES = 10_000


class _Named(Struct):
    """A group that is shown by name: how many of its jobs waited when it was held last, and when that was."""

    waiting: int
    at_s: float


class GroupsHeld:
    """Counts for the meter of a process, once it follows one.

    A group that is larger by far takes the place of one of the named ones. The counts of all others go to `other`, so
    no counter falls, except those that are shown no longer.

    Args:
        now: any clock.
    """

    def __init__(self, now: Now) -> None:
        self._meter: Meter = UNMETERED
        self._now = now
        self._named: dict[str, dict[str, _Named]] = {}

    def follow(self, meter: Meter) -> None:
        """Keep the counts in this meter."""
        self._meter = meter

    def count(self, queue: str, held: Sequence[Any]) -> None:
        """Count what a script says was held: in turn the group, the reason, and how many of its jobs wait."""
        for first in range(0, len(held), _PARTS):
            name, reason, waiting = held[first : first + _PARTS]
            label = self._label(queue, name.decode(errors="replace"), int(waiting))
            self._meter.count(GROUP_HELD, (queue, label, reason.decode()))

    def _label(self, queue: str, name: str, waiting: int) -> str:
        named = self._named.get(queue)
        if named is None:
            if len(self._named) >= _MOST_QUEUES:
                return OTHER
            named = self._named[queue] = {}
        now_s = self._now()
        known = named.get(name)
        if known is not None:
            known.waiting, known.at_s = waiting, now_s
            return name
        if name == OTHER:
            return OTHER
        if len(named) >= MOST_GROUPS:
            least = min(named, key=lambda one: (now_s - named[one].at_s < _OLD_S, named[one].waiting))
            if now_s - named[least].at_s < _OLD_S and waiting <= 2 * named[least].waiting:
                return OTHER
            del named[least]
            for reason in REASONS:
                self._meter.forget(GROUP_HELD, (queue, least, reason))
        named[name] = _Named(waiting, now_s)
        return name
