"""What is SQLite's or PostgreSQL's own: migrations side by side, bad rows, full disks, read-only servers, restarts."""

import asyncio
import os
import resource
import signal
import sqlite3
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.conformance.holding import held
from tests.conformance.ledgers import accepted, end_of, new, serving, sqlite_path
from tests.support.postgres import PostgresProcess
from toril.core.errors import LedgerMoved, LedgerUnavailable, RowRefused
from toril.delivery.ledger.asyncpg_ledger import AsyncpgLedger
from toril.delivery.ledger.postgres_migration import migrate
from toril.delivery.ledger.sqlite_ledger import SqliteLedger
from toril.delivery.ports import DeliveryFilter
from toril.delivery.rules.changes import Accepted, Delivered
from toril.delivery.rules.delivery import Delivery, Envelope, Inline


async def outcomes(*calls: Any) -> list[Any]:
    """What each call returned or raised; they are made at once."""
    return await asyncio.gather(*calls, return_exceptions=True)


def big(kilobytes: int) -> Envelope:
    return Envelope(content=Inline(os.urandom(kilobytes * 1024)))


class TestSqlite:
    """The file."""

    async def test_accepted_deliveries_are_there_when_the_file_is_reopened(self, tmp_path: Path) -> None:
        path = sqlite_path(tmp_path)
        async with serving(SqliteLedger(path)) as ledger:
            one = await accepted(ledger, idempotency_key="k")
        async with serving(SqliteLedger(path)) as ledger:
            assert await ledger.get(one.job_id) == one

    async def test_two_ledgers_can_open_an_empty_file_at_once_and_share_it(self, tmp_path: Path) -> None:
        path = sqlite_path(tmp_path)
        async with serving(SqliteLedger(path)) as a, serving(SqliteLedger(path)) as b:
            some = [new() for _ in range(40)]
            await asyncio.gather(*((a, b)[n % 2].accept([one]) for n, one in enumerate(some)))
            assert len(await a.some([one.job_id for one in some])) == len(some)

    async def test_a_commit_is_on_the_disk(self, tmp_path: Path) -> None:
        async with serving(SqliteLedger(sqlite_path(tmp_path))) as ledger:
            mode, level = await ledger._writer.do(
                lambda connection: [
                    connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
                ]
            )
            assert (mode, level) == ("wal", 2)

    async def test_a_full_disk_accepts_nothing_and_half_of_nothing(self, tmp_path: Path) -> None:
        async with serving(SqliteLedger(sqlite_path(tmp_path))) as ledger:
            pages = await ledger._writer.do(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
            await ledger._writer.do(lambda c: c.execute(f"PRAGMA max_page_count = {pages + 8}"))
            results = await outcomes(*(accepted(ledger, envelope=big(30)) for _ in range(10)))
            assert {type(result) for result in results} <= {LedgerUnavailable, Delivery}
            there = [result.job_id for result in results if isinstance(result, Delivery)]
            assert LedgerUnavailable in {type(result) for result in results}
            assert sorted(one.job_id for one in await ledger.page(DeliveryFilter(), before=None, limit=99)) == sorted(
                there
            )
            (result,) = await ledger.accept([new(envelope=big(30))])  # a new connection: the disk has room again
            assert isinstance(result, Accepted)

    async def test_a_full_disk_makes_the_ledger_not_ready_until_there_is_room_again(self, tmp_path: Path) -> None:
        async with serving(SqliteLedger(sqlite_path(tmp_path))) as ledger:
            await ledger.check()

            async def room(pages: int) -> None:
                used = await ledger._writer.do(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
                await ledger._writer.do(lambda c: c.execute(f"PRAGMA max_page_count = {used + pages}"))

            await room(8)
            with pytest.raises(LedgerUnavailable):
                await accepted(ledger, envelope=big(50))
            await room(8)  # a failure makes a new connection, which knows no limit
            with pytest.raises(LedgerUnavailable):
                await ledger.check()
            await room(1000)
            await ledger.check()
            await ledger.check()

    async def test_a_full_disk_is_noticed_by_asking(self, tmp_path: Path) -> None:
        async with serving(SqliteLedger(sqlite_path(tmp_path))) as ledger:
            free = resource.getrlimit(resource.RLIMIT_FSIZE)
            heard = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            ledger._trusted_until = 0.0
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, free[1]))
            try:
                with pytest.raises(LedgerUnavailable):
                    await ledger.check()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, free)
                signal.signal(signal.SIGXFSZ, heard)
            await ledger.check()

    @pytest.mark.parametrize("how", ["deleted", "moved", "deleted with its log"])
    async def test_a_deleted_ledger_file_accepts_nothing_and_is_not_recreated(self, tmp_path: Path, how: str) -> None:
        path = sqlite_path(tmp_path)
        async with serving(SqliteLedger(path)) as ledger:
            one = await accepted(ledger)
            if how == "moved":
                path.rename(tmp_path / "elsewhere")
            elif how == "deleted":
                path.unlink()
            else:
                for file in tmp_path.glob(f"{path.name}*"):
                    file.unlink()
            for call in (
                accepted(ledger),
                ledger.check(),
                ledger.get(one.job_id),
                ledger.end(end_of(one, Delivered())),
            ):
                with pytest.raises(LedgerMoved, match="restart toril"):
                    await call
            assert not path.exists()
            if how == "moved":
                (tmp_path / "elsewhere").rename(path)
                await ledger.check()
                assert await ledger.get(one.job_id) == one
                await accepted(ledger)

    async def test_a_ledger_file_deleted_during_a_write_counts_as_unwritten(self, tmp_path: Path) -> None:
        path = sqlite_path(tmp_path)
        async with serving(SqliteLedger(path)) as ledger:
            with pytest.raises(LedgerMoved):
                await ledger._writer.do(lambda connection: path.unlink())

    async def test_another_ledger_in_its_place_is_taken_up_with_its_own_id(self, tmp_path: Path) -> None:
        path, other = sqlite_path(tmp_path), sqlite_path(tmp_path)
        async with serving(SqliteLedger(other)) as ledger:
            theirs, id_of_other = await accepted(ledger), await ledger.identity()
        async with serving(SqliteLedger(path)) as ledger:
            ours = await accepted(ledger)
            assert await ledger.identity() != id_of_other
            path.unlink()
            other.rename(path)
            # The log beside it is still that of the former file, and would be written into this one.
            with pytest.raises(LedgerMoved, match="-wal"):
                await accepted(ledger)
            for beside in ("-wal", "-shm"):
                path.with_name(path.name + beside).unlink()
            await ledger.check()
            assert await ledger.some([ours.job_id, theirs.job_id]) == {theirs.job_id: theirs}
            assert await ledger.identity() == id_of_other
            await accepted(ledger)

    async def test_a_ledger_whose_log_is_deleted_accepts_nothing_and_loses_nothing(self, tmp_path: Path) -> None:
        path = sqlite_path(tmp_path)
        async with serving(SqliteLedger(path)) as ledger:
            some = [(await accepted(ledger)).job_id for _ in range(5)]
            path.with_name(f"{path.name}-wal").unlink()
            with pytest.raises(LedgerMoved):
                await accepted(ledger)
        async with serving(SqliteLedger(path)) as ledger:
            assert set(await ledger.some(some)) == set(some)

    async def test_a_link_to_the_file_is_followed(self, tmp_path: Path) -> None:
        path = sqlite_path(tmp_path)
        link = tmp_path / "link.sqlite3"
        link.symlink_to(path)
        async with serving(SqliteLedger(link)) as ledger:
            await accepted(ledger)
            path.unlink()
            with pytest.raises(LedgerMoved):
                await accepted(ledger)

    async def test_a_ledger_of_the_version_before_gets_an_id_and_keeps_it(self, tmp_path: Path) -> None:
        path = sqlite_path(tmp_path)
        async with serving(SqliteLedger(path)) as ledger:
            one = await accepted(ledger)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TABLE toril_ledger")
            for column in ("replay_key", "job_group"):
                connection.execute(f"ALTER TABLE toril_deliveries DROP COLUMN {column}")
            connection.execute("PRAGMA user_version = 1")
        ids = []
        for _ in range(2):
            async with serving(SqliteLedger(path)) as ledger:
                assert await ledger.get(one.job_id) == one
                ids.append(await ledger.identity())
        assert ids[0] == ids[1]
        assert uuid.UUID(ids[0])

    async def test_a_bad_row_fails_alone(self, tmp_path: Path) -> None:
        async with serving(SqliteLedger(sqlite_path(tmp_path))) as ledger:
            results = await ledger.accept([new(), new(priority=2**70), new()])
            assert [type(result) for result in results] == [Accepted, RowRefused, Accepted]

    async def test_a_file_of_a_newer_toril_is_left_alone(self, tmp_path: Path) -> None:
        path = sqlite_path(tmp_path)
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 999")
        connection.close()
        ledger = SqliteLedger(path)
        with pytest.raises(LedgerUnavailable):
            await ledger.check()
        ledger._writer.close()
        ledger._reader.close()

    async def test_a_folder_that_is_not_there_is_an_absent_ledger(self, tmp_path: Path) -> None:
        ledger = SqliteLedger(tmp_path / "nowhere" / "ledger.sqlite3")
        with pytest.raises(LedgerUnavailable):
            await ledger.check()
        ledger._writer.close()
        ledger._reader.close()


class TestPostgres:
    """The shared server."""

    async def test_many_instances_can_start_on_an_empty_database_at_once(self, postgres: PostgresProcess) -> None:
        database = postgres.database()
        async with (
            serving(AsyncpgLedger(database)) as a,
            serving(AsyncpgLedger(database)) as b,
            serving(AsyncpgLedger(database)) as c,
        ):
            ids = [(await accepted(ledger)).job_id for ledger in (a, b, c)]
            assert set(await a.some(ids)) == set(ids)

    async def test_a_ledger_of_the_version_before_gets_one_id_from_many_at_once(
        self, postgres: PostgresProcess
    ) -> None:
        database = postgres.database()
        async with serving(AsyncpgLedger(database)):
            pass
        connection = await asyncpg.connect(database)
        await connection.execute(
            "DROP TABLE toril_ledger, toril_jobs, toril_queues, toril_breakers, toril_conditions, toril_groups,"
            " toril_members, toril_points, toril_failures, toril_audit, toril_rooms;"
            "DELETE FROM toril_schema WHERE version >= 2;"
            "ALTER TABLE toril_deliveries DROP COLUMN replay_key, DROP COLUMN job_group"
        )
        await connection.close()
        async with serving(AsyncpgLedger(database)) as a, serving(AsyncpgLedger(database)) as b:
            assert await a.identity() == await b.identity()
        async with serving(AsyncpgLedger(postgres.database())) as other, serving(AsyncpgLedger(database)) as a:
            assert await other.identity() != await a.identity()

    async def test_a_bad_row_fails_alone(self, postgres: PostgresProcess) -> None:
        async with serving(AsyncpgLedger(postgres.database())) as ledger:
            results = await ledger.accept([new(), new(labels={"a": "\x00"}), new(priority=2**40), new()])
            assert [type(result) for result in results] == [Accepted, RowRefused, RowRefused, Accepted]
            assert len(await ledger.page(DeliveryFilter(), before=None, limit=9)) == 2

    async def test_a_database_of_a_newer_toril_is_left_alone(self, postgres: PostgresProcess) -> None:
        database = postgres.database()
        async with serving(AsyncpgLedger(database)):
            pass
        connection = await asyncpg.connect(database)
        await connection.execute("INSERT INTO toril_schema VALUES (999)")
        await connection.close()
        with pytest.raises(LedgerUnavailable, match="newer"):
            await AsyncpgLedger(database)._connections.open(migrate)

    async def test_commits_wait_for_the_disk_whatever_the_database_says(self, postgres: PostgresProcess) -> None:
        database = postgres.database()
        postgres.psql(f"ALTER DATABASE {database.rpartition('/')[2]} SET synchronous_commit = off")
        async with serving(AsyncpgLedger(database)) as ledger:
            (((setting,),),) = await ledger._fetch(("SHOW synchronous_commit", ()))
            assert setting == "on"


@pytest.fixture(scope="class")
def own_postgres() -> Iterator[PostgresProcess]:
    with PostgresProcess() as server:
        yield server


class TestAnUnreliablePostgres:
    """A separate server, that is stopped, crashed and made read-only."""

    @pytest.fixture
    async def ledger(self, own_postgres: PostgresProcess) -> AsyncIterator[AsyncpgLedger]:
        async for made in held(serving(AsyncpgLedger(own_postgres.database()))):
            yield made

    async def test_what_was_accepted_survives_a_crash_and_the_ledger_comes_back(
        self, ledger: AsyncpgLedger, own_postgres: PostgresProcess
    ) -> None:
        kept: list[str] = []
        stop = asyncio.Event()

        async def accept() -> None:
            while not stop.is_set():
                try:
                    kept.append((await accepted(ledger)).job_id)
                except LedgerUnavailable:
                    await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(accept())
            while len(kept) < 50:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(own_postgres.restart, immediately=True)
            before = len(kept)
            async with asyncio.timeout(60):
                while len(kept) < before + 50:
                    await asyncio.sleep(0.01)
            stop.set()
        assert set(await ledger.some(kept)) == set(kept)

    async def test_a_read_only_server_accepts_nothing(
        self, ledger: AsyncpgLedger, own_postgres: PostgresProcess
    ) -> None:
        one = await accepted(ledger)

        async def read_only(setting: str) -> None:
            own_postgres.psql(f"ALTER SYSTEM SET default_transaction_read_only = {setting}")
            own_postgres.psql("SELECT pg_reload_conf()")

        await read_only("on")
        try:
            async with asyncio.timeout(20):
                while True:
                    try:
                        await ledger.check()
                    except LedgerUnavailable:
                        break
                    await asyncio.sleep(0.02)
            with pytest.raises(LedgerUnavailable):
                await accepted(ledger)
            assert await ledger.get(one.job_id) == one
        finally:
            own_postgres.psql("ALTER SYSTEM RESET default_transaction_read_only")
            own_postgres.psql("SELECT pg_reload_conf()")
        async with asyncio.timeout(20):
            while True:
                try:
                    await accepted(ledger)
                    break
                except LedgerUnavailable:
                    await asyncio.sleep(0.02)
        assert len(await ledger.page(DeliveryFilter(), before=None, limit=9)) == 2
