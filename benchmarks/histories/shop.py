"""A program that enqueues deliveries in transactions of its database, beside a row of its own for each: the orders.

The rows say what was committed, also where the answer to a COMMIT was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import asyncpg

from benchmarks.histories.caller import PAUSE_S, REQUEST_S
from benchmarks.histories.case import UNKNOWN, Call, Case
from benchmarks.histories.fleet import TARGET
from benchmarks.histories.plan import Sql

_CONNECTIONS = 4
_TABLE = "CREATE TABLE orders (number int, job_id uuid, PRIMARY KEY (number, job_id))"
_ENQUEUE = "SELECT toril.enqueue($1, path => $2, body => $3, idempotency_key => $4, delay => make_interval(secs => $5))"
_ORDER = "INSERT INTO orders VALUES ($1, $2) ON CONFLICT DO NOTHING"
_FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


class Shop:
    """The database of the program, by its URL, and a few connections to it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._room = asyncio.Semaphore(_CONNECTIONS)
        self._free: list[asyncpg.Connection[asyncpg.Record]] = []

    async def open(self) -> None:
        """Make the table of orders."""
        async with self._connection() as connection:
            await connection.execute(_TABLE)

    async def orders(self) -> dict[int, list[str]]:
        """Return the deliveries that were committed, by the numbers of their cases."""
        found: dict[int, list[str]] = {}
        async with self._connection() as connection:
            for number, job_id in await connection.fetch("SELECT number, job_id FROM orders"):
                found.setdefault(number, []).append(str(job_id))
        return found

    async def close(self) -> None:
        """Close all connections."""
        while self._free:
            await self._free.pop().close()

    async def order(self, case: Case) -> bool:
        """Enqueue the delivery of a case as its script says; return True if that was committed.

        What has no answer is done again until there is one, where there is a key.
        """
        sql = case.script.sql
        if sql in {Sql.ROLLED_BACK, Sql.THEN_COMMITTED}:
            await self._transact(case, "rolled back", "ROLLBACK")
        while sql is not Sql.ROLLED_BACK:
            if await self._transact(case, "add", "COMMIT"):
                return True
            if not case.script.keyed:
                break
            await asyncio.sleep(PAUSE_S)
        return False

    async def _transact(self, case: Case, kind: str, end: str) -> bool:
        call = Call(kind, time.monotonic(), float("inf"), UNKNOWN)
        case.calls.append(call)
        try:
            async with self._connection() as connection:
                await connection.execute("BEGIN")
                if case.script.sql is Sql.SAVEPOINT:
                    await connection.execute("SAVEPOINT before")
                    await connection.fetchval(_ENQUEUE, *_arguments(case, keyed=False))
                    await connection.execute("ROLLBACK TO SAVEPOINT before")
                job_id = await connection.fetchval(_ENQUEUE, *_arguments(case, keyed=case.script.keyed))
                await connection.execute(_ORDER, case.number, job_id)
                await connection.execute(end)
        except _FAILURES:
            return False
        else:
            call.job_id, call.status = str(job_id), 200
            return True
        finally:
            call.ended = time.monotonic()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        async with self._room:
            # Those that PostgreSQL has closed meanwhile, when it was killed, are of no use.
            self._free = [one for one in self._free if not one.is_closed()]
            if self._free:
                connection = self._free.pop()
            else:
                connection = await asyncpg.connect(self._url, timeout=REQUEST_S, command_timeout=REQUEST_S)
            try:
                yield connection
            except BaseException:
                connection.terminate()
                raise
            self._free.append(connection)


def _arguments(case: Case, *, keyed: bool) -> tuple[str, str, str, str | None, float]:
    body = f'{{"number": {case.number}}}'
    return TARGET, f"/{case.number}", body, f"d{case.number}" if keyed else None, case.script.delay_ms / 1000
