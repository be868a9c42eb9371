"""What goes out about deliveries: their JSON, times as RFC 3339, and what came in as filters."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from toril.core.delivery import Attempt, Delivery, RecordedResponse, is_job_id
from toril.core.enqueue import moment_s
from toril.core.errors import InvalidEnvelope, InvalidRequest
from toril.core.lifecycle import Status, Transition
from toril.core.moments import shown
from toril.core.ports.ledger import Filter, History
from toril.core.redaction import headers_without_secrets
from toril.gateway.routing import Answer
from toril.gateway.wire import json_answer

MAX_PAGE = 500
DEFAULT_PAGE = 50
_LABEL = "label."
_KNOWN = ("target", "status", "since", "until", "cursor", "limit")

encode = msgspec.json.Encoder().encode


def moment(at_s: float | None) -> str | None:
    """A time as RFC 3339, in UTC, to the millisecond."""
    return None if at_s is None else shown(at_s)


def brief(one: Delivery) -> dict[str, str]:
    """Which delivery it is, and how it stands."""
    return {"job_id": one.job_id, "target": one.target, "status": one.status.value}


def summary(one: Delivery) -> dict[str, Any]:
    """A delivery in a list."""
    return {
        **brief(one),
        "attempts_made": one.attempts_made,
        "max_attempts": one.max_attempts,
        "created_at": moment(one.created_at_s),
        "updated_at": moment(one.updated_at_s),
        "next_attempt_at": moment(one.next_attempt_at_s),
        "deadline": moment(one.deadline_s),
        "last_error": one.last_error,
        "reason": one.reason,
        "labels": dict(one.labels),
    }


def whole(history: History, secret: Iterable[str] | None) -> bytes:
    """Return a delivery with all that is known of it.

    Where `secret` is not None, the values of secret headers, and of those that it names, are hidden.
    """
    return encode(
        {
            **summary(history.delivery),
            "response": _response(history.response, secret),
            "transitions": [_transition(step) for step in history.transitions],
            "attempts": [_attempt(attempt) for attempt in history.attempts],
        }
    )


def page(found: list[Delivery], limit: int) -> Answer:
    """A page of a list; `found` has one more than the limit where there is another page."""
    jobs, more = found[:limit], len(found) > limit
    cursor = urlsafe_b64encode(jobs[-1].job_id.encode()).decode().rstrip("=") if more else None
    return json_answer(encode({"jobs": [summary(one) for one in jobs], "next_cursor": cursor}))


def read_filter(query: Mapping[str, str]) -> tuple[Filter, str | None, int]:
    """What a list is asked for: the filter, the job id it goes on behind, and the most it may hold.

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
        Filter(
            targets=(query["target"],) if "target" in query else None,
            statuses=_statuses(query["status"]) if "status" in query else (),
            labels=tuple(labels),
            since_s=_moment(query["since"], "since") if "since" in query else None,
            until_s=_moment(query["until"], "until") if "until" in query else None,
        ),
        _cursor(query["cursor"]) if "cursor" in query else None,
        _limit(query.get("limit", str(DEFAULT_PAGE))),
    )


def sound(texts: Mapping[str, str]) -> Mapping[str, str]:
    """Texts to look for, as they are; refused where no ledger can hold them, so that none can be found either."""
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
        job_id = urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        job_id = ""
    if not is_job_id(job_id):
        raise InvalidRequest("cursor must be a next_cursor of an answer", field="cursor")
    return job_id


def _limit(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or not 1 <= int(text) <= MAX_PAGE:
        raise InvalidRequest(f"limit must be a whole number from 1 to {MAX_PAGE}", field="limit")
    return int(text)


def _transition(step: Transition) -> dict[str, Any]:
    return {
        "seq": step.seq,
        "from": step.source,
        "to": step.to,
        "at": moment(step.at_s),
        "reason": step.reason,
        "attempt": step.attempt,
        "by": step.by,
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "started_at": moment(attempt.started_at_s),
        "duration_ms": round(attempt.duration_s * 1000),
        "outcome": attempt.outcome,
        "status_code": attempt.status_code,
        "error": attempt.error,
        "retry_after_s": attempt.retry_after_s,
    }


def _response(response: RecordedResponse | None, secret: Iterable[str] | None) -> dict[str, Any] | None:
    if response is None:
        return None
    return {
        "status": response.status,
        "headers": grouped(response.headers if secret is None else headers_without_secrets(response.headers, secret)),
        "body_bytes": response.body_bytes,
        "truncated": response.truncated,
    }


def grouped(headers: Iterable[tuple[str, str]]) -> dict[str, str | list[str]]:
    """Headers as an object, as in an envelope: a list where a name came more than once."""
    found: dict[str, list[str]] = {}
    spelled: dict[str, str] = {}
    for name, value in headers:
        found.setdefault(spelled.setdefault(name.lower(), name), []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}
