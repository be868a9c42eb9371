"""The queues door: registered endpoints and pull workers on queues that several instances work on."""

import asyncio
import random
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from tests.simulation.engine_parts import LEASE_CALLS, services_of
from tests.simulation.queue_store import Broken, WatchedStore
from tests.simulation.wire import Wired
from tests.simulation.world import HEALED_WITHIN_S, LOCK_S, POLICY, OrderedConsumer, Process, World
from toril.core.destination import LeaseRules, OutboundRequest
from toril.core.errors import JobRefused, StoreError, WrongLockToken
from toril.core.lease import Lease
from toril.core.outcome import ConnectFailed, CutOff, Outcome
from toril.core.ports import Meter
from toril.engine.consumer import Consumer
from toril.engine.executor import Executor
from toril.engine.handovers import Handovers
from toril.engine.settler import Settler
from toril.engine.supervisor import Supervisor
from toril.queues.pulls import Pulls
from toril.queues.rules.pull import Action, Extended, Failed, Finished, LeaseRequest, Released
from toril.queues.rules.push_worker import PushWorker
from toril.queues.rules.worker import Endpoint, WorkerSpec
from toril.telemetry.measures import Measures
from toril.testing import FakeLeasedQueues, FakeMeter, FakeOutbound, answered

_REPEATABLE = LEASE_CALLS | {"hand_over", "left_s", "held", "schedule_next"}


class _Job(Struct):
    id: str
    started: int = field(name="attemptsStarted")


class _Sent(Struct):
    job: _Job
    token: str


read_sent = msgspec.json.Decoder(_Sent).decode


class Notifications:
    """`SettlementNotifications` between the instances of a world."""

    def __init__(self) -> None:
        self.heard: dict[bytes, Any] = {}

    async def tell(self, instance: bytes, queue: str, job_id: bytes) -> None:
        """Notify an instance."""
        if instance in self.heard:
            self.heard[instance](queue, job_id)


class QueuesInstance(Process):
    """One toril with a registered worker on each queue, and the routes of pull workers."""

    world: "QueuesWorld"

    async def serve(self) -> None:
        """Wire it up as `toril.instance.instance` does."""
        world, line, chance = self.world, self.line, self.world.chance(f"{self.name}:engine")
        meter: Meter = FakeMeter()
        measures = Measures(meter, self.now)
        self.handovers = Handovers(
            Wired(world.leased, line, repeatable=frozenset({"note"})), self, instance_id=self.name, now=self.now
        )
        self.settler = Settler(2 * LOCK_S, self.handovers, measures)
        self.shared = services_of(self, measures)
        self.outbound = FakeOutbound(self._answer)
        self.supervisor = Supervisor(partial(self._consumer, chance), POLICY, self.shared)
        self.pulls = Pulls(
            self, Wired(world.leased, line), self.shared, self.handovers, self.supervisor.lease_rules, chance.random
        )
        for work in (self.supervisor.run(), self.pulls.run(lambda: True), self.handovers.run()):
            self.tasks.create_task(work)
        for queue in world.pushed:
            self.supervisor.start(world.worker(queue, self.now))

    async def drain(self) -> None:
        """As an instance does."""
        self.pulls.close()
        await self.supervisor.drain()
        self._check_left()

    def _check_left(self) -> None:
        # While Redis does not answer, an instance leaves its jobs to their locks in the end. It waits for none that
        # has lapsed.
        excused = self.line.troubled and self.line.outage_s < 1.5 * LOCK_S
        self.check_left(self.supervisor.consumers(), excused=excused)

    def of(self, queue: str, rules: LeaseRules, lock_ms: int | None = None, worker: str | None = None) -> Any:
        """As `PullStores.of`."""
        wired = self._leases(queue)
        wired.queue, wired.lock_ms = queue, int(LOCK_S * 1000)
        return wired

    def _leases(self, queue: str) -> Wired:
        return Wired(self.world.stores[queue], self.line, repeatable=_REPEATABLE, before=self.check_write)

    def _consumer(self, chance: random.Random, destination: PushWorker, slots: int) -> Consumer:
        leases = self._leases(destination.queue)
        executor = Executor(destination, leases, self.outbound, self.settler, chance.random)
        consumer = OrderedConsumer(destination, slots, leases, executor, self.shared)
        consumer.loses = partial(self._loses, consumer)
        return consumer

    def _loses(self, consumer: Consumer, lease: Lease) -> None:
        """Check that a lease that is given up is not ours, or could not be renewed for as long as it lives."""
        token, until_s = self.world.stores[consumer.queue].active.get(lease.job_id, (b"", 0.0))
        unknown = self.world.loop.time() - lease.renewed_at > LOCK_S
        held = any(one is lease for one in consumer.in_flight)
        if held and lease.token == token and until_s > self.world.now() and not unknown:
            self.world.breaks(Broken(f"{self.name} gives up its lease of job {lease.job_id.decode()}, which holds"))

    async def tell(self, instance: bytes, queue: str, job_id: bytes) -> None:
        """As `SettlementNotifications.tell`."""
        await self.line.call("tell", partial(self.world.notifications.tell, instance, queue, job_id), repeatable=True)

    async def follow(self, heard: Any) -> None:
        """As `SettlementNotifications.follow`."""
        self.world.notifications.heard[self.name.encode()] = heard
        await asyncio.Event().wait()

    async def _answer(self, request: OutboundRequest) -> Outcome:
        token = read_sent(request.body).token.encode()
        for consumer in self.supervisor.consumers():
            if any(lease.lost and lease.token == token for lease in consumer.in_flight):
                self.world.breaks(Broken(f"{self.name} makes a request for a lease that it lost: {request.job_id!r}"))
        if self.outbound.in_flight > sum(one.concurrency for one in self.world.workers.values()):
            self.world.breaks(Broken(f"{self.name} makes {self.outbound.in_flight} requests at once"))
        return await self.world.answer(self, request)

    def check(self) -> None:
        """Raise `Broken` where slots or leases are not as they must be."""
        for consumer in self.supervisor.consumers():
            # One that has stopped gives back what waits, whatever its limit.
            taken = sum(slot.attempting or not consumer.stopped for slot in consumer.slots)
            if taken > max(consumer._limit, 1):
                raise Broken(f"{self.name}: {taken} slots of {consumer._limit}")
            held = [(lease.job_id, lease.token) for lease in consumer.in_flight if not lease.lost]
            if len(held) != len(set(held)):
                raise Broken(f"{self.name} holds a lease twice: {held}")


class QueuesWorld(World[QueuesInstance]):
    """Queues, their workers, their endpoints, and the instances between them."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        plan = self.plan
        self.leased = FakeLeasedQueues()
        self.notifications = Notifications()
        self.workers: dict[str, WorkerSpec] = {}
        self.requests: set[tuple[bytes, str, int]] = set()
        self.answers: dict[bytes, set[bytes]] = {}
        self.good = False
        self._endpoint = self.chance("endpoint")
        for number in range(plan.choice((1, 1, 2))):
            queue = f"queue{number}"
            self.stores[queue] = WatchedStore(queue, now=self.now, lock_s=LOCK_S, mark=self.markers.mark)
            self.workers[queue] = WorkerSpec(
                queue,
                Endpoint("http://endpoint.example/", "POST", timeout_s=self.timeout_s),
                concurrency=plan.choice((1, 2, 3, 5)),
            )
        # The queues that have a registered worker.
        self.pushed = list(self.stores)

    def worker(self, queue: str, now: Any) -> PushWorker:
        """Return the registered worker of a queue."""
        return PushWorker(self.workers[queue], "bull", "toril/simulated", now)

    def process(self, name: str) -> QueuesInstance:
        """Return another instance, which starts."""
        return QueuesInstance(self, name)

    def check(self) -> None:
        """Check queues, slots and leases."""
        super().check()
        for instance in self.running:
            instance.check()

    def moved(self, store: WatchedStore, job_id: bytes, place: str | None) -> None:
        """Check that a job has ended for a reason."""
        fields = store.jobs.get(job_id, {})
        if place == "completed" and store.completed[job_id] not in self.answers.get(job_id, ()):
            raise Broken(f"job {job_id.decode()} has a result that no worker gave: {store.completed[job_id]!r}")
        if place == "failed":
            made, stalls = int(fields.get(b"atm", b"0")), int(fields.get(b"stc", b"0"))
            if made < max(1, store.accepted[job_id]) and stalls <= 1:
                raise Broken(f"job {job_id.decode()} failed after {made} of {store.accepted[job_id]} attempts")
        if self.severity == 0.0 and fields.get(b"stc"):
            raise Broken(f"job {job_id.decode()} stalled although nothing was wrong")

    async def answer(self, instance: QueuesInstance, request: OutboundRequest) -> Outcome:
        """Answer a request as an endpoint with its moods does."""
        sent = read_sent(request.body)
        job_id = sent.job.id.encode()
        self.note(instance.name, "request", job_id, "start", sent.job.started)
        self.begins(job_id, sent.token, sent.job.started)
        chance = self._endpoint
        mood = 0.0 if self.good else chance.random()
        await asyncio.sleep(0.01 + 0.1 * chance.random())
        if 0.45 < mood < 0.65:
            await asyncio.sleep(self.timeout_s * 1.2 * chance.random())
        result = msgspec.json.encode(f"{sent.job.id}@{sent.job.started}")
        if mood < 0.65:
            self.answers.setdefault(job_id, set()).add(result)
            return answered(200, result, headers=[(b"content-type", b"application/json")])
        if mood < 0.75:
            return answered(500)
        if mood < 0.8:
            return answered(503, headers=[(b"retry-after", b"2")])
        if mood < 0.84:
            return CutOff("ECONNRESET", "reset", 0.1)
        if mood < 0.87:
            return ConnectFailed("EMFILE", "no descriptor", 0.0, exhausted=True)
        lease_ms = chance.choice((1000, 3000, 9000))
        self.settles_later(0.0, job_id, sent.token, result, lease_ms)
        headers = [(b"toril-settle", b"later"), (b"toril-lease-ms", b"%d" % lease_ms)]
        return answered(202, headers=headers)

    def begins(self, job_id: bytes, token: str, started: int) -> None:
        """Check that a worker gets each start of a job once."""
        key = (job_id, token, started)
        if key in self.requests:
            self.breaks(Broken(f"two requests for start {started} of job {job_id.decode()}"))
        self.requests.add(key)

    def settles_later(self, after_s: float, job_id: bytes, token: str, result: bytes, lease_ms: int) -> None:
        """Let a job be settled by its token, once its worker has said that it will be."""
        self.loop.call_later(after_s, self._later, job_id, token, result, lease_ms)

    def _later(self, job_id: bytes, token: str, result: bytes, lease_ms: int) -> None:
        """Let the endpoint settle a job by its token, in time or not."""
        chance = self._endpoint
        after_s = lease_ms / 1000 * (1.3 if self.severity else 0.8) * chance.random()
        action: Action = Finished(Raw(result))
        if chance.random() < 0.2:
            action = chance.choice((Failed("no"), Released(), Extended()))
        if isinstance(action, Extended):
            self.loop.call_later(after_s, self.settle_somewhere, job_id, token.encode(), action)
            action = Finished(Raw(result))
            after_s += 0.8 * min(lease_ms / 1000, LOCK_S) * chance.random()
        if isinstance(action, Finished):
            self.answers.setdefault(job_id, set()).add(result)
        self.loop.call_later(after_s, self.settle_somewhere, job_id, token.encode(), action)

    def settle_somewhere(self, job_id: bytes, token: bytes, action: Action) -> None:
        """Settle a job by its token, by a request to some instance."""
        queue = next((queue for queue, store in self.stores.items() if job_id in store.jobs), None)
        running = self.running
        if queue is not None and running:
            instance = self._endpoint.choice(running)
            instance.serves(self._settle(instance, queue, job_id, token, action))

    async def _settle(self, instance: QueuesInstance, queue: str, job_id: bytes, token: bytes, action: Action) -> None:
        try:
            await instance.pulls.settle(queue, job_id.decode(), token, action)
        except (StoreError, JobRefused, WrongLockToken) as exc:
            self.note(instance.name, "settle", job_id, type(action).__name__, type(exc).__name__)
        else:
            self.note(instance.name, "settle", job_id, type(action).__name__)

    def pull(self) -> None:
        """Let a pull worker ask some instance for jobs."""
        if self.running:
            instance = self._endpoint.choice(self.running)
            queue = self._endpoint.choice(list(self.stores))
            instance.serves(self._pull(instance, queue))

    async def _pull(self, instance: QueuesInstance, queue: str) -> None:
        chance = self._endpoint
        request = LeaseRequest(count=chance.choice((1, 1, 3)), wait_ms=chance.choice((0, 2000)), lock_ms=6000)
        try:
            leases = await instance.pulls.lease(instance.pulls.begin(queue, request))
        except (StoreError, JobRefused) as exc:
            self.note(instance.name, "pull", type(exc).__name__)
            return
        for lease in leases:
            self._pulled(lease)

    def _pulled(self, lease: Lease) -> None:
        chance = self._endpoint
        started = int(lease.fields.get(b"ats", b"0"))
        self.note("pulled", lease.job_id, "start", started)
        if not self.good and self.severity and chance.random() < 0.15:
            return  # its worker is gone
        result = msgspec.json.encode(f"{lease.job_id.decode()}@{started}")
        action: Action = Finished(Raw(result)) if self.good or chance.random() < 0.7 else Failed("no")
        if isinstance(action, Finished):
            self.answers.setdefault(lease.job_id, set()).add(result)
        within_s = LOCK_S * (1.1 if self.severity else 0.8)
        self.loop.call_later(within_s * chance.random(), self.settle_somewhere, lease.job_id, lease.token, action)

    def add_jobs(self) -> list[tuple[float, Any]]:
        """Return when which jobs are added."""
        plan = self.plan
        events: list[tuple[float, Any]] = []
        backoffs = (None, {"type": "fixed", "delay": 300}, {"type": "exponential", "delay": 200, "jitter": 0.5})
        for number in range(plan.randint(3, 12)):
            store = self.stores[plan.choice(list(self.stores))]
            backoff = plan.choice(backoffs)
            add = partial(
                store.accept,
                f"job{number}",
                plan.choice((1, 2, 3, 5)),
                delay_s=plan.choice((0.0, 0.0, 0.0, 1.0, 4.0)),
                opts={} if backoff is None else {"backoff": backoff},
            )
            events.append((plan.choice((0.0, 12.0)) + 3.0 * plan.random(), add))
        return events

    def left(self) -> list[str]:
        """Return the accepted jobs that have not ended."""
        return [
            f"{job_id.decode()} ({store.places.get(job_id)})"
            for store in self.stores.values()
            for job_id in store.accepted
            if job_id not in store.ends and job_id not in store.removed
        ]

    async def run(self) -> None:
        """Live from the first job to the last one. Raises `Broken`."""
        self.start(self.plan.choice((1, 2, 3)))
        pulls = [(15.0 * self.plan.random(), self.pull) for _ in range(self.plan.choice((0, 0, 2, 5)))]
        await self.happen([*self.add_jobs(), *self.faults(), *pulls])
        await asyncio.sleep(6.0)
        self.calm_down()
        self.good = True
        await self.until(lambda: not self.left(), HEALED_WITHIN_S, lambda: f"not ended: {self.left()}")
        await self.until(self._idle, 5 * LOCK_S, lambda: "slots are taken although no job is left")
        await self.end()

    def _idle(self) -> bool:
        consumers = [one for instance in self.running for one in instance.supervisor.consumers()]
        return not any(one.slots or one.in_doubt or one.in_flight or one._waiting for one in consumers)
