"""What goes past the queue (wire/proxq.md, "Bypasses"), through toril as it is configured and started."""

import asyncio
import socket

import pytest
import websockets

from tests.support.endpoint import Answer, respond
from tests.support.proxq import Backend, Proxq, StartProxq, answering, exchange
from tests.support.waiting import eventually


@pytest.fixture
def proxq(shared_proxq: StartProxq, backend: Backend) -> Proxq:
    return shared_proxq(
        {
            "upstreams": [
                {
                    "prefix": "/api",
                    "url": f"{backend.url}/base",
                    "directProxyThreshold": 100,
                    "pathFilter": {"patterns": ["^/api/auth", "health$"]},
                },
                {"prefix": "/white", "url": backend.url, "pathFilter": {"mode": "whitelist", "patterns": ["/slow/"]}},
                {"prefix": "/never", "url": backend.url, "directProxyThreshold": 0, "maxBodySize": 20_000_000},
                {
                    "prefix": "/away",
                    "url": f"{backend.url}/base",
                    "directProxyMode": "redirect",
                    "pathFilter": {"patterns": ["^/away/now"]},
                },
                {"prefix": "/nobody", "url": "http://127.0.0.1:9", "pathFilter": {"patterns": ["."]}},
            ]
        }
    )


def test_a_path_that_the_filter_names_is_passed_through(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(answering(418, [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")], b"direct"))
    answer = proxq.send("POST", f"/api/auth{path}%2Fx?q=1+2", [("X-A", "1"), ("X-A", "2")], b"body")
    assert (answer.status, answer.body, answer.is_ours) == (418, b"direct", False)
    assert answer.headers == (("set-cookie", "a=1"), ("set-cookie", "b=2"), ("content-length", "6"))
    (call,) = backend.calls(path)
    assert (call.target, call.body) == (f"/base/auth{path}%2Fx?q=1+2", b"body")
    assert [value for name, value in call.headers if name.lower() == "x-a"] == ["1", "2"]
    assert call.header("host") == f"127.0.0.1:{backend.endpoint.port}"
    assert call.header("x-forwarded-host") == f"127.0.0.1:{proxq.port}"
    assert call.header("x-forwarded-for") == "127.0.0.1"


def test_paths_outside_the_filter_are_queued(proxq: Proxq, backend: Backend) -> None:
    proxq.submit("GET", f"/api{backend.path()}/healthy")
    assert not proxq.send("GET", f"/api{backend.path()}/health").is_ours


def test_a_whitelist_queues_only_the_paths_that_it_names(proxq: Proxq, backend: Backend) -> None:
    proxq.submit("GET", f"/white/slow{backend.path()}")
    answer = proxq.send("GET", f"/white{backend.path(respond(body=b'fast'))}")
    assert (answer.body, answer.is_ours) == (b"fast", False)


def test_a_whitelist_without_patterns_queues_everything(shared_proxq: StartProxq, backend: Backend) -> None:
    upstream = {"prefix": "/", "url": backend.url}
    for path_filter in ({"mode": "whitelist"}, {"mode": "whitelist", "patterns": []}):
        proxq = shared_proxq({"upstreams": [upstream | {"pathFilter": path_filter}]})
        assert proxq.replayed("POST", backend.path(), body=b"x").body == b"x"


def test_a_body_over_the_threshold_is_passed_through_and_an_equal_one_is_queued(proxq: Proxq, backend: Backend) -> None:
    path = backend.path()
    proxq.submit("PUT", f"/api{path}", body=b"x" * 100)
    answer = proxq.send("PUT", f"/api{path}", body=b"x" * 101)
    assert (answer.status, answer.body, answer.is_ours) == (200, b"x" * 101, False)


def test_a_threshold_of_zero_queues_every_body(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(respond())
    body = b"x" * 11_000_000
    proxq.is_in(proxq.submit("PUT", f"/never{path}", body=body), "completed")
    assert backend.calls(path)[0].body == body


def test_a_chunked_body_is_passed_through(proxq: Proxq, backend: Backend) -> None:
    path = backend.path()
    head = f"POST /api{path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    answer = exchange(proxq.port, head.encode() + b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    assert (answer.status, answer.body, answer.is_ours) == (200, b"onetwo", False)


def test_an_upstream_that_is_not_there_is_a_bad_gateway(proxq: Proxq) -> None:
    answer = proxq.send("GET", "/nobody/x")
    assert (answer.status, answer.json, answer.is_ours) == (
        502,
        {"code": "BAD_GATEWAY", "message": "Bad Gateway"},
        True,
    )


def test_an_upstream_that_hangs_up_is_a_bad_gateway(proxq: Proxq, backend: Backend) -> None:
    answer = proxq.send("GET", f"/api/auth{backend.path(Answer((), 'close'))}")
    assert (answer.status, answer.is_ours) == (502, True)


def test_the_client_is_sent_to_the_upstream_and_nothing_passes_through(proxq: Proxq, backend: Backend) -> None:
    path = backend.path()
    answer = proxq.send("PUT", f"/away/now{path}%2Fx?q=1", body=b"x")
    assert (answer.status, answer.is_ours, answer.body) == (307, True, b"")
    assert answer.value("location") == f"{backend.url}/base/now{path}%2Fx?q=1"
    proxq.submit("GET", f"/away{path}/later")
    assert [call for call in backend.calls(path) if "now" in call.target] == []


def test_events_of_the_upstream_come_as_they_come(proxq: Proxq, backend: Backend) -> None:
    gate = backend.endpoint.gate()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"

    async def stream(_: object) -> Answer:
        return Answer((head, b"data: 1\n\n"), "hang")

    path = backend.path(stream)
    with socket.create_connection(("127.0.0.1", proxq.port), timeout=30) as connection:
        connection.sendall(f"GET /api/auth{path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        received = b""
        while b"data: 1\n\n" not in received:
            part = connection.recv(4096)
            assert part
            received += part
    (call,) = backend.calls(path)
    eventually(lambda: backend.endpoint.gone(call), timeout_s=30, what="the upstream's connection to be closed")
    gate.open()


def test_a_websocket_is_tunnelled(shared_proxq: StartProxq) -> None:
    async def journey() -> None:
        seen = []

        async def echo(connection: websockets.ServerConnection) -> None:
            assert connection.request is not None
            seen.append((connection.request.path, connection.request.headers.get("x-a"), connection.subprotocol))
            async for message in connection:
                await connection.send(message)
            await connection.close(4001, "bye")

        async with websockets.serve(echo, "127.0.0.1", 0, subprotocols=[websockets.Subprotocol("chat")]) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            loop = asyncio.get_running_loop()
            document = {
                "upstreams": [{"prefix": "/ws", "url": f"http://127.0.0.1:{port}/base", "directProxyMode": "redirect"}]
            }
            proxq = await loop.run_in_executor(None, shared_proxq, document)
            async with websockets.connect(
                f"ws://127.0.0.1:{proxq.port}/ws/room%2F1?x=1",
                subprotocols=[websockets.Subprotocol("chat")],
                additional_headers={"X-A": "1"},
            ) as client:
                await client.send("héllo")
                assert await client.recv() == "héllo"
                await client.send(b"\x00" * 100_000)
                assert await client.recv() == b"\x00" * 100_000
            assert seen == [("/base/room%2F1?x=1", "1", "chat")]

    asyncio.run(asyncio.wait_for(journey(), 60))
