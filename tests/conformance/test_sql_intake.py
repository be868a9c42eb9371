"""How a row that was enqueued in SQL becomes a job: once, with any number of instances, whichever of them dies."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from tests.conformance.holding import held
from tests.conformance.ledgers import new, serving
from tests.support.postgres import PostgresProcess
from tests.support.sql_enqueue import NOWHERE, SqlCaller
from toril.bullmq.rules.job import JobSpec
from toril.core.errors import LedgerUnavailable, StoreUnavailable
from toril.delivery.ledger.asyncpg_ledger import AsyncpgLedger
from toril.delivery.rules.changes import Duplicate
from toril.delivery.rules.retry_policy import RetryPolicy
from toril.delivery.rules.target import TargetAuth, TargetSpec
from toril.delivery.sql_enqueue import look_pace
from toril.delivery.sql_enqueue.intake import SqlIntake, TargetSource
from toril.delivery.target_queues import TargetQueues

PATIENCE_S = 30.0
NOT_LISTENING = """
SELECT 1 - count(*) FROM pg_stat_activity
WHERE application_name = 'toril:listening' AND datname = current_database() AND query LIKE 'LISTEN%'
AND state = 'idle'"""
BILLING, EMAIL = TargetSpec(name="billing", url=NOWHERE), TargetSpec(name="email", url=NOWHERE)


class Queues:
    """The queues as one instance sees them. `added` counts the jobs by their ids, however often they were added.

    While it is `held`, adding takes until it is not; in `refusing`, the names of queues that take nothing.
    """

    def __init__(self) -> None:
        self.added: Counter[str] = Counter()
        self.adding = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()
        self.refusing: set[str] = set()

    async def add(self, queue: str, jobs: Sequence[JobSpec], now_ms: int, *, again: bool = False) -> list[bytes]:
        self.adding.set()
        await self.free.wait()
        if queue in self.refusing:
            raise StoreUnavailable
        self.added.update(str(job.opts.jobId) for job in jobs if job.opts is not None)
        return [b""] * len(jobs)


class World:
    """A database with SQL enqueue, and instances that take in from it."""

    def __init__(self, caller: SqlCaller, ledger: AsyncpgLedger, connection: Any) -> None:
        self.caller = caller
        self.connection = connection
        self._ledger = ledger

    def instance(self, queues: Queues, targets: Sequence[TargetSpec] = (BILLING, EMAIL)) -> SqlIntake:
        """An instance that does not run yet; `targets` may be changed later."""
        ports: Any = queues
        source = TargetSource(lambda: targets, lambda: 1000)
        target_queues = TargetQueues(ports, ports, ports, ports)
        return SqlIntake(self.caller.ledger, self._ledger, target_queues, source, lambda: 0.0)

    async def enqueue(self, target: str, count: int) -> list[str]:
        """The ids of so many deliveries, in one transaction."""
        rows = await self.connection.fetch("SELECT toril.enqueue($1)::text FROM generate_series(1, $2)", target, count)
        return [row[0] for row in rows]

    async def left(self) -> int:
        """How many rows say that their job is not in its queue yet."""
        return int(await self.connection.fetchval("SELECT count(*) FROM toril.unqueued"))

    async def until(self, fact: Callable[[], Any]) -> None:
        """Wait for a fact, which may be a coroutine's."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = fact()
                if await found if asyncio.iscoroutine(found) else found:
                    return
                await asyncio.sleep(0.02)


@asynccontextmanager
async def running(*instances: SqlIntake) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """Instances that run for the length of a block; cancelling one's task is its death."""
    tasks = [asyncio.create_task(one.run()) for one in instances]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert ended is None or isinstance(ended, asyncio.CancelledError), ended


@pytest.fixture(scope="module")
def caller(postgres: PostgresProcess, tmp_path_factory: pytest.TempPathFactory) -> SqlCaller:
    return SqlCaller(postgres, tmp_path_factory.mktemp("sql"), {"billing": NOWHERE, "email": NOWHERE})


@pytest.fixture
async def world(caller: SqlCaller) -> AsyncIterator[World]:
    @asynccontextmanager
    async def made() -> AsyncIterator[World]:
        connection = await asyncpg.connect(caller.ledger)
        await connection.execute("TRUNCATE toril_deliveries, toril_transitions, toril.unqueued")
        await connection.execute("UPDATE toril.targets SET seen_at = now()")
        await connection.execute("UPDATE toril.attention SET until = '-infinity'")
        try:
            async with serving(AsyncpgLedger(caller.ledger)) as ledger:
                yield World(caller, ledger, connection)
        finally:
            await connection.close()

    async for one in held(made()):
        yield one


async def test_several_instances_share_the_rows_and_add_each_job_once(world: World) -> None:
    queues = [Queues() for _ in range(4)]
    async with running(*(world.instance(one) for one in queues)):
        ids = [*await world.enqueue("billing", 1300), *await world.enqueue("email", 50)]
        await world.until(lambda: sum(one.added.total() for one in queues) >= 1350)
        await world.until(lambda: _is_zero(world.left()))
    assert sum((one.added for one in queues), Counter()) == Counter(ids)


async def _is_zero(count: Any) -> bool:
    return bool(await count == 0)


async def test_the_rows_of_an_instance_that_dies_before_its_commit_are_taken_in_by_another(world: World) -> None:
    dying, other = Queues(), Queues()
    dying.free.clear()
    async with running(world.instance(dying)) as (task,):
        first = await world.enqueue("billing", 10)
        await world.until(dying.adding.is_set)
        async with running(world.instance(other)):
            later = await world.enqueue("billing", 5)
            await world.until(lambda: other.added.total() == 5)
            assert other.added == Counter(later), "what is locked is left alone"
            task.cancel()
            await world.until(lambda: other.added.total() == 15)
            assert other.added == Counter(first + later)
            await world.until(lambda: _is_zero(world.left()))


async def test_jobs_whose_commit_fails_are_added_again_by_their_ids(world: World) -> None:
    queues = Queues()
    ids = await world.enqueue("billing", 10)

    async def add_and_be_cut_off(
        queue: str, jobs: Sequence[JobSpec], now_ms: int, *, again: bool = False
    ) -> list[bytes]:
        if not queues.added:
            # As when the machine is lost between the adding and the commit.
            connection = await asyncpg.connect(world.caller.ledger)
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'toril' "
                "AND datname = current_database() AND state = 'idle in transaction'"
            )
            await connection.close()
        return await Queues.add(queues, queue, jobs, now_ms)

    queues.add = add_and_be_cut_off  # type: ignore[method-assign]
    async with running(world.instance(queues)):
        await world.until(lambda: _is_zero(world.left()))
    assert queues.added == Counter(ids * 2), "twice under the same ids, which is one job each"


async def test_a_queue_that_refuses_keeps_no_other_waiting_and_is_tried_again(world: World) -> None:
    queues = Queues()
    queues.refusing.add("deliver-billing")
    instance = world.instance(queues)
    async with running(instance):
        refused, taken = await world.enqueue("billing", 3), await world.enqueue("email", 3)
        await world.until(lambda: queues.added.total() == 3)
        assert queues.added == Counter(taken)
        await world.until(lambda: instance.warnings() != [])
        (warning,) = instance.warnings()
        assert warning.startswith("SQL enqueue: queue of billing: Redis cannot be reached.")
        queues.refusing.clear()
        await world.until(lambda: queues.added.total() == 6)
        assert queues.added == Counter(refused + taken)
        await world.until(lambda: instance.warnings() == [])


async def test_a_row_of_a_target_that_only_another_instance_has_is_left_to_it(world: World) -> None:
    queues = Queues()
    await world.enqueue("email", 2)
    async with running(world.instance(queues, [BILLING])):
        ids = await world.enqueue("billing", 2)
        await world.until(lambda: queues.added == Counter(ids))
    assert await world.left() == 2


async def test_a_commit_is_notified(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look_pace, "_LOOK_S", 3600.0)
    queues = Queues()
    async with running(world.instance(queues)):
        await world.until(lambda: _is_zero(world.connection.fetchval(NOT_LISTENING)))
        for count in range(1, 4):
            ids = await world.enqueue("billing", 1)
            await world.until(lambda count=count: queues.added.total() == count)
            assert queues.added.keys() >= set(ids)


@pytest.mark.parametrize("isolation", ["read_committed", "serializable"])
async def test_callers_do_not_notify_while_an_instance_looks_often(world: World, isolation: Any) -> None:
    heard: list[str] = []
    enqueue = "SELECT toril.enqueue('billing')"
    listening = await asyncpg.connect(world.caller.ledger)
    try:
        await listening.add_listener("toril_enqueued", lambda *_: heard.append("enqueued"))
        await listening.add_listener("over", lambda *_: heard.append("over"))
        async with world.connection.transaction(isolation=isolation):
            await world.connection.fetchval(enqueue)
            # What counts is the time of the commit, where the isolation level lets it be seen.
            await listening.execute("UPDATE toril.attention SET until = now() + interval '1 hour'")
        async with world.connection.transaction(isolation=isolation):
            await world.connection.execute(enqueue)
        await listening.execute("UPDATE toril.attention SET until = now() + interval '0.1 s'")
        async with world.connection.transaction(isolation=isolation):
            await world.connection.execute(enqueue)
        await world.connection.execute("NOTIFY over")
        await world.until(lambda: "over" in heard)
    finally:
        await listening.close()
    assert heard == ["enqueued"] * (1 if isolation == "read_committed" else 2) + ["over"]


async def test_many_rows_one_after_the_other_get_the_instances_attention(world: World) -> None:
    queues = Queues()
    attention = "SELECT count(*) FROM toril.attention WHERE until < now()"
    async with running(world.instance(queues)):
        async with asyncio.timeout(PATIENCE_S):
            while await world.connection.fetchval(attention):
                await world.enqueue("billing", 1)
        ids = await world.enqueue("billing", 1)
        await world.until(lambda: ids[0] in queues.added)


async def test_rows_committed_while_the_listening_connection_is_cut_are_taken_in(world: World) -> None:
    queues = Queues()
    async with running(world.instance(queues)):
        ids = await world.enqueue("billing", 1)
        await world.until(lambda: queues.added.total() == 1)
        for count in range(2, 5):
            await world.connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'toril%' "
                "AND pid <> pg_backend_pid() AND datname = current_database()"
            )
            ids += await world.enqueue("billing", 1)
            # One whose commit was cut off is added again, by its id.
            await world.until(lambda count=count: len(queues.added) == count)
    assert queues.added.keys() == set(ids)


async def test_the_table_of_targets_follows_the_configuration(world: World) -> None:
    async def rows() -> dict[str, tuple[Any, ...]]:
        found = await world.connection.fetch("SELECT name, max_attempts, max_body, auth, own_header FROM toril.targets")
        return {row[0]: tuple(row)[1:] for row in found}

    targets = [BILLING]
    instance = world.instance(Queues(), targets)
    async with running(instance):
        await world.until(lambda: _equals(rows(), "billing", (BILLING.retry.max_attempts, 1000, "none", None)))
        assert "email" in await rows(), "another instance had it a moment ago"
        keyed = TargetAuth(scheme="header", header="X-Key", secret="hunter2")
        targets[:] = [TargetSpec(name="billing", url=NOWHERE, retry=RetryPolicy(max_attempts=3), auth=keyed)]
        instance.renew()
        await world.until(lambda: _equals(rows(), "billing", (3, 1000, "header", "X-Key")))
        await world.enqueue("email", 1)
        await world.connection.execute(
            "UPDATE toril.targets SET seen_at = now() - interval '61 s' WHERE name = 'email'"
        )
        instance.renew()
        there = "SELECT count(*) FROM toril.targets WHERE name = 'email'"
        await world.until(lambda: _is_zero(world.connection.fetchval(there)))
        with pytest.raises(asyncpg.RaiseError, match="unknown_target"):
            await world.enqueue("email", 1)
        await world.until(lambda: _is_zero(world.left()))
    await world.connection.execute("INSERT INTO toril.targets VALUES ('email', 8, 1000, 'none', NULL, now())")


async def _equals(rows: Any, name: str, expected: tuple[Any, ...]) -> bool:
    return bool((await rows)[name] == expected)


@pytest.mark.parametrize("pooled", [False, True], ids=["direct", "pooled"])
async def test_a_key_in_a_transaction_that_does_not_end_keeps_only_its_own_envelope_out(
    world: World, request: pytest.FixtureRequest, pooled: bool
) -> None:
    url = request.getfixturevalue("pgbouncer").through(world.caller.ledger) if pooled else world.caller.ledger
    open_ = await asyncpg.connect(world.caller.ledger)
    try:
        await open_.execute("BEGIN")
        held_id = await open_.fetchval("SELECT toril.enqueue('billing', idempotency_key => 'held')::text")
        async with serving(AsyncpgLedger(url)) as ledger:
            for _ in range(2):  # the second time the key is known to be held
                batch = [new(idempotency_key=key) for key in ("a", "held", None, "b", None)]
                results = await ledger.accept(batch)
                refused = results.pop(1)
                assert isinstance(refused, LedgerUnavailable), refused
                assert refused.reason == "a lock is held for too long"
                assert not any(isinstance(result, Exception) for result in results)
            (alone,) = await ledger.accept([new(idempotency_key="held")])
            assert isinstance(alone, LedgerUnavailable)
            await open_.execute("COMMIT")
            (standing,) = await ledger.accept([new(idempotency_key="held")])
            assert isinstance(standing, Duplicate)
            assert standing.delivery.job_id == held_id
    finally:
        await open_.close()
