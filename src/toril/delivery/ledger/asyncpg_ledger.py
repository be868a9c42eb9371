"""The ledger in PostgreSQL, for any number of toril instances.

All writes are set-based: a batch of accepts is one statement. A batch of changes is one that reads and one that writes;
the second writes nothing of a delivery that was changed in between, and its changes are decided on again under a lock.
Operations that arrive during a commit share the next one (decisions/0004 says why asyncpg).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import product
from typing import Any

import structlog

from toril.core.errors import LedgerUnavailable, RowRefused, StoreError
from toril.delivery.ledger.blocked_keys import BlockedKeys
from toril.delivery.ledger.group_commit import Bounds, GroupCommit
from toril.delivery.ledger.postgres.change_statements import change_compared, change_locked
from toril.delivery.ledger.postgres.columns import TYPES
from toril.delivery.ledger.postgres_connections import PostgresConnections
from toril.delivery.ledger.postgres_dialect import POSTGRES
from toril.delivery.ledger.postgres_errors import RowLocked, TryAgain
from toril.delivery.ledger.postgres_migration import migrate
from toril.delivery.ledger.sql_batch import Decided, begun_of, size_of, size_of_change
from toril.delivery.ledger.sql_ledger import SqlLedger, value_of
from toril.delivery.ledger.sql_reader import Query
from toril.delivery.ledger.sql_rows import Row, accepted_row, delivery_of, group_text
from toril.delivery.ledger.sql_schema import STATE
from toril.delivery.rules.changes import Accepted, Change, Duplicate
from toril.delivery.rules.delivery import Delivery, NewDelivery

log = structlog.get_logger(__name__)

_AGAIN_S = 1.0
_LANES = 2


def _columns(*names: str, first: int = 1) -> str:
    """Return SQL for rows that are passed as one array per column."""
    arrays = ", ".join(f"${n}::{TYPES[name]}[]" for n, name in enumerate(names, first))
    return f"unnest({arrays}) AS given ({', '.join(names)})"


_FIRST = (
    "job_id", "target", "created_at", "max_attempts", "next_attempt_at", "deadline", "priority", "idempotency_key",
    "labels", "fingerprint", "envelope", "envelope_blob",
)  # fmt: skip
ACCEPTED = (*_FIRST, "actor")
"""The columns of a new delivery that are not the same for all, in the order of its row. Each array that is passed costs
CPU for each of its elements here, so what all have in common is in the statement.
"""
_LABEL = ("name", "value", "job_id")

# One statement is one transaction: what it inserts is committed when it answers. It waits for a key that another
# transaction has inserted and not committed yet.
_ACCEPT = f"""
WITH given AS (SELECT * FROM {{given}}),
accepted AS (
    INSERT INTO toril_deliveries
        ({", ".join(_FIRST)}, status, seq, updated_at, attempts_made, attempts_begun, token{{grouped}})
    SELECT {", ".join(_FIRST)}, 'queued', 1, created_at, 0, 0, ''{{grouped}} FROM given
    ORDER BY target, idempotency_key, job_id
    ON CONFLICT DO NOTHING RETURNING job_id
),
stepped AS (
    INSERT INTO toril_transitions (job_id, seq, source, status, at, reason, attempt, actor)
    SELECT job_id, 1, NULL, 'queued', given.created_at, NULL, NULL, given.actor
    FROM accepted JOIN given USING (job_id)
){{labelled}}
SELECT job_id FROM accepted"""


def _accepting(*, grouped: bool, labelled: bool) -> str:
    """Return the statement that accepts deliveries, with or without a column of groups, with or without labels."""
    columns = (*ACCEPTED, "job_group") if grouped else ACCEPTED
    labels = f""",
labelled AS (
    INSERT INTO toril_labels SELECT name, value, job_id
    FROM {_columns(*_LABEL, first=len(columns) + 1)} JOIN accepted USING (job_id)
)"""
    return _ACCEPT.format(
        given=_columns(*columns), grouped=", job_group" if grouped else "", labelled=labels if labelled else ""
    )


_ACCEPTING = {both: _accepting(grouped=both[0], labelled=both[1]) for both in product((False, True), repeat=2)}
"""The statements that accept, by whether there are groups, and whether there are labels."""
_THERE = f"""
SELECT {STATE}, fingerprint FROM toril_deliveries WHERE job_id = ANY($1::text[])
UNION ALL
SELECT {", ".join(f"d.{column}" for column in STATE.split(", "))}, d.fingerprint FROM toril_deliveries AS d
JOIN unnest($2::text[], $3::text[]) AS given (target, idempotency_key)
ON d.target = given.target AND d.idempotency_key = given.idempotency_key"""


class AsyncpgLedger(SqlLedger):
    """The ledger in a PostgreSQL database.

    Args:
        url: `postgresql://user:password@host:port/database`, with libpq's options.
        connections: the greatest number of connections.
    """

    def __init__(self, url: str, connections: int = 8) -> None:
        super().__init__(
            POSTGRES,
            GroupCommit(self._commit_accepts, size=size_of, lanes=_LANES),
            GroupCommit(self._commit_changes, size=size_of_change, lanes=_LANES),
        )
        self._blocked = BlockedKeys()
        self._apart: GroupCommit[NewDelivery, Accepted | Duplicate] = GroupCommit(
            self._commit_accepts, size=size_of, bounds=Bounds(batch=1)
        )
        self._connections = PostgresConnections(url, connections, self._forget_identity)

    async def run(self) -> None:
        """As `SqlLedger.run`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._accepts.run(), name="ledger:accepts")
            tasks.create_task(self._apart.run(), name="ledger:accepts-apart")
            tasks.create_task(self._changes.run(), name="ledger:changes")
            try:
                await self._connect_until_reached()
                await asyncio.Event().wait()
            finally:
                self._connections.close()

    async def _connect_until_reached(self) -> None:
        said: str | None = None
        while True:
            try:
                await self._connections.open(migrate)
            except LedgerUnavailable as exc:
                if exc.message != said:
                    said = exc.message
                    log.warning("ledger.unavailable", error=said, hint="nothing is accepted or sent until it is there")
                await asyncio.sleep(_AGAIN_S)
            else:
                if said is not None:
                    log.info("ledger.reached")
                return

    async def accept(self, deliveries: Sequence[NewDelivery]) -> list[Accepted | Duplicate | StoreError]:
        """As `Ledger.accept`. Those whose key another transaction held a moment ago keep no others waiting."""
        apart = self._blocked.among(deliveries, _loop_s())
        if not apart:
            return await super().accept(deliveries)
        others = iter(await super().accept([one for one in deliveries if one.job_id not in apart]))
        waited = iter(await self._apart.submit_all([one for one in deliveries if one.job_id in apart]))
        return [value_of(next(waited)) if one.job_id in apart else next(others) for one in deliveries]

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
        results = await _isolating(self._accept_all, batch)
        for new, result in zip(batch, results, strict=True):
            if isinstance(result, RowLocked):
                self._blocked.note(new, _loop_s())
        return results

    async def _commit_changes(self, batch: Sequence[Change]) -> list[Decided | Exception]:
        return await _isolating(self._change_all, batch)

    async def _accept_all(self, batch: Sequence[NewDelivery]) -> list[Accepted | Duplicate | Exception]:
        values = _turned(accepted_row(new) for new in batch)
        labels = [(name, value, new.job_id) for new in batch for name, value in new.labels.items()]
        groups = [group_text(new.group) for new in batch]
        grouped = any(groups)
        async with self._to_write(self._connections.statements()) as connection:
            rows = await connection.fetch(
                _ACCEPTING[grouped, bool(labels)], *values, *([groups] if grouped else ()), *_turned(labels)
            )
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
        return [Accepted(new.queued()) if new.job_id in accepted else _standing(new, there) for new in batch]

    async def _change_all(self, batch: Sequence[Change]) -> list[Decided | Exception]:
        """Change deliveries as they were read; those that others have changed meanwhile, once more under their locks.

        Those that are written are not decided on again: the second part fails for its own changes alone.
        """
        async with self._to_write(self._connections.statements()) as connection:
            results = await change_compared(connection, batch, begun_of(batch))
        left = [change for change, result in zip(batch, results, strict=True) if result is None]
        again = iter(await _isolating(self._change_locked, left) if left else ())
        return [next(again) if result is None else result for result in results]

    async def _change_locked(self, batch: Sequence[Change]) -> list[Decided]:
        async with self._to_write(self._connections.transaction()) as connection:
            return await change_locked(connection, batch)


def _standing(new: NewDelivery, there: dict[Any, tuple[Delivery, bytes]]) -> Accepted | Duplicate | Exception:
    if new.job_id in there:
        return Accepted(there[new.job_id][0])
    standing = None if new.idempotency_key is None else there.get((new.target, new.idempotency_key))
    if standing is None:  # its row was removed between the two statements
        return LedgerUnavailable("The key's former job was just removed. Try again.")
    return Duplicate(*standing)


def _turned(rows: Iterable[Row]) -> list[tuple[Any, ...]]:
    return list(zip(*rows, strict=True))


def _loop_s() -> float:
    return asyncio.get_running_loop().time()


async def _isolating(commit: Any, batch: Sequence[Any]) -> list[Any]:
    """Commit a batch; where the server refuses a row or a lock, halve the batch until the bad rows are alone.

    Any other error is that of all operations that are left: it would be the same for a smaller batch.
    """
    results: list[Any] = []
    left = [batch]
    while left:
        some = left.pop()
        try:
            results.extend(await _again_if_rolled_back(commit, some))
        except (RowRefused, RowLocked) as exc:
            if len(some) == 1:
                results.append(exc)
            else:
                left += [some[len(some) // 2 :], some[: len(some) // 2]]
        except StoreError as exc:
            return results + [exc] * (len(batch) - len(results))
    return results


async def _again_if_rolled_back(commit: Any, batch: Sequence[Any]) -> list[Any]:
    """Commit a batch; try once more if the server rolled it back because of concurrent transactions."""
    try:
        return list(await commit(batch))
    except TryAgain:
        return list(await commit(batch))
