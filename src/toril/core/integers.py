"""Whole numbers: the largest one that every reader of JSON holds exactly, and how they are read from text."""

from __future__ import annotations

import re

MAX_SAFE_INTEGER = 2**53 - 1

_INTEGER = re.compile(r"-?[0-9]{1,20}\Z")


def whole_number(text: str, least: int = 0, most: int = MAX_SAFE_INTEGER) -> int | None:
    """Return the whole number that a text is, in ASCII digits; None if it is something else, or out of bounds.

    A minus sign may stand before the digits where `least` is below zero.
    """
    if _INTEGER.match(text) is None or (text[0] == "-" and least >= 0):
        return None
    number = int(text)
    return number if least <= number <= most else None
