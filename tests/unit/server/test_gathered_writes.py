import asyncio

from toril.server.gathered_writes import GatheringTransport


class Transport:
    """Remembers what was done to it, in order."""

    def __init__(self) -> None:
        self.done: list[bytes | str] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        self.done.append(data)

    def close(self) -> None:
        self.done.append("close")
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str) -> str:
        return f"info {name}"


def gathering() -> tuple[Transport, GatheringTransport]:
    transport = Transport()
    return transport, GatheringTransport(transport, asyncio.get_running_loop())  # type: ignore[arg-type]


async def test_the_writes_of_one_turn_leave_in_one() -> None:
    transport, gathered = gathering()
    gathered.write(b"head")
    gathered.write(b"body")
    assert transport.done == []
    await asyncio.sleep(0)
    assert transport.done == [b"headbody"]


async def test_the_next_turn_writes_again() -> None:
    transport, gathered = gathering()
    for piece in (b"one", b"two"):
        gathered.write(piece)
        await asyncio.sleep(0)
    assert transport.done == [b"one", b"two"]


async def test_written_bytes_are_sent_before_the_connection_is_closed() -> None:
    transport, gathered = gathering()
    gathered.write(b"last words")
    gathered.close()
    await asyncio.sleep(0)
    assert transport.done == [b"last words", "close"]


async def test_nothing_is_written_to_a_caller_who_has_hung_up() -> None:
    transport, gathered = gathering()
    gathered.write(b"too late")
    transport.closing = True
    await asyncio.sleep(0)
    assert transport.done == []


async def test_other_attributes_are_those_of_the_transport() -> None:
    _, gathered = gathering()
    assert gathered.get_extra_info("peername") == "info peername"
