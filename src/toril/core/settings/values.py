"""How values of settings are read: texts, whole numbers, durations, words. Each parser raises ValueError.

The environment has texts alone, so every parser takes one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from toril.core.integers import MAX_SAFE_INTEGER, whole_number
from toril.core.settings.setting import DEFAULT, Parse
from toril.core.times import duration_text, parse_duration_s


class WrittenInteger(int):
    """A whole number of a YAML file; `written` is the text that stands for it there, such as `0123`."""

    written: str

    def __new__(cls, value: int, written: str) -> WrittenInteger:
        """Make one."""
        number = super().__new__(cls, value)
        number.written = written
        return number


def unless_empty(parse: Parse) -> Parse:
    """Return a parser for which an empty key or text means the default."""

    def parse_unless_empty(value: Any) -> Any:
        return DEFAULT if value is None or value == "" else parse(value)

    return parse_unless_empty


def text(value: Any) -> str:
    """Return a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a text")
    return value


def as_written(value: Any) -> Any:
    """Return a whole number of a YAML file as the text that it is written as, and everything else as it is.

    For keys whose values may look like numbers, such as passwords. Go's YAML reads any scalar as a text in this way;
    here true and 1.0 stay faults: they hardly stand for a text.
    """
    return value.written if isinstance(value, WrittenInteger) else value


def written_text(value: Any) -> str:
    """Return a text that is not empty, or a whole number as it is written."""
    return text(as_written(value))


def secret_text(value: Any) -> str:
    """Return a text, or a whole number as it is written, that is never repeated in an error."""
    secret = as_written(value)
    if not isinstance(secret, str):
        raise ValueError("it must be a text")  # noqa: TRY004 - one kind of fault for the reader of the file
    return secret


def texts(value: Any) -> list[str]:
    """Return the texts of a list, or of one text with commas between them. They are never repeated in an error."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise ValueError("it must be a list of texts")  # noqa: TRY004 - as above
    found = [as_written(part) for part in parts]
    if not all(isinstance(part, str) for part in found):
        raise ValueError("it must be a list of texts")
    return found


def integer(least: int, most: int = MAX_SAFE_INTEGER) -> Callable[[Any], int]:
    """Return a parser of whole numbers within bounds, also as text."""

    def parse(value: Any) -> int:
        if isinstance(value, str):
            number = whole_number(value.strip(), least, most)
        elif isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            number = int(value)
        else:
            number = None
        if number is None:
            bounds = f"from {least} to {most}" if most < MAX_SAFE_INTEGER else f"of at least {least}"
            raise ValueError(f"{value!r} is not a whole number {bounds}")
        return number

    return parse


def duration(least_s: float = 0.001, most_s: float = math.inf) -> Callable[[Any], float]:
    """Return a parser of durations in Go's syntax, with days (`30d`) in front, as seconds within bounds."""

    def parse(value: Any) -> float:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not a duration such as 30s, 1h30m or 30d")  # noqa: TRY004 - as above
        seconds = parse_duration_s(value, days=True)
        if seconds < least_s and most_s == math.inf:
            raise ValueError(f"{value!r} is shorter than {_shown(least_s)}")
        if not least_s <= seconds <= most_s:
            raise ValueError(f"{value!r} is not between {_shown(least_s)} and {_shown(most_s)}")
        return seconds

    return parse


def _shown(seconds: float) -> str:
    days, rest = divmod(seconds, 86400.0)
    return f"{days:g}d" if days > 1 and not rest else duration_text(seconds)


def boolean(value: Any) -> bool:
    """Return true or false, also of a text; an empty one is false."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in {"true", "false", "1", "0", ""}:
        return value.lower() in {"true", "1"}
    raise ValueError(f"{value!r} is neither true nor false")


def choice(*allowed: str) -> Callable[[Any], Any]:
    """Return a parser of one of a few words."""

    def parse(value: Any) -> Any:
        if value not in allowed:
            raise ValueError(f"{value!r} is none of {', '.join(allowed)}")
        return value

    return parse
