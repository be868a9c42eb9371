"""Confirms settlements that instances make, without holding up the next job.

Who sent a result over a WebSocket is told where it cannot be confirmed. An endpoint that was called has its answer
already, so for it there is only the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from toril.bullmq.keys import QueueKeys
from toril.core.errors import StoreError
from toril.core.lease import Lease, Next
from toril.redis.confirmations import Confirmations, PlannedWrite, Unconfirmed

log = structlog.get_logger(__name__)

Told = Callable[[Lease, Unconfirmed | None], Awaitable[None]]
"""Called once for each settlement: with None when it is confirmed, else with the reason why it is not."""

_REPEAT_S = 10.0


class UnconfirmedLog:
    """Logs settlements that are not confirmed, every ten seconds at most."""

    def __init__(self) -> None:
        self._count = 0
        self._logged_at: float | None = None

    def note(self, queue: str, fault: Unconfirmed) -> None:
        """Count one, and log how many there are since the last line."""
        self._count += 1
        now = asyncio.get_running_loop().time()
        if self._logged_at is not None and now - self._logged_at < _REPEAT_S:
            return
        log.warning("settle.unconfirmed", queue=queue, settlements=self._count, error=fault.why)
        self._count, self._logged_at = 0, now


class AcknowledgedSettlements:
    """Confirms the settlements of some consumers.

    Args:
        confirmations: of writes to Redis.
        prefix: the prefix of BullMQ's keys.
        tasks: run the confirmations.
        unconfirmed: logs those that fail.
        told: called with the result of each; None where the worker is not told.
    """

    def __init__(
        self,
        confirmations: Confirmations,
        prefix: str,
        tasks: asyncio.TaskGroup,
        unconfirmed: UnconfirmedLog,
        told: Told | None = None,
    ) -> None:
        self._confirmations = confirmations
        self._prefix = prefix
        self._tasks = tasks
        self._unconfirmed = unconfirmed
        self._told = told
        self._pending: set[asyncio.Task[None]] = set()

    async def after(self, lease: Lease, settle: Callable[[], Awaitable[Next | None]]) -> Next | None:
        """Settle a lease and return the result; the settlement is confirmed later."""
        key = QueueKeys(self._prefix, lease.queue).prefix
        try:
            written = await self._confirmations.before(key)
        except StoreError:  # settling waits longer for Redis than this
            written = PlannedWrite(key, None)
        found = await settle()
        confirming = self._tasks.create_task(self._confirm(lease, written))
        self._pending.add(confirming)
        confirming.add_done_callback(self._pending.discard)
        return found

    async def settled(self) -> None:
        """Return when every settlement is confirmed, or its worker was told that it is not."""
        if self._pending:
            await asyncio.wait(self._pending)

    async def _confirm(self, lease: Lease, written: PlannedWrite) -> None:
        fault: Unconfirmed | None = None
        try:
            await self._confirmations.confirm(written)
        except Unconfirmed as exc:
            fault = exc
            self._unconfirmed.note(lease.queue, exc)
        if self._told is not None:
            await self._told(lease, fault)
