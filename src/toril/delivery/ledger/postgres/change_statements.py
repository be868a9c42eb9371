"""The statements with which a batch of changes is read and written in PostgreSQL.

A batch is written by one statement, which is a transaction by itself, and writes a delivery only if that is still as it
was decided on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toril.delivery.ledger.postgres.records import as_json, columns, record
from toril.delivery.ledger.sql_batch import AppliedChanges, Decided, to_read
from toril.delivery.ledger.sql_rows import Row, changing_row, response_row
from toril.delivery.ledger.sql_schema import CHANGING, STATE
from toril.delivery.rules.changes import Change
from toril.delivery.rules.delivery import Delivery

_CHANGED = (*CHANGING, "job_id", "seq_before", "token_before", "response_blob", "response_base64")
_STEP = ("job_id", "seq", "source", "status", "at", "reason", "attempt", "actor")
_ATTEMPT = ("job_id", "number", "started_at", "duration", "outcome", "status_code", "error", "retry_after")
_ANY = "ANY(ARRAY(SELECT json_array_elements_text({place}::json)))"
_LOADED = f"""
SELECT {STATE}, CASE WHEN job_id = {_ANY.format(place="$2")} THEN envelope END FROM toril_deliveries
WHERE job_id = {_ANY.format(place="$1")}"""
_LOCKED = f"{_LOADED} ORDER BY job_id FOR NO KEY UPDATE"
# Without the limit PostgreSQL plans for the hundred rows that it expects of any JSON.
_WRITE = f"""
WITH given AS (
    SELECT *, decode(response_base64, 'base64') AS response
    FROM json_to_recordset($1::json) AS given ({columns(_CHANGED)}) LIMIT $2
),
changed AS (
    UPDATE toril_deliveries AS d SET {", ".join(f"{column} = given.{column}" for column in CHANGING)},
        response = coalesce(given.response, d.response),
        response_blob = CASE WHEN given.response IS NULL THEN d.response_blob ELSE given.response_blob END
    FROM given WHERE d.job_id = given.job_id AND d.seq = given.seq_before AND d.token = given.token_before
    RETURNING d.job_id
),
stepped AS (
    INSERT INTO toril_transitions SELECT * FROM json_to_recordset($3::json) AS step ({columns(_STEP)})
    WHERE job_id IN (SELECT job_id FROM changed)
),
attempted AS (
    INSERT INTO toril_attempts SELECT * FROM json_to_recordset($4::json) AS attempt ({columns(_ATTEMPT)})
    WHERE job_id IN (SELECT job_id FROM changed)
    ON CONFLICT (job_id, number) DO UPDATE SET {", ".join(f"{column} = excluded.{column}" for column in _ATTEMPT[2:])}
)
SELECT job_id FROM given WHERE job_id NOT IN (SELECT job_id FROM changed)"""

_changed = record(_CHANGED)
_step = record(_STEP)
_attempt = record(_ATTEMPT)


async def change_compared(
    connection: Any, batch: Sequence[Change], begun: Mapping[str, Delivery]
) -> list[Decided | None]:
    """Decide on changes and write what they make of their deliveries, those of `begun` unread.

    None stands for a change of a delivery that another transaction has changed meanwhile; nothing of it is written.
    """
    decided, changed = await _change(connection, batch, begun, _LOADED)
    return [None if change.job_id in changed else one for change, one in zip(batch, decided, strict=True)]


async def change_locked(connection: Any, batch: Sequence[Change]) -> list[Decided]:
    """Do the same to deliveries that no other transaction changes meanwhile; the connection has to be in one."""
    return (await _change(connection, batch, {}, _LOCKED))[0]


async def _change(
    connection: Any, batch: Sequence[Change], begun: Mapping[str, Delivery], reading: str
) -> tuple[list[Decided], set[str]]:
    """Return what was decided, and the ids of deliveries that are others than those it was decided on."""
    unread, beginning = to_read(batch, begun)
    rows: Sequence[Row] = ()
    if unread:
        rows = await connection.fetch(reading, as_json(unread), as_json(beginning))
    applied = AppliedChanges(batch, rows, begun)
    others = {job_id for job_id in begun if job_id not in applied.changed}
    if applied.changed:
        others.update(await _write(connection, applied))
    return applied.decided, others


async def _write(connection: Any, applied: AppliedChanges) -> list[str]:
    """Write what changes make of deliveries; return the ids of those that are others by now, and are not written."""
    changed = []
    # Transactions that lock the same rows do so in one order.
    for job_id, one in sorted(applied.changed.items()):
        answer = applied.responses.get(job_id)
        response, blob = (None, None) if answer is None else response_row(answer)
        before = applied.before[job_id]
        changed.append(_changed(*changing_row(one), job_id, before.seq, before.token, blob, response))
    rows = await connection.fetch(
        _WRITE,
        as_json(changed),
        len(changed),
        as_json(_step(*row) for row in applied.transitions),
        as_json(_attempt(*row) for row in applied.attempts),
    )
    return [row[0] for row in rows]
