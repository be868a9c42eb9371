"""What only the ledger in Redis has to cope with: rows that Redis evicted, or that others changed between two reads."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from tests.conformance.holding import held
from tests.conformance.ledgers import AT_S, accepted, begun, in_redis, new
from tests.support.valkey import ValkeyProcess
from toril.delivery.ledger.redis_ledger import RedisLedger
from toril.delivery.rules.changes import Accepted, Duplicate
from toril.delivery.rules.delivery import Delivery


@pytest.fixture
async def ledger(valkey: ValkeyProcess) -> AsyncIterator[RedisLedger]:
    async for made in held(in_redis(valkey)):
        yield made


async def test_a_key_whose_delivery_was_evicted_is_free_again(ledger: RedisLedger) -> None:
    evicted = await accepted(ledger, idempotency_key="k")
    await ledger._call("DEL", ledger._keys.row(evicted.job_id))
    async with asyncio.timeout(10):
        (result,) = await ledger.accept([given := new(idempotency_key="k")])
    assert result == Accepted(given.first()[0])
    (again,) = await ledger.accept([new(idempotency_key="k")])
    assert isinstance(again, Duplicate)


async def test_deliveries_that_begin_during_a_listing_hide_no_others(
    ledger: RedisLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ones = [await accepted(ledger) for _ in range(210)]  # more than are read at once
    some = ledger.some

    async def some_after_a_change(job_ids: Sequence[str]) -> dict[str, Delivery]:
        if ones[0].job_id in job_ids:
            for one in ones[:200]:
                await begun(ledger, one)
        return await some(job_ids)

    monkeypatch.setattr(ledger, "some", some_after_a_change)
    found = await ledger.waiting("billing", due_before_s=AT_S + 100, after=None, limit=5)
    assert [one.job_id for one in found] == [one.job_id for one in ones[200:205]]
