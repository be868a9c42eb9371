"""The ledger in PostgreSQL, for any number of toril instances.

All writes are set-based: a batch of accepts is one statement. A batch of changes is one that reads and one that writes;
the second writes nothing of a delivery that was changed in between, and its changes are decided on again under a lock.
Operations that arrive during a commit share the next one (decisions/0004 says why asyncpg).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import structlog

from toril.core.errors import LedgerUnavailable, RowRefused, StoreError
from toril.delivery.ledger.blocked_keys import BlockedKeys
from toril.delivery.ledger.group_commit import Bounds, GroupCommit
from toril.delivery.ledger.postgres.accept_statements import accept_all
from toril.delivery.ledger.postgres.change_statements import change_compared, change_locked
from toril.delivery.ledger.postgres_connections import PostgresConnections
from toril.delivery.ledger.postgres_dialect import POSTGRES
from toril.delivery.ledger.postgres_errors import RowLocked, TryAgain
from toril.delivery.ledger.postgres_migration import migrate
from toril.delivery.ledger.sql_batch import Decided, begun_of, size_of, size_of_change
from toril.delivery.ledger.sql_ledger import SqlLedger, value_of
from toril.delivery.ledger.sql_reader import Query
from toril.delivery.ledger.sql_rows import Row
from toril.delivery.rules.changes import Accepted, Change, Duplicate
from toril.delivery.rules.delivery import NewDelivery

log = structlog.get_logger(__name__)

_AGAIN_S = 1.0
_LANES = 2


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
        async with self._to_write(self._connections.statements()) as connection:
            return await accept_all(connection, batch)

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
