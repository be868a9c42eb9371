"""Jobs whose endpoint answered that it settles them later: each keeps its slot until it is settled.

The lease is the endpoint's from then on: only its own calls renew it, and they may come to any instance. The instance
that settles such a job notifies the one whose slot it is in. A notification may get lost: a slot looks at the lock by
itself, from time to time and when it should have ended. The lease does not depend on the slot: it outlives consumer and
process.
"""

from __future__ import annotations

import asyncio

import structlog

from toril.core.errors import StoreError, StoreUnavailable
from toril.core.lease import Lease
from toril.core.ports import Now
from toril.core.verdict import HandOver
from toril.engine.lock_tokens import owner_of
from toril.engine.ports import LeasedQueues, LeaseStore, SettlementNotifications
from toril.engine.slot import Slot

log = structlog.get_logger(__name__)

_LOOK_S = 20.0
_RETRY_S = 0.5


class Handovers:
    """The jobs that were handed over by consumers of this process.

    Args:
        leased: told which queues have such jobs, so that a lapsed one is recovered.
        notifications: from and to other instances, about jobs that were settled.
        instance_id: what this process's lock tokens begin with.
        now: the wall clock.
    """

    def __init__(
        self, leased: LeasedQueues, notifications: SettlementNotifications, *, instance_id: str, now: Now
    ) -> None:
        self._leased = leased
        self._notifications = notifications
        self._instance = instance_id.encode()
        self._now = now
        self._held: dict[tuple[str, bytes], Slot] = {}
        self._first = asyncio.Event()

    async def run(self) -> None:
        """Follow the notifications of other instances until cancelled, from the first handover on."""
        await self._first.wait()
        await self._notifications.follow(self._notice)

    def _notice(self, queue: str, job_id: bytes) -> None:
        slot = self._held.get((queue, job_id))
        if slot is not None:
            slot.news.set()

    async def settled(self, lease: Lease) -> None:
        """Free the slot of a job that was settled by its lock token, here or in another instance."""
        owner = owner_of(lease.token)
        if owner == self._instance:
            self._notice(lease.queue, lease.job_id)
        elif owner:
            try:
                await self._notifications.tell(owner, lease.queue, lease.job_id)
            except StoreError as exc:
                log.debug("handover.not_told", error=exc.message)

    async def hold(self, store: LeaseStore, slot: Slot, lease: Lease, verdict: HandOver) -> None:
        """Hand a lease over; return when the slot is free: the job is settled or lapsed, or the slot dismissed."""
        key = (lease.queue, lease.job_id)
        lease.handed_over = True
        slot.spent = True
        self._held[key] = slot
        self._first.set()
        try:
            left_s = await self._begin(store, lease, verdict.lock_ms)
            while left_s is not None and not slot.dismissed:
                await _wait_for_news(slot, min(left_s + 0.002, _LOOK_S))
                if not slot.dismissed:
                    left_s = await self._look(store, lease)
        finally:
            if self._held.get(key) is slot:
                del self._held[key]

    async def _begin(self, store: LeaseStore, lease: Lease, lock_ms: int) -> float | None:
        loop = asyncio.get_running_loop()
        until = loop.time() + lock_ms / 1000
        while True:
            try:
                # Noted first: if this process dies in between, the lease is found all the same.
                await self._leased.note(lease.queue, self._now() + lock_ms / 1000)
                return await store.hand_over(lease, lock_ms)
            except StoreUnavailable as exc:
                if loop.time() > until:
                    log.warning("lease.lost", queue=lease.queue, job_id=_shown(lease), error=exc.message)
                    return None
                await asyncio.sleep(_RETRY_S)
            except StoreError as exc:
                log.error("handover.failed", queue=lease.queue, job_id=_shown(lease), error=exc.message)
                return None

    async def _look(self, store: LeaseStore, lease: Lease) -> float | None:
        try:
            return await store.left_s(lease)
        except StoreError as exc:
            log.debug("handover.look_failed", queue=lease.queue, error=exc.message)
            return _RETRY_S


async def _wait_for_news(slot: Slot, within_s: float) -> None:
    """Wait until there is news of the slot's job, or this time is over. Later news counts for the next wait."""
    try:
        async with asyncio.timeout(within_s):
            await slot.news.wait()
    except TimeoutError:
        pass
    slot.news.clear()


def _shown(lease: Lease) -> str:
    return lease.job_id.decode(errors="replace")
