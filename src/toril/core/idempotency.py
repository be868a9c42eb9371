"""Whether two envelopes are the same: compared decoded, with defaults filled in.

Header case, the order of keys and white space make no difference; everything else does.
"""

from __future__ import annotations

import hashlib

import msgspec

from toril.core.enqueue import Submission

_canonical = msgspec.json.Encoder(order="sorted").encode
_sorted = msgspec.msgpack.Encoder(order="sorted").encode


def fingerprint(submission: Submission) -> bytes:
    """32 bytes that are the same for the same envelope, and for no other. The idempotency key itself is not part of
    it.
    """
    headers: dict[str, list[str]] = {}
    for name, value in submission.headers:
        headers.setdefault(name.lower(), []).append(value)
    kind, content = "none", b""
    if submission.json_body is not None:
        kind, content = _canonical_json(submission.json_body)
    elif submission.body is not None:
        kind, content = "bytes", submission.body
    parts = (
        submission.target,
        submission.method,
        submission.path,
        headers,
        kind,
        content,
        submission.delay_s or None,
        submission.not_before_s,
        submission.deadline_s,
        submission.priority,
        dict(submission.labels),
    )
    return hashlib.sha256(_sorted(parts)).digest()


def _canonical_json(text: bytes) -> tuple[str, bytes]:
    try:
        return "json", _canonical(msgspec.json.decode(text))
    except (msgspec.DecodeError, RecursionError):
        # Half characters, numbers that no double holds, a thousand brackets: JSON all the same, and compared as it
        # stands.
        return "text", text
