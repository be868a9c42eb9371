"""The shapes of what the delivery door answers, made by `toril.gateway.delivery_wire`; for `toril.gateway.openapi`."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from toril.core.delivery import AttemptOutcome
from toril.core.lifecycle import Status
from toril.gateway.description import Parameter
from toril.gateway.shapes import Problem


class DeliveryBrief(Struct):
    """Which delivery it is, and how it stands."""

    job_id: str
    target: str
    status: Status


class BatchResult(Struct):
    """What became of one envelope of a batch: a delivery, or an error."""

    index: int
    status_code: int
    job_id: str | UnsetType = UNSET
    target: str | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    error: Problem | UnsetType = UNSET


class DeliverySummary(Struct):
    """A delivery in a list; times are RFC 3339."""

    job_id: str
    target: str
    status: Status
    attempts_made: int
    max_attempts: int
    created_at: str
    updated_at: str
    next_attempt_at: str | None
    deadline: str | None
    last_error: str | None
    reason: str | None
    labels: dict[str, str]


class DeliveryResponse(Struct):
    """The target's last answer."""

    status: int
    headers: dict[str, Any]
    body_bytes: int
    truncated: bool


class DeliveryTransition(Struct):
    """A step of a delivery; `from` is null at the first."""

    seq: int
    to: Status
    at: str
    reason: str | None
    attempt: int | None
    by: str


class DeliveryAttempt(Struct):
    """An attempt that is over."""

    number: int
    started_at: str
    duration_ms: int
    outcome: AttemptOutcome
    status_code: int | None
    error: str | None
    retry_after_s: float | None


class DeliveryJob(DeliverySummary):
    """A delivery with its history."""

    response: DeliveryResponse | None
    transitions: list[DeliveryTransition]
    attempts: list[DeliveryAttempt]


class DeliveryPage(Struct):
    """Deliveries, the newest first; `next_cursor` is for `cursor`, null at the end."""

    jobs: list[DeliverySummary]
    next_cursor: str | None


class Replayed(Struct):
    """What was replayed, or with `dry_run` would be."""

    matched: int
    replayed: int
    job_ids: list[str]


PAGE = (
    Parameter("since", str, "Only those from this time on (RFC 3339)"),
    Parameter("until", str, "Only those before this time"),
    Parameter("label.NAME", str, "Only those with this label; several must all be there"),
    Parameter("cursor", str, "`next_cursor` of the page before"),
    Parameter("limit", int, "The most that the page may hold: 1 to 500, by default 50"),
)
WAIT = (
    Parameter("wait", float, "Seconds to wait until it is over, 60 at most"),
    Parameter("after", int, "With `wait`: until there is a transition behind this `seq`"),
)
KEY = (Parameter("Idempotency-Key", str, "1 to 255 visible ASCII characters", place="header"),)
