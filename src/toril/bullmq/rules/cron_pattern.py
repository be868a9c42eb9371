"""Cron patterns as BullMQ 6 reads them: five fields, or six with seconds first; names, `L`, `#`, `H`, `@daily` etc.

What is accepted, refused and meant is what the npm package cron-parser 5 does, on which BullMQ 6 on Node relies: a
scheduler must mean the same to every program that works on its jobs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date

from msgspec import Struct

from toril.core.integers import whole_number

MAX_LENGTH = 1024
_MOST_VALUES = 256

_ALIASES = {
    "@yearly": "0 0 0 1 1 *", "@annually": "0 0 0 1 1 *", "@monthly": "0 0 0 1 * *", "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *", "@hourly": "0 0 * * * *", "@minutely": "0 * * * * *", "@secondly": "* * * * * *",
    "@weekdays": "0 0 0 * * 1-5", "@weekends": "0 0 0 * * 0,6",
}  # fmt: skip
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# Either field may use either's names: JAN is 1 as a day of the week, too.
_NAMES = {name: str(number) for number, name in enumerate(_WEEKDAYS)} | {
    name: str(number) for number, name in enumerate(_MONTHS, 1)
}
_DAYS_IN_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
# Feb 29 on a given weekday comes back after 40 years at the latest; every other day much earlier.
_LONGEST_GAP_YEARS = 41

_JS_SPACE = re.compile("[\t\n\v\f\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]+")
_THREE_LETTERS = re.compile(r"[A-Za-z]{3}")
_WILDCARD = re.compile(r"[*?]")
_HASHED = re.compile(r"H(?:\(([0-9]+)-([0-9]+)\))?(?:/([0-9]+))?")
_RANGED_HASH = re.compile(r"H\([0-9]+-[0-9]+\)|H/[0-9]+")
_LEADING_DIGITS = re.compile(r"[0-9]+")
_LAST = re.compile(r"[0-9]{0,2}L\Z")
_OCCURRENCE = re.compile(r"\+?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE]\+?[0-9]+)?\Z")


class PatternFault(ValueError):
    """A pattern that cannot be read, and why."""


class _Field(Struct, frozen=True):
    """What one field may hold. `extra` are characters that it allows beyond digits and `? , * H / -`."""

    name: str
    low: int
    high: int
    extra: str = ""


_SECOND = _Field("second", 0, 59)
_MINUTE = _Field("minute", 0, 59)
_HOUR = _Field("hour", 0, 23)
_DAY = _Field("day of month", 1, 31, "L")
_MONTH = _Field("month", 1, 12)
_WEEKDAY = _Field("day of week", 0, 7, "L#")
_FIELDS = (_SECOND, _MINUTE, _HOUR, _MONTH, _DAY, _WEEKDAY)


class CronPattern(Struct, frozen=True):
    """What a pattern allows; every tuple of numbers in ascending order.

    `any_day` and `any_weekday` say that the field is `*` or `?`. Where neither is, a day fits that either field allows.
    `last_day` allows the last day of a month, `last_weekdays` the last such weekday of one. `occurrence` is the number
    behind `#`: 2 allows only the second such weekday of a month, 0 every one.
    """

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool
    any_weekday: bool
    last_day: bool
    last_weekdays: frozenset[int]
    occurrence: float

    def first_day(self, ordinal: int) -> int | None:
        """Return the first day that fits, from a day on (both proleptic Gregorian ordinals); None if there is none."""
        begin = date.fromordinal(ordinal)
        year, month, day = begin.year, begin.month, begin.day
        for _ in range(12 * _LONGEST_GAP_YEARS):
            length = days_in(year, month)
            if month in self.months:
                before = ordinal - day
                for candidate in range(day, length + 1):
                    if self._fits(candidate, (before + candidate) % 7, length):
                        return before + candidate
            ordinal += length - day + 1
            year, month, day = (year, month + 1, 1) if month < 12 else (year + 1, 1, 1)
        return None

    def _fits(self, day: int, weekday: int, length: int) -> bool:
        by_day = day in self.days or (self.last_day and day == length)
        if self.any_weekday:
            return by_day
        by_weekday = (weekday in self.weekdays and (not self.occurrence or -(-day // 7) == self.occurrence)) or (
            weekday in self.last_weekdays and day > length - 7
        )
        return by_weekday or (by_day and not self.any_day)


def read_pattern(text: str, seed: str) -> CronPattern:
    """Read a pattern. `seed` decides which value each `H` stands for.

    Raises:
        PatternFault: it cannot be read, or asks for a day that no month has.
    """
    texts = _split(_ALIASES.get(text, text))
    values: list[list[int | str]] = []
    occurrence = 0.0
    # In the order in which the chances of H are drawn: one for each field, whether it has an H or not.
    drawn = _chances(seed)
    for field, raw in zip(_FIELDS, texts, strict=True):
        given = raw
        if field is _WEEKDAY:
            given, occurrence = _split_occurrence(raw)
        values.append(_read_field(field, given, next(drawn)))
    if len(values[3]) == 1:
        values[4] = _without_absent_days(values[4], values[3][0])
    for field, found in zip(_FIELDS, values, strict=True):
        if len(set(found)) < len(found):
            raise PatternFault(f"{field.name}: a value comes twice")
    seconds, minutes, hours, months, days, weekdays = values
    day_text, weekday_text = texts[4:]
    pattern = CronPattern(
        seconds=_numbers(seconds),
        minutes=_numbers(minutes),
        hours=_numbers(hours),
        days=frozenset(_numbers(days)),
        months=frozenset(_numbers(months)),
        weekdays=frozenset(_numbers(weekdays)),
        any_day=day_text in ("*", "?"),
        any_weekday=weekday_text in ("*", "?"),
        last_day="L" in day_text,
        last_weekdays=frozenset(int(str(one)[0]) % 7 for one in weekdays) if "L" in weekday_text else frozenset(),
        occurrence=occurrence,
    )
    _refuse_impossible(pattern)
    return pattern


def _split(text: str) -> tuple[str, ...]:
    """Return second, minute, hour, month, day of month, day of week: fields that are missing in front are filled in."""
    if len(text.encode("utf-16-le", "surrogatepass")) // 2 > MAX_LENGTH:
        raise PatternFault(f"it is too long: at most {MAX_LENGTH} characters")
    if not text:
        raise PatternFault("it is empty")
    fields = _JS_SPACE.sub(" ", text).strip(" ").split(" ")
    if len(fields) > 6:
        raise PatternFault("it has too many fields: five, or six with seconds first")
    second, minute, hour, day, month, weekday = ["0", "*", "*", "*", "*", "*"][: 6 - len(fields)] + fields
    return second, minute, hour, month, day, weekday


def _split_occurrence(raw: str) -> tuple[str, float]:
    """Split `FRI#2` into the weekday and which of a month's it is; 0 where every one is meant."""
    weekday, mark, which = raw.partition("#")
    if not mark:
        return raw, 0.0
    if clash := re.search(r"[,\-/]", raw):
        raise PatternFault(f"day of week: # and {clash[0]} do not go together")
    if not _OCCURRENCE.match(which) or not 1 <= float(which) <= 5:
        raise PatternFault("day of week: behind # comes a number from 1 to 5")
    return weekday, float(which)


def _read_field(field: _Field, text: str, chance: float) -> list[int | str]:
    """Return the values of a field: numbers, and texts such as `5L`."""
    if field is _MONTH or field is _WEEKDAY:
        text = _THREE_LETTERS.sub(lambda found: _number_of(field, found[0]), text)
    allowed = re.fullmatch(rf"[?,*0-9H/\-{field.extra}]+", text)
    if not allowed and not _RANGED_HASH.search(text):
        raise PatternFault(f"{field.name}: {text[:100]!r} has characters that do not belong there")
    text = _WILDCARD.sub(f"{field.low}-{field.high}", text)
    text = _without_hashes(field, text, chance)
    values: list[int | str] = []
    for atom in text.split(","):
        if len(values) > _MOST_VALUES:
            raise PatternFault(f"{field.name}: it lists more than {_MOST_VALUES} values")
        values += _read_atom(field, atom)
    return values


def _without_absent_days(days: list[int | str], month: int | str) -> list[int | str]:
    """Return the days that the only month of a pattern has; all of them if it has none."""
    length = _DAYS_IN_MONTH[int(month) - 1]
    return [day for day in days if isinstance(day, str) or day <= length] or days


def _number_of(field: _Field, name: str) -> str:
    number = _NAMES.get(name.lower())
    if number is None:
        raise PatternFault(f"{field.name}: {name!r} is no month or day of the week")
    return number


def _read_atom(field: _Field, atom: str) -> Iterable[int | str]:
    """Read one of the parts that commas separate: a value, a range, or either with a step."""
    if not atom:
        raise PatternFault(f"{field.name}: the list has an empty place")
    parts = atom.split("/")
    if len(parts) > 2:
        raise PatternFault(f"{field.name}: {atom[:100]!r} has two steps")
    first = parts[0]
    if len(parts) == 1 and "-" not in first:
        return [_read_value(field, first)]
    step = 1 if len(parts) == 1 else _leading_number(parts[1])
    low, high = _range_of(field, first if "-" in first else f"{first}-{field.high}")
    if not step:
        raise PatternFault(f"{field.name}: {atom[:100]!r} needs a step of 1 or more")
    found = list(range(low, high + 1, step))
    if field is _WEEKDAY and high % 7 == 0 and (high - low) % step == 0 and 0 not in found:
        found.append(0)  # a range that ends with 7 includes Sunday
    return found


def _read_value(field: _Field, text: str) -> int | str:
    if "L" in field.extra and "L" in text:
        if not _LAST.match(text) or (field is _WEEKDAY and text == "L"):
            raise PatternFault(f"{field.name}: {text[:100]!r} is not how L is used: 5L is the last Friday of a month")
        return text
    number = whole_number(text, field.low, field.high)
    if number is None:
        raise PatternFault(f"{field.name}: {text[:100]!r} is not from {field.low} to {field.high}")
    return number % 7 if field is _WEEKDAY else number


def _range_of(field: _Field, text: str) -> tuple[int, int]:
    low, high = (_leading_number(end) for end in text.split("-")[:2])
    if low is None or high is None or low < field.low or high > field.high:
        raise PatternFault(f"{field.name}: the range {text[:100]!r} is not within {field.low}-{field.high}")
    if low > high:
        raise PatternFault(f"{field.name}: the range {text[:100]!r} ends before it begins")
    return low, high


def _leading_number(text: str) -> int | None:
    found = _LEADING_DIGITS.match(text)
    return int(found[0]) if found else None


def _numbers(values: list[int | str]) -> tuple[int, ...]:
    return tuple(sorted(value for value in values if isinstance(value, int)))


def _without_hashes(field: _Field, text: str, chance: float) -> str:
    """Replace each `H` by a number."""
    parts, listed, place = [], 0, 0
    for found in _HASHED.finditer(text):
        numbers = _hashed(field, found, chance)
        listed += len(numbers)
        if listed > _MOST_VALUES:
            raise PatternFault(f"{field.name}: it lists more than {_MOST_VALUES} values")
        parts += [text[place : found.start()], ",".join(map(str, numbers))]
        place = found.end()
    return "".join([*parts, text[place:]])


def _hashed(field: _Field, found: re.Match[str], chance: float) -> Sequence[int]:
    """Return the value of an `H`, `H(2-5)`, `H/15` or `H(2-50)/15`."""
    low, high = field.low, field.high
    if found[1] is not None:
        if int(found[1]) > int(found[2]):
            raise PatternFault(f"{field.name}: the range of {found[0][:100]} ends before it begins")
        low, high = max(low, int(found[1])), min(high, int(found[2]))
        if low > high:
            raise PatternFault(f"{field.name}: the range of {found[0][:100]} is not within {field.low}-{field.high}")
    one = (math.floor(chance * (high - low + 1)) + low,)
    if found[3] is None:
        return one
    step = min(int(found[3]), 2**53)  # beyond it, numbers in Node are no longer whole; it is one value in any case
    if step == 0:
        raise PatternFault(f"{field.name}: {found[0][:100]} needs a step of 1 or more")
    begin = low // step * step + math.floor(chance * step)
    return range(begin if begin >= low else begin + step, high + 1, step) or one


def _chances(seed: str) -> Iterator[float]:
    """Yield numbers from 0 up to 1 that depend on the seed alone: mulberry32, begun with the FNV-1a hash of it."""
    state = 2166136261
    units = seed.encode("utf-16-le", "surrogatepass")
    for unit in range(0, len(units), 2):
        state = (state ^ int.from_bytes(units[unit : unit + 2], "little")) * 16777619 & 0xFFFFFFFF
    while True:
        state = state + 0x6D2B79F5 & 0xFFFFFFFF
        mixed = (state ^ state >> 15) * (state | 1) & 0xFFFFFFFF
        mixed ^= mixed + (mixed ^ mixed >> 7) * (mixed | 61) & 0xFFFFFFFF
        yield ((mixed ^ mixed >> 14) & 0xFFFFFFFF) / 2**32


def _refuse_impossible(pattern: CronPattern) -> None:
    longest = max(_DAYS_IN_MONTH[month - 1] for month in pattern.months)
    by_day = pattern.last_day or min(pattern.days, default=32) <= longest
    by_weekday = float(pattern.occurrence).is_integer() or bool(pattern.last_weekdays)
    if not (by_day if pattern.any_weekday else by_weekday or (by_day and not pattern.any_day)):
        raise PatternFault("it asks for a day that none of its months has")


def days_in(year: int, month: int) -> int:
    """Return how many days a month has."""
    if month != 2:
        return _DAYS_IN_MONTH[month - 1]
    return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
