"""How names are looked up: what is shared, what is remembered, and that a name that hangs holds up no other."""

import asyncio
import errno
import socket
import threading
from collections.abc import Iterator, Sequence

import pytest
from structlog.testing import capture_logs

from tests.conformance.http_client.raw_http import ok, serving
from tests.conformance.servers import until
from toril.core.destination import OutboundRequest
from toril.core.outcome import Answered, ConnectFailed, TimedOut
from toril.http_client import name_lookups
from toril.http_client.client import HttpClient
from toril.http_client.connecting import Network
from toril.http_client.egress import Egress, EgressPolicy
from toril.http_client.name_lookups import NameLookups, system_addresses

POST = OutboundRequest(b"POST / HTTP/1.1\r\nhost: a\r\n", b"{}", 20.0)
GONE = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
SILENT = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


class NameServer:
    """What a test says of each name; those that begin with `hang` have no answer before `let_go`."""

    def __init__(self) -> None:
        self.answers: dict[str, Sequence[str] | OSError] = {}
        self.asked: list[str] = []
        self.hanging = 0
        self._go = threading.Event()

    def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host.startswith("hang"):
            self.hanging += 1
            self._go.wait(30)
        answer = self.answers.get(host, ["127.0.0.1"])
        if isinstance(answer, OSError):
            raise answer
        return answer

    def let_go(self) -> None:
        """Let those that hang have their answers."""
        self._go.set()


@pytest.fixture
def server() -> Iterator[NameServer]:
    made = NameServer()
    yield made
    made.let_go()


async def test_names_that_hang_hold_up_no_other_however_many_wait_for_them(server: NameServer) -> None:
    names = NameLookups(server)
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(names(f"hang-{number}.example")) for number in range(20)]
        waiting += [tasks.create_task(names("hang-0.example")) for _ in range(200)]
        await until(lambda: server.hanging == 20)
        assert await names("pay.example") == ("127.0.0.1",)
        assert not any(task.done() for task in waiting)
        server.let_go()
    assert len(server.asked) == 21


async def test_a_caller_that_stops_waiting_does_not_stop_the_look_up_for_others(server: NameServer) -> None:
    names = NameLookups(server)
    async with asyncio.TaskGroup() as tasks:
        patient = tasks.create_task(names("hang.example"))
        hasty = tasks.create_task(names("hang.example"))
        await until(lambda: server.hanging == 1)
        hasty.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hasty
        server.let_go()
        assert await patient == ("127.0.0.1",)
    assert server.asked == ["hang.example"]


async def test_a_look_up_is_remembered_even_if_its_callers_have_left(server: NameServer) -> None:
    names = NameLookups(server)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await names("hang.example")
    server.let_go()
    assert await names("hang.example") == ("127.0.0.1",)
    assert server.asked == ["hang.example"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "api.localhost"])
async def test_localhost_is_not_looked_up(server: NameServer, host: str) -> None:
    assert await NameLookups(server)(host) == ("127.0.0.1", "::1")
    assert server.asked == []


async def test_addresses_are_remembered_for_a_while(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    names = NameLookups(server)
    for _ in range(3):
        assert await names("Pay.example") == ("127.0.0.1",)
    assert server.asked == ["pay.example"]
    monkeypatch.setattr(name_lookups, "FRESH_S", 0.0)
    names = NameLookups(server)
    await names("pay.example")
    server.answers["pay.example"] = ["127.0.0.2"]
    assert await names("pay.example") == ("127.0.0.2",)


async def test_a_name_that_is_not_there_is_not_asked_for_at_each_request(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_lookups, "FAILED_S", 0.3)
    server.answers["pay.example"] = GONE
    names = NameLookups(server)
    for _ in range(3):
        with pytest.raises(socket.gaierror, match="not known") as raised:
            await names("pay.example")
        assert raised.value.errno == socket.EAI_NONAME
    assert server.asked == ["pay.example"]
    server.answers["pay.example"] = ["127.0.0.2"]
    await asyncio.sleep(0.35)
    assert await names("pay.example") == ("127.0.0.2",)


@pytest.mark.parametrize("how", ["fails", "hangs"])
async def test_old_addresses_are_used_while_no_name_server_answers(
    server: NameServer, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(name_lookups, "FRESH_S", 0.0)
    hangs = threading.Event()

    def look_up(host: str) -> Sequence[str]:
        if hangs.is_set():
            server("hang.example")
        return server(host)

    names = NameLookups(look_up)
    assert await names("pay.example") == ("127.0.0.1",)
    if how == "hangs":
        hangs.set()
    else:
        server.answers["pay.example"] = SILENT
    for _ in range(3):
        assert await names("pay.example") == ("127.0.0.1",)


async def test_old_addresses_of_a_name_that_is_gone_are_not_used(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_lookups, "FRESH_S", 0.0)
    names = NameLookups(server)
    await names("pay.example")
    server.answers["pay.example"] = GONE
    with pytest.raises(socket.gaierror, match="not known"):
        await names("pay.example")


async def test_addresses_that_are_too_old_are_not_used(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_lookups, "FRESH_S", 0.0)
    monkeypatch.setattr(name_lookups, "STALE_S", 0.0)
    names = NameLookups(server)
    await names("pay.example")
    server.answers["pay.example"] = SILENT
    with pytest.raises(socket.gaierror, match="Temporary"):
        await names("pay.example")


async def test_more_names_than_may_be_asked_for_at_once_wait_for_their_turn(server: NameServer) -> None:
    names = NameLookups(server, at_once=2)
    async with asyncio.TaskGroup() as tasks:
        for number in range(2):
            tasks.create_task(names(f"hang-{number}.example"))
        await until(lambda: server.hanging == 2)
        given_up = tasks.create_task(names("given-up.example"))
        waiting = tasks.create_task(names("pay.example"))
        await asyncio.sleep(0)
        given_up.cancel()
        assert len(server.asked) == 2
        server.let_go()
        assert await waiting == ("127.0.0.1",)
    assert "given-up.example" not in server.asked
    assert await names("given-up.example") == ("127.0.0.1",)


async def test_a_lack_of_descriptors_is_not_taken_for_an_unknown_name(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_descriptors(*_: object, **__: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    def not_known(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", not_known)
        with pytest.raises(socket.gaierror):
            system_addresses("pay.example")
        patch.setattr(socket, "socket", no_descriptors)
        with pytest.raises(OSError, match="Too many"):
            system_addresses("pay.example")
    server.answers["pay.example"] = OSError(errno.EMFILE, "Too many open files")
    names = NameLookups(server)
    with pytest.raises(OSError, match="Too many"):
        await names("pay.example")
    server.answers["pay.example"] = ["127.0.0.2"]
    assert await names("pay.example") == ("127.0.0.2",), "it is asked for again at once"


async def test_a_name_of_the_system_is_found() -> None:
    assert "127.0.0.1" in await asyncio.to_thread(system_addresses, "localhost")
    assert await NameLookups()("127.0.0.1") == ("127.0.0.1",)


async def test_a_look_up_that_fails_frees_its_place() -> None:
    def break_down(host: str) -> list[str]:
        raise RuntimeError(host)

    names = NameLookups(break_down, at_once=1)
    with capture_logs() as logs:
        for host in ("one.example", "two.example"):
            with pytest.raises(OSError, match=host):
                await names(host)
    assert [entry["event"] for entry in logs] == ["names.failed"] * 2


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example", "a\0b.example"])
async def test_an_invalid_host_name_is_not_found(host: str) -> None:
    with pytest.raises(socket.gaierror):
        await NameLookups()(host)


# With connections


async def test_a_hanging_name_times_out_and_another_host_is_connected_to_meanwhile(server: NameServer) -> None:
    network = Network(NameLookups(server))
    outbound = HttpClient(0.5, 1000, network=network)
    async with serving(ok(b"hello")) as endpoint, asyncio.TaskGroup() as tasks:
        hanging = [
            tasks.create_task(outbound.pool(f"http://hang-{number % 20}.example").send(POST)) for number in range(200)
        ]
        await until(lambda: server.hanging == 20)
        found = await outbound.pool(f"http://pay.example:{endpoint.port}").send(POST)
        assert isinstance(found, Answered)
        for task in hanging:
            outcome = await task
            assert isinstance(outcome, TimedOut)
            assert outcome.phase == "connect"
        server.let_go()


async def test_remembered_addresses_are_judged_at_each_connection(server: NameServer) -> None:
    network = Network(NameLookups(server))
    async with serving(ok()) as endpoint:
        url = f"http://pay.example:{endpoint.port}"
        assert isinstance(await HttpClient(2.0, 1000, network=network).pool(url).send(POST), Answered)
        guarded = HttpClient(2.0, 1000, Egress(EgressPolicy(policy="public")), network)
        refused = await guarded.pool(url).send(POST)
    assert isinstance(refused, ConnectFailed)
    assert refused.code == "EGRESS_DENIED"
    assert server.asked == ["pay.example"]


async def test_a_name_whose_addresses_do_not_answer_is_asked_for_again(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_lookups, "LEAST_S", 0.0)
    names = NameLookups(server)
    async with serving(ok(), host="127.0.0.2") as endpoint:
        pool = HttpClient(2.0, 1000, network=Network(names)).pool(f"http://moves.example:{endpoint.port}")
        assert isinstance(await pool.send(POST), ConnectFailed)
        server.answers["moves.example"] = ["127.0.0.2"]
        assert isinstance(await pool.send(POST), Answered)
    assert server.asked == ["moves.example", "moves.example"]
