"""The load generator of `benchmarks.growth` charges a server for everything that was due while it stood still."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from benchmarks.growing import add, load
from benchmarks.processes import ProcessError
from benchmarks.target import Target

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="it is compiled with gcc")
REQUEST = add("q", b"[{}]")
STALL_S = 0.5


@contextmanager
def answering(status: bytes, stall_at: int = -1) -> Iterator[Target]:
    """Answer requests on one connection; stand still before this one."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            got, answered = b"", 0
            while piece := connection.recv(65536):
                got += piece
                while len(got) >= len(REQUEST):
                    assert got[: len(REQUEST)] == REQUEST
                    got = got[len(REQUEST) :]
                    if answered == stall_at:
                        time.sleep(STALL_S)
                    answered += 1
                    connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\n{}")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield Target("stub", f"http://127.0.0.1:{listener.getsockname()[1]}", "t")
        thread.join()


def test_requests_that_were_due_while_the_server_stood_still_count_from_when_they_were_due() -> None:
    with answering(b"200 OK", stall_at=50) as target:
        seen = load(target, [REQUEST], 1, 200, 1.0)
    assert (seen.answered, seen.unanswered) == (200, 0)
    # One slow answer of 200 is no percentile; the hundred that were due meanwhile are.
    assert seen.p99_us > 0.8 * STALL_S * 1e6


def test_answers_of_400_and_above_end_a_measurement() -> None:
    with answering(b"503 Service Unavailable") as target, pytest.raises(ProcessError, match="5 of 5 answers"):
        load(target, [REQUEST], 1, 5, 1.0)


def test_without_a_rate_each_request_follows_the_answer_before() -> None:
    with answering(b"200 OK", stall_at=0) as target:
        seen = load(target, [REQUEST], 1, 0, 1.0)
    assert seen.answered > 1
    assert (seen.bad, seen.unanswered) == (0, 0)


@contextmanager
def counting(last: int) -> Iterator[tuple[Target, list[int]]]:
    """Answer requests on any number of connections, and close each after so many; the second is how many each got."""
    counts: list[int] = []

    def serve(connection: socket.socket, number: int) -> None:
        with connection:
            while counts[number] < last and connection.recv(len(REQUEST), socket.MSG_WAITALL):
                counts[number] += 1
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            counts.append(0)
            threading.Thread(target=serve, args=(connection, len(counts) - 1)).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield Target("stub", f"http://127.0.0.1:{listener.getsockname()[1]}", "t"), counts
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_idle_connections_take_their_turns() -> None:
    """Else those that are not needed are idle until the server closes them."""
    with counting(1_000) as (target, counts):
        load(target, [REQUEST], 4, 100, 0.4)
    assert len(counts) == 4
    assert min(counts) >= 5


def test_a_connection_that_the_server_closes_while_it_is_idle_is_opened_again() -> None:
    with counting(1) as (target, counts):
        seen = load(target, [REQUEST], 1, 10, 0.5)
    assert (seen.answered, seen.unanswered) == (5, 0)
    assert counts[:5] == [1] * 5
