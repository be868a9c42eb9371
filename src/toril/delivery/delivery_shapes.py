"""The shapes of the delivery door's answers, which are encoded from them (`toril.delivery.delivery_wire`)."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from toril.delivery.rules.lifecycle import Status
from toril.web.openapi.description import Parameter
from toril.web.shapes import Problem


class DeliveryBrief(Struct):
    """The id and the status of a delivery."""

    job_id: str
    target: str
    status: Status


class BatchResult(Struct):
    """The result for one envelope of a batch: a delivery, or an error."""

    index: int
    status_code: int
    job_id: str | UnsetType = UNSET
    target: str | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    error: Problem | UnsetType = UNSET


class DeliveryGroup(Struct):
    """The group that an envelope names, and the priority of the delivery within it."""

    id: str
    priority: int


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
    group: DeliveryGroup | None


class DeliveryResponse(Struct):
    """The last answer of the target, without its body."""

    status: int
    headers: dict[str, Any]
    body_bytes: int
    truncated: bool


class DeliveryEnvelope(Struct):
    """The request to the target, without its body; `body_bytes` is null if there is none.

    `path` is appended to the target's URL.
    """

    method: str
    path: str | None
    headers: dict[str, Any]
    body_bytes: int | None


class DeliveryTransition(Struct, rename={"source": "from"}):
    """A change of state; `from` is null for the first one."""

    seq: int
    source: Status | None
    to: Status
    at: str
    reason: str | None
    attempt: int | None
    by: str


class DeliveryAttempt(Struct):
    """A finished attempt.

    `outcome` is `answered`, `timeout`, `connect_error`, `tls_error`, `auth_error`, `proxy_error`, `cut_off`,
    `egress_refused`, `cancelled` or `lost`; newer instances of a fleet may have written others.
    """

    number: int
    started_at: str
    duration_ms: int
    outcome: str
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
    """The dead letters that were replayed, or with `dry_run` would be."""

    matched: int
    replayed: int
    job_ids: list[str]


PAGE = (
    Parameter("since", str, "Only deliveries from this time on (RFC 3339)"),
    Parameter("until", str, "Only deliveries before this time"),
    Parameter("reason", str, "Only dead letters with this reason: `attempts`, `refused`, `deadline` or another one"),
    Parameter("error_contains", str, "Only deliveries with this text in their last error"),
    Parameter("label.NAME", str, "Only deliveries with this label; several labels must all match"),
    Parameter("cursor", str, "The `next_cursor` of the previous page"),
    Parameter("limit", int, "How many items are on a page: 1 to 500, 50 by default"),
)
WAIT = (
    Parameter("wait", float, "Seconds to wait for the end of the delivery, at most 60"),
    Parameter("after", int, "With `wait`: wait for a transition after this `seq`"),
)
BYTES = (
    Parameter("offset", Annotated[int, Meta(ge=0)], "The first byte, counted from 0"),
    Parameter("length", Annotated[int, Meta(ge=1)], "How many bytes at most; all by default"),
)
KEY = (Parameter("Idempotency-Key", str, "1 to 255 visible ASCII characters", place="header"),)
