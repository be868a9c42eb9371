"""Which requests of the async proxy are equal, and which answers may be reused (wire/proxq.md, "cache")."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from toril.core.http.headers import Header
from toril.core.outcome import Answered
from toril.proxy.rules.envelope import RecordedResponse

STATUS_HEADER = b"x-cache-status"
HIT: Header = (b"X-Cache-Status", b"HIT")
MISS: Header = (b"X-Cache-Status", b"MISS")

MAX_BODY_BYTES = 10 * 1024 * 1024
"""An answer with a larger body is not reused: it would displace too many others."""


def cache_key(method: bytes, url: bytes, headers: Iterable[Header], body: bytes, excludes: frozenset[bytes]) -> str:
    """Return a key that is the same for equal requests, and (by SHA-256) different for others.

    All headers count except the excluded ones (lower case). The order of different names does not matter; the order of
    the values of one name does.
    """
    kept = [(lower, value) for name, value in headers if (lower := name.lower()) not in excludes]
    kept.sort(key=lambda pair: pair[0])  # stable: the values of a name stay in order
    digest = hashlib.sha256()
    for part in (method, url, *(part for pair in kept for part in pair), b"", body):
        # Each part comes with its length, so that different parts never give the same bytes.
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()


def is_cacheable(answer: Answered) -> bool:
    """Return True if an answer may be reused."""
    return 200 <= answer.status < 300 and len(answer.body) <= MAX_BODY_BYTES


def as_hit(answer: Answered) -> Answered:
    """Return an answer from the cache, marked as such."""
    return _marked(answer, HIT)


def as_miss(answer: Answered) -> Answered:
    """Return an answer from the upstream, marked as such."""
    return _marked(answer, MISS)


def _marked(answer: Answered, mark: Header) -> Answered:
    return replace(answer, headers=[*unmarked(answer.headers), mark])


def unmarked(headers: Sequence[Header]) -> list[Header]:
    """Return headers without the mark: one of the upstream would be mistaken for ours."""
    return [pair for pair in headers if pair[0].lower() != STATUS_HEADER]


def to_record(answer: Answered) -> RecordedResponse:
    """Return what the cache keeps of an answer."""
    return RecordedResponse(
        status=answer.status, reason=answer.reason, headers=unmarked(answer.headers), body=answer.body
    )


def from_record(record: RecordedResponse, duration_s: float) -> Answered:
    """Return the answer that the cache has kept.

    Raises:
        ValueError: it is no answer that may be reused.
    """
    if not 200 <= record.status < 300 or record.blob is not None:
        raise ValueError("what is kept is no answer that may be given again")
    return Answered(record.status, record.reason, list(record.headers), record.body, duration_s)
