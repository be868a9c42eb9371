"""A job scheduler, which makes jobs by a cron pattern or at an interval, as callers set and see it."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from toril.bullmq.rules.actions import Positive, invalid
from toril.bullmq.rules.cron import next_due
from toril.bullmq.rules.job import Count, JobOptions, JobSpec, Name, Whole, check_job
from toril.bullmq.rules.json_values import json_unless_given, require_utf8
from toril.bullmq.rules.repeat import LATEST_MS, Repeat, RepeatFault, options_of, read_repeat
from toril.bullmq.rules.zones import ReadZone
from toril.core.errors import InvalidRequest
from toril.core.stored_job import Fields

MAX_ID_LENGTH = 200
NOT_STORED = "what the scheduler is to make is not stored"
NOT_COUNTED = "iterationCount is not a number"
WRONG_TYPE = "a Redis key of the scheduler holds another type of value than BullMQ keeps there"


class Template(Struct, frozen=True, forbid_unknown_fields=True):
    """The jobs that a scheduler makes; without a name they have that of the scheduler."""

    name: Name | UnsetType = UNSET
    data: Raw = json_unless_given(b"{}")
    opts: JobOptions | None = None


class SchedulerSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """When a scheduler makes jobs: by `pattern` in the time zone `tz` (or UTC), or `every` so many milliseconds."""

    pattern: str | UnsetType = UNSET
    every: Positive | UnsetType = UNSET
    tz: str | UnsetType = UNSET
    limit: Positive | UnsetType = UNSET
    startDate: datetime | Count | UnsetType = UNSET  # noqa: N815 - BullMQ's spelling
    endDate: datetime | Count | UnsetType = UNSET  # noqa: N815
    immediately: bool | UnsetType = UNSET
    offset: Whole | UnsetType = UNSET
    template: Template = msgspec.field(default_factory=Template)

    def repeat(self, scheduler_id: str, read_zone: ReadZone) -> Repeat:
        """Return when the scheduler makes jobs.

        Raises:
            InvalidRequest: names the field and its fault.
        """
        try:
            return read_repeat(self._repeat_options(scheduler_id), scheduler_id, read_zone)
        except RepeatFault as exc:
            given = f"Invalid pattern {self.pattern[:200]}: " if exc.field == "pattern" and self.pattern else ""
            raise InvalidRequest(f"{given}{exc}", field=exc.field) from exc

    def _repeat_options(self, scheduler_id: str) -> dict[str, Any]:
        """Return the repeat options as BullMQ stores them, with times in milliseconds."""
        options: dict[str, Any] = {
            field: getattr(self, field)
            for field in ("pattern", "every", "tz", "limit", "immediately", "offset")
            if getattr(self, field) is not UNSET
        }
        for field in ("startDate", "endDate"):
            value = getattr(self, field)
            if value is not UNSET:
                options[field] = int(value.timestamp() * 1000) if isinstance(value, datetime) else value
        if "pattern" in options:
            # Always stored: without it BullMQ on Node would use the time zone of the machine that it runs on.
            options.setdefault("tz", "UTC")
            # Always stored: without it the value of H would differ for each job.
            if "H" in options["pattern"]:
                options["hashSeed"] = scheduler_id
        return options


class StoredScheduler(Struct, frozen=True):
    """A scheduler as BullMQ stores it. `next_ms` is when it makes its next job, in milliseconds.

    `fault` says why it cannot produce the job after that; None if it can.
    """

    id: str
    fields: Fields
    next_ms: int
    fault: str | None


def scheduler_fault(scheduler_id: str, fields: Fields, job_options: bytes | None, read_zone: ReadZone) -> str | None:
    """Return why a scheduler cannot produce its next job; None if it can.

    Args:
        scheduler_id: its id.
        fields: its hash.
        job_options: the options of the job that is to produce the next one; None if there is no such job.
        read_zone: reads time zones.
    """
    if job_options is not None:
        options = options_of(job_options).get("repeat")
    else:
        options = {name: fields[name.encode()].decode(errors="replace") for name in ("pattern", "tz")
                   if name.encode() in fields}  # fmt: skip
        if "pattern" not in options:
            return None
    try:
        read_repeat(options, scheduler_id, read_zone)
    except RepeatFault as exc:
        return str(exc)
    return hash_fault(fields.get(b"name"), fields.get(b"ic"))


def next_times(scheduler: StoredScheduler, count: int, read_zone: ReadZone) -> list[int]:
    """Return when a scheduler makes its next jobs, in milliseconds: up to `count`, fewer where it ends before.

    Of one that cannot produce the job after the next, that is the only one.
    """
    times = [scheduler.next_ms]
    if scheduler.fault is not None:
        return times
    fields = scheduler.fields
    options: dict[str, Any] = {
        name: fields[name.encode()].decode(errors="replace") for name in ("pattern", "tz") if name.encode() in fields
    }
    for name in ("every", "limit", "endDate"):
        stored = fields.get(name.encode(), b"")
        if stored.isdigit():
            options[name] = int(stored)
    try:
        repeat = read_repeat(options, scheduler.id, read_zone)
    except RepeatFault:
        return times
    made = int(fields.get(b"ic") or 0)
    while len(times) < count and (repeat.limit is None or made + len(times) <= repeat.limit):
        if repeat.pattern is not None and repeat.zone is not None:
            due_ms = next_due(repeat.pattern, repeat.zone, times[-1])
        else:
            due_ms = times[-1] + int(repeat.every or 0)
        if due_ms is None or due_ms > (repeat.end_ms or LATEST_MS):
            break
        times.append(due_ms)
    return times


def hash_fault(name: bytes | None, made: bytes | None) -> str | None:
    """Return why BullMQ's script would fail half way on this stored name and number of jobs made; None if not."""
    if name is None:
        return NOT_STORED
    return None if made is None or made.removeprefix(b"-").isdigit() else NOT_COUNTED


_SPEC = msgspec.json.Decoder(SchedulerSpec)


def read_scheduler(body: bytes, read_zone: ReadZone) -> SchedulerSpec:
    """Read the body of a PUT.

    Raises:
        InvalidRequest: naming the field that is not valid.
    """
    require_utf8(body)
    try:
        spec = _SPEC.decode(body)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise invalid(exc) from exc
    if (spec.pattern is UNSET) == (spec.every is UNSET):
        raise InvalidRequest("Either pattern or every is required, and not both", field="pattern")
    if spec.immediately is not UNSET and spec.startDate is not UNSET:
        raise InvalidRequest("immediately and startDate exclude each other", field="immediately")
    for field in ("startDate", "endDate"):
        value = getattr(spec, field)
        if isinstance(value, datetime) and value.tzinfo is None:
            raise InvalidRequest(f"{field} needs a time zone, such as Z", field=field)
    if spec.tz is not UNSET:
        try:
            read_zone(spec.tz)
        except (ValueError, OSError) as exc:
            raise InvalidRequest(f"Unknown time zone {spec.tz[:100]}", field="tz") from exc
    _check_template(spec.template)
    return spec


def _check_template(template: Template) -> None:
    try:
        number = _endless_number(bytes(template.data))
    except RecursionError as exc:
        raise InvalidRequest("The data is nested too deeply", field="template.data") from exc
    if number is not None:
        raise InvalidRequest(f"The number {number[:20]} is too large: it would become infinite", field="template.data")
    if template.opts is not None:
        check_job(JobSpec("template", template.data, template.opts))
        for option in ("delay", "jobId", "deduplication"):
            if getattr(template.opts, option) is not UNSET:
                raise InvalidRequest(f"{option} is the scheduler's to choose", field=f"template.opts.{option}")


def _endless_number(text: bytes) -> str | None:
    """Return the first number of a JSON text that is too large for a float, and is read as infinity."""
    found: list[str] = []

    def look(number: str) -> None:
        if math.isinf(float(number)):
            found.append(number)

    json.loads(text, parse_int=look, parse_float=look)
    return found[0] if found else None


def check_scheduler_id(scheduler_id: str) -> None:
    """Refuse an id that cannot be part of a key.

    Raises:
        InvalidRequest: it is empty, too long, or has invisible characters.
    """
    if not scheduler_id or len(scheduler_id) > MAX_ID_LENGTH or not scheduler_id.isprintable():
        raise InvalidRequest(f"A scheduler's id has 1 to {MAX_ID_LENGTH} visible characters", field="id")
    if ":" in scheduler_id:
        raise InvalidRequest("A scheduler's id must not contain :", field="id")
