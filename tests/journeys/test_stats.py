"""Statistics through real servers: what two instances and their callers did is what `GET /stats` says."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests.support.deliveries import Door
from tests.support.endpoint import Answer, Call, Endpoint, StartEndpoint, reply_json, respond
from tests.support.gateway import Gateway
from tests.support.tokens import ask, token
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually
from toril.core.times import moment_text

# Statistics are written every ten seconds.
SOON_S = 30.0


def by_data(call: Call) -> Answer:
    """Does what the job's data says."""
    match call.job["data"]:
        case "fail":
            return respond(500, "Out of order")
        case "once":
            return respond(503, "Busy") if call.job["attemptsMade"] == 0 else reply_json({})
        case _:
            return reply_json({})


@pytest.fixture(scope="module")
def worker_endpoint() -> Iterator[Endpoint]:
    with Endpoint(by_data) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def broken() -> Iterator[Endpoint]:
    """A target that always fails."""
    with Endpoint(lambda _: respond(503, "Busy")) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, broken: Endpoint) -> Iterator[tuple[TorilProcess, TorilProcess]]:
    """Two instances, the second one of two processes, with a target and tokens for some."""
    folder = tmp_path_factory.mktemp("stats")
    config = folder / "toril.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "targets": {"billing": {"url": broken.url, "retry": {"base": "500s"}, "breaker": {"failures": 3}}},
                "ledger": {"url": "none"},
                "tokens": [
                    token("ours", ["queues:read", "jobs:read"], ["our-*"]),
                    token("blind", ["queues:read"], ["our-*"]),
                    token("targets", ["queues:read", "targets:read"]),
                    token("other", ["jobs:add"]),
                ],
            }
        )
    )
    args = ("--config", str(config))
    with (
        ValkeyProcess(folder / "valkey") as valkey,
        TorilProcess(valkey.url, folder / "one.log", args=args) as one,
        TorilProcess(valkey.url, folder / "two.log", args=(*args, "--processes", "2")) as two,
    ):
        yield one, two
        assert [*one.complaints(), *two.complaints()] == []


def stats(gateway: Gateway, **query: Any) -> dict[str, Any]:
    answer = gateway.http.get("/stats", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def totals(found: dict[str, Any]) -> dict[str, int]:
    return {name: sum(found[name]) for name in ("accepted", "started", "finished", "failed")}


def until(probe: Callable[[], bool]) -> None:
    eventually(probe, timeout_s=SOON_S, what="the statistics")


@pytest.fixture(scope="module")
def worked(pair: tuple[TorilProcess, TorilProcess], worker_endpoint: Endpoint) -> tuple[Gateway, Gateway]:
    """Ten jobs by way of each instance, of which some fail for good, and some at first."""
    gateways = (pair[0].gateway, pair[1].gateway)
    gateways[0].register("our-orders", worker_endpoint.url, concurrency=4)
    for number, gateway in enumerate(gateways):
        for data in ("ok", "ok", "ok", "fail", "once"):
            ids = [gateway.add_one("our-orders", data, attempts=2 if data == "once" else 1) for _ in range(2)]
            for job_id in ids:
                gateways[1 - number].finished("our-orders", job_id)
    wanted = {"accepted": 20, "started": 20, "finished": 16, "failed": 4}
    until(lambda: totals(stats(gateways[0], queue="our-orders")) == wanted)
    return gateways


@pytest.mark.parametrize("window", [("1h", 60, 60), ("24h", 300, 288), ("7d", 3600, 168)], ids=lambda one: str(one[0]))
def test_a_queue_has_a_point_for_each_step(worked: tuple[Gateway, Gateway], window: tuple[str, int, int]) -> None:
    name, step_s, points = window
    found = stats(worked[1], queue="our-orders", window=name)
    assert (found["window"], found["step_s"]) == (name, step_s)
    assert [len(found[series]) for series in ("accepted", "started", "finished", "failed")] == [points] * 4


def test_a_queue_says_how_long_jobs_waited_and_took_and_who_works_on_them(
    worked: tuple[Gateway, Gateway], worker_endpoint: Endpoint
) -> None:
    found = stats(worked[1], queue="our-orders")
    assert (sum(found["attempts"]), sum(found["attempts_failed"])) == (24, 8)
    for timed in (found["wait_ms"], found["attempt_ms"]):
        assert 0 < timed["p50"] <= timed["p99"]
    assert found["worker"] == {"url": worker_endpoint.url, "state": "running", "concurrency": 4}


def test_the_finished_jobs_of_selected_queues_are_counted(worked: tuple[Gateway, Gateway]) -> None:
    found = stats(worked[0], queues="our-orders,our-idle")
    assert found["step_s"] == 60
    assert {queue: sum(one["finished"]) for queue, one in found["queues"].items()} == {"our-orders": 16, "our-idle": 0}


def test_the_overview_covers_queues_and_deliveries_and_failure_reasons(worked: tuple[Gateway, Gateway]) -> None:
    found = stats(worked[1])
    assert set(found["doors"]) == {"queues", "delivery"}
    door = found["doors"]["queues"]
    assert totals(door) == {"accepted": 20, "started": 20, "finished": 16, "failed": 4}
    assert (sum(door["attempts"]), sum(door["attempts_failed"])) == (24, 8)
    assert (door["workers"], door["late"], found["left_out"]) == (1, False, [])
    reasons = {(one["reason"], one["where"], one["times"]) for one in found["reasons"]}
    assert {("Out of order", "our-orders", 4), ("Busy", "our-orders", 4)} <= reasons


def test_a_paused_queue_is_reported_without_an_alarm(worked: tuple[Gateway, Gateway]) -> None:
    gateway = worked[0]
    gateway.add_one("our-paused")
    assert gateway.http.post("/queues/our-paused/pause", json={}).status_code == 204
    since_ms = gateway.http.get("/queues/our-paused").json()["pausedSince"]
    since = moment_text(since_ms / 1000)

    def told() -> bool:
        found = stats(gateway)
        assert not any(one["name"] == "our-paused" for one in found["attention"])
        wanted = {"kind": "paused", "what": "queue", "name": "our-paused", "since": since, "text": "1 job waits."}
        return wanted in found["paused"]

    until(told)
    waiting = {one["queue"]: one["waiting"] for one in stats(gateway)["most_waiting"]}
    assert waiting["our-paused"] == 1


def test_an_open_breaker_needs_attention(worked: tuple[Gateway, Gateway]) -> None:
    gateway = worked[0]
    for _ in range(4):
        Door(gateway).enqueue("billing")

    def told() -> bool:
        found = stats(gateway, door="delivery")
        assert set(found["doors"]) == {"delivery"}
        kinds = [(one["kind"], one["what"], one["name"]) for one in found["attention"]]
        return (
            ("breaker_open", "target", "billing") in kinds
            and sum(found["doors"]["delivery"]["accepted"]) == 4
            and any(one["door"] == "delivery" and one["where"] == "billing" for one in found["reasons"])
        )

    until(told)


def test_a_target_has_the_failure_rate_that_was_measured(worked: tuple[Gateway, Gateway]) -> None:
    gateway = worked[1]

    def measured() -> bool:
        found = gateway.http.get("/targets/billing").json()["recent"]
        (listed,) = gateway.http.get("/targets").json()["targets"]
        series = stats(gateway, queue="deliver-billing")
        made, failed = sum(series["attempts"]), sum(series["attempts_failed"])
        rate = {"window_s": 600, "attempts": made, "failed": failed, "failure_rate": 1.0}
        return made == failed > 0 and found == listed["recent"] == rate

    until(measured)


class TestRights:
    """Who sees what."""

    def seen(self, pair: tuple[TorilProcess, TorilProcess], name: str, path: str = "/stats") -> Any:
        answer = ask(pair[0].url, f"{name}-secret", "GET", path)
        return answer.json() if answer.status_code == 200 else answer.status_code

    @pytest.mark.usefixtures("worked")
    def test_a_token_of_some_queues_sees_the_sum_of_those(self, pair: tuple[TorilProcess, TorilProcess]) -> None:
        pair[0].gateway.add_one("theirs")
        until(lambda: sum(stats(pair[0].gateway, queue="theirs")["accepted"]) == 1)
        until(lambda: sum(self.seen(pair, "ours")["doors"]["queues"]["accepted"]) >= 20)
        found = self.seen(pair, "ours")
        # The queue of the token and the one that is paused; not `theirs`.
        assert sum(found["doors"]["queues"]["accepted"]) == 21
        assert found["left_out"] == ["delivery"]
        assert {one["where"] for one in found["reasons"]} == {"our-orders"}
        assert self.seen(pair, "ours", "/stats?queue=our-orders")["worker"] is None
        assert self.seen(pair, "ours", "/stats?queue=theirs") == 403
        assert self.seen(pair, "ours", "/stats?queues=our-orders,theirs") == 403

    @pytest.mark.usefixtures("worked")
    def test_reasons_are_for_those_who_may_read_jobs(self, pair: tuple[TorilProcess, TorilProcess]) -> None:
        assert self.seen(pair, "blind")["reasons"] == []
        assert self.seen(pair, "other") == 403

    @pytest.mark.usefixtures("worked")
    def test_targets_are_for_those_who_may_see_them(self, pair: tuple[TorilProcess, TorilProcess]) -> None:
        assert self.seen(pair, "targets")["doors"]["delivery"]["targets"] == 1
        assert "workers" not in self.seen(pair, "targets")["doors"]["queues"]


@pytest.mark.parametrize(
    ("query", "field"),
    [("window=2h", "window"), ("door=front", "door"), ("queues=" + ",".join(map(str, range(51))), "queues")],
)
def test_an_invalid_request_is_refused(gateway: Gateway, query: str, field: str) -> None:
    answer = gateway.http.get(f"/stats?{query}")
    assert (answer.status_code, answer.json()["field"]) == (400, field)


def test_an_instance_that_ends_writes_what_it_has_measured(
    start_toril: Callable[..., TorilProcess],
    start_valkey: Callable[[], ValkeyProcess],
    start_endpoint: StartEndpoint,
) -> None:
    valkey = start_valkey()
    first = start_toril(valkey)
    first.gateway.register("orders", start_endpoint().url)
    first.gateway.finished("orders", first.gateway.add_one("orders"))
    first.terminate()
    second = start_toril(valkey)
    wanted = {"accepted": 1, "started": 1, "finished": 1, "failed": 0}
    assert totals(stats(second.gateway, queue="orders", window="7d")) == wanted
    keys = list(valkey.client().scan_iter("toril:stats:*"))
    assert keys
    assert all(valkey.client().ttl(key) > 0 for key in keys)
    # A queue and its door, at three resolutions.
    assert len(keys) == 6
