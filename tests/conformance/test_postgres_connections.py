"""Connections to a PostgreSQL that stops answering: none of them goes back to its pool inside a transaction."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from tests.support.postgres import PostgresProcess
from toril.core.errors import StoreError
from toril.delivery.ledger.postgres_connections import PostgresConnections


@pytest.fixture
async def errors() -> list[str]:
    """What asyncpg tells the event loop of, which toril logs as an error."""
    found: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context["message"]))
    return found


@pytest.fixture
async def connections(postgres: PostgresProcess) -> AsyncIterator[PostgresConnections]:
    opened = PostgresConnections(await asyncio.to_thread(postgres.database), 1, lambda: None)
    await opened.open(prepared)
    yield opened
    opened.close()


async def prepared(connection: Any) -> None:
    assert await connection.fetchval("SELECT 1") == 1


async def works(connections: PostgresConnections) -> None:
    async with connections.transaction() as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_who_tries_again_after_an_error_ends_when_cancelled_while_the_connections_are_closed(
    postgres: PostgresProcess,
) -> None:
    url = await asyncio.to_thread(postgres.database)

    async def tries(connections: PostgresConnections) -> None:
        while True:
            with suppress(StoreError):
                async with connections.statements() as connection:
                    await connection.fetch("SELECT pg_sleep(10)")
            await asyncio.sleep(0.01)

    for steps in range(6):  # asyncpg returns the connection to its pool some steps after the cancellation
        opened = PostgresConnections(url, 1, lambda: None)
        await opened.open(prepared)
        trying = asyncio.create_task(tries(opened))
        await asyncio.sleep(0.05)
        trying.cancel()
        for _ in range(steps):
            await asyncio.sleep(0)
        opened.close()
        await asyncio.wait([trying], timeout=5)
        assert trying.done(), f"{steps} steps after the cancellation"
        assert trying.cancelled()


async def test_a_transaction_that_is_broken_off_while_it_begins_leaves_nothing_open(
    postgres: PostgresProcess, connections: PostgresConnections, errors: list[str]
) -> None:
    with postgres.frozen():
        beginning = asyncio.create_task(works(connections))
        await asyncio.sleep(0)  # as far as the first await, which is the statement's
        beginning.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(5):  # it does not wait for the server
                await beginning
    await works(connections)
    assert errors == []
