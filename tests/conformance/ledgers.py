"""Ledgers as a test sees them: in memory, in SQLite, in PostgreSQL and in Redis alone."""

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from tests.conformance.bullmq.links import QUICK, address_of, linked
from tests.support.valkey import ValkeyProcess
from toril.core.errors import StoreError
from toril.delivery.ledger.redis_ledger import RedisLedger
from toril.delivery.ports import Ledger
from toril.delivery.rules.changes import Accepted, AttemptResult, Begin, Begun, End, Written
from toril.delivery.rules.delivery import (
    AttemptOutcome,
    Delivery,
    Envelope,
    Inline,
    NewDelivery,
    TargetResponse,
    new_job_id,
)
from toril.redis.connection import Link

AT_S = 1_700_000_000.0
_later = itertools.count()


def new(target: str = "billing", **more: Any) -> NewDelivery:
    """A delivery to accept; each sorts behind the one before."""
    at_s = more.pop("at_s", AT_S)
    job_id = new_job_id(AT_S + next(_later), os.urandom(10))
    given = {"job_id": job_id, "target": target, "envelope": Envelope(content=Inline(b"{}")), "at_s": at_s}
    return NewDelivery(**(given | {"max_attempts": 3, "by": "gateway"} | more))


async def accepted(ledger: Ledger, target: str = "billing", **more: Any) -> Delivery:
    """A delivery in the ledger; raises what kept it out."""
    (result,) = await ledger.accept([new(target, **more)])
    if isinstance(result, StoreError):
        raise result
    assert isinstance(result, Accepted), result
    return result.delivery


def begin_of(one: Delivery, token: str = "t", at_s: float = AT_S + 1) -> Begin:
    """The beginning of an attempt."""
    return Begin(job_id=one.job_id, token=token, by="worker", at_s=at_s, lease_until_s=at_s + 30)


async def begun(ledger: Ledger, one: Delivery, token: str = "t", at_s: float = AT_S + 1) -> Delivery:
    """A delivery whose attempt has begun."""
    result = await ledger.begin(begin_of(one, token, at_s))
    assert isinstance(result, Begun), result
    return result.delivery


def end_of(one: Delivery, result: AttemptResult, **more: Any) -> End:
    """The end of the attempt under way."""
    given = {"job_id": one.job_id, "number": one.attempts_begun, "by": "worker", "at_s": AT_S + 2, "duration_s": 0.25}
    return End(**(given | {"result": result, "outcome": AttemptOutcome.ANSWERED, "status_code": 200} | more))


async def ended(ledger: Ledger, one: Delivery, result: AttemptResult, **more: Any) -> Delivery:
    """A delivery whose attempt has ended."""
    result = await ledger.end(end_of(one, result, **more))
    assert isinstance(result, Written), result
    return result.delivery


async def finished(ledger: Ledger, result: AttemptResult, target: str = "billing", **more: Any) -> Delivery:
    """A delivery that went through one attempt."""
    end = {name: more.pop(name) for name in ("response", "error") if name in more}
    end |= {"at_s": more.pop("end_s", AT_S + 2)}
    return await ended(ledger, await begun(ledger, await accepted(ledger, target, **more)), result, **end)


RESPONSE = TargetResponse(status=503, headers=(("Content-Type", "text/plain"),), content=Inline(b"no\x00\xff"))


@asynccontextmanager
async def serving(ledger: Any) -> AsyncIterator[Any]:
    """A ledger that runs, for the length of a block; it can be used from the first line of the block on."""
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(ledger.run())
        until = time.monotonic() + 20
        while True:
            try:
                await ledger.check()
                break
            except Exception:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.02)
        yield ledger
        running.cancel()


@asynccontextmanager
async def in_redis(valkey: ValkeyProcess) -> AsyncIterator[RedisLedger]:
    """A ledger in Redis alone that no other test uses, for the length of a block."""
    link = Link(address_of(valkey), QUICK)
    async with linked(link):
        await link.up(5.0)
        yield RedisLedger(link, f"test-{os.urandom(4).hex()}")


def sqlite_path(folder: Path) -> Path:
    """A ledger file no other test uses."""
    return folder / f"ledger-{os.urandom(4).hex()}.sqlite3"


async def emptied(database: str) -> None:
    """Remove everything from a ledger in PostgreSQL."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("TRUNCATE toril_deliveries, toril_transitions, toril_attempts, toril_labels")
    finally:
        await connection.close()
