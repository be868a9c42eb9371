"""A job scheduler: what makes jobs by a cron pattern or at an interval, as callers set and see it."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from toril.core.actions import Positive, invalid
from toril.core.errors import InvalidRequest
from toril.core.job import Count, JobOptions, Name, Whole, check_options, json_unless_given, require_utf8

MAX_ID_LENGTH = 200


class Template(Struct, frozen=True, forbid_unknown_fields=True):
    """The jobs that it makes; without a name they are called as the scheduler is."""

    name: Name | UnsetType = UNSET
    data: Raw = json_unless_given(b"{}")
    opts: JobOptions | None = None


class SchedulerSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """When it makes jobs: by `pattern` (in the time zone `tz`; UTC) or `every` so many milliseconds."""

    pattern: str | UnsetType = UNSET
    every: Positive | UnsetType = UNSET
    tz: str | UnsetType = UNSET
    limit: Positive | UnsetType = UNSET
    startDate: datetime | Count | UnsetType = UNSET  # noqa: N815 - BullMQ's spelling
    endDate: datetime | Count | UnsetType = UNSET  # noqa: N815
    immediately: bool | UnsetType = UNSET
    offset: Whole | UnsetType = UNSET
    template: Template = msgspec.field(default_factory=Template)

    def as_repeat_options(self) -> dict[str, Any]:
        """As BullMQ has them: times in milliseconds."""
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
            # Said and not left open: BullMQ on Node would take the time zone of whatever machine it runs on.
            options.setdefault("tz", "UTC")
        return options


_SPEC = msgspec.json.Decoder(SchedulerSpec)


def read_scheduler(body: bytes) -> SchedulerSpec:
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
            ZoneInfo(spec.tz)
        except (ValueError, OSError, KeyError) as exc:
            raise InvalidRequest(f"Unknown time zone {spec.tz[:100]}", field="tz") from exc
    if spec.template.opts is not None:
        check_options(spec.template.opts)
        for option in ("delay", "jobId", "deduplication"):
            if getattr(spec.template.opts, option) is not UNSET:
                raise InvalidRequest(f"{option} is the scheduler's to choose", field=f"template.opts.{option}")
    return spec


def check_scheduler_id(scheduler_id: str) -> None:
    """Refuse an id that cannot be part of a key.

    Raises:
        InvalidRequest: it is empty, too long, or has characters that show nothing.
    """
    if not scheduler_id or len(scheduler_id) > MAX_ID_LENGTH or not scheduler_id.isprintable():
        raise InvalidRequest(f"A scheduler's id has 1 to {MAX_ID_LENGTH} visible characters", field="id")
    if ":" in scheduler_id:
        raise InvalidRequest("A scheduler's id must not contain :", field="id")
