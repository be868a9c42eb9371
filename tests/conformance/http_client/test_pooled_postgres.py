"""The ledger through a PgBouncer in transaction mode, whose clients share fewer servers than they have connections."""

import asyncio

import pytest

from tests.conformance.ledgers import accepted, begun, end_of, new, serving
from tests.support.pgbouncer import PgBouncer
from tests.support.postgres import PostgresProcess
from toril.delivery.ledger.asyncpg_ledger import AsyncpgLedger
from toril.delivery.rules.changes import Accepted, Delivered, Written
from toril.delivery.rules.delivery import Delivery
from toril.delivery.rules.lifecycle import Status


async def test_many_ledgers_share_few_postgres_connections(postgres: PostgresProcess, pgbouncer: PgBouncer) -> None:
    url = pgbouncer.through(postgres.database())
    async with serving(AsyncpgLedger(url)) as a, serving(AsyncpgLedger(url)) as b, serving(AsyncpgLedger(url)) as c:
        ledgers = (a, b, c)

        async def delivered(ledger: AsyncpgLedger) -> Delivery:
            one = await begun(ledger, await accepted(ledger, labels={"a": "b"}))
            assert isinstance(await ledger.end(end_of(one, Delivered())), Written)
            return one

        some = await asyncio.gather(*(delivered(ledgers[n % 3]) for n in range(120)))
        histories = await asyncio.gather(*(ledgers[n % 3].history(one.job_id) for n, one in enumerate(some)))
        assert {history.delivery.status for history in histories} == {Status.DELIVERED}
        results = await a.accept([new(), new(priority=2**40), new()])
        assert [isinstance(result, Accepted) for result in results] == [True, False, True]


async def test_commits_wait_for_the_disk_whatever_the_database_says(
    postgres: PostgresProcess, pgbouncer: PgBouncer
) -> None:
    database = postgres.database()
    postgres.psql(f"ALTER DATABASE {database.rpartition('/')[2]} SET synchronous_commit = off")
    async with serving(AsyncpgLedger(pgbouncer.through(database))) as ledger:
        async with ledger._connections.transaction() as connection:
            assert await connection.fetchval("SHOW synchronous_commit") == "on"
        async with ledger._connections.statements() as connection:
            assert await connection.fetchval("SHOW synchronous_commit") == "on"


@pytest.mark.parametrize("pooled", [True, False])
async def test_a_pooler_is_noticed(postgres: PostgresProcess, pgbouncer: PgBouncer, pooled: bool) -> None:
    database = postgres.database()
    async with serving(AsyncpgLedger(pgbouncer.through(database) if pooled else database)) as ledger:
        assert ledger._connections.pooled is pooled
