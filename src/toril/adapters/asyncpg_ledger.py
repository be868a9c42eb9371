"""The ledger in PostgreSQL, for any number of toril instances.

Everything written is set-based: a batch of accepts is one statement, a batch of changes one short transaction that
locks its rows in the order of their ids, decides on them, and writes them back with one statement a table. Each
commit takes what came while the one before was under way (decisions/0004 says why asyncpg).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import structlog

from toril.adapters.group_commit import GroupCommit
from toril.adapters.postgres_connections import PostgresConnections
from toril.adapters.postgres_errors import TryAgain
from toril.adapters.sql_ledger import (
    CHANGING,
    MIGRATIONS,
    NEW,
    STATE,
    Applied,
    Decided,
    Dialect,
    Query,
    Row,
    SqlLedger,
    changing_row,
    delivery_of,
    envelope_needed,
    envelope_of,
    migration,
    new_row,
    response_row,
    size_of,
    size_of_change,
)
from toril.core.delivery import Accepted, Begin, Change, Delivery, Duplicate, NewDelivery
from toril.core.errors import LedgerUnavailable, RowRefused, StoreError

log = structlog.get_logger(__name__)

_AGAIN_S = 1.0
_LOCK = 0x746F72696C  # "toril"
_LANES = 2

_POSTGRES = Dialect(
    types={
        "text": 'TEXT COLLATE "C"',  # ids are compared byte by byte
        "double": "DOUBLE PRECISION",
        "bytes": "BYTEA",
        "roomy": " WITH (fillfactor = 80)",  # room for the row's next version on its page
        "clustered": "",
    },
    among=lambda column, place: f"{column} = ANY({place}::text[])",
    many=list,
    find="strpos",
)

_TYPES = {
    "job_id": "text", "target": "text", "status": "text", "seq": "int", "created_at": "float8", "updated_at": "float8",
    "max_attempts": "int", "next_attempt_at": "float8", "finished_at": "float8", "deadline": "float8",
    "priority": "int", "idempotency_key": "text", "labels": "text", "attempts_made": "int", "attempts_begun": "int",
    "token": "text", "started_at": "float8", "lease_until": "float8", "last_error": "text", "reason": "text",
    "fingerprint": "bytea", "envelope": "bytea", "envelope_blob": "text", "source": "text", "at": "float8",
    "attempt": "int", "actor": "text", "number": "int", "duration": "float8", "outcome": "text", "status_code": "int",
    "error": "text", "retry_after": "float8", "name": "text", "value": "text", "response": "bytea",
    "response_blob": "text",
}  # fmt: skip


def _columns(*names: str, first: int = 1) -> str:
    """Rows that are handed over as one array a column."""
    arrays = ", ".join(f"${n}::{_TYPES[name]}[]" for n, name in enumerate(names, first))
    return f"unnest({arrays}) AS given ({', '.join(names)})"


_NEW = NEW.split(", ")
_STEP = ("job_id", "seq", "source", "status", "at", "reason", "attempt", "actor")
_ATTEMPT = ("job_id", "number", "started_at", "duration", "outcome", "status_code", "error", "retry_after")
_LABEL = ("name", "value", "job_id")
_RESPONSE = ("response", "response_blob", "job_id")

# One statement is one transaction: what it inserts is committed when it answers. A key that another one has inserted
# but not committed yet is waited for.
_ACCEPT = f"""
WITH given AS (SELECT * FROM {_columns(*_NEW, "actor")}),
accepted AS (
    INSERT INTO toril_deliveries ({NEW}) SELECT {NEW} FROM given ORDER BY target, idempotency_key, job_id
    ON CONFLICT DO NOTHING RETURNING job_id, seq, status, created_at
),
stepped AS (
    INSERT INTO toril_transitions (job_id, seq, source, status, at, reason, attempt, actor)
    SELECT job_id, accepted.seq, NULL, accepted.status, accepted.created_at, NULL, NULL, given.actor
    FROM accepted JOIN given USING (job_id)
){{labelled}}
SELECT job_id FROM accepted"""
_LABELLED = f""",
labelled AS (
    INSERT INTO toril_labels SELECT name, value, job_id
    FROM {_columns(*_LABEL, first=len(_NEW) + 2)} JOIN accepted USING (job_id)
)"""
_ACCEPT_PLAIN = _ACCEPT.format(labelled="")
_ACCEPT_LABELLED = _ACCEPT.format(labelled=_LABELLED)
_THERE = f"""
SELECT {STATE}, fingerprint FROM toril_deliveries WHERE job_id = ANY($1::text[])
UNION ALL
SELECT {", ".join(f"d.{column}" for column in STATE.split(", "))}, d.fingerprint FROM toril_deliveries AS d
JOIN unnest($2::text[], $3::text[]) AS given (target, idempotency_key)
ON d.target = given.target AND d.idempotency_key = given.idempotency_key"""
_LOCKED = f"""
SELECT {STATE}, CASE WHEN job_id = ANY($2::text[]) THEN envelope END FROM toril_deliveries
WHERE job_id = ANY($1::text[]) ORDER BY job_id FOR NO KEY UPDATE"""
_UPDATE = f"""
UPDATE toril_deliveries AS d SET {", ".join(f"{column} = given.{column}" for column in CHANGING)}
FROM {_columns(*CHANGING, "job_id")} WHERE d.job_id = given.job_id"""
_INSERT_STEPS = f"INSERT INTO toril_transitions SELECT * FROM {_columns(*_STEP)}"
_WRITE_ATTEMPTS = f"""
INSERT INTO toril_attempts SELECT * FROM {_columns(*_ATTEMPT)}
ON CONFLICT (job_id, number) DO UPDATE SET {", ".join(f"{column} = excluded.{column}" for column in _ATTEMPT[2:])}"""
_UPDATE_RESPONSES = f"""
UPDATE toril_deliveries AS d SET response = given.response, response_blob = given.response_blob
FROM {_columns(*_RESPONSE)} WHERE d.job_id = given.job_id"""


class AsyncpgLedger(SqlLedger):
    """The ledger in this database.

    Args:
        url: `postgresql://user:password@host:port/database`, with libpq's options.
        connections: how many connections it holds at most.
    """

    def __init__(self, url: str, connections: int = 8) -> None:
        super().__init__(
            _POSTGRES,
            GroupCommit(self._commit_accepts, size=size_of, lanes=_LANES),
            GroupCommit(self._commit_changes, size=size_of_change, lanes=_LANES),
        )
        self._connections = PostgresConnections(url, connections, self._forget_identity)

    async def run(self) -> None:
        """As `SqlLedger.run`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._accepts.run(), name="ledger:accepts")
            tasks.create_task(self._changes.run(), name="ledger:changes")
            try:
                await self._reach_in_the_end()
                await asyncio.Event().wait()
            finally:
                self._connections.close()

    async def _reach_in_the_end(self) -> None:
        said: str | None = None
        while True:
            try:
                await self._connections.open(_migrate)
            except LedgerUnavailable as exc:
                if exc.message != said:
                    said = exc.message
                    log.warning("ledger.unavailable", error=said, hint="nothing is accepted or sent until it is there")
                await asyncio.sleep(_AGAIN_S)
            else:
                if said is not None:
                    log.info("ledger.reached")
                return

    @asynccontextmanager
    async def _to_write(self, opened: AbstractAsyncContextManager[Any]) -> AsyncIterator[Any]:
        with self._writing():
            async with opened as connection:
                yield connection

    async def _fetch(self, *queries: Query) -> list[list[Row]]:
        opened = self._connections.statements() if len(queries) == 1 else self._connections.snapshot()
        async with opened as connection:
            return [await connection.fetch(sql, *values) for sql, values in queries]

    async def _execute(self, *statements: Query) -> None:
        async with self._to_write(self._connections.transaction()) as connection:
            for sql, values in statements:
                await connection.execute(sql, *values)

    async def _commit_accepts(self, batch: Sequence[NewDelivery]) -> list[Accepted | Duplicate | Exception]:
        return await _isolating(self._accept_all, batch)

    async def _commit_changes(self, batch: Sequence[Change]) -> list[Decided | Exception]:
        return await _isolating(self._change_all, batch)

    async def _accept_all(self, batch: Sequence[NewDelivery]) -> list[Accepted | Duplicate | Exception]:
        begun = [new_row(new) for new in batch]
        columns = list(zip(*(row for _, _, row in begun), strict=True))
        labels = [(name, value, new.job_id) for new in batch for name, value in new.labels.items()]
        values: list[Any] = [*columns, [new.by for new in batch]]
        async with self._to_write(self._connections.statements()) as connection:
            if labels:
                rows = await connection.fetch(_ACCEPT_LABELLED, *values, *zip(*labels, strict=True))
            else:
                rows = await connection.fetch(_ACCEPT_PLAIN, *values)
            accepted = {row[0] for row in rows}
            there: dict[Any, tuple[Delivery, bytes]] = {}
            if len(accepted) < len(batch):
                others = [new for new in batch if new.job_id not in accepted]
                for row in await connection.fetch(
                    _THERE,
                    [new.job_id for new in others],
                    [new.target for new in others],
                    [new.idempotency_key for new in others],
                ):
                    one = delivery_of(row)
                    there[one.job_id] = there[one.target, one.idempotency_key] = (one, row[-1])
        return [
            Accepted(delivery) if delivery.job_id in accepted else _standing(new, there)
            for new, (delivery, _, _) in zip(batch, begun, strict=True)
        ]

    async def _change_all(self, batch: Sequence[Change]) -> list[Decided | Exception]:
        job_ids = list({change.job_id for change in batch})
        beginning = [change.job_id for change in batch if isinstance(change, Begin)]
        async with self._to_write(self._connections.transaction()) as connection:
            rows = await connection.fetch(_LOCKED, job_ids, beginning)
            applied = Applied({row[0]: delivery_of(row) for row in rows})
            decided = [applied.apply(change) for change in batch]
            if applied.changed:
                await connection.execute(
                    _UPDATE, *_turned((*changing_row(one), one.job_id) for one in applied.changed.values())
                )
                await connection.execute(_INSERT_STEPS, *_turned(applied.transitions))
            if applied.attempts:
                await connection.execute(_WRITE_ATTEMPTS, *_turned(applied.attempts))
            if applied.responses:
                await connection.execute(
                    _UPDATE_RESPONSES,
                    *_turned((*response_row(response), job_id) for job_id, response in applied.responses.items()),
                )
        envelopes = {row[0]: row[-1] for row in rows}
        return [
            (one, envelope_of(envelopes[change.job_id]) if envelope_needed(change, one) else None)
            for change, one in zip(batch, decided, strict=True)
        ]


def _standing(new: NewDelivery, there: dict[Any, tuple[Delivery, bytes]]) -> Accepted | Duplicate | Exception:
    if new.job_id in there:
        return Accepted(there[new.job_id][0])
    standing = there.get((new.target, new.idempotency_key))
    if standing is None:  # it was removed between the two statements
        return LedgerUnavailable("The key's former job was just removed. Try again.")
    return Duplicate(*standing)


def _turned(rows: Iterable[Row]) -> list[tuple[Any, ...]]:
    return list(zip(*rows, strict=True))


async def _isolating(commit: Any, batch: Sequence[Any]) -> list[Any]:
    """Commit a batch; where the server refuses what is in it, halve it until the bad ones are alone.

    Whatever else goes wrong is the failure of all that is left: no smaller batch would fare better.
    """
    results: list[Any] = []
    left = [batch]
    while left:
        some = left.pop()
        try:
            results.extend(await _again_if_rolled_back(commit, some))
        except RowRefused as exc:
            if len(some) == 1:
                results.append(exc)
            else:
                left += [some[len(some) // 2 :], some[: len(some) // 2]]
        except StoreError as exc:
            return results + [exc] * (len(batch) - len(results))
    return results


async def _again_if_rolled_back(commit: Any, batch: Sequence[Any]) -> list[Any]:
    """Commit a batch, once more if the server rolled it back because of others."""
    try:
        return list(await commit(batch))
    except TryAgain:
        return list(await commit(batch))


async def _migrate(connection: Any) -> None:
    """Bring the schema up to date. Others who do the same wait for the lock, and find it done."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
    await connection.execute("CREATE TABLE IF NOT EXISTS toril_schema (version INTEGER NOT NULL)")
    version = await connection.fetchval("SELECT max(version) FROM toril_schema") or 0
    if version > len(MIGRATIONS):
        raise LedgerUnavailable(f"The ledger has schema {version}, made by a newer toril than this one")
    for number in range(version + 1, len(MIGRATIONS) + 1):
        for statement in migration(number, _POSTGRES):
            await connection.execute(statement)
        await connection.execute("INSERT INTO toril_schema VALUES ($1)", number)
