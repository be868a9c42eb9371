"""Pauses and holds of targets. A pause is on the disk when a call returns."""

from __future__ import annotations

import math

from toril.delivery.postgres_queue.database import QueueDatabase
from toril.delivery.postgres_queue.tables import NOW
from toril.delivery.postgres_queue.waits import PostgresWaits
from toril.delivery.rules.delivery import QUEUE_PREFIX

_PAUSE = f"""
INSERT INTO toril_queues AS q (target, paused_since) VALUES ($1, {NOW})
ON CONFLICT (target) DO UPDATE SET paused_since = coalesce(q.paused_since, excluded.paused_since)"""
_RESUME = "UPDATE toril_queues SET paused_since = NULL WHERE target = $1"
_SINCE = "SELECT paused_since FROM toril_queues WHERE target = $1 AND paused_since IS NOT NULL"
_HOLD = f"""
INSERT INTO toril_queues AS q (target, held_until) VALUES ($1, {NOW} + $2)
ON CONFLICT (target) DO UPDATE SET held_until = greatest(q.held_until, excluded.held_until)"""
_HELD = f"SELECT held_until - {NOW} FROM toril_queues WHERE target = $1 AND held_until IS NOT NULL"
_LET_GO = "UPDATE toril_queues SET held_until = NULL, window_until = 0, window_count = 0 WHERE target = $1"


class PostgresControl:
    """`TargetControl` in PostgreSQL."""

    def __init__(self, database: QueueDatabase, waits: PostgresWaits) -> None:
        self._database = database
        self._waits = waits

    async def pause(self, queue: str) -> None:
        """As `TargetControl.pause`."""
        async with self._database.transaction(durable=True) as connection:
            await connection.execute(_PAUSE, _target(queue))

    async def resume(self, queue: str) -> None:
        """As `TargetControl.resume`."""
        async with self._database.transaction(durable=True) as connection:
            await connection.execute(_RESUME, _target(queue))
            await self._waits.tell(connection, ("jobs", queue, "0"))
        self._waits.jobs_wait(queue)

    async def paused(self, queue: str) -> bool:
        """As `TargetControl.paused`."""
        return await self.paused_since_ms(queue) is not None

    async def paused_since_ms(self, queue: str) -> int | None:
        """As `TargetControl.paused_since_ms`."""
        rows = await self._database.fetch(_SINCE, _target(queue))
        return int(rows[0][0] * 1000) if rows else None

    async def held_ms(self, queue: str) -> int:
        """Return for how many milliseconds nothing is sent to a target; 0 where there is no hold."""
        rows = await self._database.fetch(_HELD, _target(queue))
        return max(0, math.ceil(rows[0][0] * 1000)) if rows else 0

    async def hold(self, queue: str, for_ms: int) -> None:
        """As `QueueHolds.hold`."""
        await self._database.fetch(_HOLD, _target(queue), for_ms / 1000)

    async def let_go(self, queue: str) -> None:
        """As `QueueHolds.let_go`."""
        async with self._database.transaction() as connection:
            await connection.execute(_LET_GO, _target(queue))
            await self._waits.tell(connection, ("lifted", queue, "0"))
        self._waits.lifted(queue)


def _target(queue: str) -> str:
    return queue.removeprefix(QUEUE_PREFIX)
