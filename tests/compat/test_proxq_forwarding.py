"""What the upstream gets (wire/proxq.md, "Forwarding"): the request as it was sent, save what a proxy has to change."""

import socket

import pytest

from tests.support.endpoint import Call, respond
from tests.support.proxq import Backend, Proxq, StartProxq

ADDED = ("x-forwarded-for", "x-real-ip", "x-forwarded-proto", "x-forwarded-host")


@pytest.fixture
def proxq(shared_proxq: StartProxq, backend: Backend) -> Proxq:
    return shared_proxq(
        {
            "upstreams": [
                {"prefix": "/api", "url": backend.url},
                {"prefix": "/files", "url": f"{backend.url}/bucket/data/"},
            ]
        }
    )


def arrived(proxq: Proxq, backend: Backend, method: str, target: str, *args) -> Call:  # type: ignore[no-untyped-def]
    """The request as the upstream got it; `{}` in the target stands for a new path."""
    path = backend.path(respond())
    job_id = proxq.submit(method, target.replace("{}", path), *args)
    proxq.is_in(job_id, "completed")
    (call,) = backend.calls(path)
    return call


@pytest.mark.parametrize(
    ("sent", "forwarded"),
    [
        ("/api{}", "{}"),
        ("/api{}?", "{}?"),
        ("/api{}/a%2Fb%2f%41;v=1/?q=1+2&q=%20;x#", "{}/a%2Fb%2f%41;v=1/?q=1+2&q=%20;x"),
        ("/api//a/./b/../c{}", "//a/./b/../c{}"),
        ("/api{}/{{}}|^`", "{}/{{}}|^`"),
        ("/api?x={}", "/?x={}"),
        ("/files{}", "/bucket/data{}"),
        ("/files?x={}", "/bucket/data/?x={}"),
        ("/files/?x={}", "/bucket/data/?x={}"),
    ],
)
def test_path_and_query_arrive_as_sent(proxq: Proxq, backend: Backend, sent: str, forwarded: str) -> None:
    path = backend.path(respond())
    proxq.is_in(proxq.submit("GET", sent.rstrip("#").replace("{}", path)), "completed")
    (call,) = backend.calls(path)
    assert call.target == forwarded.replace("{}", path)


@pytest.mark.parametrize(
    "method",
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE", "M-SEARCH", "PROPFIND", "REPORT", "TRACE"],
)
def test_any_method_is_forwarded_and_bodiless_stays_bodiless(proxq: Proxq, backend: Backend, method: str) -> None:
    path = backend.path(respond())
    answer = proxq.send(method, f"/api{path}")
    assert answer.status == 202
    (call,) = backend.called(path)
    assert (call.method, call.body) == (method, b"")
    names = [name.lower() for name, _ in call.headers]
    assert "content-length" not in names
    assert "transfer-encoding" not in names


def test_an_empty_body_with_a_content_length_keeps_it(proxq: Proxq, backend: Backend) -> None:
    call = arrived(proxq, backend, "POST", "/api{}", [], b"")
    assert call.header("content-length") == "0"


@pytest.mark.parametrize("method", ["POST", "DELETE", "GET", "PUT"])
def test_any_bytes_are_a_body_of_any_method(proxq: Proxq, backend: Backend, method: str) -> None:
    body = bytes(range(256)) * 40
    assert arrived(proxq, backend, method, "/api{}", [], body).body == body


def test_headers_pass_in_order_with_their_repetitions(proxq: Proxq, backend: Backend) -> None:
    sent = [
        ("X-B", "2"),
        ("X-A", "1"),
        ("x-b", "3"),
        ("Cookie", "a=1"),
        ("Authorization", "Bearer t"),
        ("X-A", "\xe9\xff"),
        ("X-Empty", ""),
        ("X-Proxq-Timeout", "30s"),
        ("Accept-Encoding", "br"),
    ]
    call = arrived(proxq, backend, "POST", "/api{}", sent, b"x")
    got = [(name.lower(), value) for name, value in call.headers if name.lower() not in (*ADDED, "host")]
    assert got == [*((name.lower(), value) for name, value in sent), ("content-length", "1")]


def test_no_header_is_added_but_those_about_the_client(proxq: Proxq, backend: Backend) -> None:
    call = arrived(proxq, backend, "GET", "/api{}")
    assert sorted(name.lower() for name, _ in call.headers) == sorted(["host", *ADDED])


def test_hop_by_hop_headers_and_those_named_by_connection_are_not_forwarded(proxq: Proxq, backend: Backend) -> None:
    sent = [
        ("Connection", "close, X-Private"),
        ("X-Private", "1"),
        ("Keep-Alive", "timeout=5"),
        ("TE", "trailers"),
        ("Proxy-Authorization", "Basic x"),
        ("Proxy-Authenticate", "x"),
        ("Trailers", "x"),
        ("X-Kept", "1"),
    ]
    call = arrived(proxq, backend, "GET", "/api{}", sent)
    names = [name.lower() for name, _ in call.headers]
    assert sorted(names) == sorted(["host", "x-kept", *ADDED])


def test_an_upgrade_to_anything_but_a_websocket_is_queued(proxq: Proxq, backend: Backend) -> None:
    call = arrived(proxq, backend, "POST", "/api{}", [("Connection", "Upgrade, close"), ("Upgrade", "h2c")], b"body")
    assert call.header("upgrade") is None
    assert call.body == b"body"


def test_the_forwarded_host_header_is_the_upstreams(proxq: Proxq, backend: Backend) -> None:
    call = arrived(proxq, backend, "GET", "/api{}")
    assert [value for name, value in call.headers if name.lower() == "host"] == [f"127.0.0.1:{backend.endpoint.port}"]


@pytest.mark.parametrize(
    ("sent", "address", "proto"),
    [
        ([], "127.0.0.1", "http"),
        ([("X-Real-IP", "1.1.1.1")], "1.1.1.1", "http"),
        ([("X-Forwarded-For", "2.2.2.2, 3.3.3.3"), ("X-Real-IP", "1.1.1.1")], "2.2.2.2", "http"),
        ([("X-Forwarded-Proto", "https")], "127.0.0.1", "https"),
    ],
)
def test_the_upstream_learns_who_the_client_is(
    proxq: Proxq, backend: Backend, sent: list[tuple[str, str]], address: str, proto: str
) -> None:
    call = arrived(proxq, backend, "GET", "/api{}", sent)
    told = [(name.lower(), value) for name, value in call.headers if name.lower() in ADDED]
    assert told == [
        ("x-forwarded-for", address),
        ("x-real-ip", address),
        ("x-forwarded-proto", proto),
        ("x-forwarded-host", f"127.0.0.1:{proxq.port}"),
    ]


def test_a_client_that_waits_for_100_continue_is_told_to_go_on(proxq: Proxq, backend: Backend) -> None:
    path = backend.path()
    head = f"POST /api{path} HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", proxq.port), timeout=30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"body")
        assert connection.recv(4096).startswith(b"HTTP/1.1 202 ")
    (call,) = backend.called(path)
    assert call.body == b"body"
