"""Clients that stop reading: they harm no other client, cost little memory, and are told when they miss events.

These clients are raw TCP, because a client library reads along even if its user does not.
"""

import base64
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
import redis

from tests.support.gateway import TOKEN, job
from tests.support.sockets import socket_to
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

MB = 1024 * 1024


class RawClient:
    """One TCP connection, which reads when it is told to and not before."""

    def __init__(self, port: int, path: str, *, upgrade: bool = False) -> None:
        self.connection = socket.socket()
        # Small, so that it is the server that has to wait.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.connection.settimeout(10)
        self.connection.connect(("127.0.0.1", port))
        lines = [f"GET {path} HTTP/1.1", "host: 127.0.0.1", f"authorization: Bearer {TOKEN}"]
        if upgrade:
            key = base64.b64encode(os.urandom(16)).decode()
            lines += ["connection: Upgrade", "upgrade: websocket", "sec-websocket-version: 13"]
            lines += [f"sec-websocket-key: {key}"]
        self.connection.sendall("\r\n".join([*lines, "", ""]).encode())
        self._received = bytearray()
        self._at = 0
        head = bytearray()
        while not head.endswith(b"\r\n\r\n"):
            head += self.read(1)
        self.status = int(head.split(b" ", 2)[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def hurry(self) -> None:
        """Read fast from now on."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MB)

    def read(self, size: int) -> bytes:
        """So many bytes."""
        while len(self._received) - self._at < size:
            self._fill()
        self._at += size
        return bytes(self._received[self._at - size : self._at])

    def line(self) -> bytes:
        """Up to a line end."""
        while (end := self._received.find(b"\n", self._at)) < 0:
            self._fill()
        return self.read(end + 1 - self._at)

    def _fill(self) -> None:
        del self._received[: self._at]
        self._at = 0
        came = self.connection.recv(MB)
        if not came:
            raise EOFError
        self._received += came

    def send(self, message: Any) -> None:
        """Send a JSON message as one WebSocket frame, masked with zeros."""
        data = json.dumps(message).encode()
        assert len(data) < 126
        self.connection.sendall(bytes([0x81, 0x80 | len(data), 0, 0, 0, 0]) + data)

    def frame(self) -> Any:
        """The next message of a WebSocket; pings are not answered."""
        while True:
            opcode = self.read(1)[0] & 15
            size = self.read(1)[0]
            if size >= 126:
                size = int.from_bytes(self.read(2 if size == 126 else 8))
            data = self.read(size)
            if opcode == 8:
                raise EOFError
            if opcode == 1:
                return json.loads(data)


class SocketListener(RawClient):
    """A listener on the events socket."""

    def __init__(self, port: int, queue: str) -> None:
        super().__init__(port, f"/ws/queues/{queue}/events?events=progress", upgrade=True)
        assert self.status == 101

    def event(self) -> tuple[str, Any, str]:
        """The next event: its name, what it says, its id."""
        data = self.frame()["data"]
        return data["event"], *data["args"]


class StreamListener(RawClient):
    """A listener to Server-Sent Events."""

    def __init__(self, port: int, queue: str) -> None:
        super().__init__(port, f"/queues/{queue}/events")
        assert self.status == 200

    def event(self) -> tuple[str, Any, str]:
        """The next event: its name, what it says, its id."""
        found: dict[bytes, bytes] = {}
        while True:
            # Chunk sizes and the line ends behind chunks are no fields, and a part has no CR in it.
            name, colon, value = self.line().rstrip(b"\n").partition(b": ")
            if colon:
                found[name] = value
            if name == b"data":
                return found[b"event"].decode(), json.loads(value), found[b"id"].decode()


LISTENERS = [pytest.param(SocketListener, id="socket"), pytest.param(StreamListener, id="stream")]


class Reading:
    """A thread that reads a listener along, and what it saw."""

    def __init__(self, listener: SocketListener | StreamListener, last: int) -> None:
        self.seen: list[Any] = []
        self._listener = listener
        self._last = last
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._listener.hurry()
        while not self.seen or self.seen[-1] != self._last:
            name, fields, _ = self._listener.event()
            self.seen.append(number(fields) if name == "progress" else name)


def number(fields: Any) -> int:
    """Which of the events this is."""
    found: int = fields["data"]["n"]
    return found


def resident_mb(pid: int) -> float:
    """The memory that a process has now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


class Peak:
    """The most memory that a process had while it was watched."""

    def __init__(self, pid: int) -> None:
        self.before_mb = resident_mb(pid)
        self.most_mb = self.before_mb
        self._pid = pid

    def look(self) -> float:
        """How much has been added, at most."""
        self.most_mb = max(self.most_mb, resident_mb(self._pid))
        return self.most_mb - self.before_mb


@pytest.fixture
def own(
    start_valkey: Callable[..., ValkeyProcess], start_toril: Callable[..., TorilProcess]
) -> tuple[TorilProcess, redis.Redis]:
    """A toril of the test's own, whose memory no other test uses, and a client of its Valkey."""
    store = start_valkey()
    return start_toril(store), store.client()


def publish(store: redis.Redis, queue: str, first: int, count: int, size: int) -> None:
    """Write progress events as BullMQ's script does."""
    with store.pipeline(transaction=False) as pipeline:
        for index in range(first, first + count):
            text = json.dumps({"n": index, "text": "x" * size})
            fields: Any = {"event": "progress", "jobId": "1", "data": text}
            pipeline.xadd(f"bull:{queue}:events", fields, maxlen=10_000, approximate=True)
        pipeline.execute()


def all_or_told(listener: SocketListener | StreamListener, last: int) -> tuple[list[int], int]:
    """Read to the last event: what came, and how many gaps. Events come in order, and none is missing unannounced."""
    listener.hurry()
    seen: list[int] = []
    gaps = 0
    here, told = "", True  # it may have begun anywhere
    while not seen or seen[-1] != last:
        name, fields, stream_id = listener.event()
        if name == "gap":
            if here:
                assert fields == {"since": here}
            gaps, told = gaps + 1, True
            continue
        n = number(fields)
        assert not seen or n == seen[-1] + 1 or (told and n > seen[-1]), f"{n} behind {seen[-1]}, and no gap"
        seen.append(n)
        here, told = stream_id, False
    return seen, gaps


class TestListeners:
    """Listeners that stop reading while events flow."""

    @pytest.mark.parametrize(("count", "size"), [(40_000, 4_000), (4_000, 40_000)], ids=["4KB", "40KB"])
    def test_listeners_that_read_get_everything_and_memory_stays_bounded(
        self, own: tuple[TorilProcess, redis.Redis], count: int, size: int
    ) -> None:
        toril, store = own
        with (
            SocketListener(toril.port, "orders") as slow_socket,
            StreamListener(toril.port, "orders") as slow_stream,
            SocketListener(toril.port, "orders") as fast_socket,
            StreamListener(toril.port, "orders") as fast_stream,
        ):
            peak = Peak(toril.pid)
            readers = [Reading(fast_socket, count - 1), Reading(fast_stream, count - 1)]
            step = 4_000_000 // size
            for first in range(0, count, step):
                publish(store, "orders", first, step, size)
                # Never more than the stream keeps: a client that reads must get all of it.
                eventually(lambda: all(len(reader.seen) > first - 4 * step for reader in readers))  # noqa: B023
                peak.look()
            for reader in readers:
                eventually(lambda: reader.seen and reader.seen[-1] == count - 1)  # noqa: B023
                assert reader.seen == list(range(count))
            assert count * size >= 160_000_000
            grown_mb = peak.look()
            for listener in (slow_socket, slow_stream):
                seen, gaps = all_or_told(listener, count - 1)
                assert seen[0] == 0
                assert gaps == (1 if count > 20_000 else 0)
            assert toril.status("/ready") == 200
            assert grown_mb < 40

    @pytest.mark.parametrize("kind", LISTENERS)
    def test_a_listener_that_resumes_reading_in_time_gets_every_event(
        self, own: tuple[TorilProcess, redis.Redis], kind: Callable[..., SocketListener | StreamListener]
    ) -> None:
        toril, store = own
        with kind(toril.port, "orders") as listener:
            for first in range(0, 9_000, 1_000):
                publish(store, "orders", first, 1_000, 4_000)
            assert all_or_told(listener, 8_999) == (list(range(9_000)), 0)
            publish(store, "orders", 9_000, 1, 10)
            assert number(listener.event()[1]) == 9_000

    @pytest.mark.parametrize("kind", LISTENERS)
    def test_a_burst_larger_than_the_stream_is_announced_as_a_gap(
        self, own: tuple[TorilProcess, redis.Redis], kind: Callable[..., SocketListener | StreamListener]
    ) -> None:
        """12,000 jobs added at once are 24,000 events in one transaction, and the stream keeps some 10,000."""
        toril, store = own
        with kind(toril.port, "orders") as listener:
            if isinstance(listener, SocketListener):
                listener.send({"id": 1, "data": {"fn": "on", "args": ["added", "waiting"]}})
                assert listener.frame()["data"]["ok"]
            toril.gateway.add("orders", *[job(index) for index in range(12_000)])
            newest: Any = store.xrevrange("bull:orders:events", count=1)
            seen: list[tuple[str, Any, str]] = []
            while not seen or seen[-1][2] != newest[0][0]:
                seen.append(listener.event())
        names = [name for name, _, _ in seen]
        assert "gap" in names or len(names) == 24_000, f"{len(names)} of 24000 events came, and no gap"

    @pytest.mark.parametrize("kind", LISTENERS)
    def test_a_listener_that_stops_reading_does_not_hold_up_a_shutdown(
        self, own: tuple[TorilProcess, redis.Redis], kind: Callable[..., SocketListener | StreamListener]
    ) -> None:
        toril, store = own
        with kind(toril.port, "orders"), SocketListener(toril.port, "orders") as fast:
            reader = Reading(fast, 3_999)
            for first in range(0, 4_000, 1_000):
                publish(store, "orders", first, 1_000, 4_000)
            eventually(lambda: len(reader.seen) == 4_000)
            ended = toril.terminate()
        assert ended.code == 0
        assert ended.took_s < 15


class TestCommands:
    """A command socket that asks and does not read."""

    def test_unread_answers_are_bounded(self, own: tuple[TorilProcess, redis.Redis]) -> None:
        toril, _ = own
        toril.gateway.add("orders", *[job("x" * 50_000) for _ in range(20)])
        asked = {"fn": "getJobs", "args": ["waiting", 0, 19, True]}
        with RawClient(toril.port, "/ws/queues/orders", upgrade=True) as client:
            peak = Peak(toril.pid)
            for index in range(400):  # 400 MB of answers
                client.send({"id": index, "data": asked})
            with socket_to(toril.url, "/ws/queues/others") as other:
                # 400 commands one after the other take longer than the server needs for those it works on at once.
                for _ in range(400):
                    began = time.monotonic()
                    answer = other.command("add", "n", 1, None)
                    assert "ok" in answer, answer
                    assert time.monotonic() - began < 8
                    peak.look()
            assert toril.status("/ready") == 200
            grown_mb = peak.look()
            client.hurry()
            answered = sorted(client.frame()["id"] for _ in range(400))
            assert answered == list(range(400)), "each is answered, once it is read"
            assert grown_mb < 64


PINGS_OFTEN = """
import sys
from toril.server import server
server._PING_S = 1.0
from toril.cli.main import main
sys.exit(main())
"""


class PingsOften(TorilProcess):
    """A toril that drops a socket which answers no ping after 2 s instead of 40."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, preloaded=False, **options)
        module = self._command.index("toril")
        self._command[module - 1 : module + 1] = ["-c", PINGS_OFTEN]


@contextmanager
def pings_often(store: ValkeyProcess, folder: Path) -> Iterator[TorilProcess]:
    """One for the length of a block."""
    toril = PingsOften(store.url, folder / "pings-often.log")
    with toril:
        yield toril
    assert toril.complaints() == []


class TestWorkers:
    """A work socket that does not read."""

    @pytest.mark.parametrize("size", [10, 2_000_000], ids=["small", "2MB"])
    def test_a_silent_socket_worker_holds_at_most_its_concurrency_until_pings_time_out(
        self, start_valkey: Callable[..., ValkeyProcess], tmp_path: Path, size: int
    ) -> None:
        with (
            pings_often(start_valkey(), tmp_path) as toril,
            RawClient(toril.port, "/ws/queues/orders/process/5", upgrade=True),
        ):
            for index in range(10):
                toril.gateway.add_one("orders", {"n": index, "text": "x" * size})
            eventually(lambda: toril.gateway.counts("orders")["active"] >= 5)
            with socket_to(toril.url, "/ws/queues/orders/process/1") as other:
                # It works off those behind, one by one: if the slow one took more, some would never come.
                came = []
                for _ in range(10):
                    message = other.receive()
                    came.append(message["data"]["payload"]["n"])
                    other.finish(message)
                toril.gateway.wait_for_counts("orders", completed=10, active=0, failed=0)
            assert sorted(came) == list(range(10))
