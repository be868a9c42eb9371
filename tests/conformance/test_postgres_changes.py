"""Changes in PostgreSQL while other transactions change the same deliveries."""

import asyncio

from tests.conformance.ledgers import accepted, begin_of, begun, end_of, serving
from tests.support.postgres import PostgresProcess
from toril.core.errors import LedgerUnavailable
from toril.delivery.ledger.asyncpg_ledger import AsyncpgLedger
from toril.delivery.rules.changes import Cancel, Delivered, End
from toril.delivery.rules.decisions import Decision
from toril.delivery.rules.lifecycle import Status


async def test_a_change_that_waits_for_a_lock_in_vain_takes_nothing_back_of_those_beside_it(
    postgres: PostgresProcess,
) -> None:
    async with serving(AsyncpgLedger(postgres.database())) as ledger:
        waiting = await accepted(ledger)
        stale = await begun(ledger, await accepted(ledger))
        await ledger.begin(begin_of(stale, "another"))
        cancel = Cancel(job_id=waiting.job_id, by="operator", at_s=stale.updated_at_s)
        async with ledger._connections.transaction() as other:
            await other.execute("SELECT FROM toril_deliveries WHERE job_id = $1 FOR UPDATE", stale.job_id)
            end = end_of(stale, Delivered(), begun=stale)
            (cancelled, _), refused = await ledger._commit_changes([cancel, end])
        assert isinstance(cancelled, Decision)
        assert isinstance(refused, LedgerUnavailable)
        assert (await ledger.get(waiting.job_id)).status is Status.CANCELLED


async def test_the_batches_of_two_ledgers_that_have_the_same_deliveries_write_each_once(
    postgres: PostgresProcess,
) -> None:
    database = postgres.database()
    async with serving(AsyncpgLedger(database)) as one, serving(AsyncpgLedger(database)) as two:
        some = [await begun(one, await accepted(one)) for _ in range(40)]
        ends = [end_of(each, Delivered(), begun=each) for each in some]
        await _at_once(one, two, ends)
        for each in some:
            history = await one.history(each.job_id)
            assert [step.to for step in history.transitions] == [Status.QUEUED, Status.DISPATCHING, Status.DELIVERED]
            assert len(history.attempts) == 1


async def _at_once(one: AsyncpgLedger, two: AsyncpgLedger, ends: list[End]) -> None:
    """Have both ledgers commit the same ends, one of them in the other order."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_written(one, ends))
        tasks.create_task(_written(two, ends[::-1]))


async def _written(ledger: AsyncpgLedger, ends: list[End]) -> None:
    results = await ledger._commit_changes(ends)
    assert not [result for result in results if isinstance(result, Exception)]
