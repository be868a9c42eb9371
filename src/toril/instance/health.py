"""The health of an instance: whether it moves work, and what an operator should check."""

from __future__ import annotations

import asyncio

from toril.config.settings import Settings
from toril.core.errors import CannotServe, StoreError, StoreRefused
from toril.engine.supervisor import Supervisor
from toril.instance.delivery import DeliveryDoor
from toril.instance.examination import Examination
from toril.instance.store import Store
from toril.queues.reconciler import Reconciler
from toril.web.access_control import AccessControl
from toril.web.operations.departure import Departure
from toril.web.operations.doctor import DoctorRoutes
from toril.web.operations.status import StatusRoutes
from toril.web.routing import Route

_READY_S = 1.0


class HealthChecks:
    """Checks the health of an instance.

    Args:
        departure: says that the instance has begun to go.
        access: says that it takes no new work.
        store: Redis; None where there is none, and the delivery door says whether work moves.
        supervisor: knows the consumers.
        reconciler: knows the registered workers; None if the instance does not follow them.
        delivery: the delivery door, where there is one.
    """

    def __init__(
        self,
        departure: Departure,
        access: AccessControl,
        store: Store | None,
        supervisor: Supervisor,
        reconciler: Reconciler | None,
        delivery: DeliveryDoor | None,
    ) -> None:
        self._departure = departure
        self._access = access
        self._store = store
        self._supervisor = supervisor
        self._reconciler = reconciler
        self._delivery = delivery

    def routes(self, settings: Settings, version: str) -> list[Route]:
        """Return the routes of probes, and the one that examines the instance."""
        probes = StatusRoutes(version, self.faults, self.warnings, self._departure.told)
        return [*probes.routes(), *DoctorRoutes(version, Examination(settings, self._store, self).findings).routes()]

    async def faults(self) -> list[str]:
        """Return what keeps this instance from moving work; empty when it is ready."""
        if self._departure.begun or self._access.draining:
            return ["shutting down"]
        try:
            async with asyncio.timeout(_READY_S):
                faults = await self._redis_faults()
        except (CannotServe, StoreRefused) as exc:
            return [f"Redis takes no writes: {exc.message}"]
        except (StoreError, TimeoutError):
            return [(self._store and self._store.master_fault) or "Redis does not answer"]
        if faults:
            return faults
        if self._delivery is not None and (faults := await self._delivery.faults()):
            return faults
        sluggish = self._supervisor.sluggish()
        return [f"{len(sluggish)} queue(s) are not being worked on"] if sluggish else []

    async def _redis_faults(self) -> list[str]:
        if self._store is not None:
            await self._store.links.check_writable()
            if (why := self._store.confirmations.fault) is not None:
                return [f"acknowledge: {self._store.acknowledge} is not possible: {why}"]
        return [] if self._reconciler is None else await self._reconciler.faults()

    def warnings(self) -> list[str]:
        """Return what an operator should check, although work is moving."""
        warnings = [] if self._delivery is None else self._delivery.warnings()
        return [*warnings, *([] if self._reconciler is None else self._reconciler.warnings())]
