"""JSON texts and the values in them, as BullMQ and BullMQ Proxy read them: with JavaScript's numbers."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from msgspec import Raw

from toril.core.errors import InvalidRequest
from toril.core.integers import MAX_SAFE_INTEGER

BEYOND = math.inf
"""The value of a number that no float can hold, such as `1e400`: infinite, as in JavaScript, and always refused."""


def json_unless_given(text: bytes) -> Any:
    """Return the default of a struct's `Raw` field, made for each one: msgspec cannot describe `Raw` in a schema."""
    return msgspec.field(default_factory=lambda: Raw(text))


def require_utf8(body: bytes) -> None:
    """Raise `InvalidRequest` for a body that is not UTF-8, as JSON must be (RFC 8259 section 8.1)."""
    try:
        body.decode()
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"Malformed JSON: not UTF-8 at byte {exc.start}") from exc


def decode_json(body: bytes, kind: Any = Any) -> Any:
    """Parse a JSON text; with `Raw` only check it.

    Raises:
        InvalidRequest: says where the text is malformed.
    """
    require_utf8(body)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as exc:
        raise InvalidRequest(f"Malformed JSON: {str(exc).removeprefix('JSON is malformed: ')}") from exc
    except RecursionError as exc:
        raise InvalidRequest("Malformed JSON: nested too deeply") from exc


def js(value: Any) -> str:
    """Return a value as error texts show it: strings as they are, everything else as JSON."""
    if value is BEYOND:
        return "Infinity"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def whole(value: Any, least: int, most: int = MAX_SAFE_INTEGER) -> int | None:
    """Return the value as a whole number within bounds (`5.0` is one, as in JavaScript); None if it is not one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) if least <= value <= most else None


def is_number(value: Any) -> bool:
    """Return True for a number within JavaScript's safe range."""
    is_numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_numeric and -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER


def whole_if_whole(number: float) -> float | int:
    """Return a number as JavaScript writes it: `5`, not `5.0`."""
    return int(number) if number.is_integer() else number
