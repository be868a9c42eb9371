"""Connections to PostgreSQL, direct or through a pooler that hands out a server per transaction (PgBouncer).

Owns how transactions begin and end. Direct connections keep prepared statements, and a lone statement is its own
transaction. Behind a pooler the parts of a statement may reach different servers: there every statement is sent between
`BEGIN` and `COMMIT`, statements have no names, and settings are made per transaction, as poolers refuse them as start
parameters. Nothing depends on a session, so nothing is reset when a connection is returned.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import asyncpg

from toril.core.errors import LedgerUnavailable, RowRefused, StoreRefused
from toril.delivery.ledger.postgres_errors import translated

_COMMAND_S = 30.0
_CONNECT_S = 5.0
_STATEMENTS = 100
_NAME = {"application_name": "toril"}
_LOCK_MS = 250
"""How long a statement waits for a lock. Callers of SQL enqueue hold a key for as long as their transaction lasts."""

DURABLE = {"synchronous_commit": "on", "lock_timeout": str(_LOCK_MS)}
"""Settings of sessions: whatever the server's default is, what is acknowledged is on its disk."""
RELAXED = {"synchronous_commit": "off", "lock_timeout": str(_LOCK_MS)}
"""Settings of sessions whose last writes may be lost in a crash of the server, which are committed sooner for that."""


class PostgresConnections:
    """Connections to one database. Everything here raises as `translated` does.

    Args:
        url: `postgresql://user:password@host:port/database`, with libpq's options.
        most: the greatest number of connections.
        lost: called when the database was away: it may be another one when it is back.
        session: the settings of each session.
    """

    def __init__(self, url: str, most: int, lost: Callable[[], None], session: Mapping[str, str] = DURABLE) -> None:
        self._url = url
        self._session = dict(session)
        self._most = most
        self._lost = lost
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._why = LedgerUnavailable(
            "The ledger has not been reached yet, so nothing was written. Try again.",
            reason="it has not been reached yet",
        )
        self.pooled = False
        """True if there is a pooler in between."""

    async def open(self, prepare: Callable[[Any], Awaitable[None]]) -> None:
        """Connect, detect a pooler, and run `prepare` in a transaction; may be called again if that fails. Until it
        succeeds, all other calls raise the error that it had.

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
                server_settings=_NAME if self.pooled else _NAME | self._session,
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
        """Close all connections at once."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    @asynccontextmanager
    async def statements(self) -> AsyncIterator[Any]:
        """Acquire a connection for statements that need not be one transaction."""
        if self.pooled:
            async with self.transaction() as connection:
                yield connection
        else:
            async with self._connection() as connection:
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """Acquire a connection in a transaction, which is committed when the block ends without an exception."""
        local = "".join(f"; SET LOCAL {name} = {value}" for name, value in self._session.items()) if self.pooled else ""
        async with self._begun(f"BEGIN{local}") as connection:
            yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        """Acquire a connection in a read-only transaction that sees everything as of one moment."""
        async with self._begun("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY") as connection:
            yield connection

    @asynccontextmanager
    async def _begun(self, beginning: str) -> AsyncIterator[Any]:
        async with self._connection() as connection:
            try:
                await connection.execute(beginning)
            except BaseException:
                _drop(connection)  # it may have begun without our knowing
                raise
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
    except RowRefused as exc:  # asyncpg raises it for options that it cannot read
        raise StoreRefused(f"The ledger's URL cannot be used: {exc.__cause__}") from exc
    except ValueError as exc:  # its text may be a part of the password
        raise StoreRefused("The ledger's URL cannot be used: a part of it cannot be read") from exc


async def _behind_a_pooler(url: str) -> bool:
    """Return True if there is a pooler: then the server that answers is not the process that was connected to."""
    connection = await asyncpg.connect(url, timeout=_CONNECT_S, statement_cache_size=0, server_settings=_NAME)
    try:
        await connection.execute("BEGIN", timeout=_CONNECT_S)
        process_id = await connection.fetchval("SELECT pg_backend_pid()", timeout=_CONNECT_S)
        await connection.execute("COMMIT", timeout=_CONNECT_S)
        return bool(process_id != connection.get_server_pid())
    finally:
        connection.terminate()


async def _roll_back(connection: Any) -> None:
    """Roll back a failed transaction; asyncpg would do so itself, but logs it as an error of the program.

    A connection that does not answer is closed: in its pool it would be one with an open transaction.
    """
    try:
        # One that broke is in its pool again already, and may not even be asked whether it is closed.
        if not connection.is_closed() and connection.is_in_transaction():
            await connection.execute("ROLLBACK", timeout=_CONNECT_S)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        _drop(connection)
    except BaseException:
        _drop(connection)
        raise


def _drop(connection: Any) -> None:
    """Close a connection at once; its pool makes another one."""
    with suppress(asyncpg.InterfaceError):  # it is in its pool again already
        connection.terminate()


async def _nothing(connection: Any) -> None:
    """Do nothing when a connection is returned to the pool."""
