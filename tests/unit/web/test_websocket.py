import asyncio
from typing import Any

import pytest

from toril.web.websocket import GOING_AWAY, WebSocket

DISCONNECT = {"type": "websocket.disconnect", "code": 1006}


class Wire:
    """The server's side of a socket: `incoming` is received in order, `sent` holds what was sent."""

    def __init__(self, *incoming: dict[str, Any], fault: Exception | None = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self.room = asyncio.Event()
        self.room.set()
        self._incoming = list(incoming)
        self._fault = fault

    async def receive(self) -> Any:
        assert self._incoming, "asked for more than came, which would wait for ever"
        return self._incoming.pop(0)

    async def send(self, message: Any) -> None:
        await self.room.wait()
        self.sent.append(message)
        if self._fault is not None:
            raise self._fault

    def socket(self) -> WebSocket:
        return WebSocket({"type": "websocket", "subprotocols": [], "headers": []}, self.receive, self.send)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"text": "grüß"}, "grüß".encode()),
        ({"bytes": b"\xff\x00"}, b"\xff\x00"),
        ({"text": None, "bytes": b"a"}, b"a"),
        ({"text": "a", "bytes": None}, b"a"),
        ({"text": ""}, b""),
        ({"bytes": b""}, b""),
        ({"text": None, "bytes": None}, b""),
        ({"text": "\ud800"}, b"\xed\xa0\x80"),
    ],
)
async def test_text_and_binary_messages_are_received_alike(message: dict[str, Any], text: bytes) -> None:
    assert await Wire({"type": "websocket.receive", **message}).socket().receive_message() == text


async def test_messages_come_in_order_and_behind_the_last_one_there_is_none() -> None:
    socket = Wire(
        {"type": "websocket.receive", "text": "1"}, {"type": "websocket.receive", "bytes": b"2"}, DISCONNECT
    ).socket()
    assert [await socket.receive_message(), await socket.receive_message()] == [b"1", b"2"]
    assert not socket.gone
    assert await socket.receive_message() is None
    assert socket.gone


async def test_a_json_text_is_sent_as_text() -> None:
    wire = Wire()
    await wire.socket().send_message('{"a":"grüß"}'.encode())
    assert wire.sent == [{"type": "websocket.send", "text": '{"a":"grüß"}'}]


async def test_bytes_that_are_not_utf8_are_still_sent_as_text() -> None:
    wire = Wire()
    await wire.socket().send_message(b"a\xffb")
    assert wire.sent == [{"type": "websocket.send", "text": "a\ufffdb"}]


async def test_a_socket_is_closed_with_a_code_and_a_reason() -> None:
    wire = Wire()
    socket = wire.socket()
    await socket.close(GOING_AWAY, "shutting down")
    assert wire.sent == [{"type": "websocket.close", "code": 1012, "reason": "shutting down"}]
    assert socket.gone


async def test_a_socket_is_closed_normally_unless_said_otherwise() -> None:
    wire = Wire()
    await wire.socket().close()
    assert wire.sent == [{"type": "websocket.close", "code": 1000, "reason": ""}]


async def test_a_closed_socket_is_sent_nothing_more() -> None:
    wire = Wire()
    socket = wire.socket()
    await socket.close()
    await socket.send_message(b"1")
    await socket.close(1011)
    assert [message["type"] for message in wire.sent] == ["websocket.close"]


async def test_a_socket_whose_other_side_has_left_is_sent_nothing_more() -> None:
    wire = Wire(DISCONNECT)
    socket = wire.socket()
    await socket.receive_message()
    await socket.send_message(b"1")
    await socket.close()
    assert wire.sent == []


@pytest.mark.parametrize("fault", [OSError(), BrokenPipeError(), RuntimeError("Unexpected ASGI message")])
async def test_sending_to_a_socket_that_is_gone_does_nothing(fault: Exception) -> None:
    wire = Wire(fault=fault)
    socket = wire.socket()
    await socket.send_message(b"1")
    await socket.close()
    assert [message["type"] for message in wire.sent] == ["websocket.send", "websocket.close"]
    assert socket.gone


async def test_a_fault_of_ours_in_sending_is_not_hidden() -> None:
    socket = Wire(fault=ValueError("ours")).socket()
    with pytest.raises(ValueError, match="ours"):
        await socket.send_message(b"1")


async def test_a_reader_that_is_too_slow_makes_sending_wait() -> None:
    wire = Wire()
    wire.room.clear()
    async with asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(wire.socket().send_message(b"1"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not sending.done()
        wire.room.set()
    assert len(wire.sent) == 1


async def test_draining_a_socket_without_a_drain_callback_does_nothing() -> None:
    wire = Wire()
    socket = wire.socket()
    socket.on_drain()
    assert not socket.gone
    assert wire.sent == []
