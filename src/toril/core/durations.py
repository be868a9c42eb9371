"""Durations as people write them: Go's syntax (`1h30m`, `500ms`, `2m3.5s`), seconds inside."""

from __future__ import annotations

import re

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")
SIGNED_DURATION_PATTERN = rf"\A(?:[+-]?(?:0|(?:{_PART.pattern})+))?\Z"
"""What `parse_duration_s` takes, with or without a sign, or nothing, as a regular expression."""


def parse_duration_s(text: str) -> float:
    """Seconds of a duration; a plain `0` needs no unit.

    Raises:
        ValueError: naming the text.
    """
    if text == "0":
        return 0.0
    total, position = 0.0, 0
    while position < len(text):
        part = _PART.match(text, position)
        if part is None:
            break
        total += float(part[1]) * _UNITS[part[2]]
        position = part.end()
    if not text or position != len(text):
        raise ValueError(f"{text!r} is not a duration such as 30s, 1h30m or 500ms")
    return total


def duration_text(seconds: float) -> str:
    """Seconds in the same syntax: `1h30m`, `500ms`, `0s`; no finer than a microsecond."""
    left = round(seconds * 1_000_000)
    if 0 < left < 1_000_000:
        return f"{left / 1000:g}ms"
    whole, rest = divmod(left, 1_000_000)
    parts = ((whole // 3600, "h"), (whole % 3600 // 60, "m"))
    text = "".join(f"{number}{unit}" for number, unit in parts if number)
    under = whole % 60 + rest / 1_000_000
    return text + (f"{under:.6f}".rstrip("0").rstrip(".") + "s" if under or not text else "")
