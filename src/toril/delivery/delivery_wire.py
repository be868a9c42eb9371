"""The JSON of deliveries, with times as RFC 3339, and the filters of lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from toril.core.errors import InvalidEnvelope, InvalidRequest
from toril.core.redaction import HIDDEN, USUAL
from toril.core.times import moment_text
from toril.delivery import delivery_shapes as shapes
from toril.delivery.ports import DeliveryFilter, DeliveryHistory
from toril.delivery.rules.delivery import (
    AttemptRecord,
    Delivery,
    Envelope,
    Inline,
    Stored,
    TargetResponse,
    is_job_id,
)
from toril.delivery.rules.enqueue import moment_s
from toril.delivery.rules.lifecycle import Status, Transition
from toril.web.parameters import cursor_of, integer, read_cursor
from toril.web.responses import json_response

MAX_PAGE = 500
DEFAULT_PAGE = 50
_LABEL = "label."
_KNOWN = ("target", "status", "reason", "error_contains", "since", "until", "cursor", "limit")

encode = msgspec.json.Encoder().encode


def moment(at_s: float | None) -> str | None:
    """Return a time as RFC 3339, in UTC, to the millisecond."""
    return None if at_s is None else moment_text(at_s)


def brief(one: Delivery) -> shapes.DeliveryBrief:
    """Return the id and the status of a delivery."""
    return shapes.DeliveryBrief(one.job_id, one.target, one.status)


def whole(history: DeliveryHistory, secret: Iterable[str] | None) -> bytes:
    """Return the JSON of a delivery with its history.

    If `secret` is not None, the values of secret headers, and of those that it names, are hidden.
    """
    return encode(
        shapes.DeliveryJob(
            **_summary(history.delivery),
            response=_response(history.response, secret),
            transitions=[_transition(step) for step in history.transitions],
            attempts=[_attempt(attempt) for attempt in history.attempts],
        )
    )


def page(found: list[Delivery], limit: int) -> Response:
    """Return a page of a list; `found` has one more than the limit if there is another page."""
    jobs, more = found[:limit], len(found) > limit
    cursor = cursor_of(jobs[-1].job_id) if more else None
    return json_response(encode(shapes.DeliveryPage([shapes.DeliverySummary(**_summary(one)) for one in jobs], cursor)))


def read_filter(query: Mapping[str, str]) -> tuple[DeliveryFilter, str | None, int]:
    """Return the filter of a list, the job id that it begins after, and its limit.

    Raises:
        InvalidRequest: naming the parameter.
    """
    labels = []
    for name, value in sound(query).items():
        if name.startswith(_LABEL) and len(name) > len(_LABEL):
            labels.append((name.removeprefix(_LABEL), value))
        elif name not in _KNOWN:
            raise InvalidRequest(f"There is no filter {name}", field=name)
    return (
        DeliveryFilter(
            targets=(query["target"],) if "target" in query else None,
            statuses=_statuses(query["status"]) if "status" in query else (),
            labels=tuple(labels),
            since_s=_moment(query["since"], "since") if "since" in query else None,
            until_s=_moment(query["until"], "until") if "until" in query else None,
            reason=query.get("reason"),
            error_contains=query.get("error_contains"),
        ),
        _cursor(query["cursor"]) if "cursor" in query else None,
        _limit(query.get("limit", str(DEFAULT_PAGE))),
    )


def sound(texts: Mapping[str, str]) -> Mapping[str, str]:
    """Return texts to search for, unchanged; refuse those that no ledger can hold, so that none can be found."""
    for name, text in texts.items():
        if "\x00" in name or "\x00" in text:
            raise InvalidRequest("There is a NUL in what is looked for", field=name.replace("\x00", ""))
    return texts


def _statuses(text: str) -> tuple[Status, ...]:
    try:
        return tuple(Status(name) for name in text.split(","))
    except ValueError:
        raise InvalidRequest(f"status must be one of {', '.join(Status)}", field="status") from None


def _moment(text: str, field: str) -> float:
    try:
        return moment_s(text, field)
    except InvalidEnvelope as exc:
        raise InvalidRequest(exc.message, field=field) from None


def _cursor(text: str) -> str:
    try:
        job_id = read_cursor(text)
    except ValueError:
        job_id = ""
    if not is_job_id(job_id):
        raise InvalidRequest("cursor must be a next_cursor of an answer", field="cursor")
    return job_id


def _limit(text: str) -> int:
    return integer(text, "limit", 1, MAX_PAGE, f"limit must be a whole number from 1 to {MAX_PAGE}")


def _summary(one: Delivery) -> dict[str, Any]:
    """Return the fields of a delivery that lists show."""
    return {
        "job_id": one.job_id,
        "target": one.target,
        "status": one.status,
        "attempts_made": one.attempts_made,
        "max_attempts": one.max_attempts,
        "created_at": moment(one.created_at_s),
        "updated_at": moment(one.updated_at_s),
        "next_attempt_at": moment(one.next_attempt_at_s),
        "deadline": moment(one.deadline_s),
        "last_error": one.last_error,
        "reason": one.reason,
        "labels": dict(one.labels),
        "group": None if one.group is None else shapes.DeliveryGroup(one.group.name, one.group.order),
    }


def _transition(step: Transition) -> shapes.DeliveryTransition:
    return shapes.DeliveryTransition(
        seq=step.seq,
        source=step.source,
        to=step.to,
        at=moment_text(step.at_s),
        reason=step.reason,
        attempt=step.attempt,
        by=step.by,
    )


def _attempt(attempt: AttemptRecord) -> shapes.DeliveryAttempt:
    return shapes.DeliveryAttempt(
        number=attempt.number,
        started_at=moment_text(attempt.started_at_s),
        duration_ms=round(attempt.duration_s * 1000),
        outcome=attempt.outcome,
        status_code=attempt.status_code,
        error=attempt.error,
        retry_after_s=attempt.retry_after_s,
    )


def _response(response: TargetResponse | None, secret: Iterable[str] | None) -> shapes.DeliveryResponse | None:
    if response is None:
        return None
    headers = response.headers if secret is None else USUAL.headers(response.headers, secret)
    return shapes.DeliveryResponse(response.status, grouped(headers), response.body_bytes, response.truncated)


def envelope(one: Envelope, secret: Iterable[str] | None) -> bytes:
    """Return an envelope without its body. Headers are hidden as in `whole`, and `authorization` from every caller."""
    match one.content:
        case None:
            body_bytes = None
        case Inline(data=data):
            body_bytes = len(data)
        case Stored(size_bytes=size_bytes):
            body_bytes = size_bytes
    if secret is None:
        headers = tuple((name, HIDDEN if name.lower() == "authorization" else value) for name, value in one.headers)
    else:
        headers = USUAL.headers(one.headers, secret)
    return encode(shapes.DeliveryEnvelope(one.method, one.path, grouped(headers), body_bytes))


def grouped(headers: Iterable[tuple[str, str]]) -> dict[str, str | list[str]]:
    """Return headers as an object, as in an envelope: a list for a name that came more than once."""
    found: dict[str, list[str]] = {}
    spelled: dict[str, str] = {}
    for name, value in headers:
        found.setdefault(spelled.setdefault(name.lower(), name), []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}
