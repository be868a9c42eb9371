"""Rows of the SQL ledgers, made from and into the structs of the rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from toril.bullmq.rules.groups import GroupOption
from toril.delivery.rules.delivery import AttemptRecord, Delivery, NewDelivery, Stored, TargetResponse
from toril.delivery.rules.lifecycle import Status, Transition
from toril.delivery.rules.row_codec import pack

Row = Sequence[Any]

_STATUSES: Mapping[str, Status] = {str(status): status for status in Status}
"""To look one up takes a tenth of the time that calling the class takes, and `str(…)` a third of `.value`."""

_labels = msgspec.json.Encoder(order="sorted").encode
_read_labels = msgspec.json.Decoder(dict[str, str]).decode
_group = msgspec.json.Encoder().encode
_read_group = msgspec.json.Decoder(GroupOption).decode


def new_row(new: NewDelivery) -> tuple[Delivery, Transition, Row]:
    """Return a delivery in its first state, its first transition, and its row in the order of `NEW`."""
    delivery, first = new.first()
    content = new.envelope.content
    return (
        delivery,
        first,
        (
            *state_row(delivery),
            new.fingerprint,
            pack(new.envelope),
            content.name if isinstance(content, Stored) else None,
        ),
    )


def state_row(one: Delivery) -> Row:
    """Return a delivery as a row in the order of `STATE`."""
    return (
        one.job_id, one.target, str(one.status), one.seq, one.created_at_s, one.updated_at_s, one.max_attempts,
        one.next_attempt_at_s, one.finished_at_s, one.deadline_s, one.priority, one.idempotency_key,
        labels_text(one.labels), one.attempts_made, one.attempts_begun, one.token,
        one.started_at_s, one.lease_until_s, one.last_error, one.reason, one.replay_key, group_text(one.group),
    )  # fmt: skip


def labels_text(labels: Mapping[str, str]) -> str:
    """Return labels as their column has them: `{"order":"4711"}`."""
    return _labels(labels).decode() if labels else "{}"


def group_text(group: GroupOption | None) -> str | None:
    """Return a group as its column has it: `{"id":"acme","priority":3}`, without a priority of 0."""
    return None if group is None else _group(group).decode()


def changing_row(one: Delivery) -> Row:
    """Return a delivery as a row in the order of `CHANGING`."""
    return (
        str(one.status), one.seq, one.updated_at_s, one.max_attempts, one.next_attempt_at_s, one.finished_at_s,
        one.deadline_s, one.attempts_made, one.attempts_begun, one.token, one.started_at_s, one.lease_until_s,
        one.last_error, one.reason, one.replay_key,
    )  # fmt: skip


def delivery_of(row: Row) -> Delivery:
    """Return the delivery of a row that begins with the columns of `STATE`."""
    return Delivery(
        job_id=row[0],
        target=row[1],
        status=_STATUSES.get(row[2]) or Status(row[2]),
        seq=row[3],
        created_at_s=row[4],
        updated_at_s=row[5],
        max_attempts=row[6],
        next_attempt_at_s=row[7],
        finished_at_s=row[8],
        deadline_s=row[9],
        priority=row[10],
        idempotency_key=row[11],
        labels={} if row[12] == "{}" else _read_labels(row[12]),
        attempts_made=row[13],
        attempts_begun=row[14],
        token=row[15],
        started_at_s=row[16],
        lease_until_s=row[17],
        last_error=row[18],
        reason=row[19],
        replay_key=row[20],
        group=None if row[21] is None else _read_group(row[21]),
    )


def response_row(response: TargetResponse) -> tuple[bytes, str | None]:
    """Return an encoded response, and the name of its blob."""
    return pack(response), response.content.name if isinstance(response.content, Stored) else None


def transition_row(job_id: str, one: Transition) -> Row:
    """Return a transition as a row of its table."""
    source = None if one.source is None else str(one.source)
    return (job_id, one.seq, source, str(one.to), one.at_s, one.reason, one.attempt, one.by)


def attempt_row(job_id: str, one: AttemptRecord) -> Row:
    """Return an attempt as a row of its table."""
    return (
        job_id, one.number, one.started_at_s, one.duration_s, str(one.outcome), one.status_code, one.error,
        one.retry_after_s,
    )  # fmt: skip


def transition_of(row: Row) -> Transition:
    """Return the transition of a row in the order of its table, without the job id."""
    return Transition(
        seq=row[0],
        source=None if row[1] is None else Status(row[1]),
        to=Status(row[2]),
        at_s=row[3],
        reason=row[4],
        attempt=row[5],
        by=row[6],
    )


def attempt_of(row: Row) -> AttemptRecord:
    """Return the attempt of a row in the order of its table, without the job id."""
    return AttemptRecord(
        number=row[0],
        started_at_s=row[1],
        duration_s=row[2],
        outcome=row[3],
        status_code=row[4],
        error=row[5],
        retry_after_s=row[6],
    )
