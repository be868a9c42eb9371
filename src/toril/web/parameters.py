"""Reads parameters of requests from text: whole numbers, seconds and cursors."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from toril.core.errors import InvalidRequest
from toril.core.integers import whole_number

_SHOWN = 100
"""How many characters of a wrong value an error repeats."""


def integer(text: str, field: str, least: int, most: int, fault: str | None = None) -> int:
    """Return a parameter that is a whole number within bounds.

    Raises:
        InvalidRequest: it is not; `fault` is the message where another one than the usual one is promised.
    """
    number = whole_number(text, least, most)
    if number is None:
        message = f"Invalid {field} {text[:_SHOWN]}, must be from {least} to {most}"
        raise InvalidRequest(fault or message, field=field)
    return number


def integer_in(query: Mapping[str, str], field: str, default: int, most: int, *, least: int = 1) -> int:
    """Return a query parameter that is a whole number; the default if it is empty. Raises as `integer`."""
    return integer(query.get(field) or str(default), field, least, most)


def seconds(text: str, field: str, most_s: float, fault: str) -> float:
    """Return a parameter that is a number of seconds from 0 to `most_s`, as JSON or a shell writes it.

    Raises:
        InvalidRequest: it is not.
    """
    try:
        found_s = float(text)
    except ValueError:
        found_s = -1.0
    if not 0 <= found_s <= most_s:
        raise InvalidRequest(fault, field=field)
    return found_s


def cursor_of(name: str) -> str:
    """Return the cursor for the part of a list after this name."""
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> str:
    """Return the name in a cursor.

    Raises:
        ValueError: it is none that `cursor_of` has made.
    """
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError) as exc:
        raise ValueError(cursor) from exc
