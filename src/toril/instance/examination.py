"""Reads the facts about an instance that `GET /doctor` judges."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Callable
from typing import Protocol

from toril.config.settings import Settings
from toril.core.access import Right
from toril.core.errors import StoreError
from toril.instance.store import Store
from toril.redis.connection import Link
from toril.web.operations.findings import Finding, about_clock, about_descriptors, about_egress, about_redis

_PATIENCE_S = 5.0


class WorkHealth(Protocol):
    """A reader of whether work is moving."""

    async def faults(self) -> list[str]:
        """Return what keeps this instance from moving work."""
        ...

    def warnings(self) -> list[str]:
        """Return what an operator should check, although work is moving."""
        ...


class Examination:
    """Examines an instance, Redis and the ledger.

    Args:
        settings: of the instance.
        store: Redis; None where there is none.
        health: knows whether work is moving.
        wall: the clock of this machine.
    """

    def __init__(
        self, settings: Settings, store: Store | None, health: WorkHealth, wall: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._store = store
        self._health = health
        self._wall = wall

    async def findings(self) -> list[Finding]:
        """Return what was found."""
        found: list[Finding] = []
        faults, warnings = await self._health.faults(), self._health.warnings()
        found += [Finding("work", "fail", f"Work does not move: {fault}.", _SEE) for fault in faults]
        found += [Finding("work", "warn", warning) for warning in warnings]
        if not (faults or warnings):
            found.append(Finding("work", "ok", "Work moves."))
        found += await self._of_redis()
        found.append(self._of_ledger())
        tokens = self._settings.gateway.tokens
        strangers = any(Right.WORKERS_MANAGE in grant.caller.rights and not grant.caller.all_queues for grant in tokens)
        found.append(about_egress(self._settings.egress.policy, strangers=strangers))
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        limit = 2**31 - 1 if limit == resource.RLIM_INFINITY else limit
        found.append(about_descriptors(limit, _open_descriptors()))
        return found

    async def _of_redis(self) -> list[Finding]:
        store, found = self._store, list[Finding]()
        if store is None:
            return [Finding("redis", "ok", "There is no Redis: the delivery door works over PostgreSQL alone.")]
        try:
            async with asyncio.timeout(_PATIENCE_S):
                for link in store.links.all():
                    found += about_redis(_fields(await link.call("INFO")), str(link.address))
                    found.append(await _of_user(link))
                if store.clock.measured:
                    found.append(about_clock(self._wall() - store.clock()))
        except (StoreError, TimeoutError) as exc:
            why = exc.message if isinstance(exc, StoreError) else "it does not answer in time"
            found.append(Finding("redis", "fail", f"Redis cannot be examined: {why}", _SEE))
        return found

    def _of_ledger(self) -> Finding:
        settings = self._settings
        if not settings.targets:
            return Finding("ledger", "ok", "There are no targets, so there is no ledger.")
        scheme = settings.ledger.url.partition(":")[0]
        if scheme == "none":
            text = "The ledger is in Redis: what Redis loses, deliveries included, is lost."
            return Finding("ledger", "warn", text, "Set ledger.url to a PostgreSQL database, or to a file of SQLite.")
        return Finding("ledger", "ok", f"The ledger is in {'SQLite' if scheme == 'sqlite' else 'PostgreSQL'}.")


_SEE = "See docs/reference/health.md, and the log."


async def _of_user(link: Link) -> Finding:
    try:
        user = (await link.call("ACL", "WHOAMI")).decode(errors="replace")
    except StoreError as exc:
        return Finding("redis.acl", "ok", f"Which user toril is in Redis is not told: {exc.message}")
    if user == "default":
        remedy = "docs/how-to/redis-acl.md has the line for a user of toril's alone."
        return Finding("redis.acl", "warn", f"toril is the user 'default' of {link.address}, who may do all.", remedy)
    return Finding("redis.acl", "ok", f"toril is the user {user!r} of {link.address}.")


def _open_descriptors() -> int:
    try:
        return len(os.listdir("/dev/fd")) - 1  # the one that lists them is among them
    except OSError:
        return 0


def _fields(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in lines if colon}
