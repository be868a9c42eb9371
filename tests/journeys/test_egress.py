"""What callers register is called by our server: where it goes, and where it refuses to go."""

import json
from typing import Any

import pytest
import redis

from tests.support.endpoint import StartEndpoint, respond
from tests.support.gateway import Gateway, worker
from tests.support.toril import StartToril
from tests.support.valkey import StartValkey

HASH, STREAM = "bmqp:w:meta", "bmpq:w:stream"
PUBLIC = {"TORIL_EGRESS_POLICY": "public"}
INTERNAL = "refused by the egress policy internal"


def refused(gateway: Gateway, store: redis.Redis, document: dict[str, Any]) -> str:
    """The text of the 400; nothing was stored."""
    answer = gateway.http.post("/workers", json=document)
    assert (answer.status_code, answer.headers["toril-code"]) == (400, "invalid_request")
    assert store.hexists(HASH, document["queue"]) == 0
    return answer.text


class TestRegistering:
    @pytest.mark.parametrize(
        ("url", "text"),
        [
            ("http://169.254.169.254/latest", f"169.254.169.254 is a link-local address, {INTERNAL}"),
            ("http://2852039166/", f"2852039166 (169.254.169.254) is a link-local address, {INTERNAL}"),
            (
                "http://0xa9.0xfe.0xa9.0xfe/",
                f"0xa9.0xfe.0xa9.0xfe (169.254.169.254) is a link-local address, {INTERNAL}",
            ),
            (
                "http://[::ffff:169.254.169.254]/",
                f"::ffff:169.254.169.254 leads to 169.254.169.254, which is a link-local address, {INTERNAL}",
            ),
            ("http://[fd00:ec2::254]/", f"fd00:ec2::254 is a cloud metadata address, {INTERNAL}"),
            ("http://metadata.google.internal/", f"metadata.google.internal serves cloud metadata, {INTERNAL}"),
            ("http://127.0.0.1:25/", "port 25 belongs to another protocol"),
            ("http://user:pass@127.0.0.1/", "must not contain a user name or password"),
        ],
    )
    def test_an_endpoint_that_egress_forbids_cannot_be_registered(
        self, gateway: Gateway, queue: str, store: redis.Redis, url: str, text: str
    ) -> None:
        assert refused(gateway, store, worker(queue, url)) == f"Invalid URL, {text}"

    @pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "file:///etc/passwd", "gopher://a/", "http://a/\r\nX-Evil: 1"])
    def test_odd_urls_cannot_be_registered(self, gateway: Gateway, queue: str, store: redis.Redis, url: str) -> None:
        assert refused(gateway, store, worker(queue, url)) == "Invalid URL"

    @pytest.mark.parametrize(
        "headers", [{"x-a": "1\r\nX-Evil: 1"}, {"x-a\r\nX-Evil": "1"}, {"x-a": "1\n\nGET / HTTP/1.1"}]
    )
    def test_headers_cannot_smuggle_others(
        self, gateway: Gateway, queue: str, store: redis.Redis, headers: dict[str, str]
    ) -> None:
        assert "header" in refused(gateway, store, worker(queue, "http://127.0.0.1/", headers=headers))


def register_like_bullmq_proxy(store: redis.Redis, queue: str, url: str) -> None:
    """By an instance that checks nothing."""
    with store.pipeline(transaction=True) as pipe:
        pipe.hset(HASH, queue, json.dumps(worker(queue, url)))
        pipe.xadd(STREAM, {"worker": queue}, maxlen=100, approximate=False)
        pipe.execute()


def test_a_public_gateway_calls_no_private_address(
    start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint
) -> None:
    valkey, endpoint = start_valkey(), start_endpoint()
    gateway = start_toril(valkey, env=PUBLIC).gateway
    with valkey.client() as store:
        text = refused(gateway, store, worker("orders", endpoint.url))
        assert text == "Invalid URL, 127.0.0.1 is a loopback address, refused by the egress policy public"
        for number, (host, reason) in enumerate(
            [
                ("127.0.0.1", "127.0.0.1 is"),
                ("2130706433", "2130706433 (127.0.0.1) is"),
                ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1 leads to 127.0.0.1, which is"),
                ("localhost", "localhost (127.0.0.1) is"),
            ]
        ):
            queue, url = f"orders-{number}", f"http://{host}:{endpoint.port}/"
            if host == "localhost":
                gateway.register(queue, url)  # a name is looked up when there is a job
            else:
                register_like_bullmq_proxy(store, queue, url)
            done = gateway.finished(queue, gateway.add_one(queue, attempts=2))
            assert done["failedReason"].startswith("EGRESS_DENIED: Unable to connect. ")
            assert f"{reason} a loopback address, refused by the egress policy public" in done["failedReason"]
            assert len(done["stacktrace"]) == 2, "refused is tried again as long as there are attempts"
    assert endpoint.calls == []


def test_an_allowed_endpoint_is_called_and_its_redirects_are_not_followed(
    start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint
) -> None:
    public, private = start_endpoint(), start_endpoint()
    env = PUBLIC | {"TORIL_EGRESS_ALLOW": "127.0.0.0/8", "TORIL_EGRESS_DENY": "127.0.0.2, *.evil.example"}
    gateway = start_toril(start_valkey(), env=env).gateway
    gateway.register("orders", public.url)
    assert gateway.finished("orders", gateway.add_one("orders"))["returnvalue"] == {"done": True}
    for location in (private.url, private.url.replace("127.0.0.1", "127.0.0.2"), "http://169.254.169.254/"):
        public.behaviour = lambda _, location=location: respond(307, "Elsewhere", [("location", location)])
        done = gateway.finished("orders", gateway.add_one("orders"))
        assert done["failedReason"] == "Elsewhere"
        assert f"redirects are not followed, this one leads to '{location}'" in done["stacktrace"][0]
    assert (len(public.calls), private.calls) == (4, [])
    answer = gateway.http.post("/workers", json=worker("mails", "http://a.evil.example/"))
    assert (answer.status_code, answer.text) == (400, "Invalid URL, a.evil.example is refused by the egress deny list")
    answer = gateway.http.post("/workers", json=worker("mails", "http://127.0.0.2/"))
    assert (answer.status_code, answer.text) == (400, "Invalid URL, 127.0.0.2 is refused by the egress deny list")
