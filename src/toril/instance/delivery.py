"""Wires the delivery door: ledger, acceptance, following, recovery and retention.

`toril.instance.instance` hands in what is shared. Only where targets are configured: without them there is no ledger,
and no route of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import time
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from toril.bullmq.ports.groups import GroupDrains, GroupStore
from toril.config.settings import Settings
from toril.core.errors import LedgerMoved, LedgerUnavailable, StoreError
from toril.core.ports import Meter
from toril.delivery.dead_letters import DeadLetterRoutes
from toril.delivery.deliveries import Deliveries, DeliveryBodies, InstanceContext
from toril.delivery.delivery_janitor import DeliveryJanitor, JanitorTimes
from toril.delivery.group_drain import GroupDrain
from toril.delivery.ledger.acknowledged_ledger import AcknowledgedLedger
from toril.delivery.ledger.asyncpg_ledger import AsyncpgLedger
from toril.delivery.ledger.sql_ledger import SqlLedger
from toril.delivery.ledger.sqlite_ledger import SqliteLedger
from toril.delivery.ledger_fleet import LedgerFleet
from toril.delivery.ledger_recoverer import LedgerRecoverer
from toril.delivery.ports import AnyLedger
from toril.delivery.routes import DeliveryRoutes
from toril.delivery.rules.target import Retention, TargetSpec
from toril.delivery.sql_enqueue.intake import SqlIntake, TargetSource
from toril.delivery.target_queues import TargetQueues
from toril.delivery.transition_waiter import TransitionWaiter
from toril.instance.delivery_store import DeliveryStore
from toril.instance.entropy import Entropy
from toril.instance.store import Store
from toril.payloads.payload_offload import PayloadOffload
from toril.payloads.ports import BlobStore
from toril.web.routing import Route

_READY_S = 1.0
_AGAIN_S = 0.1


class RunningLedger(AnyLedger, Protocol):
    """A ledger with a task that runs as long as the instance does."""

    async def run(self) -> None:
        """Serve until cancelled."""
        ...


class SharedWithDelivery(Struct, frozen=True):
    """What the door shares with the others; `by` is the name of this instance in histories."""

    redis: Store
    store: DeliveryStore
    offload: PayloadOffload
    blobs: BlobStore
    by: str
    meter: Meter


def open_ledger(url: str, redis: Store, siblings: Path | None = None) -> RunningLedger:
    """Return the ledger at this URL, not connected yet; with `none`, the one in Redis.

    `siblings` is a folder that the processes of this instance share, if there are several.
    """
    if url == "none":
        return AcknowledgedLedger(redis.links, redis.prefix, redis.confirmations)
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        return SqliteLedger(Path(rest.removeprefix("/")), siblings)
    return AsyncpgLedger(url)


def _place(ledger_url: str) -> str:
    """Return a name for where this machine has its ledger; the URL, which may hold a password, cannot be read in it."""
    return hashlib.sha256(f"{socket.gethostname()} {ledger_url}".encode()).hexdigest()[:16]


class DeliveryDoor:
    """The delivery door of one process.

    Args:
        settings: with the targets.
        shared: what it shares with the other doors.
    """

    def __init__(self, settings: Settings, shared: SharedWithDelivery) -> None:
        self._policy = settings.delivery
        self.targets: dict[str, TargetSpec] = {target.name: target for target in settings.targets}
        self.ledger = open_ledger(
            settings.ledger.url,
            shared.redis,
            None if settings.metrics.folder is None else Path(settings.metrics.folder),
        )
        queues = replace(shared.store.queues, group_by=self._group_by)
        self.recoverer = LedgerRecoverer(
            self.ledger,
            queues,
            lambda: list(self.targets),
            settings.delivery.recover_every_s,
            shared.by,
            shared.store.clock,
        )
        self.fleet = LedgerFleet(
            self.ledger,
            shared.store.sightings,
            lambda: list(self.targets),
            random.random,
            _place(settings.ledger.url),
        )
        self._janitor = DeliveryJanitor(
            self.ledger,
            queues,
            shared.blobs,
            self._retention,
            JanitorTimes(settings.delivery.janitor_every_s),
            shared.store.clock,
        )
        self._sql_intake = self._intake(settings.ledger.url, queues, shared)
        self._waiter = TransitionWaiter(self.ledger)
        self._deliveries = Deliveries(
            self.ledger,
            queues,
            DeliveryBodies(shared.offload, shared.blobs),
            self.targets.get,
            InstanceContext(shared.by, shared.store.clock, Entropy(), self.fleet.others, shared.meter),
            self.recoverer.soon,
        )
        self.offload = shared.offload
        self.enqueue = self._deliveries.enqueue
        self.recoverer.meter = self._janitor.meter = self.offload.meter = shared.meter
        if isinstance(self.ledger, SqlLedger):
            self.ledger.measured_by(shared.meter)

    def tasks(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """Return the tasks that run as long as the instance does, by name."""
        yield "ledger", self.ledger.run()
        yield "ledger:fleet", self.fleet.run()
        yield "deliveries:recoverer", self.recoverer.run()
        yield "deliveries:janitor", self._janitor.run()
        yield "deliveries:waiter", self._waiter.run()
        if self._sql_intake is not None:
            yield "deliveries:sql", self._sql_intake.run()

    def routes(self) -> list[Route]:
        """Return the routes of the door."""
        return [
            *DeliveryRoutes(
                self._deliveries,
                self.ledger,
                self._waiter,
                self.offload,
                targets=self.targets,
                max_body_bytes=lambda: self._policy.max_body_bytes,
            ).routes(),
            *DeadLetterRoutes(self._deliveries, self.ledger, self.targets.__contains__).routes(),
        ]

    def drains(self, groups: GroupStore) -> GroupDrains:
        """Return what removes waiting jobs of groups, those of targets with their deliveries."""
        return GroupDrain(groups, self._deliveries, self.targets)

    def renew(self, settings: Settings) -> None:
        """Apply changed targets and limits."""
        self._policy = settings.delivery
        self.targets.clear()
        self.targets.update({target.name: target for target in settings.targets})
        if self._sql_intake is not None:
            self._sql_intake.renew()

    def close(self) -> None:
        """End all waits for deliveries."""
        self._waiter.close()

    async def faults(self) -> list[str]:
        """Return what keeps deliveries from being accepted; an empty list if they are."""
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
        """Return what an operator should check, although deliveries are accepted and made."""
        return [*self.fleet.warnings(), *([] if self._sql_intake is None else self._sql_intake.warnings())]

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

    def _intake(self, ledger_url: str, queues: TargetQueues, shared: SharedWithDelivery) -> SqlIntake | None:
        """Return what takes in envelopes that are enqueued in SQL, where the ledger is in PostgreSQL."""
        if not isinstance(self.ledger, AsyncpgLedger):
            return None
        source = TargetSource(lambda: list(self.targets.values()), lambda: self._policy.max_body_bytes)
        return SqlIntake(ledger_url, self.ledger, queues, source, shared.store.clock)

    def _group_by(self, name: str) -> str | None:
        target = self.targets.get(name)
        return None if target is None else target.group_by

    def _retention(self) -> Mapping[str, Retention]:
        return {name: target.retention for name, target in self.targets.items()}
