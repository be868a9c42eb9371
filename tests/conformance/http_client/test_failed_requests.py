"""Requests that fail, against servers of raw bytes: times, connections, answers that are not HTTP, and TLS."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.http_client.raw_http import Exchange, Say, ok, serving
from tests.conformance.servers import CERTIFICATE, deaf_port, listening, server_tls, until
from tests.support.ports import free_port
from toril.core.destination import OutboundRequest
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, TimedOut
from toril.http_client.client import HttpClient

LIMIT = 1_000_000


def pool_of(url: str, connect_timeout_s: float = 2.0) -> Any:
    return HttpClient(connect_timeout_s, LIMIT).pool(url)


def post(
    body: bytes = b"{}", head: bytes = b"POST / HTTP/1.1\r\nhost: a\r\n", timeout_s: float = 3.0
) -> OutboundRequest:
    return OutboundRequest(head, body, timeout_s)


async def outcome_of(*answers: bytes | Say, **request: Any) -> Outcome:
    """What one request to a server that answers so comes to."""
    async with serving(*answers) as server:
        pool = pool_of(server.url)
        try:
            found: Outcome = await pool.send(post(**request))
            return found
        finally:
            pool.close()


def answered(outcome: Outcome) -> tuple[int, str, bytes]:
    assert isinstance(outcome, Answered), outcome
    return outcome.status, outcome.reason, outcome.body


# What goes wrong


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
    ],
)
async def test_the_request_timeout_covers_the_whole_answer(answer: bytes) -> None:
    async def stall(exchange: Exchange) -> None:
        await exchange.say(answer)
        await exchange.gone()

    loop = asyncio.get_running_loop()
    async with serving(stall) as server:
        began = loop.time()
        outcome = await pool_of(server.url).send(post(timeout_s=0.2))
        assert isinstance(outcome, TimedOut)
        assert outcome.phase == "answer"
        assert 0.19 < outcome.duration_s < 10
        assert loop.time() - began < 10
        await until(lambda: server.open == 0)


async def test_an_answer_that_drips_is_timed_out_all_the_same() -> None:
    async def drip(exchange: Exchange) -> None:
        await exchange.say(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while True:
            await exchange.say(b"x", pause_s=0.02)

    outcome = await outcome_of(drip, timeout_s=0.2)
    assert isinstance(outcome, TimedOut)
    assert outcome.duration_s < 10


async def test_a_request_that_is_not_read_is_timed_out() -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(5)

    async with listening(deaf) as port:
        outcome = await pool_of(f"http://127.0.0.1:{port}").send(post(body=b"x" * 30_000_000, timeout_s=0.3))
    assert isinstance(outcome, TimedOut)
    assert outcome.duration_s < 4.5


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port that neither accepts nor refuses."""
    with deaf_port() as port:
        yield port


async def test_connecting_has_a_separate_timeout(full_port: int) -> None:
    outcome = await pool_of(f"http://127.0.0.1:{full_port}", 0.2).send(post(timeout_s=5.0))
    assert isinstance(outcome, TimedOut)
    assert outcome.phase == "connect"
    assert 0.19 < outcome.duration_s < 4.5


async def test_the_request_timeout_covers_connecting(full_port: int) -> None:
    outcome = await pool_of(f"http://127.0.0.1:{full_port}", 5.0).send(post(timeout_s=0.2))
    assert isinstance(outcome, TimedOut)
    assert 0.19 < outcome.duration_s < 4.5


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_port_without_a_server_is_refused(host: str) -> None:
    port = free_port()
    outcome = await pool_of(f"http://{host}:{port}").send(post())
    assert isinstance(outcome, ConnectFailed)
    assert (outcome.code, outcome.detail) == ("ECONNREFUSED", f"Nothing accepts connections at {host}:{port}")


@pytest.mark.parametrize(
    "host", ["nowhere.invalid", "xn--nonsense.invalid", "a..b", "x" * 64 + ".example", "größe.invalid", "é..b"]
)
async def test_a_name_that_cannot_be_looked_up_is_not_found(host: str) -> None:
    outcome = await pool_of(f"http://{host}:80").send(
        post(timeout_s=20.0),
    )
    assert isinstance(outcome, (ConnectFailed, TimedOut))
    if isinstance(outcome, ConnectFailed):
        assert outcome.code == "ENOTFOUND"


@pytest.mark.parametrize(
    "garbage",
    [
        b"nonsense\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",
        b"\x00" * 10,
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx y: z\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
)
async def test_an_answer_that_is_not_http_is_cut_off(garbage: bytes) -> None:
    outcome = await outcome_of(garbage, timeout_s=20.0)
    assert isinstance(outcome, CutOff)
    assert outcome.code == "ERR_HTTP"
    assert outcome.detail


@given(st.binary(min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_bytes_from_a_server_lead_to_an_outcome(sent: bytes) -> None:
    async def blurt(exchange: Exchange) -> None:
        await exchange.say(sent)
        await exchange.hang_up()

    outcome = asyncio.run(outcome_of(blurt, timeout_s=20.0))
    assert isinstance(outcome, (CutOff, Answered))


@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
async def test_an_answer_that_breaks_off_is_cut_off(answer: bytes, how: str) -> None:
    async def break_off(exchange: Exchange) -> None:
        await exchange.say(answer, pause_s=0.02)
        if how == "reset":
            exchange.reset()
        else:
            await exchange.hang_up()

    outcome = await outcome_of(break_off)
    assert isinstance(outcome, CutOff)
    assert (outcome.code, outcome.detail) == ("ECONNRESET", "The connection was closed before the answer was whole")


async def test_a_body_until_the_end_of_a_connection_that_is_reset_is_not_whole() -> None:
    async def reset(exchange: Exchange) -> None:
        await exchange.say(b"HTTP/1.1 200 OK\r\n\r\nhello", pause_s=0.02)
        exchange.reset()

    outcome = await outcome_of(reset)
    assert isinstance(outcome, CutOff)


async def test_a_body_of_just_the_limit_is_read() -> None:
    assert len(answered(await outcome_of(ok(b"x" * LIMIT)))[2]) == LIMIT


@pytest.mark.parametrize("framing", ["content-length", "chunked", "connection"])
async def test_a_body_over_the_limit_is_cut_off(framing: str) -> None:
    async def flood(exchange: Exchange) -> None:
        head = {"content-length": b"content-length: 999999999\r\n", "chunked": b"transfer-encoding: chunked\r\n"}
        await exchange.say(b"HTTP/1.1 200 OK\r\n%b\r\n" % head.get(framing, b""))
        while True:
            await exchange.say(b"10000\r\n%b\r\n" % (b"x" * 65_536))

    async with serving(flood) as server:
        outcome = await pool_of(server.url).send(post())
        assert isinstance(outcome, CutOff)
        assert outcome.code == "ERR_BODY_TOO_LARGE"
        assert str(LIMIT) in outcome.detail
        await until(lambda: server.open == 0)


# TLS


@asynccontextmanager
async def over_tls(*answers: bytes | Say) -> AsyncIterator[str]:
    async with serving(*answers, tls=server_tls()) as server:
        yield f"https://localhost:{server.port}/"


async def test_an_answer_over_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    async with over_tls(ok(b"x" * 300_000)) as url:
        pool = pool_of(url)
        for _ in range(2):
            assert answered(await pool.send(post(b"y" * 300_000))) == (200, "OK", b"x" * 300_000)
        pool.close()


async def test_an_untrusted_certificate_is_refused() -> None:
    async with over_tls(ok()) as url:
        outcome = await pool_of(url).send(post())
    assert isinstance(outcome, ConnectFailed)
    assert outcome.code == "ERR_TLS"
    assert "CERTIFICATE_VERIFY_FAILED" in outcome.detail


async def test_a_certificate_for_another_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    async with over_tls(ok()) as url:
        outcome = await pool_of(url.replace("localhost", "127.1")).send(post())
    assert isinstance(outcome, ConnectFailed)
    assert outcome.code == "ERR_TLS"


async def test_a_server_that_speaks_no_tls_is_refused() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await asyncio.sleep(1)

    async with listening(plain) as port:
        outcome = await pool_of(f"https://localhost:{port}").send(post())
    assert isinstance(outcome, ConnectFailed)
    assert outcome.code == "ERR_TLS"


async def test_a_tls_handshake_that_hangs_is_timed_out() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async with listening(mute) as port:
        outcome = await pool_of(f"https://localhost:{port}", 0.2).send(post())
    assert isinstance(outcome, TimedOut)
    assert outcome.phase == "connect"


async def test_nothing_goes_out_in_the_clear_where_tls_is_asked_for() -> None:
    received = bytearray()

    async def eavesdrop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.read(65_536))

    async with listening(eavesdrop) as port:
        outcome = await pool_of(f"https://localhost:{port}").send(post(b"secret"))
    assert isinstance(outcome, (ConnectFailed, CutOff))
    assert b"secret" not in received
