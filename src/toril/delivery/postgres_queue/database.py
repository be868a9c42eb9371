"""The connections of the queues to PostgreSQL: opened once the database is there, with the tables up to date.

Writes do not wait for the disk, unless they say so: after a crash of the database, the recoverer compares the queues
with the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import structlog

from toril.core.errors import LedgerUnavailable, StoreTimeout
from toril.delivery.ledger.postgres_connections import RELAXED, PostgresConnections
from toril.delivery.ledger.postgres_errors import RowLocked, TryAgain
from toril.delivery.ledger.postgres_migration import migrate

log = structlog.get_logger(__name__)

T = TypeVar("T")
_AGAIN_S = 1.0
_BACK_S = 5.0
"""For how long after an outage no lease counts as lapsed, since workers could not renew them meanwhile."""


class QueueDatabase:
    """The database of the queues. Everything here raises `StoreTimeout` where the database is away.

    Args:
        url: the ledger's database.
        lost: called when the database was away; it may have lost the last writes.
    """

    def __init__(self, url: str, lost: Callable[[], None], connections: int = 6) -> None:
        self.url = url
        self._lost = lost
        self._away_at_s: float | None = None
        self._connections = PostgresConnections(url, connections, self._was_away, RELAXED)

    @property
    def pooled(self) -> bool:
        """True if there is a pooler in between, through which nothing can be heard."""
        return self._connections.pooled

    @property
    def away_lately(self) -> bool:
        """True while workers may not have told yet how their attempts ended during an outage."""
        return self._away_at_s is not None and asyncio.get_running_loop().time() - self._away_at_s < _BACK_S

    def _was_away(self) -> None:
        self._away_at_s = asyncio.get_running_loop().time()
        self._lost()

    async def open(self) -> None:
        """Connect, however long that takes."""
        while True:
            try:
                await self._connections.open(migrate)
            except LedgerUnavailable as exc:
                log.debug("queues.unavailable", error=exc.message)  # the ledger says so aloud
                await asyncio.sleep(_AGAIN_S)
            else:
                return

    def close(self) -> None:
        """Close all connections at once."""
        self._connections.close()

    async def fetch(self, sql: str, *values: Any) -> Sequence[Any]:
        """Run one statement as its own transaction, and return its rows."""
        with answering():
            async with self._connections.statements() as connection:
                rows: Sequence[Any] = await connection.fetch(sql, *values)
                return rows

    @asynccontextmanager
    async def transaction(self, *, durable: bool = False) -> AsyncIterator[Any]:
        """Acquire a connection in a transaction; a `durable` one is on the disk when the block has ended."""
        with answering():
            async with self._connections.transaction() as connection:
                if durable:
                    await connection.execute("SET LOCAL synchronous_commit = on")
                yield connection


@contextmanager
def answering() -> Iterator[None]:
    """Raise `StoreTimeout` in place of an error that leaves open whether something was written."""
    try:
        yield
    except LedgerUnavailable as exc:
        raise StoreTimeout(exc.message) from exc


async def unless_rolled_back(work: Callable[[], Awaitable[T]]) -> T:
    """Run a transaction; once more if the server rolled it back because of concurrent ones."""
    try:
        return await work()
    except StoreTimeout as exc:
        if isinstance(exc.__cause__, TryAgain | RowLocked):
            return await work()
        raise
