"""Tells one event by a request to the events' target, past the ledger and the queue.

For what cannot wait for the ledger: that the ledger is away. The request is the one that a delivery of the event would
make, under the same id, so a receiver knows a later delivery of it as a repetition. Nothing is recorded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

import structlog
from msgspec.structs import replace

from toril.core.operator_event import OperatorEvent
from toril.core.outcome import Answered
from toril.core.ports import Now
from toril.delivery.ports import Breakers
from toril.delivery.rules.breaker import BreakerState
from toril.delivery.rules.changes import Begun
from toril.delivery.rules.delivery import Envelope, Inline, NewDelivery, new_job_id
from toril.delivery.rules.destination import Target, describe
from toril.delivery.rules.journal_entry import JournalEntry
from toril.engine.ports import Outbound

log = structlog.get_logger(__name__)

_PATIENCE_S = 5.0
JSON = (("content-type", "application/json"),)


def event_job_id(event: OperatorEvent) -> str:
    """Return the id of the delivery that tells an event: the same on every instance."""
    return new_job_id(event.at_s, hashlib.sha256(event.key.encode()).digest()[:10])


class DirectCall:
    """Makes such requests to one target.

    Args:
        target: the events' target.
        outbound: makes its requests.
        breakers: nothing is sent while its breaker is open, or while it is held.
        paused: returns True while a queue is paused; neither is anything sent then.
        now: the wall clock.
    """

    def __init__(
        self,
        target: Target,
        outbound: Outbound,
        breakers: Breakers,
        paused: Callable[[str], Awaitable[bool]],
        now: Now,
    ) -> None:
        self._target = target
        self._outbound = outbound
        self._breakers = breakers
        self._paused = paused
        self._now = now
        self._made = 0

    async def __call__(self, event: OperatorEvent) -> bool:
        """Return True if the target has accepted the event. Raises `StoreError` where Redis is away."""
        target = self._target
        if await self._shut() or await self._paused(target.queue):
            return False
        self._made += 1
        request = target.request_of(self._entry(event))
        pool = self._outbound.pool(target.url)
        try:
            outcome = await pool.send(replace(request, timeout_s=min(request.timeout_s, _PATIENCE_S)))
        finally:
            pool.close()
        accepted = isinstance(outcome, Answered) and 200 <= outcome.status < 300
        log.info(
            "event.told_directly" if accepted else "event.waits",
            type=event.type,
            subject=event.subject,
            error=None if accepted else describe(outcome, target.spec.timeout.total_s),
        )
        return accepted

    async def _shut(self) -> bool:
        """Return True while its breaker keeps attempts away. The time for a probe is good for such a request, too."""
        spec, now_s = self._target.spec, self._now()
        breaker = await self._breakers.read(spec.name)
        if (breaker.held_until_s or 0.0) > now_s:
            return True
        open_for_s = 0.0 if spec.breaker is None else spec.breaker.open_for_s
        return breaker.state is BreakerState.OPEN and now_s < (breaker.opened_at_s or 0.0) + open_for_s

    def _entry(self, event: OperatorEvent) -> JournalEntry:
        """Return the attempt that the delivery of an event would make."""
        body = event.body()
        new = NewDelivery(
            job_id=event_job_id(event),
            target=self._target.spec.name,
            envelope=Envelope(headers=JSON, content=Inline(body)),
            at_s=event.at_s,
            max_attempts=self._target.spec.retry.max_attempts,
            by="",
            idempotency_key=event.key,
        )
        delivery, _ = new.first()
        signer = self._target.signer(new.job_id)
        if signer is not None:
            signer.update(body)
        begun = Begun(replace(delivery, attempts_begun=self._made), new.envelope)
        return JournalEntry(begun, body, b"" if signer is None else signer.headers())
