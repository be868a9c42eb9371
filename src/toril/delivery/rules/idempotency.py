"""Fingerprints of envelopes, which tell whether two are the same: compared decoded, with defaults filled in.

Header case, the order of keys and white space make no difference; everything else does.
"""

from __future__ import annotations

import hashlib

import msgspec

from toril.delivery.rules.enqueue import EnqueueRequest

_canonical = msgspec.json.Encoder(order="sorted").encode
_sorted = msgspec.msgpack.Encoder(order="sorted").encode


def fingerprint(submission: EnqueueRequest) -> bytes:
    """Return 32 bytes that are the same for equal envelopes only. The idempotency key is not part of them."""
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
    if submission.group is not None:
        # Fingerprints of envelopes without a group stay what they were before there were groups.
        return hashlib.sha256(_sorted((*parts, (submission.group.name, submission.group.order)))).digest()
    return hashlib.sha256(_sorted(parts)).digest()


def _canonical_json(text: bytes) -> tuple[str, bytes]:
    try:
        return "json", _canonical(msgspec.json.decode(text))
    except (msgspec.DecodeError, RecursionError):
        # Lone surrogates, numbers that no double holds, a thousand brackets: it is JSON, but compared as text.
        return "text", text
