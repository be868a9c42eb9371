"""Moments as RFC 3339 has them: what goes out. Every finite number can be shown, whatever a store holds."""

from __future__ import annotations

from datetime import UTC, datetime

_FIRST = datetime(1, 1, 1, tzinfo=UTC)
_LAST = datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)


def shown(at_s: float, timespec: str = "milliseconds") -> str:
    """Seconds since the epoch as text, in UTC. What is beyond the calendar (years 1 to 9999) is shown as its end."""
    try:
        at = min(max(datetime.fromtimestamp(at_s, UTC), _FIRST), _LAST)
    except (ValueError, OverflowError, OSError):
        at = _LAST if at_s > 0 else _FIRST
    return at.isoformat(timespec=timespec).replace("+00:00", "Z")
