"""When an answer asks to be tried again: `toril-retry-in`, and `Retry-After` (RFC 9110 section 10.2.3)."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

from msgspec import Struct

from toril.core.integers import MAX_SAFE_INTEGER
from toril.core.outcome import Answered

_DIGITS = re.compile(rb"[0-9]{1,16}\Z")


HOLDING = frozenset({429, 503})
"""The statuses whose `Retry-After` is about the whole receiver, and not about one request."""


class RetryHint(Struct, frozen=True):
    """A wait: `instead_ms` replaces the job's backoff, `least_ms` is its minimum. `notes` say what was ignored."""

    instead_ms: int | None = None
    least_ms: int = 0
    notes: tuple[str, ...] = ()


NO_HINT = RetryHint()


def read_hint(answer: Answered, now_s: float, most_ms: int | None) -> RetryHint:
    """Return the hint of an answer that is no 2xx.

    Args:
        answer: what came.
        now_s: the wall clock.
        most_ms: how much of `Retry-After` to honour; None leaves that header alone.
    """
    notes = []
    retry_in = answer.header(b"toril-retry-in")
    if retry_in is not None:
        instead_ms = _whole(retry_in)
        if instead_ms is not None:
            return RetryHint(instead_ms=instead_ms)
        notes.append(f"toril-retry-in was ignored, {_shown(retry_in)} is no number of milliseconds")
    least_ms = 0
    retry_after = answer.header(b"retry-after") if most_ms is not None else None
    if retry_after is not None and most_ms is not None:
        wanted_ms = retry_after_ms(retry_after, now_s)
        if wanted_ms is None:
            notes.append(f"retry-after was ignored, {_shown(retry_after)} is neither seconds nor a date")
        else:
            least_ms = min(wanted_ms, most_ms)
    return RetryHint(None, least_ms, tuple(notes))


def _whole(value: bytes) -> int | None:
    number = int(value) if _DIGITS.match(value.strip()) else None
    return number if number is not None and number <= MAX_SAFE_INTEGER else None


def retry_after_ms(value: bytes, now_s: float) -> int | None:
    """Return the milliseconds that a `Retry-After` asks to wait; None if it is neither seconds nor a date."""
    text = value.strip()
    if text.isdigit():
        return int(text[:16]) * 1000  # more digits than that are capped all the same
    try:
        at = parsedate_to_datetime(text.decode("ascii"))
        at_s = (
            at if at.tzinfo else at.replace(tzinfo=UTC)
        ).timestamp()  # HTTP's dates are GMT, also where they omit it
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return max(0, round((at_s - now_s) * 1000))


def _shown(value: bytes) -> str:
    return repr(value[:40].decode("latin-1"))
