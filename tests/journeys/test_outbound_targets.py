"""Targets behind an own CA, mutual TLS, an OAuth server and a forward proxy: all of them real, all on loopback."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.authority import Authority
from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Endpoint, garbage, no_content, reply_json, reply_text, respond
from tests.support.outbound import Outside
from tests.support.ports import free_port
from tests.support.tls_server import TlsServer
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess

FAST = {"retry": {"base": "20ms", "max": "20ms", "max_attempts": 3}, "breaker": "off"}
ONCE = {"retry": {"max_attempts": 1}, "breaker": "off"}
PATIENCE_S = 30.0


class Place(Outside):
    """A toril with targets, and what is outside of it."""

    door: Door

    def endpoint(self, *hosts: str, mutual: bool = False, days: int = 30) -> Endpoint:
        """A server with TLS that answers 204."""
        return self.secure(*hosts, mutual=mutual, days=days, behaviour=lambda _: no_content())

    def inside(self) -> Endpoint:
        """A server without TLS that answers 204."""
        return self.plain(lambda _: no_content())

    def strict(self) -> TlsServer:
        """A server that wants a client certificate of the authority, and says what it misses."""
        certificate = self.authority.server()
        return self.stack.enter_context(TlsServer(self.authority.server_tls(certificate, self.folder, self.authority)))

    def start(self, targets: dict[str, Any]) -> None:
        """Start a toril with these targets."""
        ledger = {"url": f"sqlite:///{self.folder}/ledger.sqlite3"}
        file = configuration(self.folder / "toril.yaml", targets, ledger=ledger)
        # Other modules share the Valkey.
        env = {"QUEUE_PREFIX": f"way-{self.folder.name}"}
        toril = TorilProcess(self.redis_url, self.folder / "toril.log", args=["--config", str(file)], env=env)
        self.toril = self.stack.enter_context(toril)
        self.door = Door(toril.gateway)

    def ended(self, target: str, **envelope: Any) -> dict[str, Any]:
        """Deliver an envelope, and return what the ledger says of it in the end."""
        return self.door.job(self.door.enqueue(target, **envelope), wait=30)


@pytest.fixture
def place(tmp_path: Path, valkey: ValkeyProcess) -> Iterator[Place]:
    with Place.of(tmp_path, valkey.url) as made:
        yield made


def attempt(job: dict[str, Any]) -> tuple[str, str, str]:
    """The status of a delivery, and the outcome and the error of its last attempt."""
    last = job["attempts"][-1]
    return job["status"], last["outcome"], last["error"] or ""


# TLS


def test_a_target_with_a_certificate_of_an_own_authority_gets_its_deliveries(place: Place) -> None:
    endpoint = place.endpoint()
    place.start({"inside": {"url": endpoint.at("/"), "tls": {"ca_file": place.ca_file}} | FAST})
    assert place.ended("inside", body=1)["status"] == "delivered"
    shown = place.toril.client.get("/targets/inside").json()["config"]
    assert shown["tls"] == {"ca_file": place.ca_file}


def test_a_target_is_shown_the_client_certificate_that_it_asks_for(place: Place) -> None:
    endpoint = place.endpoint(mutual=True)
    keys = place.client("billing-client")
    place.start({"inside": {"url": endpoint.at("/"), "tls": keys} | FAST})
    assert place.ended("inside", body=1)["status"] == "delivered"
    assert [call.client for call in endpoint.calls] == ["billing-client"]


def test_each_failure_of_tls_is_an_attempt_that_names_the_cause(place: Place) -> None:
    endpoint, mutual, expired = place.endpoint(), place.strict(), place.endpoint(days=-1)
    other = Authority("Another CA")
    other_ca = str(other.write(place.folder / "other-ca.pem"))
    trusted = {"ca_file": place.ca_file}
    foreign = other.client().write(place.folder, "foreign")
    late = place.authority.client(days=-1).write(place.folder, "late")
    place.start(
        {
            "wrong-ca": {"url": endpoint.at("/"), "tls": {"ca_file": other_ca}} | ONCE,
            "system-ca": {"url": endpoint.at("/")} | ONCE,
            "expired": {"url": expired.at("/"), "tls": trusted} | ONCE,
            "no-certificate": {"url": mutual.url, "tls": trusted} | ONCE,
            "foreign": {
                "url": mutual.url,
                "tls": trusted | {"cert_file": str(foreign[0]), "key_file": str(foreign[1])},
            }
            | ONCE,
            "late": {"url": mutual.url, "tls": trusted | {"cert_file": str(late[0]), "key_file": str(late[1])}} | ONCE,
        }
    )
    for target, words in {
        "wrong-ca": "unable to get local issuer certificate",
        "system-ca": "unable to get local issuer certificate",
        "expired": "certificate has expired",
        "no-certificate": "it wants a client certificate",
        "foreign": "does not know the authority that has signed the client certificate",
        "late": "the client certificate has expired",
    }.items():
        status, outcome, error = attempt(place.ended(target, body=1))
        assert (target, status, outcome) == (target, "dead_lettered", "tls_error")
        assert words in error, (target, error)
    assert endpoint.calls == mutual.heads == []
    assert len(mutual.refused) == 3


def test_a_renewed_client_certificate_is_shown_at_once_and_a_vanished_one_goes_on(place: Place) -> None:
    endpoint = place.endpoint(mutual=True)
    keys = place.client("first")
    place.start({"inside": {"url": endpoint.at("/"), "tls": keys} | FAST})
    assert place.ended("inside", body=1)["status"] == "delivered"
    place.client("second")
    reloaded = place.toril.client.post("/reload", timeout=30).json()
    assert reloaded["applied"] == ["targets.inside.tls"]
    # The connection of the first one is kept, and must not be used again.
    assert place.ended("inside", body=2)["status"] == "delivered"
    Path(keys["key_file"]).unlink()
    assert place.toril.client.post("/reload", timeout=30).json()["secrets_kept"] == [keys["key_file"]]
    assert place.ended("inside", body=3)["status"] == "delivered"
    assert [call.client for call in endpoint.calls] == ["first", "second", "second"]


def test_a_reload_with_a_key_of_another_certificate_changes_nothing(place: Place) -> None:
    endpoint = place.endpoint(mutual=True)
    keys = place.client("first")
    place.start({"inside": {"url": endpoint.at("/"), "tls": keys} | FAST})
    place.file("client-key.pem", place.authority.client("second").key)
    answer = place.toril.client.post("/reload", timeout=30)
    assert answer.status_code == 422
    assert "inside.tls.key_file: the key does not fit the certificate" in answer.text
    assert place.ended("inside", body=1)["status"] == "delivered"
    place.client("third")
    assert place.toril.client.post("/reload", timeout=30).status_code == 200
    assert place.ended("inside", body=2)["status"] == "delivered"
    assert [call.client for call in endpoint.calls] == ["first", "third"]


# OAuth


def test_one_token_is_fetched_for_many_deliveries_and_kept(place: Place) -> None:
    endpoint, server = place.inside(), place.oauth()
    keys = place.oauth_keys(server, scopes=["deliveries:write", "all"])
    place.start({"inside": {"url": endpoint.at("/"), "auth": keys, "concurrency": 20} | FAST})
    ids = [place.door.enqueue("inside", body=number) for number in range(40)]
    assert {place.door.job(job_id, wait=30)["status"] for job_id in ids} == {"delivered"}
    assert server.issued == ["token-1"]
    assert server.calls[0].body == b"grant_type=client_credentials&scope=deliveries%3Awrite+all"
    assert {call.header("authorization") for call in endpoint.calls} == {"Bearer token-1"}
    refused = place.door.post({"target": "inside", "headers": {"authorization": "Bearer mine"}})
    assert refused.status_code == 400


def test_a_401_of_the_target_spends_the_attempt_and_renews_the_token(place: Place) -> None:
    endpoint, server = place.inside(), place.oauth()
    endpoint.behaviour = lambda call: (
        respond(401, "Unauthorized") if call.header("authorization") == "Bearer token-1" else no_content()
    )
    place.start({"inside": {"url": endpoint.at("/"), "auth": place.oauth_keys(server)} | FAST})
    job = place.ended("inside", body=1)
    assert [(one["outcome"], one["status_code"]) for one in job["attempts"]] == [("answered", 401), ("answered", 204)]
    assert server.issued == ["token-1", "token-2"]


def test_a_token_that_has_ended_is_fetched_again(place: Place) -> None:
    endpoint, server = place.inside(), place.oauth()
    server.expires_in = 0
    place.start({"inside": {"url": endpoint.at("/"), "auth": place.oauth_keys(server)} | FAST})
    for number in range(2):
        assert place.ended("inside", body=number)["status"] == "delivered"
    assert [call.header("authorization") for call in endpoint.calls] == ["Bearer token-1", "Bearer token-2"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (reply_json({"error": "invalid_scope"}, 400, "Bad Request"), "answered 400 invalid_scope"),
        (reply_text("<html>login</html>"), "answered 200 with something that is no JSON object"),
        (reply_json({"token_type": "Bearer"}), "answered 200 without a usable access_token"),
        (reply_json({"access_token": "a", "token_type": "MAC"}), "token_type other than Bearer"),
        (reply_json({"access_token": "a", "token_type": "Bearer", "expires_in": "soon"}), "no number of seconds"),
        (garbage(), "cannot be asked: ERR_HTTP"),
        (None, "cannot be asked: ECONNREFUSED"),
    ],
)
def test_an_oauth_server_that_is_down_or_answers_nonsense_is_named(place: Place, answer: Any, words: str) -> None:
    endpoint, server = place.inside(), place.oauth()
    server.answer = answer
    keys = place.oauth_keys(server)
    if answer is None:
        keys["token_url"] = f"http://127.0.0.1:{free_port()}/"
    place.start({"inside": {"url": endpoint.at("/"), "auth": keys} | ONCE})
    status, outcome, error = attempt(place.ended("inside", body=1))
    assert (status, outcome) == ("dead_lettered", "auth_error")
    assert words in error
    assert endpoint.calls == []


def test_a_new_client_secret_is_used_at_once_and_none_is_ever_shown(place: Place) -> None:
    endpoint, server = place.inside(), place.oauth()
    place.start({"inside": {"url": endpoint.at("/"), "auth": place.oauth_keys(server, "0ld-s3cr3t")} | ONCE})
    status, outcome, error = attempt(place.ended("inside", body=1))
    assert (status, outcome) == ("dead_lettered", "auth_error")
    assert "answered 401 invalid_client" in error
    place.oauth_keys(server)
    assert place.toril.client.post("/reload").json()["applied"] == ["targets.inside.auth.secret_file"]
    job = place.ended("inside", body=2)
    assert job["status"] == "delivered"
    shown = place.toril.client.get("/targets/inside").json()
    assert shown["config"]["auth"] == {
        "scheme": "oauth2",
        "token_url": server.token_url,
        "client_id": "toril",
        "secret_file": str(place.folder / "client-secret"),
        "scopes": [],
    }
    seen = place.toril.log() + error + json.dumps([job, shown])
    for secret in ("0ld-s3cr3t", "s3cr3t", "token-1", "Basic "):
        assert secret not in seen.replace("client-secret", "")


# Forward proxies


def test_https_goes_through_a_tunnel_to_a_name_that_only_the_proxy_knows(place: Place) -> None:
    endpoint = place.endpoint("pay.partner.example")
    proxy = place.proxy({"pay.partner.example": endpoint.port}, "toril:pr0xy-pass")
    keys = {"url": proxy.url, "secret_file": place.file("proxy-secret", "toril:pr0xy-pass")}
    target = {"url": "https://pay.partner.example/in", "tls": {"ca_file": place.ca_file}, "proxy": keys}
    place.start({"partner": target | FAST})
    for number in range(3):
        assert place.ended("partner", path="/invoices", body=number)["status"] == "delivered"
    assert proxy.targets == ["CONNECT pay.partner.example:443"], "one tunnel is kept for all three"
    assert [call.target for call in endpoint.calls] == ["/in/invoices"] * 3
    assert endpoint.calls[0].header("proxy-authorization") is None
    shown = place.toril.client.get("/targets/partner").json()
    assert shown["config"]["proxy"] == keys
    assert "pr0xy-pass" not in json.dumps(shown) + place.toril.log()


def test_http_goes_to_the_proxy_in_absolute_form(place: Place) -> None:
    endpoint = place.inside()
    proxy = place.proxy({"pay.partner.example": endpoint.port}, "toril:pr0xy-pass")
    keys = {"url": proxy.url, "secret_file": place.file("proxy-secret", "toril:pr0xy-pass")}
    place.start({"partner": {"url": "http://pay.partner.example/in?a=1", "proxy": keys} | FAST})
    assert place.ended("partner", path="/x?b=2", body=1)["status"] == "delivered"
    assert proxy.targets == ["POST http://pay.partner.example:80/in/x?a=1&b=2"]
    assert (endpoint.calls[0].target, endpoint.calls[0].body) == ("/in/x?a=1&b=2", b"1")


def test_a_proxy_that_refuses_is_an_attempt_that_says_so_and_nothing_goes_round_it(place: Place) -> None:
    endpoint, inside = place.endpoint(), place.inside()
    proxy, refusing, garbling = place.proxy(credentials="a:b"), place.proxy(), place.proxy()
    refusing.refuses = "502 Bad Gateway"
    garbling.garbles = b"SSH-2.0-OpenSSH_9.9\r\n\r\n"
    wrong = {"url": proxy.url, "secret_file": place.file("proxy-secret", "a:wr0ng-pass")}
    tls = {"tls": {"ca_file": place.ca_file}}
    secure = {"url": endpoint.at("/")} | tls | ONCE
    nowhere = {"url": f"http://127.0.0.1:{free_port()}"}
    place.start(
        {
            "no-user": secure | {"proxy": {"url": proxy.url}},
            "wrong-user": secure | {"proxy": wrong},
            "http-no-user": {"url": inside.at("/"), "proxy": {"url": proxy.url}} | ONCE,
            "refused": secure | {"proxy": {"url": refusing.url}},
            "no-http": secure | {"proxy": {"url": garbling.url}},
            "down": secure | {"proxy": nowhere},
            "http-down": {"url": inside.at("/"), "proxy": nowhere} | ONCE,
            "no-name": secure | {"proxy": {"url": "http://proxy.nowhere.invalid:3128"}},
        }
    )
    for target, words in {
        "no-user": "answered 407: it wants a user and a password, and proxy.secret_file names none",
        "wrong-user": "answered 407: it does not accept the user and password of proxy.secret_file",
        "http-no-user": "answered 407: it wants a user and a password",
        "refused": "answered 502 Bad Gateway (CONNECT localhost:",
        "no-http": "did not answer CONNECT localhost:",
        "down": "The proxy cannot be reached",
        "http-down": "The proxy cannot be reached",
        "no-name": "The host name of the proxy proxy.nowhere.invalid:3128 cannot be resolved",
    }.items():
        status, outcome, error = attempt(place.ended(target, body=1))
        assert (target, status, outcome) == (target, "dead_lettered", "proxy_error")
        assert words in error, (target, error)
    assert endpoint.calls == inside.calls == []
    assert "wr0ng-pass" not in place.toril.log()


def test_a_renewed_password_of_the_proxy_is_used_at_once(place: Place) -> None:
    endpoint = place.inside()
    proxy = place.proxy({"pay.example": endpoint.port}, "a:old-pass")
    keys = {"url": proxy.url, "secret_file": place.file("proxy-secret", "a:old-pass")}
    place.start({"partner": {"url": "http://pay.example/", "proxy": keys} | FAST})
    assert place.ended("partner", body=1)["status"] == "delivered"
    proxy.credentials = "a:new-pass"
    place.file("proxy-secret", "a:new-pass")
    assert place.toril.client.post("/reload").json()["applied"] == ["targets.partner.proxy.secret_file"]
    job = place.ended("partner", body=2)
    assert (job["status"], len(job["attempts"])) == ("delivered", 1)


def test_the_token_is_fetched_through_the_proxy_too(place: Place) -> None:
    endpoint, server = place.inside(), place.oauth()
    proxy = place.proxy({"pay.example": endpoint.port, "login.example": server.port})
    keys = place.oauth_keys(server) | {"token_url": "http://login.example/oauth/token"}
    place.start({"partner": {"url": "http://pay.example/", "proxy": {"url": proxy.url}, "auth": keys} | FAST})
    assert place.ended("partner", body=1)["status"] == "delivered"
    assert proxy.targets == ["POST http://login.example:80/oauth/token", "POST http://pay.example:80/"]


# Mistakes


def test_an_outbound_setting_that_is_invalid_is_a_fault_at_start_that_names_the_field(tmp_path: Path) -> None:
    one, other = Authority().client(), Authority().client()
    files = one.write(tmp_path, "one")[0], other.write(tmp_path, "other")[1]
    target = {
        "url": "https://inside.example",
        "tls": {"cert_file": str(files[0]), "key_file": str(files[1])},
        "proxy": {"url": "http://a:h1dden@proxy:3128"},
        "auth": {"scheme": "oauth2", "token_url": "https://login", "client_id": "c", "secret_file": "/nowhere"},
    }
    file = configuration(tmp_path / "toril.yaml", {"inside": target})
    command = [sys.executable, "-m", "toril", "serve", "--config", str(file), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    said = ended.stdout + ended.stderr
    assert ended.returncode != 0
    assert "inside.tls.key_file: the key does not fit the certificate" in said
    assert "inside.proxy.url: it must hold no user and no password" in said
    assert "inside.auth.secret_file: the file /nowhere cannot be read" in said
    assert "h1dden" not in said
