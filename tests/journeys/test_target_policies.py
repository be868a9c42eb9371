"""How a target's policy treats it: breakers by row and rate, holds that it asks for, schedules of retries."""

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Answer, Call, Endpoint, respond
from tests.support.places import BOTH, where
from tests.support.toril import TorilProcess
from tests.support.waiting import eventually

QUICK = {"base": "20ms", "max": "200ms", "jitter": 0}
OPEN_FOR_S = 0.4
NAMES = ("healthy", "down", "unknown", "stubborn", "busy", "soon", "planned", "plain")


class Targets:
    """Two instances that deliver to some endpoints."""

    def __init__(self, one: TorilProcess, other: TorilProcess, endpoints: dict[str, Endpoint]) -> None:
        self.one = one
        self.other = other
        self.endpoints = endpoints
        self.door = Door(one.gateway)

    def enqueue(self, target: str, count: int, **more: Any) -> list[str]:
        """Have several accepted at once."""
        answer = self.one.client.post("/enqueue/batch", json=[{"target": target} | more] * count)
        assert answer.status_code == 207, answer.text
        return [item["job_id"] for item in answer.json()]

    def delivered(self, jobs: list[str], timeout_s: float = 60) -> list[dict[str, Any]]:
        """The deliveries, once all are delivered."""

        def done() -> bool:
            target = self.door.job(jobs[0])["target"]
            return set(jobs) <= set(self.door.jobs(target=target, status="delivered", limit=500))

        eventually(done, timeout_s=timeout_s, what=f"{len(jobs)} to be delivered")
        return [self.door.job(job_id) for job_id in jobs]

    def shown(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.other.client.get(f"/targets/{name}").json()
        return found

    def made(self, jobs: list[str]) -> int:
        """How many attempts these deliveries have spent."""
        return sum(self.door.job(job_id)["attempts_made"] for job_id in jobs)


@pytest.fixture(scope="module", params=BOTH)
def targets(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Targets]:
    folder = tmp_path_factory.mktemp("policies")
    at = where(request, folder)
    endpoints = {name: Endpoint().__enter__() for name in NAMES}
    more: dict[str, dict[str, Any]] = {
        "healthy": {"retry": QUICK},
        "down": {"retry": QUICK, "breaker": {"open_for": f"{OPEN_FOR_S}s", "half_open_probes": 2}},
        "unknown": {"retry": {"max_attempts": 8, **QUICK}, "breaker": {"open_for": "10m"}},
        "stubborn": {"retry": QUICK | {"max_attempts": 10_000}},
        "busy": {"concurrency": 10},
        "soon": {"breaker": "off", "concurrency": 2, "retry": QUICK | {"max": "1s"}},
        "planned": {"retry": {"max_attempts": 4, "schedule": ["100ms", "400ms"], "jitter": 0}},
        "plain": {},
    }
    urls = {f"policy-{name}": {"url": endpoints[name].at("/")} | more[name] for name in NAMES}
    file = configuration(folder / "toril.yaml", urls, **at.more)
    args = ("--config", str(file))
    with (
        TorilProcess(at.redis_url, folder / "one.log", args=args) as one,
        TorilProcess(at.redis_url, folder / "other.log", args=args) as other,
    ):
        yield Targets(one, other, endpoints)
        assert [*one.complaints(), *other.complaints()] == []
    for endpoint in endpoints.values():
        endpoint.close()


# The breaker


def test_a_healthy_target_with_few_errors_is_never_shut(targets: Targets) -> None:
    endpoint = targets.endpoints["healthy"]
    endpoint.behaviour = lambda call: respond(503 if call.number % 200 == 7 else 200)
    jobs = [job for _ in range(4) for job in targets.enqueue("policy-healthy", 500)]
    targets.delivered(jobs)
    assert sum(call.number % 200 == 7 for call in endpoint.calls) >= 10
    assert targets.shown("policy-healthy")["breaker"]["state"] == "closed"
    for log in (targets.one.log(), targets.other.log()):
        assert not [line for line in log.splitlines() if "breaker.open" in line and "policy-healthy" in line]


def test_a_target_that_recovers_gets_everything_and_only_probes_while_it_is_down(targets: Targets) -> None:
    endpoint, on_the_wire, most = targets.endpoints["down"], 0, 0
    up = False

    async def answer(_: Call) -> Answer:
        nonlocal on_the_wire, most
        on_the_wire += 1
        most = max(most, on_the_wire)
        await asyncio.sleep(0.1)
        on_the_wire -= 1
        return respond(200 if up else 503)

    endpoint.behaviour = answer
    jobs = targets.enqueue("policy-down", 60)
    eventually(lambda: targets.shown("policy-down")["breaker"]["state"] == "open", timeout_s=30)
    eventually(lambda: on_the_wire == 0, what="the end of the first wave")
    most, before = 0, len(endpoint.calls)
    endpoint.wait_for_calls(before + 12, timeout_s=60)
    assert most <= 2, "no more than the probes"
    probes = endpoint.calls[before:]
    assert probes[-1].at - probes[0].at > (len(probes) / 2 - 1) * OPEN_FOR_S * 0.9
    up = True
    assert {job["status"] for job in targets.delivered(jobs)} == {"delivered"}
    assert targets.shown("policy-down")["dead_letters"] == 0
    assert targets.shown("policy-down")["breaker"]["state"] == "closed"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_target_that_only_refuses_is_shut_like_any_other(targets: Targets, status: int) -> None:
    endpoint = targets.endpoints["unknown"]
    endpoint.behaviour = lambda _: respond(status)
    before = len(endpoint.calls)
    jobs = targets.enqueue("policy-unknown", 200)
    eventually(lambda: targets.shown("policy-unknown")["breaker"]["state"] == "open", timeout_s=30)
    eventually(lambda: targets.shown("policy-unknown")["depth"]["dispatching"] == 0, timeout_s=30)
    # Another target, as a clock: what was accepted after those has been delivered meanwhile.
    targets.endpoints["plain"].behaviour = lambda _: respond()
    targets.delivered(targets.enqueue("policy-plain", 20))
    made = len(endpoint.calls) - before
    # 20 at once on each of two instances, which may begin some more until both have heard that it is open.
    assert made <= 3 * 20, "few more than were under way when it opened"
    assert targets.made(jobs) == made
    assert targets.shown("policy-unknown")["dead_letters"] == 0
    for job_id in jobs:
        targets.one.client.delete(f"/jobs/{job_id}").raise_for_status()


def test_one_delivery_that_always_fails_shuts_out_no_other(targets: Targets) -> None:
    endpoint = targets.endpoints["stubborn"]
    endpoint.behaviour = lambda call: respond(503 if call.target == "/bad" else 200)
    targets.delivered(targets.enqueue("policy-stubborn", 10))
    (bad,) = targets.enqueue("policy-stubborn", 1, path="/bad")
    endpoint.wait_for_calls(10 + 20, timeout_s=25)
    for _ in range(3):
        assert targets.shown("policy-stubborn")["breaker"]["state"] == "closed"
        targets.delivered(targets.enqueue("policy-stubborn", 10))
    assert targets.door.job(bad)["status"] != "dead_lettered"
    targets.one.client.delete(f"/jobs/{bad}").raise_for_status()


# Holds


def test_retry_after_holds_the_whole_target_until_it_is_resumed(targets: Targets) -> None:
    endpoint = targets.endpoints["busy"]
    endpoint.behaviour = lambda _: respond(429, "Too Many Requests", [("retry-after", "120")])
    jobs = targets.enqueue("policy-busy", 50)
    shown = eventually(
        lambda: found if (found := targets.shown("policy-busy"))["held_until"] else None, timeout_s=30, what="a hold"
    )
    assert shown["breaker"]["failures"] > 0, "an answer that holds counts for the breaker, too"
    eventually(lambda: targets.shown("policy-busy")["depth"]["dispatching"] == 0, timeout_s=30)
    targets.endpoints["plain"].behaviour = lambda _: respond()
    targets.delivered(targets.enqueue("policy-plain", 20))
    made = len(endpoint.calls)
    assert made <= 2 * 10, "the first wave"
    assert targets.made(jobs) == made, "no attempt is spent without a request"
    waiting = [job_id for job_id in jobs if targets.door.job(job_id)["status"] == "queued"]
    assert len(waiting) == 50 - made
    endpoint.behaviour = lambda _: respond()
    assert targets.one.client.post("/targets/policy-busy/resume").status_code == 204
    assert targets.shown("policy-busy")["held_until"] is None
    # By then the breaker has opened, which a resume leaves alone: its probe closes it.
    targets.delivered(waiting)


def test_a_hold_ends_by_itself_and_needs_no_breaker(targets: Targets) -> None:
    endpoint = targets.endpoints["soon"]
    answers = iter([respond(503, "Busy", [("retry-after", "1")])] * 4)
    endpoint.behaviour = lambda _: next(answers, respond(200))
    jobs = targets.enqueue("policy-soon", 20)
    targets.delivered(jobs)
    at = sorted(call.at for call in endpoint.calls)
    first_wave = [one for one in at if one - at[0] < 0.9]
    assert len(first_wave) <= 4, "two on each instance at most"
    assert len(at) == 20 + 4


# Retries


def test_a_schedule_says_when_to_try_again(targets: Targets) -> None:
    endpoint = targets.endpoints["planned"]
    endpoint.behaviour = lambda _: respond(500)
    (job_id,) = targets.enqueue("policy-planned", 1)
    eventually(lambda: targets.door.job(job_id)["status"] == "dead_lettered", timeout_s=30)
    gaps = [later.at - sooner.at for sooner, later in pairwise(endpoint.calls)]
    assert len(gaps) == 3
    assert all(wanted <= gap < wanted + 0.3 for gap, wanted in zip(gaps, (0.1, 0.4, 0.4), strict=True)), gaps
    assert targets.shown("policy-planned")["config"]["retry"]["schedule"] == ["100ms", "400ms"]


def test_by_default_retries_last_a_day(targets: Targets) -> None:
    retry = targets.shown("policy-plain")["config"]["retry"]
    assert (retry["max_attempts"], retry["base"], retry["max"], retry["jitter"]) == (16, "5s", "6h", 0.2)
    assert "schedule" not in retry
