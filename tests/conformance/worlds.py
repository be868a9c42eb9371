"""A queue with its lease store, as a test sees it: once in memory, once in BullMQ's scripts on a real Valkey."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

from tests.conformance.bullmq.links import PATIENT, address_of, linked
from tests.support.valkey import ValkeyProcess
from toril.bullmq.announcements import Announcements
from toril.bullmq.control import Control
from toril.bullmq.inspector import Inspector
from toril.bullmq.keys import QueueKeys
from toril.bullmq.leasing.leases import LeaseStores
from toril.bullmq.lua.scripts import Scripts
from toril.bullmq.producer import Producer
from toril.bullmq.rules.job_decoding import decode_jobs
from toril.bullmq.schedulers import Schedulers
from toril.engine.ports import LeaseStore
from toril.queues.rules.worker import Endpoint, Limiter, WorkerSpec
from toril.redis.connection import Link
from toril.redis.resp import Wire
from toril.testing import FakeClock, FakeLeaseStore

LOCK_S = 30.0


class World(Protocol):
    """One queue. `store` leases from it under a worker that may stall once."""

    store: LeaseStore

    def now(self) -> float:
        """The clock that delays go by."""
        ...

    async def add(
        self,
        job_id: str,
        *,
        opts: Mapping[str, Any] | None = None,
        data: str = "{}",
        delay_s: float = 0.0,
        fields: Mapping[bytes, bytes] | None = None,
    ) -> bytes:
        """Add a job; `fields` are put into its hash as well."""
        ...

    async def places(self, job_id: bytes) -> list[str]:
        """In which of waiting, delayed, active, completed and failed the job is."""
        ...

    async def waiting(self) -> list[bytes]:
        """The ids that wait, the next one first."""
        ...

    async def fields(self, job_id: bytes) -> dict[bytes, bytes]:
        """The job's hash."""
        ...

    async def returned(self, job_id: bytes) -> bytes:
        """What a completed job returned."""
        ...

    async def reason(self, job_id: bytes) -> bytes:
        """Why a job failed."""
        ...

    async def lapse(self, job_id: bytes) -> None:
        """End the job's lock."""
        ...

    async def steal(self, job_id: bytes, token: bytes) -> None:
        """Let another token hold the job's lock."""
        ...

    async def lock_left_s(self, job_id: bytes) -> float:
        """How long the job's lock lives."""
        ...

    async def lose_hash(self, job_id: bytes) -> None:
        """Remove the job's hash, and leave its id where it is."""
        ...

    async def expect_child(self, job_id: bytes) -> None:
        """Give the job a child that has not finished."""
        ...

    async def pass_time(self, seconds: float) -> None:
        """Let time pass for delays; locks and rate limits of a real server have their own."""
        ...

    def limited(self, limiter: Limiter) -> LeaseStore:
        """A store of the same queue under a rate limit."""
        ...


class FakeWorld:
    """A queue in memory."""

    def __init__(self) -> None:
        self._clock = FakeClock()
        self._store = FakeLeaseStore("orders", now=self._clock, lock_s=LOCK_S)
        self.store: LeaseStore = self._store

    def now(self) -> float:
        return self._clock()

    async def add(
        self,
        job_id: str,
        *,
        opts: Mapping[str, Any] | None = None,
        data: str = "{}",
        delay_s: float = 0.0,
        fields: Mapping[bytes, bytes] | None = None,
    ) -> bytes:
        return self._store.add(
            job_id, opts={"attempts": 0} | dict(opts or {}), data=data.encode(), delay_s=delay_s, fields=fields
        )

    async def places(self, job_id: bytes) -> list[str]:
        lists = ("waiting", "delayed", "active", "completed", "failed")
        return [name for name in lists if job_id in getattr(self._store, name)]

    async def waiting(self) -> list[bytes]:
        return list(self._store.waiting)

    async def fields(self, job_id: bytes) -> dict[bytes, bytes]:
        return dict(self._store.jobs[job_id])

    async def returned(self, job_id: bytes) -> bytes:
        return self._store.completed[job_id]

    async def reason(self, job_id: bytes) -> bytes:
        return self._store.jobs[job_id][b"failedReason"]

    async def lapse(self, job_id: bytes) -> None:
        self._store.lapse(job_id)

    async def steal(self, job_id: bytes, token: bytes) -> None:
        self._store.steal(job_id, token)

    async def lock_left_s(self, job_id: bytes) -> float:
        return self._store.active[job_id][1] - self._clock()

    async def lose_hash(self, job_id: bytes) -> None:
        del self._store.jobs[job_id]

    async def expect_child(self, job_id: bytes) -> None:
        self._store.pending_children.add(job_id)

    async def pass_time(self, seconds: float) -> None:
        self._clock.jump(seconds)

    def limited(self, limiter: Limiter) -> LeaseStore:
        limited = FakeLeaseStore("orders", now=time.time, lock_s=LOCK_S, limiter=limiter)
        limited.jobs, limited.waiting = self._store.jobs, self._store.waiting
        return limited


class RealWorld:
    """A queue on a real Valkey, worked on through BullMQ's scripts."""

    def __init__(self, link: Link, scripts: Scripts, queue: str) -> None:
        self.link = link
        self.scripts = scripts
        self.queue = queue
        self.keys = QueueKeys("bull", queue)
        self._ahead_s = 0.0
        schedulers = Schedulers(scripts, "bull", lambda: int(self.now() * 1000))
        self.book = LeaseStores(scripts, schedulers, "bull", round(LOCK_S * 1000), 1, self.now)
        self.producer = Producer(scripts, "bull", "bullmq:test")
        self.store: LeaseStore = self.under()

    def now(self) -> float:
        """The clock that producer and leases go by."""
        return time.time() + self._ahead_s

    def under(self, **settings: Any) -> LeaseStore:
        """A store under a worker's settings."""
        return self.book.of(self.queue, WorkerSpec(self.queue, Endpoint("http://a", "POST"), **settings))

    async def add(
        self,
        job_id: str,
        *,
        opts: Mapping[str, Any] | None = None,
        data: str = "{}",
        delay_s: float = 0.0,
        fields: Mapping[bytes, bytes] | None = None,
    ) -> bytes:
        given = {"jobId": job_id} | dict(opts or {}) | ({"delay": round(delay_s * 1000)} if delay_s else {})
        jobs = decode_jobs(f'[{{"name":"job","data":{data},"opts":{json.dumps(given)}}}]'.encode())
        (added,) = await self.producer.add(self.queue, jobs, int(self.now() * 1000))
        for field, value in (fields or {}).items():
            await self.link.call("HSET", self.keys.key(added), field, value)
        return added

    async def places(self, job_id: bytes) -> list[str]:
        lists = {"waiting": "wait", "active": "active"}
        sets = ("prioritized", "delayed", "completed", "failed")
        found = {
            **{name: await self.link.call("LPOS", self.keys.key(part), job_id) for name, part in lists.items()},
            **{name: await self.link.call("ZSCORE", self.keys.key(name), job_id) for name in sets},
        }
        return [name for name, position in found.items() if position is not None]

    async def waiting(self) -> list[bytes]:
        ids: list[bytes] = await self.link.call("LRANGE", self.keys.key("wait"), 0, -1)
        return ids[::-1]

    async def fields(self, job_id: bytes) -> dict[bytes, bytes]:
        flat = await self.link.call("HGETALL", self.keys.key(job_id))
        return dict(zip(flat[::2], flat[1::2], strict=True))

    async def returned(self, job_id: bytes) -> bytes:
        return (await self.fields(job_id))[b"returnvalue"]

    async def reason(self, job_id: bytes) -> bytes:
        return (await self.fields(job_id))[b"failedReason"]

    async def lapse(self, job_id: bytes) -> None:
        assert await self.link.call("DEL", self.keys.key(job_id + b":lock")) == 1

    async def steal(self, job_id: bytes, token: bytes) -> None:
        await self.link.call("SET", self.keys.key(job_id + b":lock"), token, "PX", 30_000)

    async def lock_left_s(self, job_id: bytes) -> float:
        left_ms: int = await self.link.call("PTTL", self.keys.key(job_id + b":lock"))
        return left_ms / 1000

    async def lose_hash(self, job_id: bytes) -> None:
        await self.link.call("DEL", self.keys.key(job_id))

    async def expect_child(self, job_id: bytes) -> None:
        await self.link.call("SADD", self.keys.key(job_id + b":dependencies"), "bull:other:1")

    async def pass_time(self, seconds: float) -> None:
        self._ahead_s += seconds
        await asyncio.sleep(0.003)  # the mark of the last stalled check is gone after a millisecond

    def limited(self, limiter: Limiter) -> LeaseStore:
        return self.under(limiter=limiter)


class Heard:
    """Notes what is announced."""

    def __init__(self) -> None:
        self.jobs: list[tuple[str, bytes]] = []
        self.lifted: list[str] = []

    def cancelled(self, queue: str, job_id: bytes) -> None:
        """Part of `Hearing`."""
        self.jobs.append((queue, job_id))

    def limit_lifted(self, queue: str) -> None:
        """Part of `Hearing`."""
        self.lifted.append(queue)


def announcements_of(world: RealWorld, heard: Heard | None = None) -> Announcements:
    """What is announced on this Valkey; `heard` hears of it."""
    return Announcements(world.link, PATIENT, heard or Heard())


def control_of(world: RealWorld, heard: Heard | None = None) -> Control:
    """The control of queues on this Valkey."""
    lifted = announcements_of(world, heard).limit_lifted
    return Control(world.scripts, Inspector(world.scripts, "bull"), lifted, "bull", world.now)


@asynccontextmanager
async def real_world(valkey: ValkeyProcess, queue: str) -> AsyncIterator[RealWorld]:
    """A queue on a real Valkey, for the length of a block."""
    scripts: list[Scripts] = []

    async def prepare(wire: Wire) -> None:
        await scripts[0].load(wire)

    link = Link(address_of(valkey), PATIENT, prepare=prepare)
    scripts.append(Scripts(link))
    failure: Exception | None = None
    async with linked(link):
        try:
            await link.up(5.0)
            yield RealWorld(link, scripts[0], queue)
        except Exception as exc:
            failure = exc  # raised behind the link's task group, which would wrap it
    if failure is not None:
        raise failure
