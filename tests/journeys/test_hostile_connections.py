"""Callers without a token who send heads without end, send slowly or nothing, and what the others notice."""

import json
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.support import raw
from tests.support.endpoint import Endpoint
from tests.support.gateway import Gateway
from tests.support.proxied import memory_kb
from tests.support.proxq import Backend, StartProxq
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

ENDLESS = b"x-endless: " + b"e" * 200_000


class TestHeads:
    """A head over `max_head_bytes` is refused in the form of the door that it knocks at."""

    @pytest.mark.parametrize("target", ["/queues/orders/jobs", "/workers", "/nowhere", "http://here/workers"])
    def test_an_oversized_head_is_refused_in_plain_text_on_bullmq_proxy_routes(
        self, toril: TorilProcess, target: str
    ) -> None:
        answer = raw.exchange(toril.port, f"GET {target} HTTP/1.1\r\nhost: here\r\n".encode() + ENDLESS)
        assert (answer.status, answer.headers["toril-code"]) == (431, "head_too_large")
        assert answer.headers["content-type"].startswith("text/plain")
        assert answer.text.startswith("The request's head")

    @pytest.mark.parametrize(
        "target", ["/queues/orders", "/queues/orders?token=x", "http://here/queues/orders", "/health"]
    )
    def test_an_oversized_head_is_refused_with_problem_details_on_torils_own_routes(
        self, toril: TorilProcess, target: str
    ) -> None:
        answer = raw.exchange(toril.port, f"GET {target} HTTP/1.1\r\nhost: here\r\n".encode() + ENDLESS)
        assert (answer.status, answer.headers["content-type"]) == (431, "application/problem+json")
        assert json.loads(answer.body)["code"] == answer.headers["toril-code"] == "head_too_large"

    def test_an_oversized_head_to_the_proxy_is_refused_as_proxq_does(
        self, shared_proxq: StartProxq, backend: Backend
    ) -> None:
        proxq = shared_proxq({"upstreams": [{"prefix": "/api", "url": backend.url}]})
        for head in (
            b"GET /api/x HTTP/1.1\r\nhost: here\r\n",
            b"GET /api/" + b"e" * 70_000,
            b"GET /__jobs/x HTTP/1.1\r\n",
        ):
            answer = raw.exchange(proxq.port, head + ENDLESS)
            assert (answer.status, answer.headers["x-proxq-source"]) == (431, "proxq"), head
            assert json.loads(answer.body)["code"] == "REQUEST_HEADER_FIELDS_TOO_LARGE"
        answer = raw.exchange(proxq.port, b"GET /__toril/health HTTP/1.1\r\nhost: here\r\n" + ENDLESS)
        assert (answer.status, answer.headers.get("x-proxq-source")) == (431, None)

    def test_endless_heads_take_no_memory_and_delay_no_other_request(
        self, start_toril: StartToril, valkey: ValkeyProcess
    ) -> None:
        toril = start_toril(valkey)
        before_kb = memory_kb(toril)
        starts = (
            b"GET /health HTTP/1.1\r\nx: ",
            b"GET /health HTTP/1.1\r\n",
            b"POST /health HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
        )
        for start, piece in zip(starts, (b"e" * 65_536, b"a: b\r\n" * 10_000, b"a: b\r\n" * 10_000), strict=True):
            sent = 0
            with (
                suppress(ConnectionError),
                socket.create_connection(("127.0.0.1", toril.port), timeout=10) as connection,
            ):
                connection.sendall(start)
                while sent < 300_000_000:
                    connection.sendall(piece)
                    sent += len(piece)
            assert sent < 300_000_000, "it is hung up on"
            assert toril.status("/health") == 200
        assert memory_kb(toril) - before_kb < 30_000

    def test_a_handshake_that_the_websocket_library_cannot_read_is_refused(self, toril: TorilProcess) -> None:
        """It has narrower limits, and says nothing when they are passed: the connection stayed for ever."""
        handshake = (
            b"GET /ws/queues/orders HTTP/1.1\r\nhost: here\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        )
        for more, status in (
            (b"cookie: " + b"c" * 9000, 431),
            (b"a: b\r\n" * 200 + b"c: d", 431),
            (b"content-length: 3", 400),
        ):
            assert raw.exchange(toril.port, handshake + more + b"\r\n\r\n").status == status


class TestTime:
    """The limits are settings, and hold in every process."""

    def test_each_connection_limit_is_set_by_its_variable(self, start_toril: StartToril, valkey: ValkeyProcess) -> None:
        env = {
            "TORIL_MAX_HEAD_BYTES": "2048",
            "TORIL_HEAD_TIMEOUT": "300ms",
            "TORIL_BODY_TIMEOUT": "400ms",
            "TORIL_IDLE_TIMEOUT": "500ms",
        }
        toril = start_toril(valkey, env=env, args=["--processes", "2"])
        for _ in range(2):
            assert raw.exchange(toril.port, b"GET /workers HTTP/1.1\r\nx: " + b"e" * 3000).status == 431
            assert raw.exchange(toril.port, b"GET /workers HTTP/1.1\r\n").status == 408
            unfinished = b"POST /queues/orders/jobs HTTP/1.1\r\nhost: here\r\ncontent-length: 9\r\n\r\n"
            with_token = unfinished.replace(b"\r\n\r\n", b"\r\nauthorization: %b\r\n\r\n" % _authorization(toril))
            assert raw.exchange(toril.port, with_token).status == 408
            # It is answered at once; then the connection is idle, or what is left of the body never comes.
            assert raw.exchange(toril.port, b"GET /health HTTP/1.1\r\nhost: here\r\n\r\n").status == 200
            assert raw.exchange(toril.port, unfinished).status == 401

    def test_a_kept_alive_connection_outlives_what_proxies_keep(self, toril: TorilProcess) -> None:
        """uvicorn's 5 s gave 502s behind balancers."""
        with socket.create_connection(("127.0.0.1", toril.port), timeout=10) as connection:
            for pause_s in (0, 6):
                time.sleep(pause_s)
                connection.sendall(b"GET /health HTTP/1.1\r\nhost: here\r\n\r\n")
                assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


def _authorization(toril: TorilProcess) -> bytes:
    return toril.client.headers["authorization"].encode()


LIMIT = 160


@pytest.fixture(autouse=True)
def enough_descriptors() -> Iterator[None]:
    """These tests open more connections than the servers that they test may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096) if hard != resource.RLIM_INFINITY else 4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def connections(port: int, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections on which this has been sent, and nothing is read."""
    with ExitStack() as stack:
        opened = []
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            with suppress(ConnectionError):
                connection.sendall(sent)
            opened.append(connection)
        yield opened


def open_files(toril: TorilProcess) -> int:
    """How many descriptors the process has."""
    return len(list(Path(f"/proc/{toril.pid}/fd").iterdir()))


@contextmanager
def one_request_each(toril: TorilProcess) -> Iterator[Gateway]:
    """A caller who makes each request on a new connection, so a reset is a fault of the server's.

    An idle connection may be closed while its next request is under way (RFC 9112 9.3.1); that a request which has
    come is served is shown in tests/conformance/web.
    """
    with closing(Gateway(toril.url)) as gateway:
        gateway.http.headers["connection"] = "close"
        yield gateway


class TestDescriptors:
    """Connections that can be spared go before the process runs out of file descriptors."""

    @pytest.mark.parametrize(
        "sent",
        [
            b"",
            b"GET /health HTTP/1.1\r\nx: y",
            b"GET /health HTTP/1.1\r\nhost: here\r\n\r\n",
            b"POST /queues/orders/jobs HTTP/1.1\r\nhost: here\r\ncontent-length: 9\r\n\r\n",
        ],
        ids=["silent", "half a head", "idle", "half a body"],
    )
    def test_with_more_connections_than_descriptors_other_callers_are_served(
        self, start_toril: StartToril, valkey: ValkeyProcess, endpoint: Endpoint, queue: str, sent: bytes
    ) -> None:
        toril = start_toril(valkey, descriptors=LIMIT)
        with connections(toril.port, 2 * LIMIT, sent), one_request_each(toril) as others:
            assert toril.status("/health") == 200
            others.register(queue, endpoint.url, concurrency=20)
            # One attempt each: a descriptor that is not there would be the end of the job.
            ids = [job["id"] for job in others.add(queue, *[{"name": "n", "data": 1}] * 100)]
            for job_id in ids:
                assert "failedReason" not in others.finished(queue, job_id)
            assert open_files(toril) < LIMIT
            others.unregister(queue)
        assert "connections.shed" in eventually(lambda: toril.log() if "connections.shed" in toril.log() else "")

    def test_the_longest_idle_connection_is_closed_and_busy_ones_stay(
        self, start_toril: StartToril, valkey: ValkeyProcess
    ) -> None:
        toril = start_toril(valkey, descriptors=LIMIT)
        waiting = b"GET /queues/orders/events HTTP/1.1\r\nhost: here\r\nauthorization: %b\r\n\r\n" % _authorization(
            toril
        )
        with connections(toril.port, 20, waiting) as busy, connections(toril.port, 30) as oldest:
            for connection in busy:
                assert connection.recv(15) == b"HTTP/1.1 200 OK"
            time.sleep(3.5)  # they have been silent for longer than a newcomer can be said to be
            with connections(toril.port, 80):
                eventually(lambda: all(_is_closed(each) for each in oldest[:10]), what="the oldest to be closed")
                assert toril.status("/health") == 200
            assert not any(_is_closed(connection) for connection in busy)

    def test_if_all_connections_are_busy_a_new_one_is_refused(
        self, start_toril: StartToril, valkey: ValkeyProcess
    ) -> None:
        toril = start_toril(valkey, descriptors=LIMIT)
        waiting = b"GET /queues/orders/events HTTP/1.1\r\nhost: here\r\nauthorization: %b\r\n\r\n" % _authorization(
            toril
        )
        with connections(toril.port, LIMIT, waiting):
            answer = eventually(lambda: _refused(toril), what="a newcomer to be refused")
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert answer.headers["toril-code"] == "too_many_connections"
        eventually(lambda: toril.status("/health") == 200, what="/health once they are gone")

    def test_the_log_says_how_many_connections_there_may_be(
        self, start_toril: StartToril, valkey: ValkeyProcess
    ) -> None:
        toril = start_toril(valkey, descriptors=LIMIT)
        (line,) = [json.loads(line) for line in toril.log().splitlines() if '"event": "connections"' in line]
        assert (line["descriptors"], line["reserved"]) == (LIMIT, LIMIT // 4)
        assert 50 < line["most"] < LIMIT - LIMIT // 4


def _refused(toril: TorilProcess) -> raw.RawAnswer | None:
    answer = raw.exchange(
        toril.port, b"GET /health HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n", may_hang_up=True
    )
    return answer if answer.status == 503 else None


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
