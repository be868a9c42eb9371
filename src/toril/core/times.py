"""Durations and moments as text. Inside, both are seconds.

Durations are in Go's syntax (`1h30m`, `500ms`, `2m3.5s`); moments are shown as RFC 3339 has them, in UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_DAYS = re.compile(r"([0-9]{1,6})d")
_LONGEST_S = float(2**63 // 10**9)
SIGNED_DURATION_PATTERN = rf"\A(?:[+-]?(?:0|(?:{_PART.pattern})+))?\Z"
"""What `parse_duration_s` takes, with or without a sign, or nothing, as a regular expression."""


_FIRST = datetime(1, 1, 1, tzinfo=UTC)
_LAST = datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)


def parse_duration_s(text: str, *, days: bool = False) -> float:
    """Return the seconds of a duration; a plain `0` needs no unit. With `days`, one may begin with them: `30d12h`.

    Raises:
        ValueError: naming the text; also where it is longer than Go can hold (292 years).
    """
    if text == "0":
        return 0.0
    whole_days = _DAYS.match(text) if days else None
    total, position = (int(whole_days[1]) * 86400.0, whole_days.end()) if whole_days is not None else (0.0, 0)
    while position < len(text):
        part = _PART.match(text, position)
        if part is None:
            break
        total += float(part[1]) * _UNITS[part[2]]
        position = part.end()
    if not text or position != len(text):
        raise ValueError(f"{text!r} is not a duration such as 30s, 1h30m or {'30d' if days else '500ms'}")
    if total > _LONGEST_S:
        raise ValueError(f"{text!r} is longer than 292 years")
    return total


def duration_text(seconds: float) -> str:
    """Return seconds in the same syntax: `1h30m`, `500ms`, `0s`; rounded to a microsecond."""
    left = round(seconds * 1_000_000)
    if 0 < left < 1_000_000:
        return f"{left / 1000:g}ms"
    whole, rest = divmod(left, 1_000_000)
    parts = ((whole // 3600, "h"), (whole % 3600 // 60, "m"))
    text = "".join(f"{number}{unit}" for number, unit in parts if number)
    under = whole % 60 + rest / 1_000_000
    return text + (f"{under:.6f}".rstrip("0").rstrip(".") + "s" if under or not text else "")


def moment_text(at_s: float, timespec: str = "milliseconds") -> str:
    """Return seconds since the epoch as text. What is beyond the calendar (years 1 to 9999) is shown as its end."""
    try:
        at = min(max(datetime.fromtimestamp(at_s, UTC), _FIRST), _LAST)
    except (ValueError, OverflowError, OSError):
        at = _LAST if at_s > 0 else _FIRST
    return at.isoformat(timespec=timespec).replace("+00:00", "Z")
