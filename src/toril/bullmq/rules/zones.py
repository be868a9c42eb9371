"""A time zone: the offset from UTC at a moment, and the moment of a local time.

Its rules are handed in as a `tzinfo`; `toril.bullmq.time_zones` reads them by their names.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, tzinfo


class Zone:
    """A time zone, or a fixed offset from UTC. Everything is in whole seconds; moments are before the year 9999."""

    __slots__ = ("_fixed_s", "_rules")

    def __init__(self, rules: tzinfo | None, fixed_s: int = 0) -> None:
        self._rules = rules
        self._fixed_s = fixed_s

    def offset(self, utc_s: int) -> int:
        """Return how far the zone's clocks are ahead of UTC at a moment."""
        if self._rules is None:
            return self._fixed_s
        ahead = datetime.fromtimestamp(utc_s, self._rules).utcoffset()
        return 0 if ahead is None else round(ahead.total_seconds())

    def moment(self, local_s: int, near: int) -> int:
        """Return the moment at which the zone's clocks show `local_s`, the seconds since 1970 read off them.

        Where they show it twice, the one with the offset `near` is meant. A time that they skip is read with the offset
        before the change, which makes it as much later as the clocks skip.
        """
        guess = local_s - near
        found = self.offset(guess)
        if found == near:
            return guess
        guess = local_s - found
        again = self.offset(guess)
        return guess if again == found else local_s - min(found, again)


def utc() -> Zone:
    """Return UTC."""
    return Zone(UTC)


ReadZone = Callable[[str], Zone]
"""Reads the time zone of a name; raises `ValueError` or `OSError` where there is none."""
