"""The engine on a real Valkey whose connections break all the time: every job ends, and no lock is left."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from tests.conformance.bullmq.links import QUICK
from tests.conformance.servers import Proxy, proxied, until
from tests.conformance.worlds import RealWorld, real_world
from tests.support.valkey import ValkeyProcess
from tests.unit.engine.support import patient
from toril.bullmq.leasing.leases import LeaseStores
from toril.bullmq.lua.scripts import Scripts
from toril.bullmq.markers import Markers
from toril.bullmq.schedulers import Schedulers
from toril.core.destination import Destination, OutboundRequest
from toril.core.outcome import Outcome
from toril.engine.consumer import Consumer
from toril.engine.executor import Executor
from toril.engine.lock_tokens import LockTokens
from toril.engine.policy import EnginePolicy
from toril.engine.shared_services import SharedServices
from toril.engine.shared_waits import SharedWaits
from toril.engine.supervisor import Supervisor
from toril.queues.rules.push_worker import PushWorker
from toril.queues.rules.worker import Endpoint, WorkerSpec
from toril.redis.connection import Link
from toril.redis.policy import RedisAddress
from toril.redis.resp import Wire
from toril.testing import FakeOutbound, FakePresence, answered

JOBS = 1000
POLICY = EnginePolicy(lock_s=3.0, stalled_interval_s=1.0, poll_interval_s=1.0, grace_s=5.0)


class Engine:
    """One instance's engine, wired as bootstrap does it, with an endpoint in memory."""

    def __init__(self, address: RedisAddress, tasks: asyncio.TaskGroup) -> None:
        self._scripts: Scripts | None = None
        self.link = Link(address, QUICK, prepare=self._prepare)
        self._scripts = Scripts(self.link)
        self.markers = Markers(self.link, QUICK, tasks)
        schedulers = Schedulers(self._scripts, "bull", lambda: int(time.time() * 1000))
        lock_ms, stalled_ms = round(POLICY.lock_s * 1000), round(POLICY.stalled_interval_s * 900)
        self.book = LeaseStores(self._scripts, schedulers, "bull", lock_ms, stalled_ms, time.time)
        self.outbound = FakeOutbound()
        self.presence = FakePresence()
        self._shared = SharedServices(
            tasks=tasks,
            waits=SharedWaits(self.markers),
            presence=self.presence,
            now=time.time,
            tokens=LockTokens([], str(random.random())),
        )
        self.supervisor = Supervisor(self._consumer, POLICY, self._shared)
        for work in (self.link.run(), self.markers.run(), self.supervisor.run()):
            tasks.create_task(work)

    async def _prepare(self, wire: Wire) -> None:
        assert self._scripts is not None
        await self._scripts.load(wire)

    def _consumer(self, destination: Destination, slots: int) -> Consumer:
        leases = self.book.of(destination.queue, destination.lease_rules)
        executor = Executor(destination, leases, self.outbound, patient(2 * POLICY.lock_s), random.random)
        return Consumer(destination, slots, leases, executor, self._shared)

    def work_on(self, queue: str, concurrency: int) -> None:
        endpoint = Endpoint("http://endpoint/", "POST", timeout_s=100.0)
        spec = WorkerSpec(queue, endpoint, concurrency=concurrency, max_stalled_count=50)
        self.supervisor.start(PushWorker(spec, "bull", "toril/test", time.time))


class _OverError(Exception):
    """The block has ended."""


@asynccontextmanager
async def engine_on(port: int) -> AsyncIterator[Engine]:
    failure: Exception | None = None

    async def stop() -> None:
        raise _OverError

    try:
        async with asyncio.TaskGroup() as tasks:
            made = Engine(RedisAddress(host="127.0.0.1", port=port), tasks)
            try:
                yield made
            except Exception as exc:
                failure = exc
            made.supervisor.stop_leasing()
            async with asyncio.timeout(10):
                for consumer in made.supervisor.consumers():
                    await consumer.abandon()
            tasks.create_task(stop())
    except* _OverError:
        pass
    if failure is not None:
        raise failure


async def add_jobs(world: RealWorld, count: int, attempts: int = 1) -> None:
    for number in range(count):
        await world.add(f"job-{number}", opts={"attempts": attempts})


async def finished(world: RealWorld) -> int:
    return sum([await world.link.call("ZCARD", world.keys.key(place)) for place in ("completed", "failed")])


async def trouble(proxy: Proxy, chance: random.Random) -> None:
    """Break the connections, in every way, until cancelled."""
    while True:
        await asyncio.sleep(chance.uniform(0.02, 0.3))
        match chance.randrange(4):
            case 0 | 1:
                proxy.cut()
            case 2:  # what is sent arrives, answers do not, and then the connections break
                proxy.mute = True
                await asyncio.sleep(chance.uniform(0.0, 0.05))
                proxy.cut()
                proxy.mute = False
            case _:  # nothing arrives for longer than a command may take
                proxy.deaf = True
                await asyncio.sleep(chance.uniform(0.1, 0.7))
                proxy.cut()
                proxy.deaf = False


@pytest.mark.parametrize("seed", range(3))
async def test_every_job_ends_however_often_the_connections_break(
    start_valkey: Callable[..., ValkeyProcess], queue: str, seed: int
) -> None:
    chance = random.Random(seed)

    async def endpoint(request: OutboundRequest) -> Outcome:
        await asyncio.sleep(chance.uniform(0, 0.05))
        return answered(200 if chance.random() < 0.9 else 500)

    valkey = start_valkey()
    with capture_logs() as logs:
        async with (
            real_world(valkey, queue) as world,
            proxied("127.0.0.1", valkey.port) as proxy,
            engine_on(proxy.port) as engine,
        ):
            engine.outbound.answering = endpoint
            engine.work_on(queue, 8)
            troubling = asyncio.ensure_future(trouble(proxy, chance))
            try:
                await add_jobs(world, JOBS, attempts=3)
                await asyncio.sleep(4)
            finally:
                troubling.cancel()
                proxy.cut()  # no connection goes on that has lost bytes: TCP would not do that
                proxy.deaf = proxy.mute = False
            await until(lambda: _is(finished(world), JOBS), 30)
            await until(lambda: _is(world.link.call("LLEN", world.keys.key("active")), 0), 30)
            assert await world.link.call("KEYS", world.keys.key("*:lock")) == []
            assert len(engine.outbound.requests) >= JOBS
            assert engine.link.connects > 5
    crashes = [line for line in logs if line["event"] in {"slot.failed", "settle.failed"}]
    assert crashes == []


async def test_without_trouble_each_job_is_pushed_once(valkey: ValkeyProcess, queue: str) -> None:
    async with real_world(valkey, queue) as world, engine_on(valkey.port) as engine:
        engine.work_on(queue, 10)
        await add_jobs(world, 500)
        await until(lambda: _is(finished(world), 500), 30)
        assert len(engine.outbound.requests) == 500
        assert engine.outbound.most_in_flight <= 10


async def test_two_instances_share_a_queue_and_push_each_job_once(valkey: ValkeyProcess, queue: str) -> None:
    async def endpoint(_: OutboundRequest) -> Outcome:
        await asyncio.sleep(0.002)
        return answered()

    async with (
        real_world(valkey, queue) as world,
        engine_on(valkey.port) as one,
        engine_on(valkey.port) as other,
    ):
        for engine in (one, other):
            engine.outbound.answering = endpoint
            engine.work_on(queue, 5)
        await add_jobs(world, 600)
        await until(lambda: _is(finished(world), 600), 30)
        assert len(one.outbound.requests) + len(other.outbound.requests) == 600
        assert min(len(one.outbound.requests), len(other.outbound.requests)) > 0


async def test_a_job_longer_than_its_lock_is_pushed_once(valkey: ValkeyProcess, queue: str) -> None:
    async def endpoint(_: OutboundRequest) -> Outcome:
        await asyncio.sleep(POLICY.lock_s * 1.5)
        return answered()

    async with (
        real_world(valkey, queue) as world,
        engine_on(valkey.port) as one,
        engine_on(valkey.port) as other,
    ):
        for engine in (one, other):
            engine.outbound.answering = endpoint
            engine.work_on(queue, 1)
        await world.add("long")
        await until(lambda: _is(finished(world), 1), 30)
        assert await world.places(b"long") == ["completed"]
        assert len(one.outbound.requests) + len(other.outbound.requests) == 1


async def test_the_job_of_an_instance_that_vanished_is_pushed_by_another(valkey: ValkeyProcess, queue: str) -> None:
    async with real_world(valkey, queue) as world:
        await world.add("orphan")
        await world.store.take(b"vanished:1")
        await world.lapse(b"orphan")
        async with engine_on(valkey.port) as engine:
            engine.work_on(queue, 1)
            await until(lambda: _is(finished(world), 1), 30)
            assert len(engine.outbound.requests) == 1


async def test_draining_leaves_no_job_locked(valkey: ValkeyProcess, queue: str) -> None:
    async def endpoint(_: OutboundRequest) -> Outcome:
        await asyncio.sleep(60)
        return answered()

    async with real_world(valkey, queue) as world, engine_on(valkey.port) as engine:
        engine.outbound.answering = endpoint
        engine.work_on(queue, 5)
        await add_jobs(world, 8)
        await until(lambda: engine.outbound.in_flight == 5)
        engine.supervisor._policy = EnginePolicy(grace_s=0.1)
        await engine.supervisor.drain()
        assert sorted(await world.waiting()) == [b"job-%d" % number for number in range(8)]
        assert await world.link.call("KEYS", world.keys.key("*:lock")) == []
        for number in range(8):
            assert b"atm" not in await world.fields(b"job-%d" % number)


async def _is(finding: object, expected: object) -> bool:
    return bool(await finding == expected)  # type: ignore[misc]
