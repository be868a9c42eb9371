"""Answers by which an endpoint takes over a job: `202` with `toril-settle: later`, and `toril-lease-ms`."""

from __future__ import annotations

import re

from toril.core.lease import MAX_LOCK_MS, MIN_LOCK_MS
from toril.core.outcome import Answered
from toril.core.verdict import HandOver

DEFAULT_LEASE_MS = 30_000
_DIGITS = re.compile(rb"[0-9]{1,16}\Z")


def read_handover(answer: Answered) -> HandOver | None:
    """Return the verdict on an answer that says that the job is settled later; None for any other answer.

    An invalid length is ignored, and the job is handed over all the same: the endpoint works on it.
    """
    said = answer.header(b"toril-settle") if answer.status == 202 else None
    if said is None or said.strip().lower() != b"later":
        return None
    wanted = answer.header(b"toril-lease-ms")
    if wanted is None:
        return HandOver(DEFAULT_LEASE_MS)
    lock_ms = int(wanted) if _DIGITS.match(wanted.strip()) else 0
    if not MIN_LOCK_MS <= lock_ms <= MAX_LOCK_MS:
        shown = wanted[:40].decode("latin-1")
        return HandOver(
            DEFAULT_LEASE_MS,
            f"toril-lease-ms was ignored, {shown!r} is no number of milliseconds from {MIN_LOCK_MS} to {MAX_LOCK_MS}",
        )
    return HandOver(lock_ms)
