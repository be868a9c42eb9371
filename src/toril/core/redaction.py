"""Hides what only the caller of a request should know: header values of proxied requests, their answers and envelopes.

Applied to what the API shows to a caller without the right `payloads:read`, never to what is stored or sent. Works on
JSON as it is stored. What is no request and no answer is given back as it is, byte for byte; of one whose headers hide
nothing, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Raw

HIDDEN = "(hidden)"
"""What stands in place of a value."""

SECRET_HEADERS = frozenset({"authorization", "cookie", "cookie2", "proxy-authorization", "set-cookie", "set-cookie2"})
"""The headers that are hidden, in lower case."""

_FIELDS = (b"data", b"progress", b"returnvalue")
_HIDDEN = Raw(msgspec.json.encode(HIDDEN))
_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def without_secrets(stored: bytes) -> bytes:
    """Return a JSON text, without secrets where it is a request or an answer.

    A request is an object with `target` and `headers`, an answer one with `status` and `headers`. Headers are a list of
    pairs, as toril stores them, or an object, as in an envelope. Other values keep their bytes.
    """
    # Most jobs end here. A name may also be spelled with escapes.
    if b'"headers"' not in stored and b"\\u00" not in stored:
        return stored
    found = _object(stored)
    if found is None or "headers" not in found or not ("target" in found or "status" in found):
        return stored
    headers = _without_secrets(found["headers"])
    return stored if headers is None else _encode(found | {"headers": headers})


def fields_without_secrets(fields: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """Return the hash of a job without secrets in its data, progress and return value."""
    changed = {
        name: hidden
        for name in _FIELDS
        if (stored := fields.get(name)) is not None and (hidden := without_secrets(stored)) is not stored
    }
    return {**fields, **changed} if changed else fields


def event_without_secrets(data: bytes) -> bytes:
    """Return the fields of an event, a JSON object, without secrets in what they hold."""
    if b'"headers"' not in data and b"\\u00" not in data:
        return data
    found = _object(data)
    if found is None:
        return data
    changed = {
        name: Raw(hidden)
        for name, value in found.items()
        if (stored := bytes(value)) != (hidden := without_secrets(stored))
    }
    return _encode(found | changed) if changed else data


def headers_without_secrets(
    headers: Iterable[tuple[str, str]], more: Iterable[str] = ()
) -> tuple[tuple[str, str], ...]:
    """Return headers with hidden values in place of secret ones; `more` names further ones, in any case."""
    secret = SECRET_HEADERS.union(name.lower() for name in more)
    return tuple((name, HIDDEN if name.lower() in secret else value) for name, value in headers)


def _object(text: bytes) -> dict[str, Raw] | None:
    try:
        return _decode_object(text)
    except _NOT_JSON:
        return None


def _without_secrets(headers: Raw) -> object | None:
    """Return headers without secrets, or None where they have none (or are no headers)."""
    by_name = _object(bytes(headers))
    if by_name is not None:
        secret = [name for name in by_name if _is_secret(name)]
        return by_name | dict.fromkeys(secret, _HIDDEN) if secret else None
    try:
        pairs = _decode_list(headers)
    except _NOT_JSON:
        return None
    shown = [_pair(pair) for pair in pairs]
    if all(pair is None for pair in shown):
        return None
    return [pair if hidden is None else hidden for pair, hidden in zip(pairs, shown, strict=True)]


def _pair(pair: Raw) -> list[Raw] | None:
    """Return a header of a list with its value hidden; None where that is no secret."""
    try:
        name, *values = _decode_list(pair)
        return [name, *[_HIDDEN for _ in values]] if _is_secret(_decode_text(name)) else None
    except (ValueError, RecursionError):
        return None


def _is_secret(name: str) -> bool:
    return name.strip().lower() in SECRET_HEADERS
