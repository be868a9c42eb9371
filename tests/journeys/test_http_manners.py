"""What HTTP itself asks of every server: HEAD, OPTIONS, 405, 401 with a challenge, a byte order mark before JSON."""

import json
import re
import socket
from codecs import BOM_UTF8
from functools import partial
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.support import raw
from tests.support.deliveries import LATER
from tests.support.endpoint import Endpoint
from tests.support.gateway import TOKEN, job
from tests.support.sockets import socket_to
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

AUTH = (("authorization", f"bearer {TOKEN}"),)
UPGRADE = (
    ("connection", "upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
)


def gets(toril: TorilProcess, queue: str) -> list[str]:
    """Every GET that `/openapi.json` has, for this queue and its first job."""
    toril.gateway.add_one(queue)
    paths = httpx.get(toril.url + "/openapi.json").json()["paths"]
    filled = {
        path: path.replace("{queue}", queue).replace("{id}", "1")
        for path, item in paths.items()
        if "get" in item and not path.startswith("/ws")
    }
    return [re.sub(r"\{[^}]+}", "none", path) for path in filled.values()]


def same_length(toril: TorilProcess, path: str) -> bool:
    lengths = {
        raw.request(toril.port, method, path, headers=AUTH).headers["content-length"] for method in ("HEAD", "GET")
    }
    return len(lengths) == 1


def test_head_is_get_without_the_body_everywhere(toril: TorilProcess, queue: str) -> None:
    asked = gets(toril, queue)
    assert {"/", "/health", "/ready", "/docs", "/metrics", "/queues", "/events", f"/queues/{queue}/jobs/1"} <= set(
        asked
    )
    for path in asked:
        query = f"?queues={queue}" if path == "/events" else ""
        head = raw.request(toril.port, "HEAD", path + query, headers=AUTH)
        assert head.body == b"", path
        if path.endswith("events"):
            assert (head.status, head.headers["content-type"]) == (200, "text/event-stream;charset=utf-8"), path
            continue
        got = raw.request(toril.port, "GET", path + query, headers=AUTH)
        assert (head.status, head.headers.get("content-type")) == (got.status, got.headers.get("content-type")), path
        length = got.headers.get("content-length")
        assert length == str(len(got.body)), path
        if head.headers.get("content-length") != length:  # what it holds may change meanwhile
            eventually(partial(same_length, toril, path), what=f"the same length of HEAD and GET {path}")


def test_head_needs_the_rights_of_get(toril: TorilProcess, queue: str) -> None:
    assert raw.request(toril.port, "HEAD", f"/queues/{queue}/jobs").status == 401
    assert raw.request(toril.port, "HEAD", f"/queues/{queue}/events").status == 401
    assert raw.request(toril.port, "HEAD", "/nowhere").status == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/queues", "GET, HEAD, OPTIONS"),
        ("GET", "/queues/abc/pause", "OPTIONS, POST"),
        ("HEAD", "/queues/abc/pause", "OPTIONS, POST"),
        ("POST", "/queues/abc/concurrency", "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("PATCH", "/queues/a%2Fb/schedulers/x", "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
        ("DELETE", "/ready", "GET, HEAD, OPTIONS"),
        ("POST", "/openapi.json", "GET, HEAD, OPTIONS"),
        ("GET", "/reload", "OPTIONS, POST"),
        ("PURGE", "/metrics", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_wrong_method_on_torils_own_routes_is_answered_with_the_allowed_ones(
    toril: TorilProcess, method: str, path: str, allowed: str
) -> None:
    answer = raw.request(toril.port, method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allowed)
    assert answer.headers["content-type"] == "application/problem+json"
    if method != "HEAD":
        assert json.loads(answer.body)["code"] == answer.headers["toril-code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/", "/workers", "/workers/abc", "/queues/abc/jobs", "/queues/abc/jobs/1"])
def test_a_wrong_method_on_a_bullmq_proxy_route_is_not_found(toril: TorilProcess, path: str) -> None:
    """Also where toril has more methods at that path: who knows only BullMQ Proxy sees no difference."""
    answer = raw.request(toril.port, "PATCH", path, headers=AUTH)
    assert (answer.status, answer.body) == (404, b"Not found")


@pytest.mark.parametrize("upgrade", [(), UPGRADE], ids=["plain", "with an upgrade"])
def test_options_names_the_methods(toril: TorilProcess, upgrade: tuple[tuple[str, str], ...]) -> None:
    for target, allowed in (
        ("/queues", "GET, HEAD, OPTIONS"),
        ("/workers", "GET, HEAD, OPTIONS, POST"),
        ("*", "DELETE, GET, HEAD, OPTIONS, POST, PUT"),
    ):
        answer = raw.request(toril.port, "OPTIONS", target, headers=upgrade)
        assert (answer.status, answer.headers["allow"], answer.body) == (204, allowed, b"")
    assert raw.request(toril.port, "OPTIONS", "/nowhere", headers=upgrade).status == 404


def test_each_401_names_the_authentication_scheme(toril: TorilProcess, queue: str) -> None:
    for method, path in (
        ("GET", "/queues"),
        ("POST", f"/queues/{queue}/jobs"),
        ("GET", "/workers"),
        ("GET", f"/queues/{queue}/events"),
        ("POST", f"/queues/{queue}/jobs/1/progress"),
        ("POST", f"/queues/{queue}/jobs/1/complete"),
        ("GET", "/metrics"),
    ):
        answer = raw.request(toril.port, method, path, body=b"1" if method == "POST" else None)
        assert (answer.status, answer.headers.get("www-authenticate")) == (401, "Bearer"), path
    for kind in ("", "/process/1", "/events"):
        with pytest.raises(InvalidStatus) as caught, socket_to(toril.url, f"/ws/queues/{queue}{kind}", None):
            pass
        assert caught.value.response.headers["www-authenticate"] == "Bearer"


def test_the_authentication_scheme_is_read_in_any_case_on_every_route(toril: TorilProcess, queue: str) -> None:
    body = json.dumps([job()]).encode()
    for scheme in ("bearer", "BEARER"):
        headers = (("authorization", f"{scheme} {TOKEN}"),)
        assert raw.request(toril.port, "POST", f"/queues/{queue}/jobs", headers=headers, body=body).status == 200
        url = toril.url.replace("http", "ws") + f"/ws/queues/{queue}"
        with connect(url, additional_headers=dict(headers), proxy=None):
            pass
    (leased,) = toril.client.post(f"/queues/{queue}/lease", json={}).json()["jobs"]
    path = f"/queues/{queue}/jobs/{leased['job']['id']}"
    lock = (("authorization", f"bEARER {leased['token']}"),)
    assert raw.request(toril.port, "POST", f"{path}/progress", headers=lock, body=b"7").status == 200
    assert raw.request(toril.port, "POST", f"{path}/complete", headers=lock, body=b"{}").status in {200, 204}


def test_a_byte_order_mark_before_json_is_ignored(toril: TorilProcess, queue: str) -> None:
    def ask(method: str, path: str, document: object) -> raw.RawAnswer:
        sent = BOM_UTF8 + json.dumps(document).encode()
        return raw.request(toril.port, method, f"/queues/{queue}{path}", headers=AUTH, body=sent)

    assert ask("POST", "/jobs", [job({"n": 1})]).status == 200
    assert ask("PUT", "/jobs/1/data", {"n": 2}).status in {200, 204}
    assert toril.gateway.job(queue, "1")["data"] == {"n": 2}
    assert ask("PUT", "/concurrency", {"concurrency": 3}).status in {200, 204}
    (leased,) = json.loads(ask("POST", "/lease", {"count": 1}).body)["jobs"]
    lock = (("authorization", f"Bearer {leased['token']}"),)
    for kind, said in (("progress", b"7"), ("logs", b'"line"')):
        path = f"/queues/{queue}/jobs/1/{kind}"
        assert raw.request(toril.port, "POST", path, headers=lock, body=BOM_UTF8 + said).status == 200
    assert toril.gateway.job(queue, "1")["progress"] == 7
    assert toril.gateway.logs(queue, "1")["logs"] == ["line"]
    document = {"queue": queue, "endpoint": {"url": "http://127.0.0.1:9999/", "method": "POST"}}
    answer = raw.request(toril.port, "POST", "/workers", headers=AUTH, body=BOM_UTF8 + json.dumps(document).encode())
    assert answer.status == 200
    toril.gateway.unregister(queue)
    with socket_to(toril.url, f"/ws/queues/{queue}") as commands:
        for frame in ("\ufeff", BOM_UTF8):
            said = '{"id": 1, "data": {"fn": "getJobCounts", "args": []}}'
            commands.send(frame + said if isinstance(frame, str) else frame + said.encode())
            assert commands.receive()["id"] == 1


def test_files_may_begin_with_a_byte_order_mark(valkey: ValkeyProcess, start_toril: StartToril, tmp_path: Path) -> None:
    file, secret = tmp_path / "toril.yaml", tmp_path / "secret"
    secret.write_bytes(BOM_UTF8 + b"s3cret\r\n")
    marked = {"url": "http://b/", "auth": {"scheme": "bearer", "secret_file": str(secret)}}
    document = {"auth_tokens": [TOKEN], "targets": {"marked": marked}, "ledger": {"url": "none"}}
    file.write_bytes(BOM_UTF8 + json.dumps(document).encode())
    toril = start_toril(valkey, args=("--config", str(file)), env={"AUTH_TOKENS": None})
    envelope = BOM_UTF8 + json.dumps({"target": "marked"} | LATER).encode()
    assert raw.request(toril.port, "POST", "/enqueue", headers=AUTH, body=envelope).status == 202


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")
def test_a_listen_address_without_a_host_is_both_families_and_clients_keep_their_address(
    valkey: ValkeyProcess, endpoint: Endpoint, tmp_path: Path
) -> None:
    """Behind `--processes` too, which share one socket."""
    file = tmp_path / "proxq.yaml"
    upstream = {"prefix": "/direct", "url": endpoint.url, "pathFilter": {"patterns": ["."]}}
    file.write_text(json.dumps({"listenAddress": ":1", "upstreams": [upstream]}))
    args = ("--config", str(file), "--processes", "2")
    toril = TorilProcess(valkey.url, tmp_path / "toril.log", command=("serve",), args=args)
    try:
        toril.start("/__toril/ready")
        for host, address in (("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")):
            assert httpx.get(f"http://{host}:{toril.port}/direct/x", trust_env=False).status_code == 200
            assert endpoint.calls[-1].header("x-forwarded-for") == address
    finally:
        toril.close()
    assert toril.complaints() == []
