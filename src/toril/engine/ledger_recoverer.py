"""Brings the queues back in line with the ledger: what the ledger has and a queue has not is put in again.

A crash between commit and queue leaves such deliveries, and so does a Redis that lost its data. Also ends what has no
worker any more, and what waits past its deadline. Two instances may do so at the same time: a job's id is its
delivery's, so it is in the queue once, and every step in the ledger is refused to the second. Called by
`toril.bootstrap.delivery` and `toril recover`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import structlog
from msgspec import Struct

from toril.core.delivery import Delivery, Expire, Lose, Written, queue_of
from toril.core.delivery_job import job_of
from toril.core.errors import LedgerMoved, StoreError
from toril.core.lifecycle import WAITING
from toril.core.ports.jobs import JobFinder, JobProducer
from toril.core.ports.ledger import AnyLedger
from toril.core.ports.shared import Now

log = structlog.get_logger(__name__)

_PAGE = 500
_QUICK_S = 1.0
"""How often to look for lost workers and deadlines, and to try again after a failure."""
_BACK_S = 5.0
"""For how long after a failure no worker is taken for lost: each tries every two seconds to write what it knows."""


class Recovered(Struct):
    """What was done: attempts taken for lost, deadlines that were over, and jobs put back, by target."""

    lost: Counter[str]
    expired: Counter[str]
    requeued: Counter[str]

    @property
    def anything(self) -> bool:
        """Whether there was something to do at all."""
        return bool(self.lost or self.expired or self.requeued)


class Queues(Struct, frozen=True):
    """The targets' queues: adding jobs, and which are there."""

    producer: JobProducer
    finder: JobFinder


class LedgerRecoverer:
    """Recovers once when it starts, every `every_s`, and when it is told to.

    Args:
        ledger: what is to be.
        queues: what is.
        targets: those that are configured now.
        every_s: how often to compare everything that is due.
        by: how histories call this instance.
    """

    def __init__(
        self,
        ledger: AnyLedger,
        queues: Queues,
        targets: Callable[[], Iterable[str]],
        every_s: float,
        by: str,
        now: Now,
    ) -> None:
        self._ledger = ledger
        self._queues = queues
        self._targets = targets
        self._every_s = every_s
        self._by = by
        self._now = now
        self._due = True

    def soon(self) -> None:
        """Something could not be put into its queue: compare with the next look instead of waiting."""
        self._due = True

    async def run(self) -> None:
        """Recover until cancelled."""
        loop = asyncio.get_running_loop()
        compared_at = loop.time()
        failed_at: float | None = None
        while True:
            if loop.time() - compared_at >= self._every_s:
                self._due = True
            try:
                # Those who were kept from writing an end come first.
                patient = failed_at is not None and loop.time() - failed_at < _BACK_S
                expired = await self._expire()
                done = Recovered(Counter() if patient else await self._lose(), expired, Counter())
                if self._due:
                    self._due = False
                    compared_at = loop.time()
                    done.requeued = await self._put_back()
            except StoreError as exc:
                self._due = True
                known = failed_at is not None and loop.time() - failed_at < _BACK_S
                tell = log.error if isinstance(exc, LedgerMoved) and not known else log.debug
                tell("recoverer.ledger_failed", error=exc.message)
                failed_at = loop.time()
            else:
                if done.anything:
                    log.warning(
                        "recoverer.recovered",
                        lost=dict(done.lost),
                        expired=dict(done.expired),
                        requeued=dict(done.requeued),
                    )
            await asyncio.sleep(min(_QUICK_S, self._every_s))

    async def recover(self) -> Recovered:
        """Recover now, all of it.

        Raises:
            StoreUnavailable: the ledger or Redis did not answer; what was done until then is done.
        """
        expired = await self._expire()
        return Recovered(await self._lose(), expired, await self._put_back())

    async def _lose(self) -> Counter[str]:
        """End attempts whose lease is over, but for those whose job is still locked: their worker lives, and knows what
        came of them or soon will.
        """
        lost: Counter[str] = Counter()
        held: set[str] = set()
        while True:
            found = await self._ledger.overrun(self._now(), _PAGE + len(held))
            overrun = [one for one in found if one.job_id not in held]
            if not overrun:
                return lost
            held |= await self._held(overrun)
            for one in overrun:
                if one.job_id in held:
                    continue
                change = Lose(job_id=one.job_id, number=one.attempts_begun, by=self._by, at_s=self._now())
                written = await self._ledger.lose(change)
                if isinstance(written, Written):
                    lost[one.target] += 1
                    self._due = True

    async def _held(self, deliveries: Sequence[Delivery]) -> set[str]:
        by_target: dict[str, list[str]] = {}
        for one in deliveries:
            by_target.setdefault(one.target, []).append(one.job_id)
        held: set[str] = set()
        for target, job_ids in by_target.items():
            held.update(await self._queues.finder.held(queue_of(target), job_ids))
        return held

    async def _expire(self) -> Counter[str]:
        """End waits that are over."""
        expired: Counter[str] = Counter()
        while over := await self._ledger.expired(self._now(), _PAGE):
            for one in over:
                written = await self._ledger.expire(Expire(job_id=one.job_id, by=self._by, at_s=self._now()))
                if isinstance(written, Written):
                    expired[one.target] += 1
        return expired

    async def _put_back(self) -> Counter[str]:
        """Put in what is due before the next comparison and is in no queue."""
        requeued: Counter[str] = Counter()
        until_s = self._now() + 2 * self._every_s
        for target in self._targets():
            after: str | None = None
            while page := await self._ledger.waiting(target, due_before_s=until_s, after=after, limit=_PAGE):
                after = page[-1].job_id
                requeued[target] += await self._missing_back(target, page)
        return +requeued

    async def _missing_back(self, target: str, page: Sequence[Delivery]) -> int:
        queue = queue_of(target)
        missing = await self._queues.finder.missing(queue, [one.job_id for one in page])
        if not missing:
            return 0
        # Between the two looks some have ended, and left their queue rightly.
        found = await self._ledger.some(missing)
        waiting = [one for one in found.values() if one.status in WAITING]
        if waiting:
            now_s, ledger_id = self._now(), await self._ledger.identity()
            jobs = [job_of(one, now_s, ledger_id) for one in waiting]
            await self._queues.producer.add(queue, jobs, int(now_s * 1000))
        return len(waiting)
