"""Connections to PostgreSQL, straight or through a pooler that hands out a server per transaction (PgBouncer).

Owns how transactions begin and end. Straight connections keep prepared statements, and a lone statement is its own
transaction. Behind a pooler a statement's parts may reach different servers: there everything stands between `BEGIN`
and `COMMIT`, statements have no names, and `synchronous_commit` is set for the transaction, as poolers refuse it at the
start. Nothing ever depends on a session, so nothing is reset when a connection is given back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import asyncpg

from toril.adapters.postgres_errors import translated
from toril.core.errors import LedgerUnavailable, RowRefused, StoreRefused

_COMMAND_S = 30.0
_CONNECT_S = 5.0
_STATEMENTS = 100
_NAME = {"application_name": "toril"}
_DURABLE = {"synchronous_commit": "on"}
"""Whatever the server's default: what is acknowledged is on its disk."""


class PostgresConnections:
    """Connections to one database. Everything here raises as `translated` does.

    Args:
        url: `postgresql://user:password@host:port/database`, with libpq's options.
        most: how many connections it holds at most.
        lost: called when it was away: what comes back may be another database.
    """

    def __init__(self, url: str, most: int, lost: Callable[[], None]) -> None:
        self._url = url
        self._most = most
        self._lost = lost
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._why = LedgerUnavailable(
            "The ledger has not been reached yet, so nothing was written. Try again.",
            reason="it has not been reached yet",
        )
        self.pooled = False
        """Whether a pooler is in between."""

    async def open(self, prepare: Callable[[Any], Awaitable[None]]) -> None:
        """Connect, see what is at the other end, and prepare it in a transaction; may be called again if that fails.
        Until it goes well, what kept it from that is what all else here raises.

        Raises `StoreRefused` where the URL itself can never work.
        """
        try:
            await self._open(prepare)
        except LedgerUnavailable as exc:
            self._why = exc
            raise

    async def _open(self, prepare: Callable[[Any], Awaitable[None]]) -> None:
        with _readable(), translated():
            self.pooled = await _behind_a_pooler(self._url)
            pool = await asyncpg.create_pool(
                self._url,
                min_size=0,
                max_size=self._most,
                max_inactive_connection_lifetime=60.0,
                timeout=_CONNECT_S,
                command_timeout=_COMMAND_S,
                reset=_nothing,
                server_settings=_NAME if self.pooled else _NAME | _DURABLE,
                statement_cache_size=0 if self.pooled else _STATEMENTS,
            )
        try:
            with translated():
                async with pool.acquire(timeout=_CONNECT_S) as connection, connection.transaction():
                    await prepare(connection)
        except BaseException:
            pool.terminate()
            raise
        self._pool = pool

    def close(self) -> None:
        """Let all connections go at once."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    @asynccontextmanager
    async def statements(self) -> AsyncIterator[Any]:
        """A connection for statements that need not be one transaction."""
        if self.pooled:
            async with self.transaction() as connection:
                yield connection
        else:
            async with self._connection() as connection:
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """A connection in a transaction, which is committed when the block ends well."""
        durable = "; SET LOCAL synchronous_commit = on" if self.pooled else ""
        async with self._begun(f"BEGIN{durable}") as connection:
            yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        """A connection in a transaction that reads, and sees everything as it was at one moment."""
        async with self._begun("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY") as connection:
            yield connection

    @asynccontextmanager
    async def _begun(self, beginning: str) -> AsyncIterator[Any]:
        async with self._connection() as connection:
            await connection.execute(beginning)
            try:
                yield connection
                await connection.execute("COMMIT")
            except BaseException:
                await _roll_back(connection)
                raise

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        if self._pool is None:
            raise LedgerUnavailable(self._why.message, reason=self._why.reason)
        try:
            with translated():
                async with self._pool.acquire(timeout=_CONNECT_S) as connection:
                    yield connection
        except LedgerUnavailable:
            self._lost()
            raise


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except RowRefused as exc:  # what asyncpg says of options that it cannot make sense of
        raise StoreRefused(f"The ledger's URL cannot be used: {exc.__cause__}") from exc
    except ValueError as exc:  # its text may be a part of the password
        raise StoreRefused("The ledger's URL cannot be used: a part of it cannot be read") from exc


async def _behind_a_pooler(url: str) -> bool:
    """True where the server that answers is not the one that was connected to: only then the process ids differ."""
    connection = await asyncpg.connect(url, timeout=_CONNECT_S, statement_cache_size=0, server_settings=_NAME)
    try:
        await connection.execute("BEGIN", timeout=_CONNECT_S)
        process_id = await connection.fetchval("SELECT pg_backend_pid()", timeout=_CONNECT_S)
        await connection.execute("COMMIT", timeout=_CONNECT_S)
        return bool(process_id != connection.get_server_pid())
    finally:
        connection.terminate()


async def _roll_back(connection: Any) -> None:
    """End a transaction that came to nothing; asyncpg would do so itself, but logs it as a fault of the program."""
    if not connection.is_closed() and connection.is_in_transaction():
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            await connection.execute("ROLLBACK", timeout=_CONNECT_S)


async def _nothing(connection: Any) -> None:
    """Reset nothing."""
