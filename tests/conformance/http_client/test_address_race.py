"""Connecting to a host with several addresses, of which some do not answer."""

import asyncio
import errno
import socket
from collections.abc import Iterator

import pytest

from tests.conformance.http_client.raw_http import ok, serving
from tests.conformance.servers import deaf_port
from tests.support.ports import free_port
from toril.core.destination import OutboundRequest
from toril.core.outcome import Answered, ConnectFailed, Outcome, TimedOut
from toril.http_client import address_race
from toril.http_client.address_race import interleaved
from toril.http_client.client import HttpClient
from toril.http_client.connecting import Network

POST = OutboundRequest(b"POST / HTTP/1.1\r\nhost: a\r\n", b"{}", 20.0)


async def outcome_of(addresses: list[str], port: int, connect_timeout_s: float = 20.0) -> Outcome:
    async def resolve(_: str) -> list[str]:
        return addresses

    pool = HttpClient(connect_timeout_s, 1000, network=Network(resolve)).pool(f"http://many.example:{port}")
    found = await pool.send(POST)
    pool.close()
    return found


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port of 127.0.0.1 that neither accepts nor refuses."""
    with deaf_port() as port:
        yield port


async def test_an_address_that_does_not_answer_holds_up_the_next_for_a_quarter_of_a_second(silent_port: int) -> None:
    async with serving(ok(), host="127.0.0.2", port=silent_port):
        found = await outcome_of(["127.0.0.1", "127.0.0.2"], silent_port)
    assert isinstance(found, Answered)
    assert found.duration_s < 10, "half of the time to connect"


async def test_a_dead_ipv6_address_before_a_live_one_costs_next_to_nothing() -> None:
    async with serving(ok()) as server:
        found = await outcome_of(["2001:db8::1", "::1", "127.0.0.1"], server.port)
    assert isinstance(found, Answered)
    assert found.duration_s < 10


async def test_a_slow_address_wins_if_no_other_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_race, "STAGGER_S", 0.0)
    async with serving(ok()) as server:
        for _ in range(5):
            found = await outcome_of(["127.0.0.3", "127.0.0.2", "127.0.0.1"], server.port)
            assert isinstance(found, Answered)
        assert server.connections == 5


async def test_if_no_address_answers_the_first_failure_is_reported() -> None:
    port = free_port()
    found = await outcome_of(["127.0.0.1", "127.0.0.2"], port)
    assert isinstance(found, ConnectFailed)
    assert (found.code, found.exhausted) == ("ECONNREFUSED", False)
    assert found.detail == f"Nothing accepts connections at many.example:{port}"


async def test_if_one_address_hangs_and_one_refuses_the_refusal_is_reported(silent_port: int) -> None:
    found = await outcome_of(["127.0.0.1", "127.0.0.2"], silent_port, 0.6)
    assert isinstance(found, ConnectFailed)
    assert found.code == "ECONNREFUSED"


async def test_if_all_addresses_hang_connecting_times_out(silent_port: int) -> None:
    found = await outcome_of(["127.0.0.1", "127.0.0.1"], silent_port, 0.4)
    assert isinstance(found, TimedOut)
    assert found.phase == "connect"


async def test_no_socket_is_left_behind(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []

    class Counted(socket.socket):
        def __init__(self, *args: int) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(address_race.socket, "socket", Counted)
    await outcome_of(["127.0.0.1", "127.0.0.2", "::1"], silent_port, 0.6)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await outcome_of(["127.0.0.1", "127.0.0.1"], silent_port)
    assert len(made) >= 4
    assert [sock.fileno() for sock in made] == [-1] * len(made)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL])
@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["127.0.0.2", "127.0.0.1"]])
async def test_a_lack_of_local_resources_is_distinguished_from_a_failed_address(
    addresses: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()

    async def lacking(*_: object, **__: object) -> None:
        raise OSError(code, "none left")

    class Lacking:
        """The loop, where nothing can be connected."""

        create_connection = sock_connect = staticmethod(lacking)

        def __getattr__(self, name: str) -> object:
            return getattr(loop, name)

    async def resolve(_: str) -> list[str]:
        return addresses

    async def connected(_: str, __: int) -> socket.socket:
        raise OSError(code, "none left")

    monkeypatch.setattr(address_race, "_connected", connected)
    pool = HttpClient(2.0, 1000, network=Network(resolve)).pool("http://many.example:1")
    pool._connector._opening._loop = Lacking()  # type: ignore[assignment]
    found = await pool.send(POST)
    assert isinstance(found, ConnectFailed)
    assert (found.code, found.exhausted) == (errno.errorcode[code], True)


def test_ipv4_and_ipv6_addresses_are_tried_alternately() -> None:
    assert interleaved(["::1", "::2", "::3", "1.1.1.1"]) == ["::1", "1.1.1.1", "::2", "::3"]
    assert interleaved(["1.1.1.1", "::1"]) == ["1.1.1.1", "::1"]
    assert interleaved(["1.1.1.1"]) == ["1.1.1.1"]
