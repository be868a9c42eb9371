"""Wires the delivery door: ledger, acceptance, following, recovery and retention.

`toril.bootstrap.instance` hands in what is shared. Only where targets are configured: without them there is no ledger,
and no route of it.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from toril.adapters.asyncpg_ledger import AsyncpgLedger
from toril.adapters.redis_ledger import RedisLedger
from toril.adapters.redis_ledgers import RedisLedgers
from toril.adapters.sqlite_ledger import SqliteLedger
from toril.bootstrap.store import Store
from toril.core.errors import LedgerMoved, LedgerUnavailable, StoreError
from toril.core.policy import Settings
from toril.core.ports.bodies import BlobStore
from toril.core.ports.ledger import AnyLedger
from toril.core.ports.shared import Command
from toril.core.target import Retention, TargetSpec
from toril.engine import ledger_janitor
from toril.engine.ledger_fleet import LedgerFleet
from toril.engine.ledger_janitor import Janitor
from toril.engine.ledger_recoverer import LedgerRecoverer, Queues
from toril.gateway.dead_letters import DeadLetterRoutes
from toril.gateway.deliveries import DeliveryRoutes
from toril.gateway.routing import Route
from toril.intake.deliveries import Bodies, Deliveries, Here, Queue
from toril.intake.following import Following
from toril.intake.spill import Spill

_READY_S = 1.0
_AGAIN_S = 0.1


class RunningLedger(AnyLedger, Protocol):
    """A ledger that has something to do all the time."""

    async def run(self) -> None:
        """Serve until cancelled."""
        ...


class SharedWithDelivery(Struct, frozen=True):
    """What the door shares with the others; `by` is how histories call this instance."""

    store: Store
    spill: Spill
    blobs: BlobStore
    by: str


def open_ledger(url: str, command: Command, prefix: str) -> RunningLedger:
    """The ledger at this URL, which is not reached for yet; with `none`, the one in Redis."""
    if url == "none":
        return RedisLedger(command, prefix)
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        return SqliteLedger(Path(rest.removeprefix("/")))
    return AsyncpgLedger(url)


class Delivery:
    """Everything of the delivery door in one process.

    Args:
        settings: with the targets.
        shared: what it shares with the other doors.
    """

    def __init__(self, settings: Settings, shared: SharedWithDelivery) -> None:
        self._policy = settings.delivery
        self.targets: dict[str, TargetSpec] = {target.name: target for target in settings.targets}
        self.ledger = open_ledger(settings.ledger.url, shared.store.near_key, shared.store.prefix)
        self.recoverer = LedgerRecoverer(
            self.ledger,
            Queues(shared.store.producer, shared.store.inspector),
            lambda: list(self.targets),
            settings.delivery.recover_every_s,
            shared.by,
            shared.store.clock,
        )
        self.fleet = LedgerFleet(
            self.ledger,
            RedisLedgers(shared.store.near_key, shared.store.prefix),
            lambda: list(self.targets),
            random.random,
        )
        self._janitor = Janitor(
            self.ledger,
            ledger_janitor.Queues(shared.store.inspector, shared.store.cancelling),
            ledger_janitor.Bodies(shared.blobs),
            self._retention,
            settings.delivery.janitor_every_s,
            shared.store.clock,
        )
        self._following = Following(self.ledger)
        self._deliveries = Deliveries(
            self.ledger,
            Queue(shared.store.producer, shared.store.cancelling),
            Bodies(shared.spill, shared.blobs),
            self.targets.get,
            Here(shared.by, shared.store.clock, os.urandom, self.fleet.others),
            self.recoverer.soon,
        )
        self.spill = shared.spill

    def tasks(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """What is to run all the time, by name."""
        yield "ledger", self.ledger.run()
        yield "ledger:fleet", self.fleet.run()
        yield "deliveries:recoverer", self.recoverer.run()
        yield "deliveries:janitor", self._janitor.run()
        yield "deliveries:following", self._following.run()

    def routes(self) -> list[Route]:
        """The door's routes."""
        return [
            *DeliveryRoutes(
                self._deliveries,
                self.ledger,
                self._following,
                self.spill,
                targets=self.targets,
                max_body_bytes=lambda: self._policy.max_body_bytes,
            ).routes(),
            *DeadLetterRoutes(self._deliveries, self.ledger, self.targets.__contains__).routes(),
        ]

    def renew(self, settings: Settings) -> None:
        """From now on these targets and limits count."""
        self._policy = settings.delivery
        self.targets.clear()
        self.targets.update({target.name: target for target in settings.targets})

    def close(self) -> None:
        """Nobody waits for a delivery any more."""
        self._following.close()

    async def faults(self) -> list[str]:
        """What keeps deliveries from being accepted; empty when nothing does."""
        try:
            async with asyncio.timeout(_READY_S):
                await self.ledger.check()
        except LedgerMoved as exc:
            return [exc.message]
        except LedgerUnavailable as exc:
            return [f"the ledger cannot be used: {exc.reason}"]
        except (StoreError, TimeoutError):
            return ["the ledger does not answer"]
        return self.fleet.conflicts()

    def warnings(self) -> list[str]:
        """What an operator has to look at, though deliveries are accepted and made."""
        return self.fleet.warnings()

    async def reached(self, within_s: float) -> None:
        """Wait for the ledger.

        Raises:
            LedgerUnavailable: it was not there in time.
        """
        until = time.monotonic() + within_s
        while True:
            try:
                await self.ledger.check()
            except LedgerUnavailable:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(_AGAIN_S)
            else:
                return

    def _retention(self) -> Mapping[str, Retention]:
        return {name: target.retention for name, target in self.targets.items()}
