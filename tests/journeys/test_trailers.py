"""Trailers are no headers: they authenticate no caller, name no host, no client and no key, at none of the doors."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import raw
from tests.support.deliveries import LATER, configuration
from tests.support.gateway import TOKEN
from tests.support.haproxy import haproxy
from tests.support.proxq import Backend, Proxq, StartProxq, exchange
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess

AUTHORIZATION = f"Authorization: Bearer {TOKEN}"
FORGED = (
    "X-Auth-User: admin",
    "X-Forwarded-For: 6.6.6.6",
    "X-Forwarded-Proto: https",
    "Host: elsewhere",
    "Cookie: a=b",
    AUTHORIZATION,
)


def chunked(
    method: str, target: str, *, headers: tuple[str, ...] = (), body: str = "", trailers: tuple[str, ...]
) -> bytes:
    """A request with a chunked body and trailers."""
    chunk = f"{len(body.encode()):x}\r\n{body}\r\n" if body else ""
    head = [f"{method} {target} HTTP/1.1", "Host: here", "Transfer-Encoding: chunked", *headers]
    return ("\r\n".join([*head, "", ""]) + chunk + "\r\n".join(["0", *trailers, "", ""])).encode()


@pytest.fixture(scope="module")
def proxq(shared_proxq: StartProxq, backend: Backend) -> Proxq:
    # Chunked requests always pass by the queue.
    return shared_proxq(
        {
            "upstreams": [
                {"prefix": "/direct", "url": backend.url, "pathFilter": {"patterns": ["."]}},
            ]
        }
    )


def has_no_forged(headers: tuple[tuple[str, str], ...]) -> None:
    """None of the trailers is among these headers, nor anything made of one."""
    text = json.dumps(headers).lower()
    for forged in ("x-auth-user", "6.6.6.6", "elsewhere", "cookie", "authorization"):
        assert forged not in text


@pytest.mark.promise
@pytest.mark.parametrize("upgrade", [(), ("Connection: Upgrade", "Upgrade: h2c")], ids=["plain", "with an upgrade"])
def test_a_token_in_a_trailer_is_ignored(toril: TorilProcess, queue: str, upgrade: tuple[str, ...]) -> None:
    body = json.dumps([{"name": "n", "data": 1}])
    close = ("Connection: close",) if not upgrade else ()
    sent = chunked("POST", f"/queues/{queue}/jobs", headers=close + upgrade, body=body, trailers=(AUTHORIZATION,))
    behind = b"GET /health HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n" if upgrade else b""
    assert raw.exchange(toril.port, sent + behind).status == 401
    assert toril.gateway.counts(queue).get("waiting", 0) == 0


def test_an_idempotency_key_in_a_trailer_is_ignored(valkey: ValkeyProcess, tmp_path: Path) -> None:
    file = configuration(
        tmp_path / "toril.yaml",
        {"billing": "http://127.0.0.1:9/"},
        ledger={"url": f"sqlite:///{tmp_path / 'ledger.sqlite3'}"},
        queue_prefix=f"trailers-{uuid.uuid4().hex[:6]}",
    )
    headers = (AUTHORIZATION, "Content-Type: application/json", "Connection: close")
    envelope = json.dumps({"target": "billing"} | LATER)
    sent = chunked("POST", "/enqueue", headers=headers, body=envelope, trailers=("Idempotency-Key: same",))
    with TorilProcess(valkey.url, tmp_path / "toril.log", args=["--config", str(file)]) as server:
        answers = [raw.exchange(server.port, sent) for _ in range(2)]
        assert [answer.status for answer in answers] == [202, 202], answers
        assert answers[0].body != answers[1].body
    assert server.complaints() == []


def test_a_request_that_passes_by_the_queue_has_no_header_that_was_a_trailer(proxq: Proxq, backend: Backend) -> None:
    path = backend.path()
    assert exchange(proxq.port, chunked("POST", f"/direct{path}", body="b", trailers=FORGED)).status == 200
    (call,) = backend.called(path)
    has_no_forged(call.headers)
    assert call.body == b"b"


@pytest.fixture
def behind_haproxy(proxq: Proxq, tmp_path: Path) -> Iterator[int]:
    with haproxy(tmp_path, proxq.port, rules=["http-request del-header x-auth-user"]) as port:
        yield port


def test_behind_haproxy_what_it_deletes_does_not_come_back_as_a_trailer(behind_haproxy: int, backend: Backend) -> None:
    """HAProxy passes trailers on as they are, whatever its rules say of headers."""
    path = backend.path()
    headers = ("X-Auth-User: me",)
    for _ in range(2):  # over one connection to toril: the second request is another client's
        sent = chunked("POST", f"/direct{path}", headers=headers, body="b", trailers=("X-Auth-User: admin",))
        assert exchange(behind_haproxy, sent).status == 200
    for call in backend.called(path, 2):
        assert [value for name, value in call.headers if name.lower() == "x-auth-user"] == []


def test_behind_haproxy_a_trailer_does_not_cost_the_next_client_an_answer(
    behind_haproxy: int, backend: Backend
) -> None:
    path = backend.path()
    closing = chunked("POST", f"/direct{path}", body="b", trailers=("Connection: close", "Keep-Alive: timeout=0"))
    for _ in range(3):
        assert exchange(behind_haproxy, closing).status == 200
        plain = f"GET /direct{path} HTTP/1.1\r\nHost: here\r\n\r\n".encode()
        assert exchange(behind_haproxy, plain, timeout_s=20).status == 200
