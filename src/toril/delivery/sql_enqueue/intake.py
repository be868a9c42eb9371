"""Brings deliveries that were accepted by `toril.enqueue` into the queues of their targets.

Such a delivery is a row of the ledger from the caller's commit on. Beside it the same transaction wrote a row of
`toril.unqueued`, which says that there is no job for it yet. An instance claims rows (`FOR UPDATE SKIP LOCKED`), adds
their jobs, and commits that the rows are gone. If it is killed in between, the rows are there again, and adding a job
a second time changes nothing. What is missed in any other way, the recoverer puts back: it compares the ledger with the
queues, wherever a delivery came from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import structlog
from msgspec import Struct

from toril.core.errors import LedgerUnavailable, StoreError
from toril.core.ports import Now
from toril.delivery.ledger.postgres_connections import PostgresConnections
from toril.delivery.ledger.sql_rows import delivery_of
from toril.delivery.ledger.sql_schema import STATE
from toril.delivery.ports import LedgerReader
from toril.delivery.rules.delivery import Delivery
from toril.delivery.rules.lifecycle import WAITING
from toril.delivery.rules.target import TargetSpec
from toril.delivery.sql_enqueue.functions import CHANNEL, VERSION
from toril.delivery.sql_enqueue.look_pace import ATTENTION_S, LookPace
from toril.delivery.sql_enqueue.notifications import PostgresNotifications
from toril.delivery.sql_enqueue.target_table import remove_others, write_targets
from toril.delivery.target_queues import TargetQueues

log = structlog.get_logger(__name__)

_CLAIMED = 500
_AGAIN_S = 1.0
"""How soon to try again after a failure."""
_MADE_S = 5.0
"""How often to see whether the schema was made."""
_KEEP_S = 15.0
_SAID_EVERY = 60

_THERE = """
SELECT has_table_privilege(c.oid, 'SELECT') FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'toril' AND c.relname = 'version'"""
_VERSION = "SELECT version, ledger = $1 FROM toril.version"
_HOME = """
SELECT n.nspname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass('toril_deliveries')"""
# From one target to the next by the index, instead of past every row.
_TARGETS = """
WITH RECURSIVE found (target) AS (
    SELECT min(target) FROM toril.unqueued
    UNION ALL
    SELECT (SELECT min(target) FROM toril.unqueued AS one WHERE one.target > found.target)
    FROM found WHERE found.target IS NOT NULL
) SELECT target FROM found WHERE target IS NOT NULL"""
_CLAIM = f"""
WITH locked AS MATERIALIZED (
    SELECT target, job_id FROM toril.unqueued WHERE target = $1 ORDER BY job_id LIMIT {_CLAIMED} FOR UPDATE SKIP LOCKED
),
claimed AS (
    DELETE FROM toril.unqueued AS one USING locked WHERE one.target = locked.target AND one.job_id = locked.job_id
    RETURNING one.job_id
)
SELECT {STATE} FROM claimed LEFT JOIN toril_deliveries USING (job_id)"""

_ATTENTION = "UPDATE toril.attention SET until = greatest(until, now() + make_interval(secs => $1))"


class TargetSource(Struct, frozen=True):
    """The targets and the limit of a body, as they are configured now."""

    targets: Callable[[], Sequence[TargetSpec]]
    max_body_bytes: Callable[[], int]


class SqlIntake:
    """Takes in what was enqueued in SQL, where the ledger's database has the schema `toril`.

    Args:
        url: the ledger's database.
        ledger: knows the ledger's id.
        queues: the targets' queues.
        source: the configuration.
        now: the wall clock.
    """

    def __init__(self, url: str, ledger: LedgerReader, queues: TargetQueues, source: TargetSource, now: Now) -> None:
        self._ledger = ledger
        self._queues = queues
        self._source = source
        self._now = now
        self._connections = PostgresConnections(url, 2, lambda: None)
        self._woken = asyncio.Event()
        self._notifications = PostgresNotifications(url, CHANNEL, lambda _: self._woken.set(), self._woken.set)
        self._changed = asyncio.Event()
        self._pace = LookPace()
        self._found = 0
        self._faults: dict[str, str] = {}
        self._failures = 0

    def renew(self) -> None:
        """Tell the database of a changed configuration."""
        self._changed.set()

    def warnings(self) -> list[str]:
        """Return what keeps envelopes that were enqueued in SQL from their queues."""
        return [f"SQL enqueue: {fault}" for fault in self._faults.values()]

    async def run(self) -> None:
        """Take in until cancelled."""
        try:
            await self._until("connection", self._open, _AGAIN_S)
            await self._until("schema", self._made, _MADE_S)
            async with asyncio.TaskGroup() as tasks:
                if not self._connections.pooled:
                    tasks.create_task(self._notifications.run(), name="sql-enqueue:listen")
                tasks.create_task(self._keep_targets(), name="sql-enqueue:targets")
                tasks.create_task(self._take_in(), name="sql-enqueue:take-in")
        finally:
            self._connections.close()

    async def _until(self, what: str, attempt: Callable[[], Awaitable[bool]], pause_s: float) -> None:
        while True:
            if await self._attempted(what, attempt()):
                return
            await asyncio.sleep(pause_s)

    async def _open(self) -> bool:
        await self._connections.open(_nothing)
        return True

    async def _made(self) -> bool:
        """Return True if the schema is there, and belongs to this ledger."""
        async with self._connections.statements() as connection:
            readable = await connection.fetchval(_THERE)
            if readable is None:
                return False
            if not readable:
                raise LedgerUnavailable("The schema toril is another role's", reason="its schema is another role's")
            row = await connection.fetchrow(_VERSION, await connection.fetchval(_HOME))
        if row is None or not row[1]:
            return False  # of another ledger in this database
        if row[0] > VERSION:
            raise LedgerUnavailable(
                f"The schema toril has version {row[0]}, made by a newer toril", reason="a newer toril made its schema"
            )
        return True

    async def _keep_targets(self) -> None:
        changed = True
        while True:
            self._changed.clear()
            kept = await self._attempted("targets", self._write_targets(changed=changed))
            with suppress(TimeoutError):
                async with asyncio.timeout(_KEEP_S if kept else _AGAIN_S):
                    await self._changed.wait()
            changed = self._changed.is_set() or (changed and not kept)

    async def _write_targets(self, *, changed: bool) -> bool:
        targets = self._source.targets()
        async with self._connections.transaction() as connection:
            await write_targets(connection, targets, self._source.max_body_bytes(), changed=changed)
            await remove_others(connection, targets)
        return True

    async def _take_in(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._woken.clear()
            self._found = 0
            await self._attempted("unqueued", self._take_in_all())
            if self._pace.looked(loop.time(), found=self._found > 0):
                await self._attempted("attention", self._pay_attention())
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pace.pause_s(loop.time())):
                    await self._woken.wait()

    async def _pay_attention(self) -> bool:
        """Tell callers that they need not notify for a while."""
        async with self._connections.statements() as connection:
            await connection.execute(_ATTENTION, ATTENTION_S)
        return True

    async def _take_in_all(self) -> bool:
        """Add all jobs that are missing; a queue that refuses keeps no other waiting. Return True if none did."""
        async with self._connections.statements() as connection:
            rows = await connection.fetch(_TARGETS)
        own = {one.name for one in self._source.targets()}
        done = True
        for target in [row[0] for row in rows if row[0] in own]:
            done &= await self._attempted(f"queue of {target}", self._take_in_target(target))
        return done

    async def _take_in_target(self, target: str) -> bool:
        while await self._claim(target) == _CLAIMED:
            pass
        return True

    async def _claim(self, target: str) -> int:
        """Add the jobs of some rows that no other instance has locked, and remove the rows; return how many."""
        ledger_id = await self._ledger.identity()
        async with self._connections.transaction() as connection:
            rows = await connection.fetch(_CLAIM, target)
            found = [delivery_of(row) for row in rows if row[1] is not None]
            waiting = [one for one in found if one.status in WAITING]
            if waiting:
                await self._add(target, waiting, ledger_id)
        self._found += len(rows)
        return len(rows)

    async def _add(self, target: str, deliveries: Sequence[Delivery], ledger_id: str) -> None:
        await self._queues.add(target, deliveries, self._now(), ledger_id)

    async def _attempted(self, what: str, doing: Awaitable[bool]) -> bool:
        """Return what came of it; False where a store refused or was away, which is logged."""
        try:
            done = await doing
        except StoreError as exc:
            if what not in self._faults or self._failures % _SAID_EVERY == 0:
                log.warning("sql_enqueue.failed", what=what, error=exc.message)
            self._failures += 1
            reason = exc.reason if isinstance(exc, LedgerUnavailable) else exc.message
            self._faults[what] = f"{what}: {reason}"
            return False
        self._faults.pop(what, None)
        return done


async def _nothing(connection: Any) -> None:
    """Prepare nothing: the ledger brings its schema up to date."""
