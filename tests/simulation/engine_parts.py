"""What the engine of each simulated instance is made of, whatever its door."""

from tests.simulation.wire import Wired
from tests.simulation.world import LOCK_S, Process
from toril.core.ports import Meter
from toril.engine.handovers import Handovers
from toril.engine.lock_tokens import LockTokens
from toril.engine.settler import Settler
from toril.engine.shared_services import SharedServices
from toril.engine.shared_waits import SharedWaits
from toril.telemetry.measures import Measures
from toril.testing import FakeLeasedQueues, FakePresence, FakeQueueSurvey, FakeSettlementNotifications

LEASE_CALLS = frozenset({"extend", "recover_stalled", "recover_abandoned", "adopt"})
"""What may be carried out twice without any difference: each is idempotent by its port's promise."""
_SURVEYS = frozenset({"with_jobs", "to_check"})


def settler_of(process: Process, meter: Meter) -> Settler:
    """Return the settler of an instance none of whose jobs are settled by others."""
    handovers = Handovers(FakeLeasedQueues(), FakeSettlementNotifications(), instance_id=process.name, now=process.now)
    return Settler(2 * LOCK_S, handovers, Measures(meter, process.now))


def services_of(process: Process, measures: Measures) -> SharedServices:
    """Return what the consumers of an instance share."""
    world, line = process.world, process.line
    return SharedServices(
        tasks=process.tasks,
        waits=SharedWaits(world.markers.of(line)),
        presence=FakePresence(),
        now=process.now,
        measures=measures,
        tokens=LockTokens([b"secret"], process.name),
        survey=Wired(FakeQueueSurvey(world.stores, world.now), line, repeatable=_SURVEYS),
    )
