"""Requests on an operator's route, on both event loops: TLS, tunnels, absolute form, tokens, and the egress rules."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.servers import deaf_port, listening, until
from tests.support.authority import Authority
from tests.support.endpoint import Endpoint, no_content, respond
from tests.support.forward_proxy import CountingProxy
from tests.support.oauth import OAuthServer
from tests.support.tls_server import TlsServer
from toril.core.destination import OutboundRequest
from toril.core.http.outbound_policy import ClientCredentials, ForwardProxy, OutboundPolicy, TlsFiles
from toril.core.http.streaming import StreamHead, StreamRequest
from toril.core.outcome import Answered, ConnectFailed, CutOff
from toril.http_client.client import HttpClient, HttpPool, always
from toril.http_client.configured_routes import route_of
from toril.http_client.connecting import Network
from toril.http_client.egress import Egress, EgressPolicy
from toril.http_client.outbound_route import OutboundRoute

POST = OutboundRequest(b"POST /in HTTP/1.1\r\nhost: pay.example\r\n", b"{}", 5.0)
GET = StreamRequest(method=b"GET", head=b"GET /in HTTP/1.1\r\nhost: pay.example\r\n")
NAME = "pay.example"


class Names:
    """A resolver that knows `pay.example` as these addresses, and nothing else."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def __call__(self, host: str) -> Sequence[str]:
        if host != NAME or not self._addresses:
            raise OSError(-2, "Name or service not known")
        return self._addresses


class Way:
    """The servers of a test, and pools on a route to them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.authority = Authority()
        self.stack = stack
        self.pools: list[HttpPool] = []

    def secure(self, *hosts: str) -> Endpoint:
        tls = self.authority.server_tls(self.authority.server(*hosts), self.folder)
        return self.stack.enter_context(Endpoint(lambda _: no_content(), tls=tls))

    def plain(self) -> Endpoint:
        return self.stack.enter_context(Endpoint(lambda _: no_content()))

    def proxy(self, hosts: dict[str, int] | None = None, credentials: str | None = None) -> CountingProxy:
        return self.stack.enter_context(CountingProxy(hosts, credentials))

    def tls(self, client: str | None = None) -> TlsFiles:
        certificate = self.authority.client(client) if client is not None else None
        cert, key = ("", "") if certificate is None else (certificate.cert, certificate.key)
        return TlsFiles(ca=self.authority.pem, cert=cert, key=key)

    def pool(
        self, url: str, policy: OutboundPolicy, names: Names | None = None, egress: EgressPolicy | None = None
    ) -> tuple[HttpPool, OutboundRoute]:
        network = Network(names)
        route = route_of(policy, network, 2.0)
        guard = None if egress is None else Egress(egress)
        pool = HttpClient(2.0, 100_000, guard, network).on(always(route)).pool(url)
        self.pools.append(pool)
        return pool, route


@pytest.fixture
def way(tmp_path: Path) -> Iterator[Way]:
    with ExitStack() as stack:
        yield Way(tmp_path, stack)


def through(proxy: CountingProxy, **more: Any) -> OutboundPolicy:
    return OutboundPolicy(proxy=ForwardProxy(url=proxy.url), **more)


def failed(outcome: Any, code: str) -> str:
    assert isinstance(outcome, (ConnectFailed, CutOff)), outcome
    assert outcome.code == code, outcome
    assert outcome.duration_s >= 0
    return outcome.detail


def port_of(endpoint: Endpoint) -> int:
    return endpoint.port


# TLS


async def test_a_refused_client_certificate_is_said_in_the_servers_words(way: Way) -> None:
    tls = way.authority.server_tls(way.authority.server(), way.folder, way.authority)
    server = way.stack.enter_context(TlsServer(tls))
    pool, _ = way.pool(server.url, OutboundPolicy(tls=way.tls()))
    assert "it wants a client certificate" in failed(await pool.send(POST), "ERR_TLS")
    accepted, _ = way.pool(server.url, OutboundPolicy(tls=way.tls("toril")))
    assert isinstance(await accepted.send(POST), Answered)
    assert len(server.heads) == len(server.refused) == 1
    accepted.close()


async def test_a_route_that_is_renewed_keeps_no_older_connection(way: Way) -> None:
    tls = way.authority.server_tls(way.authority.server(), way.folder, way.authority)
    server = way.stack.enter_context(Endpoint(lambda _: no_content(), tls=tls))
    pool, route = way.pool(server.at("/"), OutboundPolicy(tls=way.tls("first")))
    for _ in range(2):
        assert isinstance(await pool.send(POST), Answered)
    route.renew(OutboundPolicy(tls=way.tls("second")))
    assert isinstance(await pool.send(POST), Answered)
    exchange = await pool.open(GET, 5.0)
    assert not isinstance(exchange, ConnectFailed)
    exchange.end()
    head = await exchange.head(5.0)
    assert isinstance(head, StreamHead)
    exchange.close()
    assert [call.client for call in server.calls] == ["first", "first", "second", "second"]
    pool.close()


# Proxies


@pytest.mark.parametrize("method", ["send", "open"])
async def test_whole_and_streamed_requests_go_through_a_tunnel(way: Way, method: str) -> None:
    server = way.secure(NAME)
    proxy = way.proxy({NAME: server.port})
    pool, _ = way.pool(f"https://{NAME}/", through(proxy, tls=way.tls()))
    if method == "send":
        assert isinstance(await pool.send(POST), Answered)
    else:
        exchange = await pool.open(GET, 5.0)
        assert not isinstance(exchange, ConnectFailed)
        assert isinstance(await exchange.head(5.0), StreamHead)
        exchange.close()
    assert proxy.targets == [f"CONNECT {NAME}:443"]
    pool.close()


async def test_a_407_to_a_streamed_request_is_the_proxys_failure(way: Way) -> None:
    server = way.plain()
    proxy = way.proxy({NAME: server.port}, "a:b")
    pool, _ = way.pool(f"http://{NAME}/", through(proxy))
    exchange = await pool.open(GET, 5.0)
    assert not isinstance(exchange, ConnectFailed)
    assert "answered 407" in failed(await exchange.head(5.0), "ERR_PROXY")
    exchange.close()
    assert server.calls == []
    pool.close()


async def test_the_callers_headers_never_reach_the_proxy_as_its_own(way: Way) -> None:
    server = way.plain()
    proxy = way.proxy({NAME: server.port}, "a:b")
    policy = OutboundPolicy(proxy=ForwardProxy(url=proxy.url, secret="a:b"))
    pool, _ = way.pool(f"http://{NAME}/", policy)
    head = b"POST /in HTTP/1.1\r\nhost: pay.example\r\nProxy-Authorization: Basic bWluZQ==\r\n"
    assert isinstance(await pool.send(OutboundRequest(head, b"{}", 5.0)), Answered)
    assert [value for name, value in proxy.asked[0].headers if name.lower() == "proxy-authorization"] == ["Basic YTpi"]
    pool.close()


async def test_options_with_an_asterisk_has_no_path_through_a_proxy(way: Way) -> None:
    server = way.plain()
    proxy = way.proxy({NAME: server.port})
    pool, _ = way.pool(f"http://{NAME}/", through(proxy))
    await pool.send(OutboundRequest(b"OPTIONS * HTTP/1.1\r\nhost: a\r\n", b"", 5.0))
    assert proxy.targets == [f"OPTIONS http://{NAME}:80"]
    pool.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nmore", "sent more than its answer"),
        (b"HTTP/1.1 200 OK\r\n", "did not answer CONNECT pay.example:443 with HTTP"),
        (b"", "did not answer CONNECT pay.example:443 with HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "answered 100 Continue"),
        (b"HTTP/2 200\r\n\r\n", "did not answer CONNECT pay.example:443 with HTTP"),
        (b"HTTP/1.1 200 " + b"x" * 100_000, "did not answer CONNECT pay.example:443 with HTTP"),
        (b"HTTP/1.1 503 \r\n\r\nbusy", "answered 503 (CONNECT pay.example:443)"),
    ],
)
async def test_an_invalid_answer_to_connect_is_the_proxys_failure(way: Way, answer: bytes, words: str) -> None:
    proxy = way.proxy()
    proxy.garbles = answer
    pool, _ = way.pool(f"https://{NAME}/", through(proxy))
    assert words in failed(await pool.send(POST), "ERR_PROXY")


@asynccontextmanager
async def silent() -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async with listening(serve) as port:
        yield port


async def test_a_silent_proxy_fails_after_the_connect_timeout(way: Way) -> None:
    async with silent() as port:
        network = Network()
        route = route_of(OutboundPolicy(proxy=ForwardProxy(url=f"http://127.0.0.1:{port}")), network, 0.2)
        pool = HttpClient(0.2, 1000, network=network).on(always(route)).pool(f"https://{NAME}/")
        assert "made no connection to pay.example:443 in time" in failed(await pool.send(POST), "ERR_PROXY")


def test_a_proxy_that_accepts_no_connection_fails_after_the_connect_timeout(way: Way) -> None:
    async def ask(port: int) -> Any:
        network = Network()
        route = route_of(OutboundPolicy(proxy=ForwardProxy(url=f"http://127.0.0.1:{port}")), network, 0.2)
        return await HttpClient(0.2, 1000, network=network).on(always(route)).pool(f"http://{NAME}/").send(POST)

    with deaf_port() as port:
        assert "in time" in failed(asyncio.run(ask(port)), "ERR_PROXY")


async def test_a_request_that_is_broken_off_closes_its_connection_to_the_proxy(way: Way) -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.read(-1)
        gone.set()

    async with listening(serve) as port:
        pool, _ = way.pool(f"https://{NAME}/", OutboundPolicy(proxy=ForwardProxy(url=f"http://127.0.0.1:{port}")))
        task = asyncio.ensure_future(pool.send(POST))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait([task])
        await until(gone.is_set)


# The egress rules behind a proxy


async def test_a_tunnel_leads_to_the_address_that_was_checked(way: Way) -> None:
    server = way.secure(NAME)
    proxy = way.proxy({"127.0.0.1": server.port})
    pool, _ = way.pool(f"https://{NAME}/", through(proxy, tls=way.tls()), Names("127.0.0.1"), EgressPolicy())
    assert isinstance(await pool.send(POST), Answered)
    assert proxy.targets == ["CONNECT 127.0.0.1:443"]
    pool.close()


async def test_an_address_that_is_refused_never_reaches_the_proxy(way: Way) -> None:
    proxy = way.proxy()
    for url, names, policy in (
        (f"https://{NAME}/", Names("127.0.0.1"), EgressPolicy(policy="public")),
        (f"https://{NAME}/", Names("169.254.169.254"), EgressPolicy()),
        (f"https://{NAME}/", Names("10.0.0.1"), EgressPolicy(allow=(NAME,), deny=("10.0.0.0/8",))),
        (f"https://{NAME}/", Names("127.0.0.1"), EgressPolicy(deny=(NAME,))),
        ("http://169.254.169.254/", Names(), EgressPolicy()),
        ("http://0x7f.1/", Names(), EgressPolicy(policy="public")),
        ("https://metadata.google.internal/", Names(), EgressPolicy()),
        (f"http://{NAME}/", Names("127.0.0.1"), EgressPolicy()),
    ):
        pool, _ = way.pool(url, through(proxy), names, policy)
        failed(await pool.send(POST), "EGRESS_DENIED")
    assert proxy.asked == []


async def test_of_several_addresses_only_the_allowed_ones_are_asked_for(way: Way) -> None:
    server = way.secure(NAME)
    proxy = way.proxy({"127.0.0.1": server.port})
    names, egress = Names("169.254.169.254", "127.0.0.1"), EgressPolicy()
    pool, _ = way.pool(f"https://{NAME}/", through(proxy, tls=way.tls()), names, egress)
    assert isinstance(await pool.send(POST), Answered)
    assert proxy.targets == ["CONNECT 127.0.0.1:443"]
    pool.close()


async def test_another_address_is_asked_for_where_the_proxy_cannot_reach_the_first(way: Way) -> None:
    proxy = way.proxy()
    proxy.refuses = "503 No route"
    pool, _ = way.pool(f"https://{NAME}/", through(proxy), Names("127.0.0.1", "::1"), EgressPolicy())
    assert "answered 503 No route" in failed(await pool.send(POST), "ERR_PROXY")
    assert proxy.targets == ["CONNECT 127.0.0.1:443", "CONNECT [::1]:443"]
    proxy.refuses = "403 Forbidden"
    failed(await pool.send(POST), "ERR_PROXY")
    assert len(proxy.targets) == 3, "that is no matter of the address"


@pytest.mark.parametrize("names", [Names("127.0.0.1"), Names()], ids=["known here", "known to the proxy alone"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_host_that_the_allow_list_names_is_asked_for_by_its_name(way: Way, names: Names, scheme: str) -> None:
    server = way.secure(NAME) if scheme == "https" else way.plain()
    proxy = way.proxy({NAME: server.port})
    egress = EgressPolicy(policy="public", allow=("*.example",))
    pool, _ = way.pool(f"{scheme}://{NAME}/", through(proxy, tls=way.tls()), names, egress)
    assert isinstance(await pool.send(POST), Answered)
    asked = f"CONNECT {NAME}:443" if scheme == "https" else f"POST http://{NAME}:80/in"
    assert proxy.targets == [asked]
    pool.close()


async def test_a_name_that_cannot_be_checked_is_not_asked_for(way: Way) -> None:
    proxy = way.proxy()
    pool, _ = way.pool(f"https://{NAME}/", through(proxy), Names(), EgressPolicy())
    assert "so its addresses cannot be checked" in failed(await pool.send(POST), "ENOTFOUND")
    assert proxy.asked == []


# Access tokens


def client_of(server: OAuthServer) -> ClientCredentials:
    return ClientCredentials(token_url=server.token_url, client_id="toril", secret_file="/s", secret="s3cr3t")


async def test_a_token_replaces_what_the_request_brings_and_is_renewed_after_a_401(way: Way) -> None:
    server, login = way.plain(), way.stack.enter_context(OAuthServer())
    server.behaviour = lambda call: respond(401) if call.header("authorization") == "Bearer token-1" else no_content()
    pool, _ = way.pool(server.at("/"), OutboundPolicy(oauth2=client_of(login)))
    head = b"POST /in HTTP/1.1\r\nhost: a\r\nAuthorization: Bearer mine\r\nx-a: 1\r\n"
    statuses = []
    for _ in range(2):
        outcome = await pool.send(OutboundRequest(head, b"{}", 5.0))
        assert isinstance(outcome, Answered)
        statuses.append(outcome.status)
    assert statuses == [401, 204]
    assert [[value for name, value in call.headers if name.lower() == "authorization"] for call in server.calls] == [
        ["Bearer token-1"],
        ["Bearer token-2"],
    ]
    assert server.calls[0].header("x-a") == "1"
    pool.close()


async def test_a_streamed_request_has_a_token_too_and_renews_it(way: Way) -> None:
    server, login = way.plain(), way.stack.enter_context(OAuthServer())
    server.behaviour = lambda call: respond(401) if call.header("authorization") == "Bearer token-1" else no_content()
    pool, _ = way.pool(server.at("/"), OutboundPolicy(oauth2=client_of(login)))
    statuses = []
    for _ in range(2):
        exchange = await pool.open(GET, 5.0)
        assert not isinstance(exchange, ConnectFailed)
        head = await exchange.head(5.0)
        assert isinstance(head, StreamHead)
        statuses.append(head.status)
        exchange.close()
    assert statuses == [401, 204]
    login.answer = respond(500)
    _, route = way.pool(server.at("/"), OutboundPolicy(oauth2=client_of(login)))
    other = HttpClient(2.0, 1000).on(always(route)).pool(server.at("/"))
    refused = await other.open(GET, 5.0)
    assert "answered 500" in failed(refused, "ERR_AUTH")
    pool.close()


async def test_the_oauth_server_may_have_a_certificate_of_the_ca(way: Way) -> None:
    tls = way.authority.server_tls(way.authority.server(), way.folder, way.authority)
    login = way.stack.enter_context(OAuthServer(tls=tls))
    server = way.plain()
    pool, _ = way.pool(server.at("/"), OutboundPolicy(oauth2=client_of(login), tls=way.tls("toril")))
    assert isinstance(await pool.send(POST), Answered)
    assert [call.client for call in login.calls] == ["toril"]
    pool.close()
