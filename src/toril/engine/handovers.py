"""Jobs whose endpoint has answered that it settles them later: each keeps its slot until somebody has settled it.

The lease is the endpoint's from then on: only its own calls renew it, and they may come to any instance. One that
settles such a job tells the instance whose slot it is in. Nothing depends on that news: a slot looks at the lock by
itself, now and then and when it should be over. Nor does a lease depend on the slot: it outlives consumer and process.
"""

from __future__ import annotations

import asyncio

import structlog

from toril.core.errors import StoreError, StoreUnavailable
from toril.core.lease import Lease
from toril.core.lock_tokens import owner_of
from toril.core.ports.shared import Now
from toril.core.ports.work import LeasedQueues, LeaseStore, SettledNews
from toril.core.verdict import HandOver
from toril.engine.slot import Slot

log = structlog.get_logger(__name__)

_LOOK_S = 20.0
_RETRY_S = 0.5


class Handovers:
    """The jobs that were handed over by consumers of this process.

    Args:
        leased: told which queues have such jobs, so that one that lapses is brought back.
        news: hears of jobs that were settled elsewhere, and tells others of theirs.
        instance_id: what this process's lock tokens begin with.
        now: the wall clock.
    """

    def __init__(self, leased: LeasedQueues, news: SettledNews, *, instance_id: str, now: Now) -> None:
        self._leased = leased
        self._news = news
        self._instance = instance_id.encode()
        self._now = now
        self._held: dict[tuple[str, bytes], Slot] = {}
        self._some = asyncio.Event()

    async def run(self) -> None:
        """Hear of jobs that were settled elsewhere, until cancelled; from the first handover on."""
        await self._some.wait()
        await self._news.follow(self._heard)

    def _heard(self, queue: str, job_id: bytes) -> None:
        slot = self._held.get((queue, job_id))
        if slot is not None:
            slot.stir.set()

    async def tell(self, lease: Lease) -> None:
        """A job was settled by its lock token: whoever keeps a slot for it may use it again."""
        owner = owner_of(lease.token)
        if owner == self._instance:
            self._heard(lease.queue, lease.job_id)
        elif owner:
            try:
                await self._news.tell(owner, lease.queue, lease.job_id)
            except StoreError as exc:
                log.debug("handover.not_told", error=exc.message)

    async def hold(self, store: LeaseStore, slot: Slot, lease: Lease, verdict: HandOver) -> None:
        """Hand a lease over; return when the slot is free: the job is settled or lapsed, or the slot dismissed."""
        key = (lease.queue, lease.job_id)
        lease.handed_over = True
        slot.spent = True
        self._held[key] = slot
        self._some.set()
        try:
            left_s = await self._begin(store, lease, verdict.lock_ms)
            while left_s is not None and not slot.dismissed:
                await _news_of(slot, min(left_s + 0.002, _LOOK_S))
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
                # Noted first: should this process die in between, the lease is found all the same.
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


async def _news_of(slot: Slot, within_s: float) -> None:
    """Wait until there is news of this slot's job, or for so long. What comes behind this is kept for the next time."""
    try:
        async with asyncio.timeout(within_s):
            await slot.stir.wait()
    except TimeoutError:
        pass
    slot.stir.clear()


def _shown(lease: Lease) -> str:
    return lease.job_id.decode(errors="replace")
