"""The pipeline of a target on fakes, for the tests of the delivery executor."""

import asyncio
from typing import Any

from tests.unit.engine.support import LOCK_S, Endpoints, patient
from toril.core.lease import Lease
from toril.delivery.breaker_gate import BreakerGate
from toril.delivery.delivery_executor import AttemptServices, DeliveryExecutor
from toril.delivery.journal import Journal
from toril.delivery.ledger_fleet import LedgerFleet
from toril.delivery.rules.delivery import Envelope, Inline, NewDelivery
from toril.delivery.rules.destination import Target
from toril.delivery.rules.lifecycle import faults
from toril.delivery.rules.retry_policy import RetryPolicy
from toril.delivery.rules.target import BreakerPolicy, TargetSpec, Timeouts
from toril.engine.slot import Slot
from toril.payloads.payload_offload import PayloadOffload
from toril.telemetry.measures import Measures
from toril.testing import (
    FakeBlobs,
    FakeBreakers,
    FakeClock,
    FakeHolds,
    FakeLeaseStore,
    FakeLedger,
    FakeMeter,
    FakeOutbound,
    FakeSightings,
)

SPEC = TargetSpec(
    name="billing",
    url="http://billing.internal/api",
    timeout=Timeouts(total_s=20.0),
    retry=RetryPolicy(max_attempts=3, base_s=10.0, jitter=0.0),
    breaker=BreakerPolicy(failures=2, window_s=60.0, open_for_s=15.0, half_open_probes=1),
)
QUEUE = "deliver-billing"


class Pipeline:
    """One slot and the pipeline of a target, all on fakes."""

    def __init__(self, clock: FakeClock, spec: TargetSpec = SPEC) -> None:
        self.clock = clock
        self.store = FakeLeaseStore(QUEUE, now=clock, lock_s=LOCK_S)
        self.endpoints = Endpoints()
        self.outbound = FakeOutbound(self._answer)
        self.ledger = FakeLedger()
        self.fleet = LedgerFleet(self.ledger, FakeSightings(clock), lambda: ["billing"], lambda: 0.0)
        self.blobs = FakeBlobs(clock)
        self.offload = PayloadOffload(self.blobs, 1000)
        self.breakers = FakeBreakers(clock)
        self.holds = FakeHolds()
        self.target = Target(spec, clock)
        self.meter = FakeMeter()
        self.executor = self.worker()
        self.slot = Slot(b"token:1")

    def worker(self) -> DeliveryExecutor:
        """A pipeline of another process."""
        settler = patient(2 * LOCK_S)
        settler.measures = Measures(self.meter, self.clock)
        journal = Journal(self.ledger, self.offload, self.target, by="worker", lease_s=30.0, now=self.clock)
        gate = BreakerGate(self.target, self.breakers, self.holds, settler, self.clock, 30.0)
        return DeliveryExecutor(
            self.target,
            self.store,
            self.outbound,
            settler,
            AttemptServices(journal, gate, self.fleet, lambda: 0.0, lambda *_: None),
        )

    async def _answer(self, request: Any) -> Any:
        return await self.endpoints(request)

    async def accept(self, job_id: str = "1", envelope: Envelope | None = None, **given: Any) -> None:
        """A delivery that the ledger and the queue have."""
        new = NewDelivery(
            job_id=job_id,
            target="billing",
            envelope=envelope or Envelope(content=Inline(job_id.encode())),
            at_s=self.clock(),
            max_attempts=3,
            by="caller",
            **given,
        )
        await self.ledger.accept([new])
        self.store.add(job_id)

    async def take(self) -> Lease:
        found = await self.store.take(self.slot.token)
        assert isinstance(found, Lease)
        found.renewed_at = asyncio.get_running_loop().time()
        self.slot.lease = found
        return found

    async def work(self, lease: Lease | None = None) -> Any:
        """Take a job through the pipeline, by default the next one."""
        taken = lease or await self.take()
        return await self.executor.execute(self.slot, taken, lambda: False)

    def statuses(self, job_id: str = "1") -> list[str]:
        history = self.ledger.transitions[job_id]
        assert faults(history) == []
        return [step.to.value for step in history]

    def attempts(self, job_id: str = "1") -> list[tuple[int, str]]:
        return [(attempt.number, str(attempt.outcome)) for attempt in self.ledger.attempts[job_id]]
