"""Which addresses the outbound client connects to, against servers on several addresses of loopback.

`127.0.0.1` plays a public address (it is on the allow list), `127.0.0.2` and on play private ones.
"""

import asyncio
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing

import pytest

from tests.conformance.http_client.raw_http import RawServer, ok, serving
from tests.conformance.servers import CERTIFICATE, server_tls
from toril.bullmq.rules.queue_name import NameRules
from toril.core.destination import OutboundRequest
from toril.core.lease import Lease
from toril.core.outcome import Answered, ConnectFailed, TimedOut
from toril.core.stored_job import read_options
from toril.core.verdict import Fail
from toril.http_client.client import HttpClient, HttpPool
from toril.http_client.connecting import Network
from toril.http_client.egress import Egress, EgressPolicy
from toril.queues.rules.push_worker import PushWorker
from toril.queues.rules.worker import read_worker

GUARDED = Egress(EgressPolicy(policy="public", allow=("127.0.0.1",)))
REFUSED = "pay.example (127.0.0.2) is a loopback address, refused by the egress policy public"
POST = OutboundRequest(b"POST / HTTP/1.1\r\nhost: pay.example\r\n", b"{}", 3.0)
LAST = ok(b"bye", b"connection: close")


class Names:
    """A resolver that a test speaks for: each look-up gets the next answer, the last one serves for all that follow."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def pool_of(names: Names, url: str, egress: Egress | None = GUARDED, patience_s: float = 2.0) -> HttpPool:
    return HttpClient(patience_s, 1_000_000, egress, Network(names)).pool(url)


@asynccontextmanager
async def two_servers(answer: bytes = LAST) -> AsyncIterator[tuple[RawServer, RawServer]]:
    """One on 127.0.0.1 and one on 127.0.0.2, on the same port."""
    async with serving(answer) as public, serving(answer, host="127.0.0.2", port=public.port) as private:
        yield public, private


def failed_job(outcome: ConnectFailed) -> str:
    """The reason that a job fails with whose worker is registered with such a name."""
    document = {"queue": "pay", "endpoint": {"url": "http://pay.example/", "method": "POST"}}
    worker = PushWorker(read_worker(json.dumps(document).encode(), NameRules(3, 100, None)), "bull", "toril", time.time)
    lease = Lease(
        queue="pay", job_id=b"1", token=b"t", fields={}, options=read_options(b'{"attempts": 1}'), attempts_made=0
    )
    verdict = worker.judge(lease, outcome, lambda: 0.5)
    assert isinstance(verdict, Fail)
    return verdict.reason


async def test_a_name_that_moves_to_a_private_address_is_refused_from_then_on() -> None:
    async with two_servers() as (public, private):
        names = Names(["127.0.0.1"], ["127.0.0.2"])
        pool = pool_of(names, f"http://pay.example:{public.port}/")
        assert isinstance(await pool.send(POST), Answered)
        refused = await pool.send(POST)
        assert isinstance(refused, ConnectFailed)
        assert (refused.code, refused.detail) == ("EGRESS_DENIED", REFUSED)
        assert (public.connections, private.connections) == (1, 0)
        assert names.asked == ["pay.example"] * 2, "one look-up for each connection, and none besides"
        assert failed_job(refused) == f"EGRESS_DENIED: Unable to connect. {REFUSED}"


async def test_a_refused_name_may_come_back() -> None:
    async with two_servers() as (public, private):
        pool = pool_of(Names(["127.0.0.2"], ["127.0.0.1"]), f"http://pay.example:{public.port}/")
        assert isinstance(await pool.send(POST), ConnectFailed)
        assert isinstance(await pool.send(POST), Answered)
        assert (public.connections, private.connections) == (1, 0)


async def test_a_kept_connection_stays_where_it_was_made_to() -> None:
    async with two_servers(ok()) as (public, private):
        names = Names(["127.0.0.1"], ["127.0.0.2"])
        pool = pool_of(names, f"http://pay.example:{public.port}/")
        for _ in range(3):
            assert isinstance(await pool.send(POST), Answered)
        assert (public.connections, private.connections, len(names.asked)) == (1, 0, 1)
        pool.close()


async def test_a_port_of_another_protocol_is_refused_unless_the_host_is_allowed() -> None:
    for allow, code in (((), "EGRESS_DENIED"), (("127.0.0.1",), "ECONNREFUSED")):
        outbound = HttpClient(1.0, 1024, Egress(EgressPolicy(allow=allow)))
        outcome = await outbound.pool("http://127.0.0.1:6000/").send(POST)
        assert isinstance(outcome, ConnectFailed)
        assert outcome.code == code


@pytest.mark.parametrize("addresses", [["127.0.0.1", "127.0.0.2"], ["127.0.0.2", "127.0.0.1"]])
async def test_of_several_addresses_only_the_allowed_ones_are_connected_to(addresses: list[str]) -> None:
    async with two_servers() as (public, private):
        pool = pool_of(Names(addresses), f"http://pay.example:{public.port}/")
        for _ in range(3):
            assert isinstance(await pool.send(POST), Answered)
        assert (public.connections, private.connections) == (3, 0)


async def test_the_refused_addresses_are_no_way_out_when_the_allowed_one_is_down() -> None:
    async with serving(ok(), host="127.0.0.2") as private:
        pool = pool_of(Names(["127.0.0.2", "127.0.0.1"]), f"http://pay.example:{private.port}/")
        outcome = await pool.send(POST)
        assert isinstance(outcome, ConnectFailed)
        assert outcome.code == "ECONNREFUSED"
        assert private.connections == 0


async def test_every_refused_address_is_told() -> None:
    outcome = await pool_of(Names(["127.0.0.2", "10.0.0.1", "::1"]), "http://pay.example/").send(POST)
    assert isinstance(outcome, ConnectFailed)
    assert outcome.detail == (
        f"{REFUSED}; pay.example (10.0.0.1) is a private address, refused by the egress policy public; "
        "pay.example (::1) is a loopback address, refused by the egress policy public"
    )


async def test_when_one_address_is_down_the_next_is_tried() -> None:
    async with serving(LAST) as server:
        pool = pool_of(Names(["127.0.0.3", "127.0.0.1"]), f"http://pay.example:{server.port}/", None)
        assert isinstance(await pool.send(POST), Answered)


async def test_an_address_that_does_not_answer_leaves_time_for_the_next() -> None:
    async with serving(LAST) as server:
        with closing(socket.socket()) as full, closing(socket.socket()) as first, closing(socket.socket()) as second:
            full.bind(("127.0.0.2", server.port))
            full.listen(0)
            for waiting in (first, second):
                waiting.setblocking(False)
                waiting.connect_ex(full.getsockname())
            url = f"http://pay.example:{server.port}/"
            alone = await pool_of(Names(["127.0.0.2"]), url, None, 0.4).send(POST)
            assert isinstance(alone, TimedOut)
            assert alone.phase == "connect"
            outcome = await pool_of(Names(["127.0.0.2", "127.0.0.1"]), url, None, 0.4).send(POST)
            assert isinstance(outcome, Answered)


async def test_looking_up_takes_no_longer_than_connecting_may() -> None:
    async def forever(_: str) -> Sequence[str]:
        await asyncio.sleep(60)
        return []

    outcome = await HttpClient(0.1, 1000, GUARDED, Network(forever)).pool("http://pay.example/").send(POST)
    assert isinstance(outcome, TimedOut)
    assert (outcome.phase, outcome.duration_s < 30) == ("connect", True)


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.2", "127.0.0.2 is"),
        ("2130706434", "2130706434 (127.0.0.2) is"),
        ("0x7f.2", "0x7f.2 (127.0.0.2) is"),
        ("0177.0.0.2", "0177.0.0.2 (127.0.0.2) is"),
        ("[::ffff:127.0.0.2]", "::ffff:127.0.0.2 leads to 127.0.0.2, which is"),
        ("[::ffff:7f00:2]", "::ffff:7f00:2 leads to 127.0.0.2, which is"),
    ],
)
async def test_an_address_in_any_spelling_is_refused_without_a_look_up(host: str, shown: str) -> None:
    names = Names(["127.0.0.1"])
    async with serving(ok(), host="127.0.0.2") as server:
        outcome = await pool_of(names, f"http://{host}:{server.port}/").send(POST)
        assert isinstance(outcome, ConnectFailed)
        assert outcome.code == "EGRESS_DENIED"
        assert outcome.detail == f"{shown} a loopback address, refused by the egress policy public"
        assert (server.connections, names.asked) == (0, [])


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1"])
async def test_an_allowed_address_in_any_spelling_is_connected_to(host: str) -> None:
    names = Names(["127.0.0.2"])
    async with two_servers() as (public, private):
        assert isinstance(await pool_of(names, f"http://{host}:{public.port}/").send(POST), Answered)
        assert (private.connections, names.asked) == (0, [])


async def test_a_denied_name_is_not_even_looked_up() -> None:
    names = Names(["127.0.0.1"])
    outcome = await pool_of(names, "http://a.evil.example/", Egress(EgressPolicy(deny=("*.evil.example",)))).send(POST)
    assert isinstance(outcome, ConnectFailed)
    assert (outcome.code, names.asked) == ("EGRESS_DENIED", [])


async def test_tls_verifies_the_name_at_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    tls = server_tls()
    asked: list[str | None] = []

    def note(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        asked.append(name)

    tls.sni_callback = note
    async with serving(LAST, tls=tls) as server:
        names = Names(["127.0.0.1"])
        request = OutboundRequest(b"POST / HTTP/1.1\r\nhost: localhost\r\n", b"{}", 3.0)
        assert isinstance(await pool_of(names, f"https://localhost:{server.port}/").send(request), Answered)
        assert b"host: localhost\r\n" in server.exchanges[0].head
        other = await pool_of(names, f"https://pay.example:{server.port}/").send(POST)
        assert isinstance(other, ConnectFailed)
        assert other.code == "ERR_TLS", "the certificate is for localhost"
        assert asked == ["localhost", "pay.example"]


async def test_the_operators_own_urls_are_exempt_from_the_egress_policy() -> None:
    async with serving(LAST, host="127.0.0.2") as server:
        outbound = HttpClient(2.0, 1_000_000)
        assert isinstance(await outbound.pool(f"http://127.0.0.2:{server.port}/").send(POST), Answered)
