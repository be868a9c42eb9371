"""Registered workers on the routes of `workers.outbound`: the operator's by host, under the egress rules."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.endpoint import reply_json
from tests.support.gateway import Gateway
from tests.support.outbound import Outside
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess


class Place(Outside):
    """A toril with workers, and what is outside of it."""

    gateway: Gateway

    def start(self, outbound: list[dict[str, Any]], **more: Any) -> None:
        file = self.folder / "toril.yaml"
        file.write_text(yaml.safe_dump({"workers": {"outbound": outbound}} | more))
        env = {"QUEUE_PREFIX": f"way-{self.folder.name}"}
        env |= {"WORKER_METADATA_KEY": f"w-{self.folder.name}", "WORKER_METADATA_STREAM": f"s-{self.folder.name}"}
        toril = TorilProcess(self.redis_url, self.folder / "toril.log", args=["--config", str(file)], env=env)
        self.toril = self.stack.enter_context(toril)
        self.gateway = toril.gateway

    def done(self, queue: str) -> dict[str, Any]:
        """Add a job to a queue, and return it when it has ended."""
        return self.gateway.finished(queue, self.gateway.add_one(queue))

    def outcome(self, queue: str) -> tuple[str, str]:
        """Let a job fail; outcome and reason of its attempt."""
        job = self.done(queue)
        (attempt,) = self.gateway.http.get(f"/queues/{queue}/jobs/{job['id']}/attempts").json()["attempts"]
        return attempt["outcome"], job["failedReason"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """On a Valkey of its own: another instance would call the registered workers by other ways."""
    with ValkeyProcess(tmp_path / "valkey") as valkey, Place.of(tmp_path, valkey.url) as made:
        yield made


def test_a_worker_is_shown_the_certificate_that_the_operator_has_for_its_host(place: Place) -> None:
    server = place.secure(mutual=True)
    place.start(
        [
            {"hosts": ["*.example"], "tls": {"ca_file": place.ca_file}},
            {"hosts": ["localhost"], "tls": place.client("first")},
        ]
    )
    place.gateway.register("mutual", server.url)
    assert place.done("mutual")["returnvalue"] == {"done": True}
    place.client("second")
    assert place.toril.client.post("/reload").json()["applied"] == ["workers.outbound.2.tls"]
    place.done("mutual")
    assert [call.client for call in server.calls] == ["first", "second"]


def test_a_worker_that_no_entry_names_is_called_as_before(place: Place) -> None:
    plain, secure = place.plain(), place.secure()
    proxy = place.proxy()
    place.start([{"hosts": ["*.partner.example"], "tls": {"ca_file": place.ca_file}, "proxy": {"url": proxy.url}}])
    place.gateway.register("plain", plain.url)
    assert place.done("plain")["returnvalue"] == {"done": True}
    place.gateway.register("secure", secure.url)
    outcome, reason = place.outcome("secure")
    assert outcome == "tls_error"
    assert "CERTIFICATE_VERIFY_FAILED" in reason
    assert proxy.asked == []


def test_the_named_hosts_are_sent_an_access_token_and_no_others(place: Place) -> None:
    named, other = place.plain(), place.plain()
    login = place.oauth()
    auth = place.oauth_keys(login)
    place.start([{"hosts": ["localhost"], "auth": auth}])
    place.gateway.register("named", named.url.replace("127.0.0.1", "localhost"), headers={"authorization": "mine"})
    place.gateway.register("other", other.url, headers={"authorization": "mine"})
    place.done("named")
    place.done("other")
    assert [call.header("authorization") for call in (*named.calls, *other.calls)] == ["Bearer token-1", "mine"]
    login.answer = reply_json({"error": "unauthorized_client"}, 403, "Forbidden")
    named.behaviour = lambda _: reply_json({}, 401, "Unauthorized")
    assert place.outcome("named") == ("failed", "Unauthorized")
    outcome, reason = place.outcome("named")
    assert outcome == "auth_error"
    assert "answered 403 unauthorized_client" in reason
    shown = place.gateway.http.get("/workers/named").text
    for secret in ("s3cr3t", "token-1"):
        assert secret not in place.toril.log() + shown + json.dumps(place.gateway.jobs("named"))


def test_workers_behind_a_proxy_are_still_under_the_egress_rules(place: Place) -> None:
    server = place.secure("pay.partner.example")
    proxy = place.proxy({"pay.partner.example": server.port})
    egress = {"policy": "public", "allow": ["*.partner.example"], "deny": ["evil.partner.example"]}
    entry = {"hosts": ["*"], "tls": {"ca_file": place.ca_file}, "proxy": {"url": proxy.url}}
    place.start([entry], egress=egress)
    place.gateway.register("allowed", "https://pay.partner.example/hook")
    assert place.done("allowed")["returnvalue"] == {"done": True}
    assert proxy.targets == ["CONNECT pay.partner.example:443"]
    for url in ("https://127.0.0.1/", "https://evil.partner.example/", "http://169.254.169.254/"):
        document = {"queue": "refused", "endpoint": {"url": url, "method": "POST"}}
        assert place.gateway.http.post("/workers", json=document).status_code == 400, url
    # A name is looked up when there is a job: here, and not by the proxy.
    place.gateway.register("private", "https://localhost/hook")
    outcome, reason = place.outcome("private")
    assert outcome == "connect_error"
    assert "EGRESS_DENIED" in reason
    place.gateway.register("plain", "http://localhost/hook")
    outcome, reason = place.outcome("plain")
    assert "so for http:// egress.allow must name it" in reason
    assert len(proxy.asked) == 1
    proxy.refuses = "502 Bad Gateway"
    place.toril.client.post("/reload")
    place.gateway.unregister("allowed")
    place.gateway.register("allowed", "https://pay.partner.example/other")
    outcome, reason = place.outcome("allowed")
    assert outcome == "proxy_error"
    assert "answered 502 Bad Gateway (CONNECT pay.partner.example:443)" in reason
