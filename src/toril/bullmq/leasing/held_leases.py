"""Finds the leases of one queue: by their tokens, or because their jobs are active without a lock."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Iterable

from msgspec import Struct

from toril.bullmq.groups.defaults import GroupDefaults
from toril.bullmq.groups.held import GroupsHeld
from toril.bullmq.keys import QueueKeys
from toril.bullmq.leasing.options_cache import OptionsCache
from toril.bullmq.lua.scripts import Scripts
from toril.bullmq.schedulers import Schedulers
from toril.core.destination import LeaseRules
from toril.core.errors import LeaseLost, WrongLockToken
from toril.core.lease import Lease
from toril.core.stored_job import Fields
from toril.redis.resp import fields_of, pack

_NO_KEY = -2  # the reply of PTTL


class LeasingContext(Struct, frozen=True):
    """What the leases of all queues share.

    `lock_ms` is how long a lock lives, `stalled_ms` the least time between two stalled checks; `now` is Redis' clock.
    `defaults` has the limits of groups that have none, `held` counts how often groups were held back.
    """

    scripts: Scripts
    schedulers: Schedulers
    prefix: str
    lock_ms: int
    stalled_ms: int
    now: Callable[[], float]
    options: OptionsCache
    defaults: GroupDefaults
    held: GroupsHeld


class HeldLeases:
    """Leases of one queue that are held, or were held when they lapsed."""

    __slots__ = ("_keys", "_rules", "_shared", "queue")

    def __init__(self, shared: LeasingContext, queue: str, rules: LeaseRules) -> None:
        self.queue = queue
        self._shared = shared
        self._rules = rules
        self._keys = QueueKeys(shared.prefix, queue)

    def _now_ms(self) -> bytes:
        return b"%d" % (self._shared.now() * 1000)

    async def left_s(self, lease: Lease) -> float | None:
        """Return how long the lock still lasts; None if another token or none holds it."""
        lock = self._keys.key(lease.job_id + b":lock")
        link = self._shared.scripts.links.of(self._keys.prefix)
        token, left_ms = await link.pipeline([pack("GET", lock), pack("PTTL", lock)])
        return max(0, left_ms) / 1000 if token == lease.token else None

    async def held(self, job_id: bytes, token: bytes) -> Lease:
        """Return the lease of a job that this token holds.

        Raises:
            WrongLockToken: another token holds the lock.
            LeaseLost: the job has no lock; the error has the job's state.
        """
        keys, scripts = self._keys, self._shared.scripts
        lock, flat = await scripts.links.of(keys.prefix).pipeline(
            [pack("GET", keys.key(job_id + b":lock")), pack("HGETALL", keys.key(job_id))]
        )
        if lock is None:
            state = await scripts.call(scripts.get_state, keys, job_id)
            raise LeaseLost(state=state.decode())
        if not hmac.compare_digest(lock, token):
            raise WrongLockToken
        return self._lease(job_id, token, fields_of(flat))

    async def recover_lapsed(self, within_ms: int) -> list[bytes]:
        """Run the stalled check more often than BullMQ's workers do, for leases that no process renews."""
        keys = self._keys
        link = self._shared.scripts.links.of(keys.prefix)
        if await link.call("PTTL", keys.key("stalled-check")) > within_ms:
            await link.call("DEL", keys.key("stalled-check"))
        return await self._move_stalled(within_ms)

    async def recover_stalled(self) -> list[bytes]:
        """Run BullMQ's stalled check, which puts jobs without a lock back to waiting, once per interval and fleet.

        Does nothing while Redis has only just come back.
        """
        return [] if await self._waits_s() > 0 else await self._move_stalled(self._shared.stalled_ms)

    async def _waits_s(self) -> float:
        """Return for how long to leave jobs to their workers, which take back the locks that lapsed in an outage."""
        link = self._shared.scripts.links.of(self._keys.prefix)
        await link.up()
        if link.back_at is None:
            return 0.0
        return link.back_at + self._shared.lock_ms / 3000 - asyncio.get_running_loop().time()

    async def _move_stalled(self, interval_ms: int) -> list[bytes]:
        keys, scripts = self._keys, self._shared.scripts
        stalled: list[bytes] = await scripts.call(
            scripts.move_stalled, keys, self._rules.max_stalled_count, keys.prefix, self._now_ms(), interval_ms
        )
        return stalled

    async def recover_abandoned(self) -> tuple[list[bytes], float]:
        """Put active jobs without a lock back to waiting at once; return them, and for how long the other locks hold.

        BullMQ's check moves only jobs that the check before has seen, so it is run twice if needed. The former holder
        of such a job cannot settle it: its lock is set and removed in the same steps that move it. While Redis has only
        just come back none is moved, and the time until they may be is returned.
        """
        if (waits_s := await self._waits_s()) > 0:
            return [], waits_s
        keys = self._keys
        link = self._shared.scripts.links.of(keys.prefix)
        ids: list[bytes] = await link.call("LRANGE", keys.key("active"), 0, -1)
        if not ids:
            return [], 0.0
        left = dict(
            zip(ids, await link.pipeline([pack("PTTL", keys.key(job_id + b":lock")) for job_id in ids]), strict=True)
        )
        abandoned = {job_id for job_id, left_ms in left.items() if left_ms == _NO_KEY}
        found: list[bytes] = []
        for _ in range(2):
            if abandoned.issubset(found):
                break
            await link.call("DEL", keys.key("stalled-check"))
            found += await self._move_stalled(self._shared.stalled_ms)
        return found, max(0, *left.values()) / 1000

    async def adopt(self, tokens: Iterable[bytes]) -> list[Lease]:
        """Return the leases of active jobs that are locked by these tokens."""
        wanted = set(tokens)
        keys = self._keys
        link = self._shared.scripts.links.of(keys.prefix)
        ids: list[bytes] = await link.call("LRANGE", keys.key("active"), 0, -1)
        if not ids:
            return []
        locks = await link.pipeline([pack("GET", keys.key(job_id + b":lock")) for job_id in ids])
        held = [(job_id, token) for job_id, token in zip(ids, locks, strict=True) if token in wanted]
        if not held:
            return []
        hashes = await link.pipeline([pack("HGETALL", keys.key(job_id)) for job_id, _ in held])
        return [
            self._lease(job_id, token, fields_of(flat))
            for (job_id, token), flat in zip(held, hashes, strict=True)
            if flat
        ]

    def _lease(self, job_id: bytes, token: bytes, fields: Fields) -> Lease:
        made = fields.get(b"atm")
        return Lease(
            queue=self.queue,
            job_id=job_id,
            token=token,
            fields=fields,
            options=self._shared.options.read(fields.get(b"opts", b"{}"), job_id),
            attempts_made=int(made) if made else 0,
        )
