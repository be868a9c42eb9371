"""The program of the checker that enqueues in its own transactions, on a real PostgreSQL."""

import asyncpg
from benchmarks.histories.shop import Shop

from tests.conformance.servers import until
from tests.support.postgres import PostgresProcess


async def test_it_goes_on_after_postgresql_has_closed_its_connections(postgres: PostgresProcess) -> None:
    url = postgres.database()
    shop = Shop(url)
    await shop.open()
    (kept,) = shop._free
    admin = await asyncpg.connect(url)
    try:
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1", kept.get_server_pid()
        )
    finally:
        await admin.close()
    await until(kept.is_closed)
    assert await shop.orders() == {}
    await shop.close()
