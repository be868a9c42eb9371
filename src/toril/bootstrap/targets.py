"""Wires the targets of the delivery door: a queue, a consumer, connections, a journal and a breaker for each.

`toril.bootstrap.instance` hands in what is shared, and starts the consumers.
"""

from __future__ import annotations

import random

from msgspec import Struct

from toril.adapters.connecting import Network
from toril.adapters.httptools_outbound import HttptoolsOutbound
from toril.adapters.redis_breakers import RedisBreakers
from toril.bootstrap.store import Store
from toril.core.destinations.target import Target
from toril.core.policy import Settings
from toril.core.ports.bodies import Bodies
from toril.core.ports.ledger import AnyLedger
from toril.core.target import TargetSpec
from toril.engine.admission import BreakerGate
from toril.engine.consumer import Consumer, Surroundings
from toril.engine.delivery import Books, DeliveryExecutor
from toril.engine.journal import Journal
from toril.engine.ledger_fleet import LedgerFleet
from toril.engine.settler import Settler


class SharedWithTargets(Struct, frozen=True):
    """What targets share with the other doors; `by` is how histories call this instance."""

    store: Store
    ledger: AnyLedger
    fleet: LedgerFleet
    bodies: Bodies
    settler: Settler
    surroundings: Surroundings
    network: Network
    by: str


class Targets:
    """The targets of one process."""

    def __init__(self, settings: Settings, shared: SharedWithTargets) -> None:
        self.breakers = RedisBreakers(shared.store.near_key, shared.store.prefix)
        self.destinations = {spec.name: Target(spec, shared.store.clock) for spec in settings.targets}
        self._shared = shared
        self._lease_s = settings.delivery.lease_s
        self._max_response_bytes = settings.engine.max_response_bytes
        self._max_head_bytes = settings.engine.max_response_head_bytes

    def specs(self) -> list[TargetSpec]:
        """Every target as it runs now, in the order of the file."""
        return [target.spec for target in self.destinations.values()]

    def renew(self, settings: Settings) -> list[Target]:
        """From the next attempt or verdict on these policies and secrets count.

        Returns the targets whose consumers must be started anew for it: leases know a rate limit from their beginning.
        """
        limited = []
        for spec in settings.targets:
            target = self.destinations.get(spec.name)
            if target is None:
                continue
            if target.spec.rate_limit != spec.rate_limit:
                limited.append(target)
            target.renew(spec)
        return limited

    def consumer(self, target: Target, slots: int) -> Consumer:
        """Delivers to a target, so many at once."""
        shared = self._shared
        leases = shared.store.leases.of(target.queue, target.lease_rules)
        # The operator's own URLs: no egress rules. One that answers at length is not punished for it.
        outbound = HttptoolsOutbound(
            target.spec.timeout.connect_s,
            self._max_response_bytes,
            network=shared.network,
            truncate=True,
            max_head_bytes=self._max_head_bytes,
        )
        journal = Journal(
            shared.ledger, shared.bodies, target, by=shared.by, lease_s=self._lease_s, now=shared.store.clock
        )
        gate = BreakerGate(
            target, self.breakers, shared.store.control, shared.settler, shared.store.clock, self._lease_s
        )
        books = Books(journal, gate, shared.fleet, random.random)
        executor = DeliveryExecutor(target, leases, outbound, shared.settler, books)
        name = target.spec.name
        return Consumer(target, slots, leases, executor, shared.surroundings, lambda: shared.fleet.may_take(name))
