"""Values as JavaScript treats them, where BullMQ Proxy's behaviour is that of its language.

Owns which values count as false, and how a number becomes text, as ECMAScript defines both.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

_LONGEST_INTEGER = 21
_MOST_ZEROS = -6


def is_falsy(value: Any) -> bool:
    """Return True for a value of parsed JSON that counts as false: `null`, `false`, `0`, `""`."""
    return value is None or (isinstance(value, (bool, int, float, str)) and not value)


def number_text(number: float) -> str | None:
    """Return a number as `String(number)` writes it (ECMAScript, Number::toString); None if no float can hold it.

    An integer beyond 2^53 is rounded, as in JavaScript.
    """
    try:
        value = float(number)
    except OverflowError:
        return None
    if value in (float("inf"), float("-inf")):
        return None
    if value == 0:
        return "0"
    parts = Decimal(repr(value)).normalize().as_tuple()
    digits = "".join(map(str, parts.digits))
    return ("-" if parts.sign else "") + _placed(digits, len(digits) + int(parts.exponent))


def _placed(digits: str, point: int) -> str:
    """Return significant digits with their decimal point, or an exponent where there would be too many zeros."""
    if len(digits) <= point <= _LONGEST_INTEGER:
        return digits + "0" * (point - len(digits))
    if 0 < point <= _LONGEST_INTEGER:
        return f"{digits[:point]}.{digits[point:]}"
    if _MOST_ZEROS < point <= 0:
        return f"0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{fraction}e{point - 1:+d}"
