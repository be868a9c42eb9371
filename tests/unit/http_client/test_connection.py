"""A connection, by what its transport tells it."""

import asyncio

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
