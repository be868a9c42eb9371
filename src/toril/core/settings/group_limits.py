"""Reads the limits of groups from the configuration file."""

from __future__ import annotations

from toril.core.group_limits import GroupDefault, GroupRate
from toril.core.settings.section import Section
from toril.core.settings.values import duration, integer

MOST_AT_ONCE = 10_000
"""The most that a group's `concurrency` may be."""
_MOST_STARTS = 1_000_000
_LONGEST_S = 24 * 3600.0


def group_rate(parent: Section, key: str) -> GroupRate | None:
    """Return the `{max, duration}` at a key; None if it is not given, or wrong, which is noted."""
    section = parent.section(key, ("max", "duration"))
    if section is None:
        return None
    most = section.need("max", integer(1, _MOST_STARTS))
    length_s = section.need("duration", duration(0.001, _LONGEST_S))
    return None if most is None or length_s is None else GroupRate(most, max(1, round(length_s * 1000)))


def group_default(parent: Section, key: str) -> GroupDefault | None:
    """Return the `{concurrency, limit}` at a key; None if neither is given."""
    section = parent.section(key, ("concurrency", "limit"))
    if section is None:
        return None
    at_once = section.read("concurrency", integer(1, MOST_AT_ONCE), None)
    limit = group_rate(section, "limit")
    return None if at_once is None and limit is None else GroupDefault(at_once, limit)
