"""The delivery door: envelopes in a ledger, their jobs in a target's queue, instances that deliver and recover."""

import asyncio
import contextlib
import re
from functools import partial
from typing import Any

import msgspec

from tests.simulation.delivery_parts import TargetJobs, WatchedLedger, WiredBlobs, WiredLedger
from tests.simulation.engine_parts import LEASE_CALLS, services_of, settler_of
from tests.simulation.queue_store import Broken, WatchedStore
from tests.simulation.wire import Wired
from tests.simulation.world import HEALED_WITHIN_S, LOCK_S, POLICY, OrderedConsumer, Process, World
from toril.core.destination import Destination, OutboundRequest
from toril.core.errors import JobNotFound, JobRefused, StoreError, TorilError
from toril.core.outcome import ConnectFailed, CutOff, Outcome
from toril.delivery.breaker_gate import REPORT_S, BreakerGate
from toril.delivery.deliveries import Deliveries, DeliveryBodies, InstanceContext
from toril.delivery.delivery_executor import AttemptServices, DeliveryExecutor
from toril.delivery.delivery_janitor import DeliveryJanitor, JanitorTimes
from toril.delivery.journal import Journal
from toril.delivery.ledger_fleet import LedgerFleet
from toril.delivery.ledger_recoverer import LedgerRecoverer
from toril.delivery.ports import DeliveryFilter
from toril.delivery.rules.destination import Target
from toril.delivery.rules.enqueue import EnqueueRequest, read_envelope
from toril.delivery.rules.lifecycle import TERMINAL, Status
from toril.delivery.rules.retry_policy import RetryPolicy
from toril.delivery.rules.target import BreakerPolicy, Retention, TargetSpec, Timeouts
from toril.delivery.target_queues import TargetQueues
from toril.engine.consumer import Consumer
from toril.engine.supervisor import Supervisor
from toril.payloads.payload_offload import PayloadOffload
from toril.testing import (
    FakeBlobs,
    FakeBreakers,
    FakeMeter,
    FakeOutbound,
    FakeSightings,
    answered,
)

_TARGET = "billing"
_QUEUE = f"deliver-{_TARGET}"
_LEASE_S = 3.0
_THRESHOLD_BYTES = 40
_ATTEMPT = re.compile(rb"toril-attempt: (\d+)\r\n")
_QUEUE_CALLS = frozenset({"add", "missing", "held", "cancel", "hold", "let_go", "paused"})
CLIENT = "client"


class DeliveryInstance(Process):
    """One toril that accepts envelopes for a target and delivers them."""

    world: "DeliveriesWorld"

    async def serve(self) -> None:
        """Wire it up as `toril.instance.delivery` and `toril.instance.targets` do."""
        world, line, now = self.world, self.line, self.now
        chance = world.chance(f"{self.name}:engine")
        self.ledger_line = world.line(f"{self.name}:ledger")
        self.lines.append(self.ledger_line)
        ledger, blobs = WiredLedger(world.ledger, self.ledger_line), WiredBlobs(world.blobs, self.ledger_line)
        self.settler = settler_of(self, FakeMeter())
        self.shared = services_of(self, self.settler.measures)
        jobs = Wired(world.jobs, line, repeatable=_QUEUE_CALLS)
        queues = TargetQueues(jobs, jobs, jobs, jobs)
        offload = PayloadOffload(blobs, _THRESHOLD_BYTES)
        target = Target(world.spec, now)
        self.fleet = LedgerFleet(ledger, Wired(world.sightings, line), lambda: [_TARGET], chance.random, place="here")
        self.recoverer = LedgerRecoverer(ledger, queues, lambda: [_TARGET], 8.0, self.name, now)
        self.deliveries = Deliveries(
            ledger,
            queues,
            DeliveryBodies(offload, blobs),
            {_TARGET: world.spec}.get,
            InstanceContext(self.name, now, chance.randbytes, self.fleet.others),
            self.recoverer.soon,
        )
        janitor = DeliveryJanitor(
            ledger, queues, blobs, lambda: {_TARGET: world.spec.retention}, JanitorTimes(5.0, orphan_s=10.0), now
        )
        journal = Journal(ledger, offload, target, by=self.name, lease_s=_LEASE_S, now=now)
        self.gate = BreakerGate(target, Wired(world.breakers, line), jobs, self.settler, now, _LEASE_S)
        self.outbound = FakeOutbound(self._answer)
        services = AttemptServices(journal, self.gate, self.fleet, chance.random)
        self.supervisor = Supervisor(partial(self._consumer, services), POLICY, self.shared)
        for work in (self.supervisor.run(), self.fleet.run(), self.recoverer.run(), janitor.run(), self._report()):
            self.tasks.create_task(work)
        self.supervisor.start_configured(target)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            with contextlib.suppress(StoreError):
                await self.gate.report()

    async def drain(self) -> None:
        """As an instance does."""
        await self.supervisor.drain()
        self.check_left(self.supervisor.consumers(), excused=any(line.troubled for line in self.lines))
        self.ledger_line.cut()

    def kill(self) -> None:
        """End the process at once."""
        self.ledger_line.cut()
        super().kill()

    def _consumer(self, services: AttemptServices, target: Destination, slots: int) -> Consumer:
        assert isinstance(target, Target)
        leases = Wired(self.world.stores[_QUEUE], self.line, repeatable=LEASE_CALLS, before=self.check_write)
        executor = DeliveryExecutor(target, leases, self.outbound, self.settler, services)
        may_take = partial(self.fleet.may_take, _TARGET)
        return OrderedConsumer(target, slots, leases, executor, self.shared, may_take)

    async def _answer(self, request: OutboundRequest) -> Outcome:
        if self.outbound.in_flight > self.world.spec.concurrency:
            self.world.breaks(Broken(f"{self.name} makes {self.outbound.in_flight} requests at once"))
        return await self.world.answer(self, request)

    def cancelled(self, job_id: bytes) -> None:
        """As an instance that hears of a cancelled job."""
        if not self.supervisor.cancel(_QUEUE, job_id):
            self.shared.cancelled.note(_QUEUE, job_id)


class DeliveriesWorld(World[DeliveryInstance]):
    """A ledger, a target with its queue, callers, and the instances between them."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        plan = self.plan
        store = WatchedStore(_QUEUE, removes=True, now=self.now, lock_s=LOCK_S, mark=self.markers.mark,
                             max_stalled_count=2**31)  # fmt: skip
        self.stores[_QUEUE] = store
        self.blobs = FakeBlobs(self.now)
        self.ledger = WatchedLedger(self.blobs)
        self.jobs = TargetJobs(store, self._announce)
        self.breakers = FakeBreakers(self.now)
        self.sightings = FakeSightings(self.now)
        self.spec = TargetSpec(
            name=_TARGET,
            url="http://billing.example/",
            timeout=Timeouts(total_s=self.timeout_s),
            concurrency=plan.choice((1, 2, 4)),
            retry=RetryPolicy(max_attempts=plan.choice((2, 3, 5)), base_s=0.5, max_s=4.0, fail_on=frozenset({410})),
            breaker=plan.choice((None, BreakerPolicy(failures=3, open_for_s=2.0, window_s=10.0))),
            retention=Retention(delivered_s=30.0, dead_lettered_s=3600.0, cancelled_s=30.0),
        )
        self.good = False
        self.requests: set[tuple[str, int]] = set()
        self.keys: dict[str, str] = {}
        self.accepted: set[str] = set()
        self._endpoint = self.chance("endpoint")
        self._callers = self.chance("callers")
        self.ledger_steps = 0

    def process(self, name: str) -> DeliveryInstance:
        """Return another instance, which starts."""
        return DeliveryInstance(self, name)

    def check(self) -> None:
        """Check the queue, and the ledger beside it."""
        for one in self.ledger.look():
            self.note(
                "ledger", one.job_id[-6:], one.status, f"{one.attempts_made}/{one.attempts_begun}", one.reason or ""
            )
        super().check()
        for instance in self.running:
            for consumer in instance.supervisor.consumers():
                if len(consumer.slots) > consumer._limit:
                    raise Broken(f"{instance.name}: {len(consumer.slots)} slots of {consumer._limit}")

    def moved(self, store: WatchedStore, job_id: bytes, place: str | None) -> None:
        """Check that the job of an unfinished delivery stays in its queue."""
        one = self.ledger.deliveries.get(job_id.decode())
        # A replay between its end in the ledger and that in the queue finds the job there; the recoverer adds it later.
        replayed = one is not None and self.ledger.transitions[one.job_id][-1].reason == "replayed"
        if place in ("completed", "failed") and one is not None and one.status not in TERMINAL and not replayed:
            raise Broken(f"the job of {one.job_id} is {place}, and its delivery is {one.status}")
        if place is not None and one is None and job_id.decode() not in self.ledger.ever:
            raise Broken(f"the job {job_id.decode()} has no delivery")

    async def answer(self, instance: DeliveryInstance, request: OutboundRequest) -> Outcome:
        """Answer a request as a target with its moods does."""
        found, job_id = _ATTEMPT.search(request.head), request.job_id.decode()
        number = int(found[1]) if found else 0
        self.note(instance.name, "request", job_id[-6:], "attempt", number)
        one = self.ledger.deliveries.get(job_id)
        if one is None or one.attempts_begun < number:
            self.breaks(Broken(f"attempt {number} of {job_id} is made, and the ledger does not know of it"))
        if (job_id, number) in self.requests:
            self.breaks(Broken(f"two requests for attempt {number} of {job_id}"))
        self.requests.add((job_id, number))
        chance = self._endpoint
        mood = 0.0 if self.good else chance.random()
        await asyncio.sleep(0.01 + 0.1 * chance.random())
        if 0.4 < mood < 0.55:
            await asyncio.sleep(self.timeout_s * 1.2 * chance.random())
        if mood < 0.55:
            self.ledger.good.add(job_id)
            return answered(200, b"x" * chance.choice((0, 10, 100)))
        if mood < 0.75:
            return answered(500)
        if mood < 0.8:
            return answered(503, headers=[(b"retry-after", b"2")])
        if mood < 0.85:
            return CutOff("ECONNRESET", "reset", 0.1)
        if mood < 0.88:
            return ConnectFailed("EMFILE", "no descriptor", 0.0, exhausted=True)
        return answered(410) if mood < 0.92 else answered(404)

    def enqueue(self) -> None:
        """Let a caller post an envelope, and try again under its key where that fails."""
        chance = self._callers
        number = len(self.keys)
        key = f"key{number}"
        self.keys[key] = ""
        envelope: dict[str, Any] = {"target": _TARGET, "body": "x" * chance.choice((1, 100)) + str(number)}
        if chance.random() < 0.2:
            envelope["delay_ms"] = chance.choice((500, 5000))
        if chance.random() < 0.15:
            envelope["labels"] = {"late": "yes"}
        submission = read_envelope(msgspec.json.encode(envelope), key=key, max_body_bytes=1000)
        if "labels" in envelope:
            submission = msgspec.structs.replace(submission, deadline_s=self.now() + 12.0 * chance.random() + 0.5)
        self._post(key, submission, 6)

    def _post(self, key: str, submission: EnqueueRequest, tries: int) -> None:
        running = self.running
        if running:
            instance = self._callers.choice(running)
            instance.serves(self._posting(instance, key, submission))
        if tries and (not self.keys[key] or self._callers.random() < 0.1):
            again_s = 0.5 + 2.0 * self._callers.random()
            self.loop.call_later(again_s, self._again, key, submission, tries - 1)

    def _again(self, key: str, submission: EnqueueRequest, tries: int) -> None:
        if not self.keys[key] or self._callers.random() < 0.1:
            self._post(key, submission, tries)

    async def _posting(self, instance: DeliveryInstance, key: str, submission: EnqueueRequest) -> None:
        try:
            enqueued = await instance.deliveries.enqueue(submission)
        except StoreError as exc:
            self.note(CLIENT, key, type(exc).__name__)
            return
        job_id = enqueued.delivery.job_id
        self.note(CLIENT, key, "accepted", job_id[-6:], "again" if enqueued.replayed else "")
        if self.keys[key] not in ("", job_id):
            self.breaks(Broken(f"{key} has two deliveries: {self.keys[key]} and {job_id}"))
        if job_id not in self.ledger.ever:
            self.breaks(Broken(f"{job_id} was accepted, and is not in the ledger"))
        self.keys[key] = job_id
        self.accepted.add(job_id)

    def cancel(self) -> None:
        """Let a caller cancel a delivery."""
        accepted, running = sorted(self.accepted), self.running
        if accepted and running:
            instance = self._callers.choice(running)
            instance.serves(self._cancelling(instance, self._callers.choice(accepted)))

    async def _cancelling(self, instance: DeliveryInstance, job_id: str) -> None:
        try:
            await instance.deliveries.cancel(await instance.deliveries.find(job_id), CLIENT)
        except (StoreError, JobRefused, JobNotFound) as exc:
            self.note(CLIENT, "cancel", job_id[-6:], type(exc).__name__)
        else:
            self.note(CLIENT, "cancelled", job_id[-6:])

    def replay(self) -> None:
        """Let a caller replay all dead letters."""
        if self.running:
            instance = self._callers.choice(self.running)
            instance.serves(self._replaying(instance))

    async def _replaying(self, instance: DeliveryInstance) -> None:
        try:
            which = DeliveryFilter(statuses=(Status.DEAD_LETTERED,))
            found = await instance.deliveries.dead_letters(which, 10)
            replayed = await instance.deliveries.replay(found, CLIENT)
        except TorilError as exc:
            self.note(CLIENT, "replay", type(exc).__name__)
        else:
            self.note(CLIENT, "replayed", len(replayed))

    def _announce(self, queue: str, job_id: str) -> None:
        for instance in self.running:
            if not instance.line.away and self._callers.random() >= 0.1 * self.severity:
                self.loop.call_later(0.01 * self._callers.random(), self._heard, instance, job_id.encode())

    def _heard(self, instance: DeliveryInstance, job_id: bytes) -> None:
        if instance.line.alive:
            instance.hears(instance.cancelled, job_id)

    def flush(self) -> None:
        """Let Redis lose everything; instances learn of it a little later, or not at all."""
        self.note("Redis has lost everything")
        self.stores[_QUEUE].flush()
        self.markers.flush()
        self.breakers.breakers.clear()
        for instance in self.running:
            if self.plan.random() < 0.7:
                self.loop.call_later(2.0 * self.plan.random(), instance.recoverer.soon)

    def without_ledger(self) -> None:
        """Cut an instance off from its ledger for a while."""
        if self.running:
            line = self.plan.choice(self.running).ledger_line
            line.away = True
            self.note(line.name, "is cut off")
            self.loop.call_later(2.5 * LOCK_S * self.plan.random() ** 2, self._joined, line)

    def left(self) -> list[str]:
        """Return the deliveries that have not finished."""
        return [
            f"{one.job_id[-6:]} ({one.status}, job {self.stores[_QUEUE].places.get(one.job_id.encode())})"
            for one in self.ledger.deliveries.values()
            if one.status not in TERMINAL
        ]

    async def run(self) -> None:
        """Live from the first envelope to the last one. Raises `Broken`."""
        plan = self.plan
        self.start(plan.choice((1, 2, 3)))
        events: list[tuple[float, Any]] = [
            (plan.choice((0.0, 12.0)) + 3.0 * plan.random(), self.enqueue) for _ in range(plan.randint(2, 8))
        ]
        events += [(20.0 * plan.random(), self.cancel) for _ in range(plan.choice((0, 0, 1, 3)))]
        events += [(5.0 + 15.0 * plan.random(), self.replay) for _ in range(plan.choice((0, 1, 2)))]
        events += self.faults(self.flush, self.without_ledger, self.without_ledger)
        await self.happen(events)
        await asyncio.sleep(8.0)
        self.calm_down()
        self.good = True
        await self.until(lambda: not self.left(), HEALED_WITHIN_S, lambda: f"not finished: {self.left()}")
        await self.until(self._idle, 60.0, lambda: f"jobs or slots are left: {self.stores[_QUEUE].places}")
        if not self.severity and self.ledger.lost_attempts():
            raise Broken(f"attempts were lost although nothing was wrong: {self.ledger.lost_attempts()}")
        await self.end()

    def _idle(self) -> bool:
        consumers = [one for instance in self.running for one in instance.supervisor.consumers()]
        busy = any(one.slots or one.in_doubt or one.in_flight or one._waiting for one in consumers)
        return not busy and not self.stores[_QUEUE].places
