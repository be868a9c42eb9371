"""Brings the queues into line with the ledger: adds the jobs of waiting deliveries that are missing in their queue.

Jobs are missing after a crash between commit and queue, and after a Redis that lost its data. Also ends attempts whose
worker is lost, and dead-letters deliveries that wait past their deadline. Two instances may recover at the same time: a
job has the id of its delivery, so it is in the queue once, and the ledger refuses each step to the second instance.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import structlog
from msgspec import Struct

from toril.core.errors import LedgerMoved, StoreError
from toril.core.metrics import DEAD_LETTERS, RECOVERED, UNMETERED
from toril.core.ports import Meter, Now
from toril.delivery.ports import AnyLedger
from toril.delivery.rules.changes import Expire, Lose, Written
from toril.delivery.rules.decisions import DEADLINE
from toril.delivery.rules.delivery import Delivery, queue_of
from toril.delivery.rules.lifecycle import WAITING
from toril.delivery.target_queues import TargetQueues

log = structlog.get_logger(__name__)

_PAGE = 500
_QUICK_S = 1.0
"""How often to look for lost workers and passed deadlines, and to try again after a failure."""
_BACK_S = 5.0
"""For how long after a failure no attempt is recorded as lost: workers retry every two seconds to record its end."""


class Recovered(Struct):
    """Counts by target: attempts recorded as lost, deadlines that had passed, and jobs put back."""

    lost: Counter[str]
    expired: Counter[str]
    requeued: Counter[str]

    @property
    def anything(self) -> bool:
        """True if anything was done."""
        return bool(self.lost or self.expired or self.requeued)


class LedgerRecoverer:
    """Compares the ledger with the queues at its start, every `every_s`, and when `soon` is called.

    Args:
        ledger: has the deliveries.
        queues: should have a job for each waiting one.
        targets: returns the names of the targets that are configured now.
        every_s: how often to compare everything that is due.
        by: the name of this instance in histories.
        now: the wall clock.

    `meter` counts what was done, once it is set.
    """

    def __init__(
        self,
        ledger: AnyLedger,
        queues: TargetQueues,
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
        self.meter: Meter = UNMETERED

    def soon(self) -> None:
        """Compare within a second instead of after `every_s`: a job could not be added to its queue."""
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
                # Right after an outage, workers first get the time to record how their attempts ended.
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
                self._measure(done)
                if done.anything:
                    log.warning(
                        "recoverer.recovered",
                        lost=dict(done.lost),
                        expired=dict(done.expired),
                        requeued=dict(done.requeued),
                    )
            await asyncio.sleep(min(_QUICK_S, self._every_s))

    def _measure(self, done: Recovered) -> None:
        for change, counts in (("lost", done.lost), ("expired", done.expired), ("requeued", done.requeued)):
            for target, count in counts.items():
                self.meter.count(RECOVERED, (queue_of(target), change), count)
        for target, count in done.expired.items():
            self.meter.count(DEAD_LETTERS, (queue_of(target), DEADLINE), count)

    async def recover(self) -> Recovered:
        """Recover everything now.

        Raises:
            StoreUnavailable: the ledger or Redis did not answer. The steps before that are done.
        """
        expired = await self._expire()
        return Recovered(await self._lose(), expired, await self._put_back())

    async def _lose(self) -> Counter[str]:
        """Record attempts whose lease is over as lost, except where a worker still holds the job's lock: it is alive
        and will record the end.
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
        """Dead-letter deliveries that wait past their deadline."""
        expired: Counter[str] = Counter()
        while over := await self._ledger.expired(self._now(), _PAGE):
            for one in over:
                written = await self._ledger.expire(Expire(job_id=one.job_id, by=self._by, at_s=self._now()))
                if isinstance(written, Written):
                    expired[one.target] += 1
        return expired

    async def _put_back(self) -> Counter[str]:
        """Add the missing jobs of deliveries that are due before the comparison after the next one."""
        requeued: Counter[str] = Counter()
        until_s = self._now() + 2 * self._every_s
        for target in self._targets():
            after: str | None = None
            while page := await self._ledger.waiting(target, due_before_s=until_s, after=after, limit=_PAGE):
                after = page[-1].job_id
                requeued[target] += await self._missing_back(target, page)
        return +requeued

    async def _missing_back(self, target: str, page: Sequence[Delivery]) -> int:
        missing = await self._queues.finder.missing(queue_of(target), [one.job_id for one in page])
        if not missing:
            return 0
        # Some may have finished, and left their queue, since the page was read.
        found = await self._ledger.some(missing)
        waiting = [one for one in found.values() if one.status in WAITING]
        if waiting:
            now_s, ledger_id = self._now(), await self._ledger.identity()
            await self._queues.add(target, waiting, now_s, ledger_id, again=True)
        return len(waiting)
