"""What bypasses the queue of a real toril: large bodies, streams, WebSockets, redirects, and how it all ends."""

import asyncio
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from tests.support.endpoint import Endpoint, hang, respond
from tests.support.proxied import READY, Proxied, cpu_s, memory_kb, running, threads
from tests.support.toril import StartToril, TorilProcess
from tests.support.upstream import RawUpstream, gone, read_head
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

GB = 2**30
PIECE = bytes(2**20)
TIMERS = {"lock": "5s", "stalled_interval": "2s", "poll_interval": "2s"}
HELD_S = 12.0
"""Longer than any of them, more than twice over. Half a minute is measured by `benchmarks.proxy`."""


class Large:
    """An upstream of large bodies. It counts what has passed, and takes nothing until `go` is set."""

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0
        self.go = threading.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        if head.method == "GET":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % GB)
            while self.sent < GB:
                writer.write(PIECE)
                await writer.drain()
                self.sent += len(PIECE)
            await gone(reader)
            return
        while not self.go.is_set():
            await asyncio.sleep(0.02)
        size = int(head.value("content-length") or 0)
        while self.received < size:
            self.received += len(await reader.read(2**20))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await writer.drain()


class EchoServer:
    """A WebSocket server that sends back what it gets, and first the target that it was asked for."""

    def __enter__(self) -> "EchoServer":
        self._server = serve(self._echo, "127.0.0.1", 0, max_size=None, compression=None)
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(10)

    def _echo(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        socket.send(socket.request.path)
        for message in socket:
            if message == "bye":
                socket.close(4321, "because")
            socket.send(message)


@pytest.fixture(scope="module")
def large() -> Large:
    """The upstream of large bodies."""
    return Large()


@pytest.fixture(scope="module")
def parts(large: Large) -> Iterator[dict[str, Any]]:
    """The upstreams that the tests share, by prefix."""
    with ExitStack() as stack:
        yield {
            "/large": stack.enter_context(RawUpstream(large)),
            "/slow": stack.enter_context(Endpoint(lambda _: hang())),
            "/plain": stack.enter_context(Endpoint(lambda call: respond(headers=[("x-target", call.target)]))),
            "/ws": stack.enter_context(EchoServer()),
        }


@pytest.fixture(scope="module")
def proxied(
    parts: dict[str, Any], valkey: ValkeyProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TorilProcess]:
    """A toril in front of them."""
    folder = tmp_path_factory.mktemp("proxied")
    urls = {prefix: f"http://127.0.0.1:{part.port}" for prefix, part in parts.items()}
    upstreams = [
        {"prefix": "/large", "url": urls["/large"], "pathFilter": {"patterns": ["."]}},
        {"prefix": "/slow", "url": urls["/slow"], "pathFilter": {"patterns": ["/direct"]}},
        {
            "prefix": "/plain",
            "url": urls["/plain"] + "/base",
            "directProxyThreshold": 1000,
            "pathFilter": {"patterns": ["/direct"]},
        },
        {
            "prefix": "/away",
            "url": urls["/plain"] + "/base/",
            "directProxyMode": "redirect",
            "pathFilter": {"patterns": ["."]},
        },
        {"prefix": "/ws", "url": urls["/ws"], "directProxyMode": "redirect"},
    ]
    config = Proxied(folder, upstreams, concurrency=100, queue=f"q-{folder.name}", engine=TIMERS)
    with running(valkey.url, folder, config) as toril:
        yield toril


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_gigabyte_each_way_takes_no_memory_however_slow_either_side(
    proxied: TorilProcess, large: Large, parts: dict[str, Any]
) -> None:
    before = memory_kb(proxied)
    with socket.create_connection(("127.0.0.1", proxied.port), timeout=60) as client:
        client.sendall(b"GET /large/x HTTP/1.1\r\nhost: x\r\n\r\n")
        _stands_still(lambda: large.sent)  # the client does not read
        assert large.sent < 64 * 2**20
        got, buffer = 0, bytearray(2**20)
        while got < GB:
            count = client.recv_into(buffer)
            assert count, "the connection was closed"
            got += count
    sent = 0

    def send(client: socket.socket) -> None:
        nonlocal sent
        client.sendall(b"POST /large/x HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % GB)
        while sent < GB:
            client.sendall(PIECE)
            sent += len(PIECE)

    with socket.create_connection(("127.0.0.1", proxied.port), timeout=60) as client, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send, client)
        _stands_still(lambda: sent)  # the upstream takes nothing
        assert sent < 64 * 2**20
        large.go.set()
        sending.result(120)
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 OK")
    assert large.received == GB
    assert memory_kb(proxied) - before < 64 * 1024


def _stands_still(count: Callable[[], int]) -> None:
    """Wait until something has moved, and then not for a while."""
    eventually(count, what="the first piece")
    seen = -1
    while seen != count():
        seen = count()
        time.sleep(0.5)


def test_a_hundred_slow_calls_take_no_thread_and_no_cpu(proxied: TorilProcess, parts: dict[str, Any]) -> None:
    """Past the queue and through it alike."""
    slow: Endpoint = parts["/slow"]
    httpx.post(f"{proxied.url}/slow/warm", trust_env=False)
    slow.wait_for_calls(1)
    before = threads(proxied)
    with ExitStack() as stack:
        for _ in range(100):
            connection = http.client.HTTPConnection("127.0.0.1", proxied.port)
            stack.callback(connection.close)
            connection.request("GET", "/slow/direct")
        with httpx.Client(base_url=proxied.url, trust_env=False) as client:
            jobs = [client.post("/slow/x", content=b"x").json()["jobId"] for _ in range(99)]
            slow.wait_for_calls(200, timeout_s=30)
            used_s = cpu_s(proxied)
            time.sleep(HELD_S)
            used_s = cpu_s(proxied) - used_s
            assert (slow.open_calls, len(slow.calls)) == (200, 200)
            assert threads(proxied) == before
            assert used_s < HELD_S * 0.1
            for job_id in jobs:
                client.delete(f"/__jobs/{job_id}")
    eventually(lambda: slow.open_calls <= 1, what="all but the first call to be given up", timeout_s=30)


@pytest.mark.parametrize(("request_", "status"), [
    ({"url": "/plain/x?a=%2F", "content": b"x" * 1000}, 202),
    ({"url": "/plain/x?a=%2F", "content": b"x" * 1001}, 200),
    ({"url": "/plain/x?a=%2F", "content": iter([b"x"])}, 200),
    ({"url": "/plain/direct?a=%2F", "content": b"x"}, 200),
])  # fmt: skip
def test_large_unsized_and_filtered_requests_bypass_the_queue(
    proxied: TorilProcess, request_: dict[str, Any], status: int
) -> None:
    answer = httpx.post(**{**request_, "url": proxied.url + request_["url"]}, trust_env=False, timeout=20)
    assert answer.status_code == status
    assert ("x-proxq-source" in answer.headers) is (status == 202)
    if status == 200:
        assert answer.headers["x-target"] == "/base" + request_["url"].removeprefix("/plain")


def test_in_redirect_mode_the_client_is_redirected_to_the_upstream(
    proxied: TorilProcess, parts: dict[str, Any]
) -> None:
    plain: Endpoint = parts["/plain"]
    seen = len(plain.calls)
    connection = http.client.HTTPConnection("127.0.0.1", proxied.port, timeout=20)
    connection.request("PUT", "/away/a%2Fb/../c?d=%20", b"x")
    answer = connection.getresponse()
    connection.close()
    assert answer.status == 307
    assert answer.headers["location"] == f"http://127.0.0.1:{plain.port}/base/a%2Fb/../c?d=%20"
    assert answer.headers["x-proxq-source"] == "proxq"
    assert len(plain.calls) == seen


def test_a_websocket_is_tunnelled_also_in_redirect_mode(proxied: TorilProcess) -> None:
    uri = f"ws://127.0.0.1:{proxied.port}/ws/a%2Fb?c"
    with connect(uri, proxy=None, max_size=None, compression=None, open_timeout=20) as client:
        assert client.recv(20) == "/a%2Fb?c"
        message = b"\xab" * (12 * 2**20)  # more than the queues door takes
        client.send(message)
        assert client.recv(60) == message
        client.send("bye")
        with pytest.raises(Exception, match="4321"):
            client.recv(20)


def test_passed_through_requests_end_in_good_order_at_a_shutdown(
    start_toril: StartToril, start_endpoint: Callable[..., Endpoint], valkey: ValkeyProcess, tmp_path: Path
) -> None:
    """It has the grace period, new requests are refused meanwhile, and the process ends with 0."""
    finish = threading.Event()

    async def serve_events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")
        await writer.drain()
        while not finish.is_set():
            await asyncio.sleep(0.02)
        writer.write(b"data: 2\n\n")

    with RawUpstream(serve_events) as upstream:
        config = Proxied(tmp_path, [{"prefix": "/", "url": upstream.url, "pathFilter": {"patterns": ["^/events"]}}])
        toril = start_toril(valkey, READY, **config.arguments)
        with httpx.stream("GET", toril.url + "/events", trust_env=False, timeout=30) as events:
            lines = events.iter_lines()
            assert next(lines) == "data: 1"
            toril.send(15)
            eventually(lambda: toril.status("/other") in {0, 503}, what="new requests to be refused")
            finish.set()
            assert [line for line in lines if line] == ["data: 2"]
        assert toril.wait().code == 0


def test_a_passed_through_request_that_outlasts_the_grace_period_is_cut_off(
    start_toril: StartToril, valkey: ValkeyProcess, tmp_path: Path
) -> None:
    async def serve_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")
        await gone(reader)

    with RawUpstream(serve_for_ever) as upstream:
        config = Proxied(tmp_path, [{"prefix": "/", "url": upstream.url, "pathFilter": {"patterns": ["^/events"]}}])
        toril = start_toril(valkey, READY, env={"TORIL_GRACE": "1s"}, **config.arguments)
        with httpx.stream("GET", toril.url + "/events", trust_env=False, timeout=30) as events:
            lines = events.iter_lines()
            assert next(lines) == "data: 1"
            toril.send(15)
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)
        assert toril.wait().code == 0
