"""The statements with which a batch of deliveries is accepted in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from toril.core.errors import LedgerUnavailable
from toril.delivery.ledger.postgres.records import as_json, columns, record
from toril.delivery.ledger.sql_rows import delivery_of, group_text, labels_text
from toril.delivery.ledger.sql_schema import STATE
from toril.delivery.rules.changes import Accepted, Duplicate
from toril.delivery.rules.delivery import Delivery, NewDelivery, Stored
from toril.delivery.rules.row_codec import pack

_FIRST = (
    "job_id", "target", "created_at", "max_attempts", "next_attempt_at", "deadline", "priority", "idempotency_key",
    "labels", "envelope_blob", "job_group",
)  # fmt: skip
_GIVEN = (*_FIRST, "actor", "fingerprint_base64")

# One statement is one transaction: what it inserts is committed when it answers. It waits for a key that another
# transaction has inserted and not committed yet. What all deliveries have in common is in the statement.
_ACCEPT = f"""
WITH given AS (
    SELECT * FROM ROWS FROM (
        json_to_recordset($1::json) AS ({columns(_GIVEN)}), unnest($2::bytea[])
    ) AS given ({", ".join(_GIVEN)}, envelope)
),
accepted AS (
    INSERT INTO toril_deliveries
        ({", ".join(_FIRST)}, envelope, fingerprint, status, seq, updated_at, attempts_made, attempts_begun, token)
    SELECT {", ".join(_FIRST)}, envelope, decode(fingerprint_base64, 'base64'), 'queued', 1, created_at, 0, 0, ''
    FROM given ORDER BY target, idempotency_key, job_id
    ON CONFLICT DO NOTHING RETURNING job_id
),
stepped AS (
    INSERT INTO toril_transitions (job_id, seq, source, status, at, reason, attempt, actor)
    SELECT job_id, 1, NULL, 'queued', given.created_at, NULL, NULL, given.actor
    FROM accepted JOIN given USING (job_id)
){{labelled}}
SELECT job_id FROM given WHERE job_id NOT IN (SELECT job_id FROM accepted)"""
_LABELLED = """,
labelled AS (
    INSERT INTO toril_labels (name, value, job_id) SELECT label.key, label.value, job_id
    FROM accepted JOIN given USING (job_id), json_each_text(given.labels::json) AS label
)"""
_PLAIN, _WITH_LABELS = _ACCEPT.format(labelled=""), _ACCEPT.format(labelled=_LABELLED)
_THERE = f"""
SELECT {STATE}, fingerprint FROM toril_deliveries WHERE job_id = ANY($1::text[])
UNION ALL
SELECT {", ".join(f"d.{column}" for column in STATE.split(", "))}, d.fingerprint FROM toril_deliveries AS d
JOIN unnest($2::text[], $3::text[]) AS given (target, idempotency_key)
ON d.target = given.target AND d.idempotency_key = given.idempotency_key"""

_given = record(_GIVEN)


async def accept_all(connection: Any, batch: Sequence[NewDelivery]) -> list[Accepted | Duplicate | Exception]:
    """Insert deliveries that are not there; return for each what came of it, in order."""
    rows = await connection.fetch(
        _WITH_LABELS if any(new.labels for new in batch) else _PLAIN,
        as_json(map(_record_of, batch)),
        [pack(new.envelope) for new in batch],
    )
    if not rows:
        return [Accepted(new.queued()) for new in batch]
    refused = {row[0] for row in rows}
    there = await _there(connection, [new for new in batch if new.job_id in refused])
    return [_standing(new, there) if new.job_id in refused else Accepted(new.queued()) for new in batch]


def _record_of(new: NewDelivery) -> msgspec.Struct:
    content = new.envelope.content
    return _given(
        new.job_id, new.target, new.at_s, new.max_attempts, new.not_before_s, new.deadline_s, new.priority,
        new.idempotency_key, labels_text(new.labels), content.name if isinstance(content, Stored) else None,
        group_text(new.group), new.by, new.fingerprint,
    )  # fmt: skip


async def _there(connection: Any, others: Sequence[NewDelivery]) -> dict[Any, tuple[Delivery, bytes]]:
    """Return the deliveries with these ids or keys and their fingerprints, by id and by target and key."""
    found: dict[Any, tuple[Delivery, bytes]] = {}
    for row in await connection.fetch(
        _THERE,
        [new.job_id for new in others],
        [new.target for new in others],
        [new.idempotency_key for new in others],
    ):
        one = delivery_of(row)
        found[one.job_id] = found[one.target, one.idempotency_key] = (one, row[-1])
    return found


def _standing(new: NewDelivery, there: dict[Any, tuple[Delivery, bytes]]) -> Accepted | Duplicate | Exception:
    if new.job_id in there:
        return Accepted(there[new.job_id][0])
    standing = None if new.idempotency_key is None else there.get((new.target, new.idempotency_key))
    if standing is None:  # its row was removed between the two statements
        return LedgerUnavailable("The key's former job was just removed. Try again.")
    return Duplicate(*standing)
