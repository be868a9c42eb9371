"""Wires the events to operators: what watches, and what tells. Only where there are targets."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any

import structlog

from toril.config.reloading import Reloading
from toril.config.settings import Settings
from toril.core.errors import StoreError
from toril.core.metrics import CONFIG_PENDING, CONFIG_REFUSED, QueueDepth
from toril.core.operator_event import OperatorEvent, matches
from toril.core.outcome import Outcome
from toril.core.ports import Meter
from toril.core.verdict import Complete, HandOver, Verdict
from toril.delivery.events.dead_letter_watch import DeadLetterWatch
from toril.delivery.events.direct_call import DirectCall
from toril.delivery.events.event_teller import EventTeller
from toril.delivery.events.ledger_watch import LedgerWatch
from toril.delivery.events.target_gauges import TargetGauges
from toril.delivery.events.target_watch import TargetWatch
from toril.delivery.rules.delivery import target_of
from toril.delivery.rules.target import TargetSpec
from toril.instance.delivery import DeliveryDoor
from toril.instance.delivery_store import DeliveryStore
from toril.instance.targets import Targets
from toril.telemetry.gauges import Gauges
from toril.telemetry.stuck_queues import StuckQueues
from toril.telemetry.worker_health import WorkerHealth

log = structlog.get_logger(__name__)

_PAGE = 50
_BETWEEN_PAGES_S = 0.02


class OperatorEvents:
    """Everything that tells events in one process.

    Args:
        settings: with the targets.
        store: the queues, and what the fleet knows.
        meter: counts events.
        delivery: accepts the deliveries of events.
        targets: those that are delivered to.
        worked: returns the queues of the registered workers that this process works for.
    """

    def __init__(
        self,
        settings: Settings,
        store: DeliveryStore,
        meter: Meter,
        delivery: DeliveryDoor,
        targets: Targets,
        worked: Callable[[], set[str]],
    ) -> None:
        self._store = store
        self._targets = targets
        self._settings = settings
        self._conditions = store.conditions
        self._teller = EventTeller(settings.events, delivery.enqueue, meter)
        tell = self._teller.tell
        self._dead_letters = DeadLetterWatch(delivery.ledger, lambda: list(delivery.targets), tell, store.clock)
        self._watch = TargetWatch(
            self._delivered, targets.breakers, self._conditions, tell, store.clock, self._dead_letters.soon
        )
        if settings.events.target is not None:
            targets.watch = self._watch
        name = _name(settings.ledger.url)
        self._ledger = LedgerWatch(delivery.ledger, name, self._conditions, self._teller, self._direct())
        self._gauges = Gauges(meter)
        self._measuring = TargetGauges(targets.specs, targets.breakers, delivery.ledger, self._gauges, store.clock)
        self._reloading: Reloading | None = None
        self._health = WorkerHealth(self._conditions, tell, worked, store.clock)
        self._stuck = StuckQueues(self._depths, self._conditions, tell, self._target_of, settings.events.stuck_after_s)
        self._faults: tuple[str, ...] = ()
        self._read = asyncio.Event()

    def tasks(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """Return the tasks that run as long as the instance does, by name."""
        if self._settings.engine.process == 0:
            # What the whole instance shows alike: its processes are added up.
            yield "targets:gauges", self._measuring.run()
        if self._settings.events.target is None:
            return
        yield "events", self._teller.run()
        yield "events:dead-letters", self._dead_letters.run()
        yield "events:targets", self._watch.run()
        yield "events:ledger", self._ledger.run()
        yield "events:workers", self._health.run()
        if matches(self._settings.events.types, "queue.stuck"):
            yield "events:queues", self._stuck.run()
        yield "events:config", self._follow_config()

    def attempted(self, queue: str, outcome: Outcome, verdict: Verdict) -> None:
        """Note how an attempt at a registered worker ended."""
        if self._settings.events.target is not None:
            self._health.attempted(queue, succeeded=isinstance(verdict, Complete | HandOver))

    def follow(self, reloading: Reloading) -> None:
        """Tell and measure which configurations are refused, or wait."""
        self._reloading = reloading
        reloading.heard = self._config_read
        self._config_read(())

    def _config_read(self, faults: Sequence[str]) -> None:
        if self._settings.engine.process == 0 and self._reloading is not None:
            self._gauges.set(CONFIG_REFUSED, (), float(bool(faults)))
            self._gauges.set(CONFIG_PENDING, (), float(len(self._reloading.rollout.pending)))
        self._faults = tuple(faults)
        self._read.set()

    async def _follow_config(self) -> None:
        kept: str | None = None
        while True:
            await self._read.wait()
            self._read.clear()
            faults = self._faults
            name = hashlib.sha256("\n".join(faults).encode()).hexdigest()[:16] if faults else None
            try:
                if kept is not None and name != kept:
                    await self._conditions.end("config", kept)
                kept = name
                if name is not None:
                    known = await self._conditions.begin("config", name)
                    self._teller.tell(OperatorEvent("config.kept", name, known.since_s, {"faults": list(faults)}))
            except StoreError as exc:
                log.debug("config.not_watched", error=exc.message)
                await asyncio.sleep(1.0)
                self._read.set()

    def _direct(self) -> DirectCall | None:
        """Return what tells events past the ledger, where this process delivers to their target."""
        target = self._targets.destinations.get(self._settings.events.target or "")
        if target is None or not self._settings.role.delivers_to(target.spec.name):
            return None
        outbound, store = self._targets.client(target), self._store
        return DirectCall(target, outbound, self._targets.breakers, store.control.paused, store.clock)

    def _delivered(self) -> list[TargetSpec]:
        return [spec for spec in self._targets.specs() if self._settings.role.delivers_to(spec.name)]

    def _target_of(self, queue: str) -> str | None:
        name = target_of(queue)
        return name if name in self._targets.destinations else None

    async def _depths(self) -> AsyncIterator[QueueDepth]:
        after = ""
        while names := await self._store.names.page(after, _PAGE):
            for depth in await self._store.depths.read(names):
                yield depth
            after = names[-1]
            await asyncio.sleep(_BETWEEN_PAGES_S)  # a fleet may have ten thousand queues


def _name(ledger_url: str) -> str:
    """Return a name for a ledger without the secrets of its URL."""
    scheme, _, rest = ledger_url.partition("://")
    place = hashlib.sha256(rest.rpartition("@")[2].encode()).hexdigest()[:8]
    return f"{scheme or 'none'}-{place}"
