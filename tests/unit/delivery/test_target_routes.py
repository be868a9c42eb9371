"""`/targets`: what is shown, what is hidden, and stopping one."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from tests.unit.web.asgi import request
from toril.config.secret_files import SecretFiles
from toril.core.access import Caller, RateLimit
from toril.core.errors import UnknownTarget
from toril.core.group_limits import GroupDefault, GroupRate
from toril.core.http.signing import Secret
from toril.core.rollout import Rollout
from toril.core.times import moment_text
from toril.delivery.rules.breaker import FailedAttempt
from toril.delivery.rules.delivery import Envelope, NewDelivery
from toril.delivery.rules.retry_policy import RetryPolicy
from toril.delivery.rules.target import BreakerPolicy, Signing, TargetAuth, TargetSpec
from toril.delivery.settings import targets
from toril.delivery.target_routes import TargetRoutes, TargetStatusSources, shown, statuses
from toril.telemetry.recent_attempts import AttemptCounts
from toril.testing import FakeBreakers, FakeClock, FakeLedger

SECRET = "hunter2-the-secret"
BILLING = TargetSpec(name="billing", url="http://billing.internal", breaker=BreakerPolicy(failures=1))
EMAIL = TargetSpec(name="email", url="http://email.internal")
PLAIN = TargetSpec(name="plain", url="http://plain.internal", breaker=None)


class Reloads:
    """A third configuration, of which two keys of targets and one beside them wait for a rollout."""

    rollout = Rollout(generation=3, pending=("targets.billing.url", "targets.email.timeout", "ledger"))

    async def reload(self) -> Rollout:
        """Nothing new."""
        return self.rollout


class Queues:
    """Queues that can be paused; one job of each is active."""

    def __init__(self) -> None:
        self.stopped: set[str] = set()
        self.let_go_of: list[str] = []

    async def paused_since_ms(self, queue: str) -> int:
        """A moment."""
        return 1_700_000_000_250

    async def counts(self, queue: str, states: Sequence[str]) -> Mapping[str, int]:
        """One each."""
        return dict.fromkeys(states, 1)

    async def paused(self, queue: str) -> bool:
        """Whether it is paused."""
        return queue in self.stopped

    async def pause(self, queue: str) -> None:
        """Pause it."""
        self.stopped.add(queue)

    async def resume(self, queue: str) -> None:
        """Resume it."""
        self.stopped.discard(queue)

    async def let_go(self, queue: str) -> None:
        """End its hold."""
        self.let_go_of.append(queue)


class Place:
    """The routes on fakes."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.ledger, self.breakers, self.queues = FakeLedger(), FakeBreakers(clock), Queues()
        queues: Any = self.queues
        specs = [BILLING, EMAIL, PLAIN]
        self.counts = {"deliver-billing": AttemptCounts(8, 2)}
        sources = TargetStatusSources(lambda: specs, Reloads(), self.ledger, self, self.breakers, queues, queues, clock)
        self.routes = TargetRoutes(sources)

    async def of(self, queues: Sequence[str]) -> dict[str, AttemptCounts]:
        """As `RecentAttemptCounts.of`."""
        return {queue: self.counts.get(queue, AttemptCounts()) for queue in queues}

    async def get(self, path: str, caller: Caller | None = None) -> Any:
        template = path if path == "/targets" else "/targets/{target}"
        asked = request(path, template=template, caller=caller or Caller("somebody"))
        answer = await (self.routes.all(asked) if path == "/targets" else self.routes.one(asked))
        return msgspec.json.decode(answer.body)


@pytest.fixture
def place() -> Place:
    return Place(FakeClock())


async def test_a_target_is_shown_with_all_that_is_known_of_it(place: Place) -> None:
    new = {"target": "billing", "envelope": Envelope(), "at_s": place.clock(), "max_attempts": 3, "by": "x"}
    await place.ledger.accept([NewDelivery(job_id="1", **new), NewDelivery(job_id="2", **new)])
    await place.breakers.failed("billing", BILLING.breaker, FailedAttempt("1"))
    place.clock.jump(2.5)
    found = await place.get("/targets/billing")
    opened_at = found["breaker"].pop("opened_at")
    assert opened_at.endswith("Z")
    assert found == {
        "name": "billing",
        "config": shown(BILLING),
        "breaker": {"state": "open", "failures": 1},
        "held_until": None,
        "depth": {"queued": 2, "dispatching": 0, "retrying": 0},
        "oldest_age_s": 2.5,
        "in_flight": 1,
        "dead_letters": 0,
        "paused": False,
        "paused_since": None,
        "recent": {"window_s": 600, "attempts": 8, "failed": 2, "failure_rate": 0.25},
        "config_generation": 3,
        "pending_rollout": ["targets.billing.url"],
    }


async def test_nothing_is_known_of_a_target_without_work(place: Place) -> None:
    found = await place.get("/targets/email")
    assert (found["breaker"], found["oldest_age_s"]) == (
        {"state": "closed", "opened_at": None, "failures": 0},
        None,
    )
    assert found["recent"] == {"window_s": 600, "attempts": 0, "failed": 0, "failure_rate": None}


async def test_a_breaker_that_is_off_is_shown_as_off(place: Place) -> None:
    found = await place.get("/targets/plain")
    assert found["breaker"] == {"state": "off", "opened_at": None, "failures": 0}
    assert found["config"]["breaker"] == "off"


async def test_a_hold_is_shown_until_it_ends_and_a_resume_ends_it(place: Place) -> None:
    await place.breakers.hold("plain", 60)
    assert (await place.get("/targets/plain"))["held_until"] == moment_text(place.clock() + 60)
    resume = request("/targets/plain", template="/targets/{target}")
    for _ in range(2):
        assert (await place.routes.resume(resume)).status_code == 204
    assert (await place.get("/targets/plain"))["held_until"] is None
    assert place.queues.let_go_of == ["deliver-plain"]
    await place.breakers.hold("plain", 60)
    place.clock.jump(61)
    assert (await place.get("/targets/plain"))["held_until"] is None


async def test_the_list_has_every_target_that_the_caller_may_see(place: Place) -> None:
    found = await place.get("/targets")
    assert [target["name"] for target in found["targets"]] == ["billing", "email", "plain"]
    assert found["pending_rollout"] == ["targets.billing.url", "targets.email.timeout", "ledger"]
    found = await place.get("/targets", Caller("some", queues=["em*"]))
    assert [target["name"] for target in found["targets"]] == ["email"]
    assert found["pending_rollout"] == ["targets.email.timeout"]


async def test_a_target_that_is_not_configured_is_unknown(place: Place) -> None:
    for handler in (place.routes.one, place.routes.pause, place.routes.resume):
        with pytest.raises(UnknownTarget):
            await handler(request("/targets/nobody", template="/targets/{target}"))


async def test_pausing_and_resuming_can_be_repeated(place: Place) -> None:
    for _ in range(2):
        assert (await place.routes.pause(request("/targets/billing", template="/targets/{target}"))).status_code == 204
        found = await place.get("/targets/billing")
        assert (found["paused"], found["paused_since"]) == (True, "2023-11-14T22:13:20.250Z")
    assert not (await place.get("/targets/email"))["paused"]
    for _ in range(2):
        assert (await place.routes.resume(request("/targets/billing", template="/targets/{target}"))).status_code == 204
        found = await place.get("/targets/billing")
        assert (found["paused"], found["paused_since"]) == (False, None)


def test_a_shown_target_is_valid_configuration_without_secrets() -> None:
    spec = TargetSpec(
        name="billing",
        url="http://billing.internal",
        rate_limit=RateLimit(100, 1.0),
        group_by="tenant",
        group=GroupDefault(2, GroupRate(10, 90_000)),
        retry=RetryPolicy(retry_on=frozenset({408, *range(500, 600)}), fail_on=frozenset({501})),
    )
    config = shown(spec)
    assert targets({"billing": config}, SecretFiles().read) == (spec,)
    secret = TargetSpec(
        name="billing",
        url="http://billing.internal",
        auth=TargetAuth(scheme="header", header="x-key", secret=SECRET, secret_file="/run/key"),
        signing=Signing(secret_file="/run/sign", secrets=(Secret(SECRET.encode()),)),
    )
    config = shown(secret)
    assert config["auth"] == {"scheme": "header", "header": "x-key", "secret_file": "/run/key"}
    assert config["signing"] == {"secret_file": "/run/sign", "secrets": 1}
    assert SECRET not in str(config)


def test_whole_classes_of_statuses_have_their_name() -> None:
    assert statuses(frozenset({404, 429, *range(500, 600)})) == [404, 429, "5xx"]
    assert statuses(frozenset(range(500, 599))) == list(range(500, 599))
    assert statuses(frozenset()) == []
