"""Outbound HTTP/1.1: a small client on asyncio protocols and httptools' parser (llhttp, which Node.js uses).

Owns how requests come to connections; `connection.py` carries them, `answer_reader.py` reads the answers, and
`connecting.py` connects. It must never raise for what a receiver does, nor change what it is given: the head goes out
byte for byte, the status line and the headers come back as sent. No redirects, no cookies; a body is unpacked only for
a request that asks for it. On an operator's route (`outbound_route.py`) an access token is put into the head, and a
forward proxy is told where plain http goes.

Why not a library: pyreqwest hides the reason phrase, which is what a failed job's `failedReason` is by contract,
and rewrites paths and header names; aiohttp keeps them at three times the cost. docs/decisions/0002 has the
measurement.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from functools import partial
from time import perf_counter  # the loop's own clock may stand still for a millisecond

from msgspec.structs import replace

from toril.core.destination import OutboundRequest
from toril.core.http.headers import ANSWER_HEAD_BYTES
from toril.core.http.streaming import StreamRequest
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, TimedOut
from toril.http_client.answer_reader import AnswerLimits
from toril.http_client.compressed_answers import unpacked
from toril.http_client.connecting import Connector, Network
from toril.http_client.connection import HttpConnection
from toril.http_client.egress import Egress
from toril.http_client.exchange import HttpExchange, Told
from toril.http_client.forward_proxy import ProxyConnector
from toril.http_client.idle_connections import IdleConnections
from toril.http_client.outbound_route import OutboundRoute, RouteToOrigin

RouteTo = Callable[[str], OutboundRoute | None]
"""Returns the operator's route to a URL; None is the usual one."""


_UNANSWERED = "The connection was closed before an answer came"


def always(route: OutboundRoute | None) -> RouteTo:
    """Return what has the same route to every URL."""
    return lambda _: route


class HttpClient:
    """A factory of pools, which share nothing but their limits.

    Args:
        connect_timeout_s: for name lookup, TCP and TLS together; the request's own timeout still covers all.
        max_response_bytes: an answer that is read whole is cut off where its body is larger, or taken without the rest
            of it (`truncate`).
        egress: which addresses may be connected to; None is for URLs that the operator has chosen, or toril itself.
        network: what all connections share; made here where it is not given.
        max_head_bytes: an answer with more than this that is no body (heads, trailer, framing) is cut off.

    Attributes:
        route_to: tells the routes of pools; the usual one unless `on` says otherwise.
    """

    def __init__(
        self,
        connect_timeout_s: float,
        max_response_bytes: int,
        egress: Egress | None = None,
        network: Network | None = None,
        *,
        truncate: bool = False,
        max_head_bytes: int = ANSWER_HEAD_BYTES,
    ) -> None:
        self.route_to: RouteTo = always(None)
        self._connect_timeout_s = connect_timeout_s
        self._egress = egress
        self._network = network or Network()
        self._limits = AnswerLimits(
            max_head_bytes=max_head_bytes, max_body_bytes=max_response_bytes, truncates=truncate
        )

    def on(self, route_to: RouteTo) -> HttpClient:
        """Return a client with the same limits whose requests take these routes."""
        client = copy.copy(self)
        client.route_to = route_to
        return client

    def pool(self, url: str) -> HttpPool:
        """Part of Outbound and of StreamOutbound."""
        route = self.route_to(url)
        if route is None or route.proxy is None:
            connector = Connector(url, self._connect_timeout_s, self._egress, self._network, route)
            return HttpPool(connector, self._limits, None if route is None else RouteToOrigin(route, url))
        through = ProxyConnector(url, self._connect_timeout_s, self._egress, self._network, route)
        return HttpPool(through, self._limits, RouteToOrigin(route, url))


class HttpPool:
    """Connections to one origin, one per request in progress; idle ones are kept for the next requests.

    `send` collects the answer of a request, `open` streams it; both are exchanges over the same connections.
    """

    __slots__ = ("_connector", "_idle", "_limits", "_loop", "_route", "_streamed", "_version")

    def __init__(
        self, connector: Connector | ProxyConnector, limits: AnswerLimits, route: RouteToOrigin | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connector = connector
        self._limits = limits
        self._streamed = AnswerLimits(max_head_bytes=limits.max_head_bytes, streamed=True)
        self._route = route
        self._version = 0 if route is None else route.version
        self._idle = IdleConnections()

    async def send(self, request: OutboundRequest) -> Outcome:
        """Make one request and read the whole answer.

        What may have reached the receiver is not sent again. Only a request that may be repeated is, once and on a new
        connection, where a kept one is closed before a single byte of the answer: as idle, most likely.
        """
        started = perf_counter()
        body, head, token = request.body, request.head, b""
        if self._route is not None and self._route.rewrites:
            routed = await self._route.prepared(head, request.timeout_s)
            if isinstance(routed, ConnectFailed):
                return routed
            head, token = routed.head, routed.token
        if request.framed:
            data = b"%b\r\n%b" % (head, body)
        else:
            size = len(body) if request.stream is None else request.stream.size_bytes
            data = b"%bcontent-length: %d\r\n\r\n%b" % (head, size, body)
        idle = self._kept()
        kept = connection = idle.take()
        while True:
            if connection is None:
                made = await self._connect(started, request.timeout_s)
                if not isinstance(made, HttpConnection):
                    return made
                connection = made
            outcome = await connection.collect(data, request, self._limits, started)
            idle.give_back(connection)
            if outcome is not None:
                break
            if kept is None or not request.repeatable:
                hint = "" if self._route is None or kept is not None else self._route.hint
                return CutOff("ECONNRESET", f"{_UNANSWERED}{hint}", perf_counter() - started)
            kept = connection = None
        if self._route is not None and isinstance(outcome, Answered):
            fault = self._route.fault(outcome.status, outcome.reason, token)
            if fault is not None:
                return replace(fault, duration_s=outcome.duration_s)
        if request.unpacks and isinstance(outcome, Answered):
            return unpacked(outcome, self._limits.max_body_bytes)
        return outcome

    async def open(self, request: StreamRequest, timeout_s: float) -> HttpExchange | ConnectFailed | TimedOut:
        """Begin a request: connect, and send its head.

        Only a request that may be made twice goes over a connection that has carried another one: the upstream may be
        closing it in this moment, and then whether the request was heard is unknown.
        """
        started = perf_counter()
        told: Told | None = None
        if self._route is not None and self._route.rewrites:
            routed = await self._route.prepared(request.head, timeout_s)
            if isinstance(routed, ConnectFailed):
                return routed
            request = replace(request, head=routed.head)
            told = partial(self._route.fault, token=routed.token)
        idle, limits = self._kept(), self._streamed
        connection = idle.take() if request.repeatable else None
        if connection is not None:
            exchange = HttpExchange(connection, request, started, idle, self._connect, limits)
        else:
            made = await self._connect(started, timeout_s)
            if not isinstance(made, HttpConnection):
                return made
            exchange = HttpExchange(made, request, started, idle, None, limits)
        exchange.told = told
        return exchange

    def _kept(self) -> IdleConnections:
        """Return where connections are kept; those of before the route was renewed are closed."""
        if self._route is not None and self._route.version != self._version:
            self._version = self._route.version
            self._idle.close()
            self._idle = IdleConnections()
        return self._idle

    async def _connect(self, started: float, timeout_s: float) -> HttpConnection | ConnectFailed | TimedOut:
        return await self._connector.connect(self._new_connection, started, timeout_s)

    def _new_connection(self) -> HttpConnection:
        return HttpConnection(self._loop)

    def close(self) -> None:
        """Close idle connections; those in use end with their request."""
        self._idle.close()
