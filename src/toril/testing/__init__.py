"""Fakes of toril's ports and a clock to drive them, for toril's own tests and for yours.

Each fake keeps the promises of its Protocol in `toril.core.ports` (`tests/conformance` runs the same suites over
fakes and real adapters), works in memory, and can be told to fail the way the real thing fails. Nothing here is
imported by toril itself.
"""

from toril.testing.attempts import FakeAttempts
from toril.testing.blobs import FakeBlobs
from toril.testing.breakers import FakeBreakers
from toril.testing.clock import FakeClock
from toril.testing.handovers import FakeLeasedQueues, FakeSettledNews
from toril.testing.holds import FakeHolds
from toril.testing.leases import FakeLeaseStore
from toril.testing.ledger import FakeLedger
from toril.testing.meter import FakeMeter
from toril.testing.outbound import FakeOutbound, FakePool, answered
from toril.testing.presence import FakePresence
from toril.testing.rates import FakeRates
from toril.testing.registry import FakeRegistry
from toril.testing.sightings import FakeSightings
from toril.testing.waits import FakeMarkerWaits

__all__ = [
    "FakeAttempts",
    "FakeBlobs",
    "FakeBreakers",
    "FakeClock",
    "FakeHolds",
    "FakeLeaseStore",
    "FakeLeasedQueues",
    "FakeLedger",
    "FakeMarkerWaits",
    "FakeMeter",
    "FakeOutbound",
    "FakePool",
    "FakePresence",
    "FakeRates",
    "FakeRegistry",
    "FakeSettledNews",
    "FakeSightings",
    "answered",
]
