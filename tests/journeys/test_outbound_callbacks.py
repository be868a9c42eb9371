"""Callbacks of the async proxy on the routes of `callback.outbound`: the operator's by host, under the egress rules."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.endpoint import Call, respond
from tests.support.outbound import Outside
from tests.support.proxied import READY, Proxied
from tests.support.proxq import Proxq
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


class Place(Outside):
    """A toril whose upstream answers at once, and what is outside of it."""

    door: Proxq

    def start(self, outbound: list[dict[str, Any]], **more: Any) -> None:
        upstream = self.plain(lambda _: respond(body=b"-"))
        callback = {"secrets": [SECRET], "attempts": 1, "outbound": outbound}
        upstreams = [{"prefix": "/api", "url": upstream.at("")}]
        proxied = Proxied(self.folder, upstreams, queue=f"way-{self.folder.name}", callback=callback, **more)
        toril = TorilProcess(self.redis_url, self.folder / "toril.log", **proxied.arguments)
        self.stack.callback(toril.close)
        self.toril = toril.start(READY)
        self.door = Proxq(toril, "way")

    def ask(self, callback: str) -> None:
        """Submit a request with this callback."""
        answer = self.door.send("GET", "/api/x", [("X-Toril-Callback", callback)])
        assert answer.status == 202, answer.body

    def outcome(self, callback: str) -> tuple[str, str]:
        """Submit a request whose callback fails; outcome and reason of its attempt."""
        self.ask(callback)
        jobs = f"/__toril/queues/way-{self.folder.name}.callbacks/jobs"

        def failed() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = self.toril.client.get(jobs, params={"statuses": "failed"}).json()["jobs"]
            return found

        (job,) = eventually(failed, what="a callback to fail")
        (attempt,) = self.toril.client.get(f"{jobs}/{job['id']}/attempts").json()["attempts"]
        return attempt["outcome"], attempt["reason"]


@pytest.fixture
def place(tmp_path: Path, valkey: ValkeyProcess) -> Iterator[Place]:
    with Place.of(tmp_path, valkey.url) as made:
        yield made


def called(calls: list[Call]) -> list[str]:
    return [call.json["type"] for call in calls]


def test_a_callback_is_shown_the_certificate_that_the_operator_has_for_its_host(place: Place) -> None:
    server = place.secure(mutual=True)
    place.start([{"hosts": ["localhost"], "tls": place.client("first")}])
    place.ask(server.url)
    server.wait_for_calls(1)
    place.client("second")
    assert place.toril.client.post("/__toril/reload").json()["applied"] == ["callback.outbound.1.tls"]
    place.ask(server.url)
    server.wait_for_calls(2)
    assert called(server.calls) == ["job.completed"] * 2
    assert [call.client for call in server.calls] == ["first", "second"]


def test_only_callbacks_to_the_named_hosts_go_through_the_proxy(place: Place) -> None:
    named, other = place.secure("pay.partner.example"), place.plain()
    proxy = place.proxy({"pay.partner.example": named.port})
    tls = {"ca_file": place.ca_file}
    entry = {"hosts": ["*.partner.example"], "tls": tls, "proxy": {"url": proxy.url}}
    place.start([entry], egress={"policy": "public", "allow": ["*.partner.example", "127.0.0.1"]})
    place.ask("https://pay.partner.example/hook")
    named.wait_for_calls(1)
    place.ask(other.url)
    other.wait_for_calls(1)
    assert proxy.targets == ["CONNECT pay.partner.example:443"]
    refused = place.door.send("GET", "/api/x", [("X-Toril-Callback", "http://169.254.169.254/")])
    assert refused.status == 400
    assert len(proxy.asked) == 1


def test_a_proxy_that_refuses_fails_the_callback_and_is_never_gone_round(place: Place) -> None:
    server, proxy = place.plain(), place.proxy()
    proxy.refuses = "403 Forbidden"
    place.start([{"hosts": ["127.0.0.1"], "proxy": {"url": proxy.url}}])
    secure = place.secure()
    outcome, reason = place.outcome(secure.url.replace("localhost", "127.0.0.1"))
    assert (outcome, "403" in reason) == ("proxy_error", True)
    assert server.calls == secure.calls == []


def test_the_routes_of_registered_workers_do_not_apply_to_callbacks(place: Place) -> None:
    server, proxy = place.plain(), place.proxy()
    place.start([], workers={"outbound": [{"hosts": ["*"], "proxy": {"url": proxy.url}}]})
    place.ask(server.url)
    server.wait_for_calls(1)
    assert proxy.asked == []


def test_an_access_token_is_sent_to_the_named_hosts_alone(place: Place) -> None:
    named, other, login = place.plain(), place.plain(), place.oauth()
    place.start([{"hosts": ["localhost"], "auth": place.oauth_keys(login)}])
    place.ask(named.url.replace("127.0.0.1", "localhost"))
    place.ask(other.url)
    named.wait_for_calls(1)
    other.wait_for_calls(1)
    assert [call.header("authorization") for call in (*named.calls, *other.calls)] == ["Bearer token-1", None]
