"""A connection, by what its transport tells it."""

import asyncio
from collections.abc import Callable
from typing import Any

from toril.core.destination import OutboundRequest
from toril.http_client.answer_reader import AnswerLimits
from toril.http_client.connection import HttpConnection

REQUEST = OutboundRequest(b"POST / HTTP/1.1\r\n", b"{}", 5.0)


class Transport(asyncio.Transport):
    """Takes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        """Closed."""

    def get_write_buffer_size(self) -> int:
        return 0


async def test_a_connection_that_is_lost_before_its_first_request_answers_nothing() -> None:
    connection, transport = HttpConnection(asyncio.get_running_loop()), Transport()
    connection.connection_made(transport)
    connection.connection_lost(None)
    async with asyncio.timeout(2):
        assert await connection.collect(b"POST", REQUEST, AnswerLimits(), 0.0) is None
    assert transport.written == b""


async def test_a_receiver_that_speaks_first_is_not_listened_to() -> None:
    connection = HttpConnection(asyncio.get_running_loop())
    connection.connection_made(Transport())
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    async with asyncio.timeout(2):
        assert await connection.collect(b"POST", REQUEST, AnswerLimits(), 0.0) is None
    assert not connection.is_open


class CountedTimers:
    """The running loop, which counts the timers that are started and those that are still due."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.started: list[asyncio.TimerHandle] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def call_later(self, delay_s: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        timer = self._loop.call_later(delay_s, callback, *args)
        self.started.append(timer)
        return timer

    @property
    def due(self) -> int:
        return sum(not timer.cancelled() for timer in self.started)


async def waited(connection: HttpConnection, patience_s: float, answer: bytes = b"") -> bool:
    """Wait for news with this patience, of an answer if there is one."""
    connection.moved()
    if answer:
        asyncio.get_running_loop().call_soon(connection.data_received, answer)
    async with asyncio.timeout(2):
        return await connection.news(patience_s)


async def test_one_timer_looks_after_wait_after_wait_and_ends_with_the_connection() -> None:
    timers: Any = CountedTimers()
    connection = HttpConnection(timers)
    connection.connection_made(Transport())
    for _ in range(3):
        connection.begin(b"GET", AnswerLimits(streamed=True), head_only=False, written=True)
        assert await waited(connection, 60.0, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        connection.reader.heads.clear()
        assert connection.release()
    assert (len(timers.started), timers.due) == (1, 1)
    connection.abort()
    assert timers.due == 0


async def test_a_shorter_patience_than_that_of_the_wait_before_counts() -> None:
    connection = HttpConnection(asyncio.get_running_loop())
    connection.connection_made(Transport())
    connection.begin(b"GET", AnswerLimits(streamed=True), head_only=False, written=True)
    assert await waited(connection, 60.0, b"HTTP/1.1 200 OK\r\n")
    assert not await waited(connection, 0.02)
    connection.abort()
