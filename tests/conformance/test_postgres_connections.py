"""Connections to a PostgreSQL that stops answering: none of them goes back to its pool inside a transaction."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.postgres import PostgresProcess
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
