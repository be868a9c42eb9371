"""Deliveries on their way: what reaches a target, retries, an open breaker, isolation (wire/delivery.md)."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Call, Endpoint, drop, hang, respond
from tests.support.places import BOTH, where
from tests.support.ports import free_port
from tests.support.tokens import ask, token
from tests.support.toril import TorilProcess
from tests.support.waiting import eventually

SECRET = "s3cret-of-the-target"
KEY = b"k" * 32
ENDED = {"delivered", "dead_lettered", "cancelled"}
QUICK = {"base": "10ms", "max": "50ms", "jitter": 0}
NEVER_OPEN = {"failures": 1000}


class Place:
    """Endpoints, a toril that delivers to them, and a caller."""

    def __init__(self, toril: TorilProcess, endpoints: dict[str, Endpoint], *, has_redis: bool) -> None:
        self.toril = toril
        self.has_redis = has_redis
        self.endpoints = endpoints
        self.door = Door(toril.gateway)

    def ended(self, job_id: str) -> dict[str, Any]:
        """A delivery, once it is over."""
        return eventually(
            lambda: found if (found := self.door.job(job_id))["status"] in ENDED else None,
            timeout_s=30,
            what=f"the end of {job_id}",
        )

    def target(self, name: str) -> dict[str, Any]:
        """`GET /targets/{name}`."""
        answer = self.toril.client.get(f"/targets/{name}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def calls(self, name: str, job_id: str) -> list[Call]:
        """The calls of one job."""
        return [call for call in self.endpoints[name].calls if call.header("toril-job-id") == job_id]


@pytest.fixture(scope="module", params=BOTH)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("targets")
    at = where(request, folder)
    (folder / "bearer").write_text(SECRET)
    (folder / "signing").write_text("whsec_" + base64.b64encode(KEY).decode())
    names = ("billing", "signed", "flaky", "once", "hanging", "single", "broken", "limited", "stubborn")
    endpoints = {name: Endpoint().__enter__() for name in names}
    targets: dict[str, Any] = {
        "billing": {"url": endpoints["billing"].at("/api"), "retry": QUICK, "breaker": NEVER_OPEN},
        "signed": {
            "url": endpoints["signed"].at("/"),
            "auth": {"scheme": "bearer", "secret_file": str(folder / "bearer")},
            "signing": {"secret_file": str(folder / "signing")},
        },
        "flaky": {
            "url": endpoints["flaky"].at("/"),
            "retry": QUICK | {"max_attempts": 3, "retry_on": ["5xx"]},
            "breaker": NEVER_OPEN,
        },
        "once": {"url": endpoints["once"].at("/"), "retry": {"max_attempts": 1}, "breaker": NEVER_OPEN},
        "hanging": {"url": endpoints["hanging"].at("/"), "concurrency": 3, "timeout": {"total": "10m"}},
        "single": {"url": endpoints["single"].at("/"), "concurrency": 1, "timeout": {"total": "10m"}},
        "refusing": {"url": f"http://127.0.0.1:{free_port()}/", "concurrency": 3, "retry": {"base": "1h", "max": "1h"}},
        "broken": {
            "url": endpoints["broken"].at("/"),
            "retry": QUICK | {"max_attempts": 1000},
            "breaker": {"failures": 2, "window": "10m", "open_for": "1h"},
        },
        "stubborn": {"url": endpoints["stubborn"].at("/"), "retry": QUICK | {"max_attempts": 12}, "breaker": "off"},
        "limited": {"url": endpoints["limited"].at("/"), "rate_limit": {"max": 2, "per": "500ms"}},
    }
    file = configuration(
        folder / "toril.yaml",
        targets,
        **at.more,
        tokens=[
            token("watcher", ["targets:read"], ["bill*"]),
            token("operator", ["targets:*"], ["bill*"]),
            token("caller", ["deliveries:*"]),
        ],
    )
    with TorilProcess(at.redis_url, folder / "toril.log", args=["--config", str(file)]) as server:
        yield Place(server, endpoints, has_redis=at.has_redis)
    for endpoint in endpoints.values():
        endpoint.close()
    assert server.complaints() == []
    assert SECRET not in server.log()


# What reaches a target, and what comes of it


def test_an_envelope_reaches_its_target_and_its_answer_is_kept(place: Place) -> None:
    place.endpoints["billing"].behaviour = lambda _: respond(201, "Made", [("X-A", "1")], b"done")
    job_id = place.door.enqueue(
        "billing", "order-7", method="PUT", path="/v1/a%2Fb?x=%20", headers={"X-One": ["1", "2"]}, body={"a": 1}
    )
    found = place.ended(job_id)
    assert (found["status"], found["attempts_made"], found["last_error"]) == ("delivered", 1, None)
    assert [step["to"] for step in found["transitions"]] == ["queued", "dispatching", "delivered"]
    assert [attempt["outcome"] for attempt in found["attempts"]] == ["answered"]
    (call,) = place.calls("billing", job_id)
    assert (call.method, call.target) == ("PUT", "/api/v1/a%2Fb?x=%20")
    assert json.loads(call.body) == {"a": 1}
    assert [value for name, value in call.headers if name.lower() == "x-one"] == ["1", "2"]
    assert call.header("content-type") == "application/json"
    assert (call.header("toril-attempt"), call.header("idempotency-key")) == ("1", "order-7")
    assert call.header("authorization") is None
    answer = place.toril.client.get(f"/jobs/{job_id}/response")
    assert (answer.status_code, answer.content, answer.headers["x-a"]) == (201, b"done", "1")


def test_a_request_without_a_body_has_none(place: Place) -> None:
    place.endpoints["billing"].behaviour = lambda _: respond()
    job_id = place.door.enqueue("billing", method="GET", path="?q=1")
    assert place.ended(job_id)["status"] == "delivered"
    (call,) = place.calls("billing", job_id)
    assert (call.method, call.target, call.body) == ("GET", "/api?q=1", b"")
    assert [name.lower() for name, _ in call.headers] == ["host", "toril-job-id", "toril-attempt", "idempotency-key"]


def test_a_target_s_own_auth_and_signature_are_sent(place: Place) -> None:
    job_id = place.door.enqueue("signed", body_base64=base64.b64encode(b"\x00\xff").decode())
    assert place.ended(job_id)["status"] == "delivered"
    (call,) = place.calls("signed", job_id)
    assert call.header("authorization") == f"Bearer {SECRET}"
    assert call.header("webhook-id") == job_id
    signed = f"{job_id}.{call.header('webhook-timestamp')}.".encode() + call.body
    expected = base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
    assert call.header("webhook-signature") == f"v1,{expected}"
    assert call.body == b"\x00\xff"


def test_a_failed_attempt_is_made_again_until_the_target_has_it(place: Place) -> None:
    endpoint = place.endpoints["flaky"]
    answers = iter([respond(503, "Busy"), respond(500), respond(200)])
    endpoint.behaviour = lambda _: next(answers)
    job_id = place.door.enqueue("flaky")
    found = place.ended(job_id)
    assert (found["status"], found["attempts_made"]) == ("delivered", 3)
    assert found["last_error"] == "HTTP 500 OK"
    assert [call.header("toril-attempt") for call in place.calls("flaky", job_id)] == ["1", "2", "3"]
    assert {call.header("idempotency-key") for call in place.calls("flaky", job_id)} == {job_id}
    assert [attempt["status_code"] for attempt in found["attempts"]] == [503, 500, 200]


def test_one_attempt_is_one_request_however_many_connections_are_kept(place: Place) -> None:
    endpoint = place.endpoints["once"]
    endpoint.behaviour = lambda _: respond(200).after(0.3)
    for job_id in [place.door.enqueue("once") for _ in range(10)]:  # as many connections as there were at once
        assert place.ended(job_id)["status"] == "delivered"
    endpoint.behaviour = lambda _: drop()
    job_id = place.door.enqueue("once")
    found = place.ended(job_id)
    assert (found["status"], found["attempts_made"]) == ("dead_lettered", 1)
    assert found["last_error"] == "ECONNRESET: The connection was closed before an answer came"
    assert len(place.calls("once", job_id)) == 1


def test_used_up_attempts_make_a_dead_letter_and_a_replay_starts_anew(place: Place) -> None:
    endpoint = place.endpoints["flaky"]
    endpoint.behaviour = lambda _: respond(500, "Broken")
    job_id = place.door.enqueue("flaky")
    found = place.ended(job_id)
    assert (found["status"], found["attempts_made"], found["last_error"]) == ("dead_lettered", 3, "HTTP 500 Broken")
    assert found["transitions"][-1]["reason"] == "attempts"
    endpoint.behaviour = lambda _: respond(200)
    answer = place.toril.client.post("/targets/flaky/dead-letters/replay", json={"job_ids": [job_id]})
    assert answer.json()["replayed"] == 1
    found = eventually(lambda: job if (job := place.door.job(job_id))["status"] == "delivered" else None, timeout_s=30)
    assert found["attempts_made"] == 1
    assert [call.header("toril-attempt") for call in place.calls("flaky", job_id)] == ["1", "2", "3", "4"]


def test_a_replay_sends_the_same_key_or_another_one_as_it_is_asked_to(place: Place) -> None:
    endpoint = place.endpoints["flaky"]
    endpoint.behaviour = lambda _: respond(400)
    job_id = place.door.enqueue("flaky", "order-9")
    made = 1
    for more, attempts in [({}, 1), ({"replay_key": "new"}, 2), ({}, 1)]:
        assert place.ended(job_id)["status"] == "dead_lettered"
        made += attempts
        answers = iter([respond(500)] * (attempts - 1))
        endpoint.behaviour = lambda _, answers=answers: next(answers, respond(400))  # type: ignore[misc]
        answer = place.toril.client.post("/targets/flaky/dead-letters/replay", json={"job_ids": [job_id]} | more)
        assert answer.json()["replayed"] == 1
        eventually(lambda made=made: len(place.calls("flaky", job_id)) == made, what="the attempts")  # type: ignore[misc]
    keys = [call.header("idempotency-key") for call in place.calls("flaky", job_id)]
    assert keys[:2] == ["order-9", "order-9"]
    assert keys[2] not in {None, "order-9", job_id}
    assert keys[2:] == [keys[2]] * 3, "the same on all attempts, and kept by the next replay"
    wrong = place.toril.client.post("/targets/flaky/dead-letters/replay", json={"all": True, "replay_key": "other"})
    assert wrong.status_code == 400


@pytest.mark.parametrize("status", [400, 302, 429])
def test_a_final_answer_makes_a_dead_letter_at_once(place: Place, status: int) -> None:
    place.endpoints["flaky"].behaviour = lambda _: respond(status)
    found = place.ended(place.door.enqueue("flaky"))
    assert (found["status"], found["attempts_made"]) == ("dead_lettered", 1)
    assert found["transitions"][-1]["reason"] == "refused"


def test_a_rate_limit_holds_for_a_target(place: Place) -> None:
    jobs = [place.door.enqueue("limited") for _ in range(6)]
    assert {place.ended(job_id)["status"] for job_id in jobs} == {"delivered"}
    at = sorted(call.at for call in place.endpoints["limited"].calls)
    # Three windows of half a second: from the first to the last begin at least two go by.
    assert at[-1] - at[0] > 0.8


# Isolation


def test_a_hanging_and_a_refusing_target_do_not_delay_a_third(place: Place) -> None:
    place.endpoints["hanging"].behaviour = lambda _: hang()
    place.endpoints["billing"].behaviour = lambda _: respond()
    hanging = [place.door.enqueue("hanging") for _ in range(10)]
    refused = [place.door.enqueue("refusing") for _ in range(10)]
    eventually(lambda: place.endpoints["hanging"].open_calls == 3, timeout_s=30)
    delivered = [place.door.enqueue("billing") for _ in range(30)]
    assert {place.ended(job_id)["status"] for job_id in delivered} == {"delivered"}
    assert place.endpoints["hanging"].open_calls == 3, "they hang all the time, as many as may"
    assert {place.door.job(job_id)["status"] for job_id in hanging} == {"dispatching", "queued"}
    eventually(lambda: place.target("refusing")["breaker"]["state"] == "open", timeout_s=30)
    states = {place.door.job(job_id)["status"] for job_id in refused}
    assert states <= {"retrying", "queued", "dispatching"}
    assert place.target("billing")["breaker"] == {"state": "closed", "opened_at": None, "failures": 0}
    for job_id in hanging:
        assert place.toril.client.delete(f"/jobs/{job_id}").status_code == 200


def test_a_cancelled_attempt_is_broken_off_and_frees_its_slot(place: Place) -> None:
    endpoint = place.endpoints["single"]
    endpoint.behaviour = lambda _: hang()
    running, next_one = (place.door.enqueue("single") for _ in range(2))
    (call,) = endpoint.wait_for_calls(1, timeout_s=30)
    endpoint.behaviour = lambda _: respond()
    answer = place.toril.client.delete(f"/jobs/{running}")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    eventually(lambda: endpoint.gone(call), timeout_s=30, what="the attempt broken off")
    assert place.ended(next_one)["status"] == "delivered"
    found = place.door.job(running)
    assert [attempt["outcome"] for attempt in found["attempts"]] == ["cancelled"]
    assert len(place.calls("single", running)) == 1
    assert place.toril.client.delete(f"/jobs/{running}").status_code == 409


def test_a_job_of_a_target_s_queue_that_the_ledger_does_not_know_is_not_sent(place: Place) -> None:
    if not place.has_redis:
        pytest.skip("no route adds jobs without Redis")
    client = place.toril.client
    client.post("/queues/deliver-billing/jobs", json=[{"name": "delivery", "data": {}}]).raise_for_status()
    place.endpoints["billing"].behaviour = lambda _: respond()
    before = len(place.endpoints["billing"].calls)
    assert place.ended(place.door.enqueue("billing"))["status"] == "delivered"
    eventually(lambda: place.target("billing")["in_flight"] == 0, timeout_s=30)
    assert len(place.endpoints["billing"].calls) == before + 1


def test_a_worker_registered_for_a_targets_queue_gets_no_deliveries(place: Place) -> None:
    if not place.has_redis:
        pytest.skip("no route registers workers without Redis")
    other = place.endpoints["signed"].at("/hook")
    document = {"queue": "deliver-billing", "endpoint": {"url": other, "method": "POST", "timeout": 1000}}
    place.toril.client.post("/workers", json=document).raise_for_status()
    eventually(lambda: "consumer.not_started" in place.toril.log(), timeout_s=30)
    place.endpoints["billing"].behaviour = lambda _: respond()
    assert place.ended(place.door.enqueue("billing"))["status"] == "delivered"
    place.toril.client.delete("/workers/deliver-billing").raise_for_status()
    assert place.ended(place.door.enqueue("billing"))["status"] == "delivered"
    assert all(call.target != "/hook" for call in place.endpoints["signed"].calls)


# The breaker, shown and kept


def test_an_open_breaker_makes_no_request_and_spends_no_attempt(place: Place) -> None:
    endpoint = place.endpoints["broken"]
    endpoint.behaviour = lambda _: respond(503)
    jobs = [place.door.enqueue("broken") for _ in range(30)]
    shown = eventually(
        lambda: found if (found := place.target("broken"))["breaker"]["state"] == "open" else None, timeout_s=30
    )
    assert shown["breaker"]["failures"] == 2
    assert shown["breaker"]["opened_at"] is not None
    eventually(lambda: place.target("broken")["depth"]["dispatching"] == 0, timeout_s=30)
    late = [place.door.enqueue("broken") for _ in range(5)]
    # Another target, as a clock: what was accepted after those has been delivered meanwhile.
    place.endpoints["billing"].behaviour = lambda _: respond()
    for _ in range(3):
        place.ended(place.door.enqueue("billing"))
    assert sum(place.door.job(job_id)["attempts_made"] for job_id in jobs + late) == len(endpoint.calls)
    assert len(endpoint.calls) <= 20, "no more than were under way when it opened"
    assert {place.door.job(job_id)["status"] for job_id in late} == {"queued"}
    assert {place.door.job(job_id)["attempts_made"] for job_id in late} == {0}


def test_a_target_whose_breaker_is_off_is_tried_after_any_answer(place: Place) -> None:
    answers = iter([*[respond(503)] * 10, respond(200)])
    place.endpoints["stubborn"].behaviour = lambda _: next(answers)
    found = place.ended(place.door.enqueue("stubborn"))
    # Ten failures in a row would have opened it twice over.
    assert (found["status"], found["attempts_made"]) == ("delivered", 11)
    shown = place.target("stubborn")
    assert shown["breaker"] == {"state": "off", "opened_at": None, "failures": 0}
    assert shown["config"]["breaker"] == "off"


# What says who we are


@pytest.mark.parametrize("target", ["billing", "signed"])
@pytest.mark.parametrize("name", ["authorization", "Authorization"])
def test_an_envelope_brings_no_authorization_to_a_target_that_does_not_pass_it_on(
    place: Place, target: str, name: str
) -> None:
    envelope = {"target": target, "headers": {name: "Bearer mine"}}
    answer = place.toril.client.post("/enqueue", json=envelope)
    assert (answer.status_code, answer.json()["field"]) == (400, "headers")
    assert name in answer.json()["detail"]


# `/targets`


def test_targets_are_shown_with_their_configuration_and_without_secrets(place: Place) -> None:
    answer = place.toril.client.get("/targets")
    assert answer.status_code == 200
    names = [target["name"] for target in answer.json()["targets"]]
    expected = ["billing", "broken", "flaky", "hanging", "limited", "once", "refusing", "signed", "single", "stubborn"]
    assert sorted(names) == expected
    assert answer.json()["pending_rollout"] == []
    assert SECRET not in answer.text
    signed = place.target("signed")
    assert signed["config"]["auth"]["scheme"] == "bearer"
    assert signed["config"]["retry"]["max_attempts"] == 16
    assert (signed["config_generation"], signed["pending_rollout"], signed["paused"]) == (1, [], False)


def test_rights_hold_by_target(place: Place) -> None:
    def asked(name: str, method: str, path: str) -> Any:
        return ask(place.toril.url, f"{name}-secret", method, path)

    assert [target["name"] for target in asked("watcher", "GET", "/targets").json()["targets"]] == ["billing"]
    assert asked("watcher", "GET", "/targets/billing").status_code == 200
    for path in ("/targets/signed", "/targets/nobody"):
        assert asked("watcher", "GET", path).status_code == 403
    assert asked("watcher", "POST", "/targets/billing/pause").status_code == 403
    assert asked("caller", "GET", "/targets").status_code == 403
    assert asked("operator", "POST", "/targets/billing/resume").status_code == 204
    assert place.toril.client.get("/targets/nobody").status_code == 404
