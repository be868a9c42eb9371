"""A PostgreSQL that refuses or hangs is an absent ledger: nothing is lost, it says why, and it comes back by itself."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from tests.conformance.holding import held
from tests.conformance.ledgers import accepted, begun, end_of, new, serving
from tests.support.postgres import PostgresProcess
from toril.core.errors import LedgerUnavailable
from toril.delivery.ledger.asyncpg_ledger import AsyncpgLedger
from toril.delivery.ledger.postgres_migration import migrate
from toril.delivery.rules.changes import Accepted, Delivered, Written
from toril.delivery.rules.delivery import Delivery, Envelope, Inline

NAME = "refusing"
APP = "app"
BREAK_OFF = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{APP}'"


@dataclass(frozen=True)
class Refusal:
    """How a server is made to refuse, how that is mended, and what it is called."""

    refuse: str
    mend: str
    reason: str
    database: str = "postgres"


REFUSALS = {
    "password": Refusal(
        f"ALTER ROLE {APP} PASSWORD 'wrong'", f"ALTER ROLE {APP} PASSWORD 'right'", "user or the password"
    ),
    "login": Refusal(f"ALTER ROLE {APP} NOLOGIN", f"ALTER ROLE {APP} LOGIN", "user or the password"),
    "connections": Refusal(
        f"ALTER ROLE {APP} CONNECTION LIMIT 0", f"ALTER ROLE {APP} CONNECTION LIMIT -1", "too many connections"
    ),
    "read-only": Refusal(
        f"ALTER ROLE {APP} SET default_transaction_read_only = on",
        f"ALTER ROLE {APP} RESET default_transaction_read_only; {BREAK_OFF}",
        "read-only",
    ),
    "rights": Refusal(
        f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {APP}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {APP}",
        "rights",
        NAME,
    ),
    "database": Refusal(
        f"ALTER DATABASE {NAME} RENAME TO elsewhere", f"ALTER DATABASE elsewhere RENAME TO {NAME}", "does not exist"
    ),
    "tables": Refusal(
        "ALTER TABLE toril_transitions RENAME TO elsewhere",
        "ALTER TABLE elsewhere RENAME TO toril_transitions",
        "tables are not there",
        NAME,
    ),
}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresProcess]:
    """A server with a role for the ledger, which has to show a password."""
    with PostgresProcess() as server:
        rules = server.data / "pg_hba.conf"
        rules.write_text(f"host all {APP} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        server.psql(f"CREATE ROLE {APP} LOGIN PASSWORD 'right'")
        server.psql(f"CREATE DATABASE {NAME} OWNER {APP}")
        server.psql("SELECT pg_reload_conf()")
        yield server


def url(server: PostgresProcess) -> str:
    return f"postgresql://{APP}:right@127.0.0.1:{server.port}/{NAME}"


@pytest.fixture
async def ledger(server: PostgresProcess) -> AsyncIterator[AsyncpgLedger]:
    async for made in held(serving(AsyncpgLedger(url(server)))):
        yield made


def refuse(server: PostgresProcess, refusal: Refusal) -> None:
    """Let the server refuse, also those who are connected."""
    server.psql(BREAK_OFF)
    server.psql(refusal.refuse, refusal.database)


async def ended(ledger: AsyncpgLedger, one: Delivery) -> object:
    """The end of an attempt, tried until the ledger takes it."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await ledger.end(end_of(one, Delivered()))
            except LedgerUnavailable:
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_a_server_that_refuses_is_away_says_why_and_comes_back(
    ledger: AsyncpgLedger, server: PostgresProcess, refusal: Refusal
) -> None:
    one = await begun(ledger, await accepted(ledger))
    await asyncio.to_thread(refuse, server, refusal)
    try:
        reasons = set()
        for _ in range(9):  # connections that were broken off say so first, one by one
            (found,) = await ledger.accept([new()])
            assert isinstance(found, LedgerUnavailable), found
            reasons.add(found.reason)
            if refusal.reason in found.reason:
                break
        assert any(refusal.reason in reason for reason in reasons), reasons
        with pytest.raises(LedgerUnavailable):
            await ledger.end(end_of(one, Delivered()))
    finally:
        await asyncio.to_thread(server.psql, refusal.mend, refusal.database)
    assert isinstance(await ended(ledger, one), Written)


async def test_a_ledger_that_is_refused_at_its_start_is_there_when_it_is_let_in(server: PostgresProcess) -> None:
    refusal = REFUSALS["password"]
    await asyncio.to_thread(refuse, server, refusal)
    ledger = AsyncpgLedger(url(server))
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(ledger.run())
        with pytest.raises(LedgerUnavailable):
            await ledger.check()
        with pytest.raises(LedgerUnavailable, match="password authentication failed"):
            await ledger._connections.open(migrate)
        await asyncio.to_thread(server.psql, refusal.mend)
        async with asyncio.timeout(20):
            while True:
                try:
                    await ledger.check()
                    break
                except LedgerUnavailable:
                    await asyncio.sleep(0.02)
        running.cancel()


async def test_a_server_that_hangs_fills_no_memory_and_loses_nothing(
    ledger: AsyncpgLedger, server: PostgresProcess
) -> None:
    body = os.urandom(100_000)
    many = [new(envelope=Envelope(content=Inline(body))) for _ in range(1500)]
    async with asyncio.TaskGroup() as tasks:
        with server.frozen():
            accepting = [tasks.create_task(ledger.accept([one])) for one in many]
            async with asyncio.timeout(5):  # at once, and not when it answers again
                while sum(task.done() for task in accepting) < 800:
                    await asyncio.sleep(0.01)
            for task in accepting:
                assert not task.done() or isinstance(task.result()[0], LedgerUnavailable)
    results = [task.result()[0] for task in accepting]
    kept = {result.delivery.job_id for result in results if isinstance(result, Accepted)}
    assert 0 < len(kept) * len(body) <= 64 * 2**20
    assert set(await ledger.some([one.job_id for one in many])) == kept
