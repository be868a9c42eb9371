"""Telling events: once, in order, to a target that is there."""

import asyncio

from tests.unit.engine.support import until
from toril.core.errors import IdempotencyMismatch, StoreUnavailable, UnknownTarget
from toril.core.metrics import EVENTS_DROPPED, EVENTS_TOLD, EVENTS_WAITING
from toril.core.operator_event import OperatorEvent
from toril.delivery.deliveries import Enqueued
from toril.delivery.events.event_teller import EventTeller
from toril.delivery.rules.delivery import Envelope, NewDelivery
from toril.delivery.rules.enqueue import EnqueueRequest
from toril.delivery.rules.target import EventsPolicy
from toril.testing import FakeMeter


class Ops:
    """Accepts deliveries of events; each of `errors` is raised once instead."""

    def __init__(self, **policy: object) -> None:
        self.accepted: list[EnqueueRequest] = []
        self.errors: list[Exception] = []
        self.meter = FakeMeter()
        self.teller = EventTeller(EventsPolicy(target="ops", **policy), self._enqueue, self.meter)  # type: ignore[arg-type]

    async def _enqueue(self, request: EnqueueRequest) -> Enqueued:
        if self.errors:
            raise self.errors.pop(0)
        self.accepted.append(request)
        new = NewDelivery(job_id="1", target="ops", envelope=Envelope(), at_s=1.0, max_attempts=1, by="events")
        return Enqueued(new.first()[0], replayed=False)

    async def told(self, *events: OperatorEvent) -> list[str | None]:
        """Tell these; the keys that were accepted."""
        for one in events:
            self.teller.tell(one)
        telling = asyncio.create_task(self.teller.run())
        await until(lambda: not self.meter.counts.get((EVENTS_WAITING, ())), within_s=10)
        telling.cancel()
        return [request.idempotency_key for request in self.accepted]


def event(event_type: str = "breaker.opened", target: str | None = "billing", at_s: float = 1.0) -> OperatorEvent:
    return OperatorEvent(event_type, "billing", at_s, {"target": target}, target=target)


async def test_an_event_becomes_one_delivery_under_its_key() -> None:
    ops = Ops()
    assert await ops.told(event(), event(), event(at_s=2.0)) == [event().key, event(at_s=2.0).key]
    first = ops.accepted[0]
    assert (first.target, first.body, dict(first.labels)) == ("ops", event().body(), {"event": "breaker.opened"})
    assert ops.meter.counts == {(EVENTS_TOLD, ("breaker.opened",)): 2, (EVENTS_WAITING, ()): 0}


async def test_unwanted_events_and_events_about_the_events_target_are_not_delivered() -> None:
    ops = Ops(types=("delivery.*",))
    assert await ops.told(event(), event("delivery.dead_lettered", target="ops")) == []


async def test_while_the_ledger_is_away_events_wait_in_order() -> None:
    ops = Ops()
    ops.errors = [StoreUnavailable(), StoreUnavailable()]
    assert await ops.told(event(), event(at_s=2.0)) == [event().key, event(at_s=2.0).key]


async def test_events_reported_by_another_instance_are_done_and_refused_ones_counted() -> None:
    ops = Ops()
    ops.errors = [IdempotencyMismatch(), UnknownTarget()]
    assert await ops.told(event(), event(at_s=2.0), event(at_s=3.0)) == [event(at_s=3.0).key]
    assert ops.meter.counts == {
        (EVENTS_DROPPED, ("breaker.opened",)): 1,
        (EVENTS_TOLD, ("breaker.opened",)): 1,
        (EVENTS_WAITING, ()): 0,
    }
