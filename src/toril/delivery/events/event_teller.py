"""Tells events: each becomes a delivery to the target of `events`, under a key that makes it one for the fleet.

Several instances may see the same fact. Each asks the ledger to accept it under the same idempotency key, so one
delivery is made of it, with one id. While the ledger is away, events wait here, and their facts last in Redis.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

from toril.core.errors import IdempotencyMismatch, StoreError, TorilError
from toril.core.metrics import EVENTS_DROPPED, EVENTS_TOLD, EVENTS_WAITING
from toril.core.operator_event import OperatorEvent, matches
from toril.core.ports import Meter
from toril.delivery.deliveries import Enqueued
from toril.delivery.events.direct_call import JSON, event_job_id
from toril.delivery.rules.enqueue import EnqueueRequest
from toril.delivery.rules.target import EventsPolicy

log = structlog.get_logger(__name__)

TOLD_DIRECTLY = frozenset({"ledger.unreachable"})
"""What may have been told past the ledger before it becomes a delivery: under the same id."""
_MOST = 10_000
_AGAIN_S = 1.0


class EventTeller:
    """Accepts events, and has them delivered.

    Args:
        policy: which events, and where to.
        enqueue: accepts a delivery.
        meter: counts events.
    """

    def __init__(
        self, policy: EventsPolicy, enqueue: Callable[[EnqueueRequest], Awaitable[Enqueued]], meter: Meter
    ) -> None:
        self._policy = policy
        self._enqueue = enqueue
        self._meter = meter
        self._waiting: deque[OperatorEvent] = deque()
        self._known: dict[str, None] = {}
        self._wake = asyncio.Event()

    def wants(self, event: OperatorEvent) -> bool:
        """Return True if operators are to be told of an event."""
        policy = self._policy
        return policy.target is not None and event.target != policy.target and matches(policy.types, event.type)

    def told_directly(self, event: OperatorEvent) -> None:
        """Note that the target of the events has accepted an event already."""
        self._remember(event.key)
        self._meter.count(EVENTS_TOLD, (event.type,))

    def tell(self, event: OperatorEvent) -> None:
        """Have an event delivered, if it is wanted and was not told here before.

        What concerns the target of the events is only logged: to tell it would cause the next event.
        """
        if event.key in self._known:
            return
        self._remember(event.key)
        log.info("event", type=event.type, subject=event.subject)
        if not self.wants(event):
            return
        if len(self._waiting) >= _MOST:
            self._drop(event, "too many wait")
            return
        self._waiting.append(event)
        self._meter.count(EVENTS_WAITING)
        self._wake.set()

    async def run(self) -> None:
        """Have events delivered until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                event = self._waiting[0]
                try:
                    accepted = await self._enqueue(self._request(event))
                except IdempotencyMismatch:
                    pass  # another instance has told it, with other figures
                except StoreError as exc:
                    log.debug("event.waits", type=event.type, error=exc.message)
                    await asyncio.sleep(_AGAIN_S)
                    continue
                except TorilError as exc:
                    self._drop(event, exc.message)
                else:
                    if not accepted.replayed:
                        self._meter.count(EVENTS_TOLD, (event.type,))
                self._waiting.popleft()
                self._meter.count(EVENTS_WAITING, by=-1)

    def _request(self, event: OperatorEvent) -> EnqueueRequest:
        body = event.body()
        return EnqueueRequest(
            target=self._policy.target or "",
            method="POST",
            path=None,
            headers=JSON,
            body=body,
            json_body=body,
            delay_s=None,
            not_before_s=None,
            deadline_s=None,
            priority=0,
            labels={"event": event.type},
            idempotency_key=event.key,
            job_id=event_job_id(event) if event.type in TOLD_DIRECTLY else None,
        )

    def _drop(self, event: OperatorEvent, why: str) -> None:
        self._meter.count(EVENTS_DROPPED, (event.type,))
        log.error("event.not_told", type=event.type, subject=event.subject, error=why)

    def _remember(self, key: str) -> None:
        self._known[key] = None
        if len(self._known) > 2 * _MOST:
            for old in list(self._known)[:_MOST]:
                del self._known[old]
