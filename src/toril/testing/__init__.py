"""Fakes of toril's ports and a clock to drive them, for toril's own tests and for yours.

Each fake keeps the promises of its Protocol (`tests/conformance` runs the same suites over fakes and real adapters),
works in memory, and can be told to fail the way the real thing fails. Nothing here is
imported by toril itself.

A fake is imported when it is asked for: pytest loads `toril.testing.pytest_plugin`, and with it this module, at each
start.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toril.testing.attempts import FakeAttempts
    from toril.testing.blobs import FakeBlobs
    from toril.testing.breakers import FakeBreakers
    from toril.testing.clock import FakeClock
    from toril.testing.handovers import FakeLeasedQueues, FakeSettlementNotifications
    from toril.testing.holds import FakeHolds
    from toril.testing.leases import FakeLeaseStore
    from toril.testing.ledger import FakeLedger
    from toril.testing.meter import FakeMeter
    from toril.testing.outbound import FakeOutbound, FakePool, answered
    from toril.testing.presence import FakePresence
    from toril.testing.rates import FakeRates
    from toril.testing.registry import FakeRegistry
    from toril.testing.sightings import FakeSightings
    from toril.testing.survey import FakeQueueSurvey
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
    "FakeQueueSurvey",
    "FakeRates",
    "FakeRegistry",
    "FakeSettlementNotifications",
    "FakeSightings",
    "answered",
]

_PLACES = {
    "FakeAttempts": "attempts",
    "FakeBlobs": "blobs",
    "FakeBreakers": "breakers",
    "FakeClock": "clock",
    "FakeLeasedQueues": "handovers",
    "FakeSettlementNotifications": "handovers",
    "FakeHolds": "holds",
    "FakeLeaseStore": "leases",
    "FakeLedger": "ledger",
    "FakeMeter": "meter",
    "FakeOutbound": "outbound",
    "FakePool": "outbound",
    "answered": "outbound",
    "FakePresence": "presence",
    "FakeQueueSurvey": "survey",
    "FakeRates": "rates",
    "FakeRegistry": "registry",
    "FakeSightings": "sightings",
    "FakeMarkerWaits": "waits",
}


def __getattr__(name: str) -> Any:
    """Return a fake by its name."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
