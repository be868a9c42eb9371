"""The repeat options of a job scheduler, as BullMQ stores them with its job, and when the next job is due.

The rules are those of BullMQ 6's `JobScheduler`. BullMQ's script computes intervals (`every`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from toril.bullmq.rules.cron import next_due
from toril.bullmq.rules.cron_pattern import CronPattern, PatternFault, read_pattern
from toril.bullmq.rules.zones import ReadZone, Zone, utc
from toril.core.stored_job import read_options

# The latest moment that a Date of JavaScript can hold.
LATEST_MS = 8_640_000_000_000_000
_OF_THE_MACHINE = ("", "local", "system", "default")


class RepeatFault(ValueError):
    """Repeat options that cannot be read, and why; `field` is the one at fault."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class Repeat(Struct, frozen=True, kw_only=True):
    """When a scheduler makes jobs: by a pattern, or at an interval in milliseconds. `count` is how many it has made."""

    options: Mapping[str, Any]
    pattern: CronPattern | None = None
    zone: Zone | None = None
    every: float | None = None
    offset: float | None = None
    limit: float | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    count: int = 0
    immediately: bool = False

    def next(self, now_ms: int, previous_ms: int) -> Due | None:
        """Return when the job after that of `previous_ms` is due; None if that one was the last."""
        if (self.limit is not None and self.count + 1 > self.limit) or (
            self.end_ms is not None and now_ms > self.end_ms
        ):
            return None
        if self.pattern is None or self.zone is None:
            return Due(max(now_ms, previous_ms), by_pattern=False)
        from_ms = max(now_ms, previous_ms)
        if self.immediately:
            return Due(from_ms, by_pattern=True)
        due_ms = next_due(self.pattern, self.zone, max(from_ms, self.start_ms or 0))
        if due_ms is None or due_ms > LATEST_MS or (self.end_ms is not None and due_ms > self.end_ms):
            return None
        return Due(due_ms, by_pattern=True)

    def stored(self) -> dict[str, Any]:
        """Return the options that the next job carries."""
        changed = {
            "offset": (self.offset or None) if self.every is not None else None,
            "count": self.count + 1,
            "startDate": self.start_ms,
            "endDate": self.end_ms,
        }
        merged = {**self.options, **changed}
        return {key: value for key, value in merged.items() if value is not None and key != "immediately"}


class Due(Struct, frozen=True):
    """When a job is due. For an interval, the moment from which BullMQ's script counts: the script decides."""

    at_ms: int
    by_pattern: bool


def options_of(stored: bytes | None) -> dict[str, Any]:
    """Return a job's options by their full names; an empty dict if they cannot be read."""
    options: dict[str, Any] = msgspec.json.decode(read_options(stored or b"{}").text)
    return options


def read_repeat(options: Any, scheduler_id: str, read_zone: ReadZone) -> Repeat:
    """Read repeat options.

    Without a `hashSeed` among them, the scheduler's id decides what `H` stands for. BullMQ on Node would take another
    value for each job.

    Raises:
        RepeatFault: a field cannot be read, or there is neither a pattern nor an interval.
    """
    if not isinstance(options, Mapping):
        raise RepeatFault("there are no repeat options", "repeat")
    pattern, every = options.get("pattern"), options.get("every")
    if bool(pattern) == bool(every):
        raise RepeatFault("either pattern or every is required, and not both", "pattern")
    if not every and not isinstance(pattern, str):
        raise RepeatFault("the pattern is not a text", "pattern")
    zone = None
    read: CronPattern | None = None
    if pattern:
        try:
            read = read_pattern(pattern, _seed(options.get("hashSeed"), scheduler_id))
        except PatternFault as exc:
            raise RepeatFault(str(exc), "pattern") from exc
        zone = _zone(options.get("tz"), read_zone)
    return Repeat(
        options=options,
        pattern=read,
        zone=zone,
        every=_number(options, "every") if every else None,
        offset=_number(options, "offset"),
        limit=_number(options, "limit"),
        start_ms=_moment(options, "startDate"),
        end_ms=_moment(options, "endDate"),
        count=int(_number(options, "count") or 0),
        immediately=bool(options.get("immediately")),
    )


def _seed(given: Any, scheduler_id: str) -> str:
    # JavaScript hashes the characters of a text; other values have none.
    return (given if isinstance(given, str) else "") if given else scheduler_id


def _zone(name: Any, read_zone: ReadZone) -> Zone:
    if name is None or name in _OF_THE_MACHINE:
        return utc()
    try:
        if isinstance(name, str):
            return read_zone(name)
    except (ValueError, OSError) as exc:
        raise RepeatFault(str(exc), "tz") from exc
    raise RepeatFault("the time zone is not a text", "tz")


def _number(options: Mapping[str, Any], field: str) -> float | None:
    value = options.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RepeatFault(f"{field} is not a number", field)
    return value


def _moment(options: Mapping[str, Any], field: str) -> int | None:
    """Return a date in milliseconds: a number, or a text as ISO 8601 has it."""
    value = options.get(field)
    if isinstance(value, str) and value:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError as exc:
            raise RepeatFault(f"{field} is not a date", field) from exc
        value = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    else:
        value = _number(options, field)
    if value is not None and abs(value) > LATEST_MS:
        raise RepeatFault(f"{field} is beyond every calendar", field)
    return int(value) if value else None
