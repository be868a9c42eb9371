"""Upstreams behind a private CA, mutual TLS, an OAuth server and a forward proxy: queued, and passed through."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.authority import Authority
from tests.support.endpoint import Endpoint, respond
from tests.support.outbound import Outside
from tests.support.proxied import READY, Proxied
from tests.support.proxq import Proxq
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess

DIRECT = {"pathFilter": {"patterns": ["past"]}}


class Place(Outside):
    """A toril with upstreams, and what is outside of it."""

    door: Proxq

    def server(self, *hosts: str, mutual: bool = False) -> Endpoint:
        """A server with TLS that answers with what it gets."""
        return self.secure(*hosts, mutual=mutual, behaviour=lambda call: respond(body=call.body or b"-"))

    def start(self, *upstreams: dict[str, Any]) -> None:
        proxied = Proxied(self.folder, upstreams, queue=f"way-{self.folder.name}")
        toril = TorilProcess(self.redis_url, self.folder / "toril.log", **proxied.arguments)
        self.stack.callback(toril.close)
        self.toril = toril.start(READY)
        self.door = Proxq(toril, "way")

    def failed(self, target: str) -> str:
        """Submit a request that fails, and return why."""
        found = self.door.is_in(self.door.submit("POST", target, body=b"x"), "failed")
        return json.dumps(found)

    def reload(self) -> dict[str, Any]:
        answer = self.toril.client.post("/__toril/reload", timeout=30)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture
def place(tmp_path: Path, valkey: ValkeyProcess) -> Iterator[Place]:
    with Place.of(tmp_path, valkey.url) as made:
        yield made


def test_queued_and_direct_requests_show_the_client_certificate_and_its_successor(place: Place) -> None:
    server = place.server(mutual=True)
    upstream = {"prefix": "/api", "url": server.at(""), "tls": place.client("first")} | DIRECT
    place.start(upstream)
    assert place.door.replayed("POST", "/api/queued", body=b"1").body == b"1"
    assert place.door.send("POST", "/api/past", body=b"2").body == b"2"
    place.client("second")
    assert place.reload()["applied"] == ["upstreams./api.tls"]
    assert place.door.replayed("POST", "/api/queued", body=b"3").body == b"3"
    assert place.door.send("POST", "/api/past", body=b"4").body == b"4"
    assert [call.client for call in server.calls] == ["first", "first", "second", "second"]


def test_a_certificate_of_another_authority_fails_the_job_and_says_so(place: Place) -> None:
    server = place.server()
    other = str(Authority("Another CA").write(place.folder / "other.pem"))
    place.start({"prefix": "/api", "url": server.at(""), "tls": {"ca_file": other}} | DIRECT)
    assert "ERR_TLS" in place.failed("/api/x")
    assert place.door.send("POST", "/api/past", body=b"x").status == 502
    assert "unable to get local issuer certificate" in place.toril.log()
    assert server.calls == []


def test_an_access_token_stands_in_place_of_the_callers_authorization(place: Place) -> None:
    server = place.plain(lambda call: respond(body=call.body))
    login = place.oauth()
    auth = place.oauth_keys(login)
    place.start({"prefix": "/api", "url": server.at(""), "auth": auth} | DIRECT)
    caller = [("Authorization", "Bearer of-the-caller")]
    assert place.door.replayed("POST", "/api/queued", caller, b"1").body == b"1"
    assert place.door.send("POST", "/api/past", caller, b"2").body == b"2"
    assert [call.header("authorization") for call in server.calls] == ["Bearer token-1"] * 2
    login.answer = respond(503, "Down")
    server.behaviour = lambda _: respond(401, "Unauthorized")
    assert place.door.replayed("GET", "/api/queued").status == 401, "an answer of the upstream goes to the caller"
    assert "ERR_AUTH" in place.failed("/api/queued")
    assert place.door.send("GET", "/api/past").status == 502
    assert "answered 503" in place.toril.log()
    assert "s3cr3t" not in place.toril.log()
    assert "token-1" not in place.toril.log()


def test_every_request_to_an_upstream_goes_through_the_proxy(place: Place) -> None:
    secure, plain = place.server("secure.example"), place.plain(lambda _: respond(body=b"ok"))
    hosts = {"secure.example": secure.port, "plain.example": plain.port}
    proxy = place.proxy(hosts, "toril:pr0xy-pass")
    way = {"proxy": {"url": proxy.url, "secret_file": place.file("pass", "toril:pr0xy-pass")}}
    place.start(
        {"prefix": "/secure", "url": "https://secure.example/base", "tls": {"ca_file": place.ca_file}} | way | DIRECT,
        {"prefix": "/plain", "url": "http://plain.example/base"} | way | DIRECT,
    )
    assert place.door.replayed("POST", "/secure/queued", body=b"1").body == b"1"
    assert place.door.send("POST", "/secure/past", body=b"2").body == b"2"
    assert place.door.replayed("POST", "/plain/queued?a=1", body=b"3").body == b"ok"
    assert place.door.send("POST", "/plain/past", body=b"4").body == b"ok"
    assert [target for target in proxy.targets if target.startswith("POST")] == [
        "POST http://plain.example:80/base/queued?a=1",
        "POST http://plain.example:80/base/past",
    ]
    assert set(proxy.targets) - set(proxy.targets[-2:]) == {"CONNECT secure.example:443"}
    assert [call.target for call in secure.calls] == ["/base/queued", "/base/past"]
    proxy.credentials = "toril:an0ther-pass"
    assert "ERR_PROXY" in place.failed("/plain/x")
    assert place.door.send("POST", "/plain/past", body=b"5").status == 502
    place.file("pass", "toril:an0ther-pass")
    assert place.reload()["applied"] == ["upstreams./secure.proxy.secret_file", "upstreams./plain.proxy.secret_file"]
    assert place.door.send("POST", "/plain/past", body=b"6").body == b"ok"
    for secret in ("pr0xy-pass", "an0ther-pass"):
        assert secret not in place.toril.log()
