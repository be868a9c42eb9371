"""Which requests of the async proxy are equal, and which answers may be given again (wire/proxq.md, "cache")."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from toril.core.envelope import RecordedResponse
from toril.core.headers import Header
from toril.core.outcome import Answered

STATUS_HEADER = b"x-cache-status"
HIT: Header = (b"X-Cache-Status", b"HIT")
MISS: Header = (b"X-Cache-Status", b"MISS")

MAX_BODY_BYTES = 10 * 1024 * 1024
"""An answer with a larger body is not given again: it would push too many others out."""


def cache_key(method: bytes, url: bytes, headers: Iterable[Header], body: bytes, excludes: frozenset[bytes]) -> str:
    """The same for equal requests, and (as sure as SHA-256 is) different for others.

    Headers count but for the excluded ones (lower case). The order of different names does not matter, that of the
    values of one name does.
    """
    kept = [(lower, value) for name, value in headers if (lower := name.lower()) not in excludes]
    kept.sort(key=lambda pair: pair[0])  # stable, so the values of a name stay in order
    digest = hashlib.sha256()
    for part in (method, url, *(part for pair in kept for part in pair), b"", body):
        # With its length before it, no part can pass for another one and a half.
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()


def is_cacheable(answer: Answered) -> bool:
    """Whether an answer may be given again."""
    return 200 <= answer.status < 300 and len(answer.body) <= MAX_BODY_BYTES


def as_hit(answer: Answered) -> Answered:
    """An answer that is given again."""
    return _marked(answer, HIT)


def as_miss(answer: Answered) -> Answered:
    """An answer that came from the upstream, with a cache on."""
    return _marked(answer, MISS)


def _marked(answer: Answered, mark: Header) -> Answered:
    return replace(answer, headers=[*unmarked(answer.headers), mark])


def unmarked(headers: Sequence[Header]) -> list[Header]:
    """Headers without what a cache says: an upstream's own word on it would be mistaken for ours."""
    return [pair for pair in headers if pair[0].lower() != STATUS_HEADER]


def to_record(answer: Answered) -> RecordedResponse:
    """What is kept of an answer."""
    return RecordedResponse(
        status=answer.status, reason=answer.reason, headers=unmarked(answer.headers), body=answer.body
    )


def from_record(record: RecordedResponse, duration_s: float) -> Answered:
    """Return the answer that was kept.

    Raises:
        ValueError: it is not one that is kept.
    """
    if not 200 <= record.status < 300 or record.blob is not None:
        raise ValueError("what is kept is no answer that may be given again")
    return Answered(record.status, record.reason, list(record.headers), record.body, duration_s)
