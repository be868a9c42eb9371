"""That the ledger is away is told while it is, once by the fleet; and at the latest when it is back."""

from typing import Any

import pytest
from msgspec.structs import replace

from tests.unit.delivery.events.test_event_teller import Ops
from toril.core.errors import LedgerUnavailable
from toril.core.http.signing import Secret
from toril.core.metrics import EVENTS_TOLD
from toril.core.operator_event import OperatorEvent
from toril.delivery.events.direct_call import DirectCall, event_job_id
from toril.delivery.events.ledger_watch import LedgerWatch
from toril.delivery.rules.breaker import FailedAttempt
from toril.delivery.rules.destination import Target
from toril.delivery.rules.target import BreakerPolicy, Signing, TargetSpec
from toril.telemetry.conditions import FleetCondition
from toril.testing import FakeBreakers, FakeClock, FakeOutbound, answered

UNTOLD = FleetCondition(0.0, 0.0, False, 0, 0, 0.0, 0, 0)
BREAKER = BreakerPolicy(failures=1, open_for_s=15.0)


class Conditions:
    """The fleet's condition of one ledger, and who may call directly."""

    def __init__(self) -> None:
        self.known = UNTOLD
        self.at_s = 100.0
        self.claimed = False

    async def begin(self, kind: str, name: str) -> FleetCondition:
        if not self.known.active:
            self.known = replace(self.known, since_s=self.at_s, active=True)
        return self.known

    async def end(self, kind: str, name: str) -> FleetCondition:
        if self.known.active:
            self.known = replace(self.known, ended_s=self.at_s + 60, active=False)
        return self.known

    async def told(self, kind: str, name: str) -> FleetCondition:
        self.known = replace(self.known, told_s=self.at_s + 5)
        return self.known

    async def claim(self, kind: str, for_s: float) -> bool:
        return not self.claimed


class Ledger:
    """Answers unless it is `away`."""

    away = False

    async def check(self) -> None:
        if self.away:
            raise LedgerUnavailable


class Watched:
    """A ledger that is watched, and the events' target that its outage is told to."""

    def __init__(self, **policy: Any) -> None:
        self.ops = Ops(**policy)
        self.ledger: Any = Ledger()
        self.conditions: Any = Conditions()
        self.accepts = True
        self.called: list[OperatorEvent] = []
        self.watch = LedgerWatch(self.ledger, "postgresql-1", self.conditions, self.ops.teller, self._call)

    async def _call(self, event: OperatorEvent) -> bool:
        self.called.append(event)
        return self.accepts

    async def look(self, times: int = 1) -> None:
        for _ in range(times):
            await self.watch.look()

    async def delivered(self) -> list[tuple[str, str | None]]:
        """The events that became deliveries, with the ids that were decided for them."""
        await self.ops.told()
        return [(request.labels["event"], request.job_id) for request in self.ops.accepted]


@pytest.fixture
def watched() -> Watched:
    return Watched()


async def test_an_outage_is_told_while_it_lasts_and_not_again_when_it_is_over(watched: Watched) -> None:
    await watched.look()
    watched.ledger.away = True
    await watched.look(2)
    assert watched.called == [], "a moment is no outage"
    await watched.look(4)
    (event,) = watched.called
    assert (event.type, event.at_s, watched.ops.accepted) == ("ledger.unreachable", 100.0, [])
    watched.ledger.away = False
    await watched.look()
    assert await watched.delivered() == [("ledger.back", None)]
    assert watched.ops.meter.counts[EVENTS_TOLD, ("ledger.unreachable",)] == 1


async def test_an_outage_that_was_not_accepted_is_delivered_later_under_the_id_of_the_calls(watched: Watched) -> None:
    watched.ledger.away, watched.accepts = True, False
    await watched.look(5)
    assert len(watched.called) == 3, "it is tried again"
    assert len(set(map(event_job_id, watched.called))) == 1
    watched.ledger.away = False
    await watched.look()
    assert await watched.delivered() == [
        ("ledger.unreachable", event_job_id(watched.called[0])),
        ("ledger.back", None),
    ]


async def test_one_instance_at_a_time_calls(watched: Watched) -> None:
    watched.ledger.away, watched.conditions.claimed = True, True
    await watched.look(5)
    assert watched.called == []


async def test_what_another_instance_has_told_is_neither_told_directly_nor_delivered(watched: Watched) -> None:
    watched.ledger.away = True
    await watched.conditions.begin("ledger", "postgresql-1")
    await watched.conditions.told("ledger", "postgresql-1")
    await watched.look(5)
    watched.ledger.away = False
    await watched.look()
    assert watched.called == []
    assert await watched.delivered() == [("ledger.back", None)]


async def test_an_outage_after_one_that_was_told_is_told_again(watched: Watched) -> None:
    for at_s in (100.0, 200.0):
        watched.conditions.at_s, watched.ledger.away = at_s, True
        await watched.look(3)
        watched.ledger.away = False
        await watched.look()
    assert [event.at_s for event in watched.called] == [100.0, 200.0]


async def test_an_outage_that_nobody_wants_to_be_told_of_is_not_told() -> None:
    watched = Watched(types=("breaker.*",))
    watched.ledger.away = True
    await watched.look(5)
    assert watched.called == []


# The request


class Called:
    """A direct call to a target with a signature and a breaker."""

    def __init__(self, clock: FakeClock) -> None:
        signing = Signing(secret_file="s", secrets=(Secret(b"k" * 32),))
        spec = TargetSpec(name="ops", url="http://ops.internal/events", breaker=BREAKER, signing=signing)
        self.outbound = FakeOutbound()
        self.breakers = FakeBreakers(clock)
        self.paused = False
        self.call = DirectCall(Target(spec, clock), self.outbound, self.breakers, self._paused, clock)

    async def _paused(self, queue: str) -> bool:
        assert queue == "deliver-ops"
        return self.paused


EVENT = OperatorEvent("ledger.unreachable", "postgresql-1", 1_700_000_000.0, {"since": "2023-11-14T22:13:20Z"})


@pytest.fixture
def called(clock: FakeClock) -> Called:
    return Called(clock)


async def test_a_direct_call_is_the_request_of_the_delivery_that_may_follow(called: Called) -> None:
    assert await called.call(EVENT)
    (request,) = called.outbound.requests
    lines = request.head.decode().split("\r\n")
    assert lines[0].startswith("POST /events HTTP/1.1")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    assert headers["webhook-id"] == headers["toril-job-id"] == event_job_id(EVENT)
    assert headers["content-type"] == "application/json"
    assert headers["webhook-signature"].startswith("v1,")
    assert headers["idempotency-key"] == EVENT.key
    assert request.body == EVENT.body()
    assert called.outbound.pools[0].closed


@pytest.mark.parametrize("status", [302, 400, 429, 503])
async def test_only_a_2xx_counts_as_told(called: Called, status: int) -> None:
    async def answer(_: object) -> Any:
        return answered(status)

    called.outbound.answering = answer
    assert not await called.call(EVENT)


async def test_nothing_is_sent_to_a_target_that_is_paused_held_or_shut(called: Called, clock: FakeClock) -> None:
    called.paused = True
    assert not await called.call(EVENT)
    called.paused = False
    await called.breakers.hold("ops", 30.0)
    assert not await called.call(EVENT)
    await called.breakers.release("ops")
    await called.breakers.failed("ops", BREAKER, FailedAttempt("j"))
    assert not await called.call(EVENT)
    assert called.outbound.requests == []
    clock.jump(16.0)
    assert await called.call(EVENT), "when it is time for a probe"
