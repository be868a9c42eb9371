"""Hides what only the caller of a request should know: header values of proxied requests, their answers and envelopes.

Applied to what the API shows to a caller without the right `payloads:read`, never to what is stored or sent. Works on
JSON as it is stored. What is no request and no answer is given back as it is, byte for byte; of one whose headers hide
nothing, too.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence

import msgspec
from msgspec import Raw

HIDDEN = "(hidden)"
"""What stands in place of a value."""

SECRET_HEADERS = frozenset({"authorization", "cookie", "cookie2", "proxy-authorization", "set-cookie", "set-cookie2"})
"""The headers that are hidden in any case, in lower case."""

_FIELDS = (b"data", b"progress", b"returnvalue")
_EVENT_FIELDS = {"data": b"progress"}
_HIDDEN_TEXT = msgspec.json.encode(HIDDEN)
_HIDDEN = Raw(_HIDDEN_TEXT)
_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


_PATH = re.compile(r"headers\.[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z|(?:data|progress|returnvalue)(?:\.[^.\s]+)+\Z")
_DEEPEST = 30
Steps = tuple[str, ...]


class Redaction:
    """What is hidden: the values of secret headers, and what further paths name.

    A path is `headers.x-key`, a header of requests, answers and envelopes, or leads into the data, progress or return
    value of a job: `data.card.number`. `*` stands for any name; in a list, a path goes on into every element.

    Raises:
        ValueError: one of the paths is none; says which.
    """

    def __init__(self, paths: Iterable[str] = ()) -> None:
        headers = set(SECRET_HEADERS)
        self._paths: dict[bytes, list[Steps]] = {}
        for path in paths:
            if not _PATH.match(path):
                raise ValueError(f"{path!r} is no path such as data.card.number or headers.x-key")
            root, *steps = path.split(".")
            if root == "headers":
                headers.add(".".join(steps).lower())
            else:
                self._paths.setdefault(root.encode(), []).append(tuple(steps))
        self.secret_headers = frozenset(headers)

    def text(self, stored: bytes, field: bytes) -> bytes:
        """Return a JSON text that is stored in a field of a job, without what is hidden.

        A request is an object with `target` and `headers`, an answer one with `status` and `headers`. Headers are a
        list of pairs, as toril stores them, or an object, as in an envelope. Other values keep their bytes.
        """
        paths = self._paths.get(field)
        return self._without_headers(stored if paths is None else _without_paths(stored, paths, 0))

    def fields(self, fields: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
        """Return the hash of a job without what is hidden in its data, progress and return value."""
        changed = {
            name: hidden
            for name in _FIELDS
            if (stored := fields.get(name)) is not None and (hidden := self.text(stored, name)) is not stored
        }
        return {**fields, **changed} if changed else fields

    def event(self, data: bytes) -> bytes:
        """Return the fields of an event, a JSON object, without what is hidden in them. `data` is a progress there."""
        if not self._paths and b'"headers"' not in data and b"\\u00" not in data:
            return data
        found = _object(data)
        if found is None:
            return data
        changed = {
            name: Raw(hidden)
            for name, value in found.items()
            if (stored := bytes(value)) != (hidden := self.text(stored, _EVENT_FIELDS.get(name, name.encode())))
        }
        return _encode(found | changed) if changed else data

    def headers(self, headers: Iterable[tuple[str, str]], more: Iterable[str] = ()) -> tuple[tuple[str, str], ...]:
        """Return headers with hidden values in place of secret ones; `more` names further ones, in any case."""
        secret = self.secret_headers.union(name.lower() for name in more)
        return tuple((name, HIDDEN if name.lower() in secret else value) for name, value in headers)

    def _without_headers(self, stored: bytes) -> bytes:
        # Most jobs end here. A name may also be spelled with escapes.
        if b'"headers"' not in stored and b"\\u00" not in stored:
            return stored
        found = _object(stored)
        if found is None or "headers" not in found or not ("target" in found or "status" in found):
            return stored
        headers = _without_secrets(found["headers"], self.secret_headers)
        return stored if headers is None else _encode(found | {"headers": headers})


USUAL = Redaction()
"""Hides what is hidden without further settings."""


def _without_paths(stored: bytes, paths: Sequence[Steps], depth: int) -> bytes:
    """Return a JSON text without what stands at the ends of these paths; itself where nothing does."""
    if depth > _DEEPEST:
        return _HIDDEN_TEXT
    if stored.lstrip()[:1] == b"[":
        try:
            elements = _decode_list(stored)
        except _NOT_JSON:
            return stored
        texts = [bytes(element) for element in elements]
        shown = [_without_paths(text, paths, depth + 1) for text in texts]
        return stored if shown == texts else b"[%b]" % b",".join(shown)
    found = _object(stored)
    if found is None:
        return stored
    changed: dict[str, Raw] = {}
    for name, value in found.items():
        below = [steps[1:] for steps in paths if steps[0] in ("*", name)]
        if not below:
            continue
        text = bytes(value)
        hidden = _HIDDEN_TEXT if () in below else _without_paths(text, below, depth + 1)
        if hidden != text:
            changed[name] = Raw(hidden)
    return _encode(found | changed) if changed else stored


def _object(text: bytes) -> dict[str, Raw] | None:
    try:
        return _decode_object(text)
    except _NOT_JSON:
        return None


def _without_secrets(headers: Raw, names: Container[str]) -> object | None:
    """Return headers without secrets, or None if they have none (or are no headers)."""
    by_name = _object(bytes(headers))
    if by_name is not None:
        secret = [name for name in by_name if _is_secret(name, names)]
        return by_name | dict.fromkeys(secret, _HIDDEN) if secret else None
    try:
        pairs = _decode_list(headers)
    except _NOT_JSON:
        return None
    shown = [_pair(pair, names) for pair in pairs]
    if all(pair is None for pair in shown):
        return None
    return [pair if hidden is None else hidden for pair, hidden in zip(pairs, shown, strict=True)]


def _pair(pair: Raw, names: Container[str]) -> list[Raw] | None:
    """Return a header of a list with its value hidden; None if that is no secret."""
    try:
        name, *values = _decode_list(pair)
        return [name, *[_HIDDEN for _ in values]] if _is_secret(_decode_text(name), names) else None
    except (ValueError, RecursionError):
        return None


def _is_secret(name: str, names: Container[str]) -> bool:
    return name.strip().lower() in names
