"""Conformance suites run on real servers, and on both event loops: uvloop, which serves, and asyncio's own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from tests.conformance.holding import held
from tests.conformance.ledgers import emptied, in_redis, serving, sqlite_path
from tests.support.postgres import PostgresProcess
from toril.delivery.ledger.asyncpg_ledger import AsyncpgLedger
from toril.delivery.ledger.sqlite_ledger import SqliteLedger
from toril.delivery.ports import AnyLedger
from toril.testing import FakeLedger


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="module")
def ledger_database(postgres: PostgresProcess) -> str:
    """A database that the tests of a module share; each finds it empty."""
    return postgres.database()


@pytest.fixture(params=["fake", "sqlite", "postgres", "pooled", "redis"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AnyLedger]:
    """Each of the ledgers in turn, empty: in memory, in SQLite, in PostgreSQL (also pooled), in Redis alone."""
    if request.param == "fake":
        yield FakeLedger()
        return
    if request.param == "redis":
        async for made in held(in_redis(request.getfixturevalue("valkey"))):
            yield made
        return
    if request.param == "sqlite":
        async for made in held(serving(SqliteLedger(sqlite_path(tmp_path)))):
            yield made
        return
    database = request.getfixturevalue("ledger_database")
    url = request.getfixturevalue("pgbouncer").through(database) if request.param == "pooled" else database
    async for made in held(serving(AsyncpgLedger(url))):
        await emptied(database)
        yield made
