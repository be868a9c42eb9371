"""What a worker asks for by its policy: which answers are final, when to come again, signed requests."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import pytest
import redis

from tests.support.endpoint import Answer, Call, Endpoint, reply_json, respond
from tests.support.gateway import Gateway, worker
from tests.support.toril import TorilProcess
from tests.support.waiting import eventually

OLD, NEW = (base64.b64encode(letter * 32).decode() for letter in (b"o", b"n"))


def register(gateway: Gateway, queue: str, url: str, **policy: Any) -> None:
    gateway.register_document(worker(queue, url) | {"policy": policy})


def first_then_done(first: Answer) -> Any:
    """An endpoint that is fine from the second call on."""
    return lambda call: first if call.number == 0 else reply_json({"done": True})


class TestStatuses:
    def test_a_status_to_fail_on_is_not_tried_again(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        endpoint.behaviour = lambda _: respond(410, "Gone")
        register(gateway, queue, endpoint.url, retry_on=["4xx", "5xx"], fail_on=[410])
        done = gateway.finished(queue, gateway.add_one(queue, attempts=5))
        assert done["failedReason"] == "Gone"
        assert "the worker's policy fails the job on 410" in done["stacktrace"][0]
        assert len(endpoint.calls) == 1

    def test_a_status_to_retry_on_is_tried_again(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        endpoint.behaviour = lambda call: respond(503, "Busy") if call.number < 2 else respond(404, "Not Found")
        register(gateway, queue, endpoint.url, retry_on=[429, "5xx"])
        done = gateway.finished(queue, gateway.add_one(queue, attempts=5))
        assert (done["failedReason"], len(endpoint.calls)) == ("Not Found", 3)


class TestWaiting:
    def test_retry_after_holds_the_job_back(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        endpoint.behaviour = first_then_done(respond(429, "Too Many Requests", [("retry-after", "1")]))
        register(gateway, queue, endpoint.url, retry_after=True)
        assert gateway.finished(queue, gateway.add_one(queue, attempts=2))["returnvalue"] == {"done": True}
        first, second = endpoint.calls
        assert 1.0 <= second.at - first.at < 3

    def test_retry_after_is_capped(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        endpoint.behaviour = first_then_done(respond(429, "Too Many Requests", [("retry-after", "3600")]))
        register(gateway, queue, endpoint.url, retry_after=True, max_retry_after_ms=300)
        gateway.finished(queue, gateway.add_one(queue, attempts=2))
        first, second = endpoint.calls
        assert 0.3 <= second.at - first.at < 2

    def test_retry_after_of_429_and_503_holds_the_whole_worker(
        self, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        endpoint.behaviour = lambda _: respond(503, "Busy", [("retry-after", "120")])
        gateway.register_document(worker(queue, endpoint.url, concurrency=4) | {"policy": {"retry_after": True}})
        jobs = [{"name": "j", "data": number, "opts": {"attempts": 2}} for number in range(30)]
        gateway.http.post(f"/queues/{queue}/jobs", json=jobs).raise_for_status()
        endpoint.wait_for_calls(1)
        eventually(lambda: gateway.counts(queue)["active"] == 0, what="the end of the first wave")
        made = len(endpoint.calls)
        assert made <= 4, "the first wave"
        assert gateway.counts(queue)["waiting"] == 30 - made
        limit = gateway.http.get(f"/queues/{queue}/rate-limit").json()
        assert 100_000 < limit["ttl"] <= 120_000
        endpoint.behaviour = lambda _: reply_json({"done": True})
        gateway.http.delete(f"/queues/{queue}/rate-limit/hold").raise_for_status()
        eventually(lambda: gateway.counts(queue)["completed"] == 30 - made, timeout_s=30)

    def test_retry_after_of_other_answers_holds_only_the_job(
        self, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        endpoint.behaviour = first_then_done(respond(500, "Broken", [("retry-after", "60")]))
        register(gateway, queue, endpoint.url, retry_after=True)
        first = gateway.add_one(queue, attempts=2)
        endpoint.wait_for_calls(1)
        assert gateway.finished(queue, gateway.add_one(queue))["returnvalue"] == {"done": True}
        assert gateway.http.get(f"/queues/{queue}/jobs/{first}").json().get("returnvalue") is None

    def test_toril_retry_in_needs_no_policy(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        endpoint.behaviour = first_then_done(respond(503, "Busy", [("toril-retry-in", "400")]))
        gateway.register(queue, endpoint.url)
        gateway.finished(queue, gateway.add_one(queue, attempts=2, backoff={"type": "fixed", "delay": 3_600_000}))
        first, second = endpoint.calls
        assert 0.4 <= second.at - first.at < 2


def verified_by(key: str, call: Call) -> bool:
    """Standard Webhooks' check, written down here a second time: any of the signatures will do."""
    message, at = call.header("webhook-id"), call.header("webhook-timestamp")
    assert message is not None
    assert at is not None
    assert abs(time.time() - int(at)) < 60
    content = f"{message}.{at}.".encode() + call.body
    wanted = base64.b64encode(hmac.new(base64.b64decode(key), content, hashlib.sha256).digest()).decode()
    return any(
        version == "v1" and hmac.compare_digest(signature, wanted)
        for version, _, signature in (part.partition(",") for part in (call.header("webhook-signature") or "").split())
    )


class TestSigning:
    def test_requests_are_signed_and_attempts_share_an_id(
        self, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        endpoint.behaviour = first_then_done(respond(503, "Busy"))
        register(gateway, queue, endpoint.url, signing={"secrets": [f"whsec_{OLD}"]})
        job_id = gateway.add_one(queue, {"text": "größe"}, attempts=2)
        added = gateway.finished(queue, job_id)["timestamp"]
        assert len(endpoint.calls) == 2
        for call in endpoint.calls:
            assert verified_by(OLD, call)
            assert not verified_by(NEW, call)
            assert call.header("webhook-id") == f"bull:{queue}:{job_id}@{added}"

    def test_during_a_rotation_both_secrets_verify(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        register(gateway, queue, endpoint.url, signing={"secrets": [f"whsec_{NEW}", f"whsec_{OLD}"]})
        gateway.finished(queue, gateway.add_one(queue))
        (call,) = endpoint.calls
        assert verified_by(OLD, call)
        assert verified_by(NEW, call)

    def test_a_policy_that_contradicts_itself_is_refused(
        self, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        document = worker(queue, endpoint.url) | {"policy": {"retry_on": ["5xx", 410], "fail_on": [410]}}
        answer = gateway.http.post("/workers", json=document)
        assert answer.status_code == 400
        assert "Invalid policy.retry_on[1], policy.fail_on has 410 too" in answer.text
        assert gateway.http.get(f"/workers/{queue}").status_code == 404

    def test_without_signing_there_is_no_signature(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        register(gateway, queue, endpoint.url, fail_on=[410])
        gateway.finished(queue, gateway.add_one(queue))
        assert [name for name, _ in endpoint.calls[0].headers if name.startswith("webhook")] == []

    def test_secrets_are_not_shown_again(
        self, gateway: Gateway, toril: TorilProcess, endpoint: Endpoint, queue: str
    ) -> None:
        endpoint.behaviour = lambda _: respond(500, "No")
        register(gateway, queue, endpoint.url, signing={"secrets": [f"whsec_{OLD}"]})
        done = gateway.finished(queue, gateway.add_one(queue))
        assert OLD not in gateway.http.get("/workers").text
        assert OLD not in json.dumps(done)
        assert OLD not in toril.log()

    @pytest.mark.parametrize(
        ("secrets", "text"),
        [
            (["hunter2"], "Invalid policy.signing.secrets[0], must be a text that begins with whsec_"),
            (["whsec_hunter2!"], "Invalid policy.signing.secrets[0], must be Base64 behind whsec_"),
            ([], "Invalid policy.signing.secrets, must be a list of 1 to 2 secrets"),
        ],
    )
    def test_bad_secrets_are_refused_without_repeating_them(
        self, gateway: Gateway, toril: TorilProcess, queue: str, store: redis.Redis, secrets: list[str], text: str
    ) -> None:
        document = worker(queue, "http://127.0.0.1:3000/") | {"policy": {"signing": {"secrets": secrets}}}
        answer = gateway.http.post("/workers", json=document)
        assert (answer.status_code, answer.text) == (400, text)
        assert store.hexists("bmqp:w:meta", queue) == 0
        assert "hunter2" not in toril.log()
