"""The deliveries of a target as work of a listener: each is sent to the endpoint as the target would get it."""

from __future__ import annotations

from collections.abc import Coroutine
from time import perf_counter
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from toril.cli.gateway_address import segment
from toril.cli.listen.listener import DoneWork
from toril.cli.terminal import GREEN, RED, YELLOW, coloured, printable
from toril.core.destination import OutboundRequest
from toril.core.http.headers import request_head
from toril.core.outcome import Answered, Outcome
from toril.core.times import duration_text
from toril.delivery.listening.messages import (
    ListenedAnswer,
    ListenedFailure,
    ListenedRequest,
    failure_of,
    reply_message,
)
from toril.delivery.rules.destination import describe, join
from toril.engine.ports import OutboundPool
from toril.http_client.client import HttpClient

_CONNECT_S = 2.0
_MOST_ANSWER_BYTES = 4 * 1024 * 1024
"""In base64 it is still a message that the gateway takes."""
_SHOWN = 200
_URL_SAFE = "!#$%&'()*+,/:;=?@[]~"
_REQUEST = msgspec.json.Decoder(ListenedRequest)


class DeliveryWork:
    """Sends the deliveries of a target to an endpoint.

    Args:
        target: its name.
        url: the endpoint, in place of the target's own URL.
        concurrency: how many deliveries may be under way at once.
        timeout_s: how long an answer may take; None for the target's own limit.

    Raises:
        ValueError: the URL is none of HTTP.
    """

    def __init__(self, target: str, url: str, concurrency: int, timeout_s: float | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ValueError(f"{url!r} is not a URL that can be called (--to)")
        self.name = target
        self.url = url
        self.path = f"/ws/targets/{segment(target)}/listen/{concurrency}"
        self._base = quote(parts.path, safe=_URL_SAFE).encode()
        self._query = quote(parts.query, safe=_URL_SAFE).encode()
        self._host = parts.netloc.encode("idna" if not parts.netloc.isascii() else "ascii")
        self._timeout_s = timeout_s
        self._pool: OutboundPool | None = None

    def begin(self) -> None:
        """Get ready to call the endpoint; a loop runs."""
        self._pool = HttpClient(_CONNECT_S, _MOST_ANSWER_BYTES, truncate=True).pool(self.url)

    def do(self, number: int, payload: bytes) -> Coroutine[Any, Any, DoneWork]:
        """Read a delivery, and return what sends it. Raises `msgspec.DecodeError` if it is none."""
        return self._send(number, _REQUEST.decode(payload))

    async def _send(self, number: int, asked: ListenedRequest) -> DoneWork:
        if self._pool is None:
            raise RuntimeError("it has not begun")
        limit_s = asked.timeout_ms / 1000
        timeout_s = limit_s if self._timeout_s is None else min(limit_s, self._timeout_s)
        began = perf_counter()
        outcome = await self._pool.send(self._request(asked, timeout_s))
        line = _told(asked, outcome, perf_counter() - began, timeout_s)
        return DoneWork(reply_message(number, _reply(outcome)), line)

    def _request(self, asked: ListenedRequest, timeout_s: float) -> OutboundRequest:
        method = asked.method.encode("latin-1")
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in asked.headers]
        head = request_head(method, join(self._base, self._query, asked.path), self._host, headers)
        if asked.body is not None:
            head += b"content-length: %d\r\n" % len(asked.body)
        return OutboundRequest(
            head, asked.body or b"", timeout_s, asked.job_id.encode(), framed=True, head_only=method == b"HEAD"
        )

    def close(self) -> str | None:
        """Close the connections to the endpoint."""
        if self._pool is not None:
            self._pool.close()
        return None


def _reply(outcome: Outcome) -> ListenedAnswer | ListenedFailure:
    if not isinstance(outcome, Answered):
        return failure_of(outcome)
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in outcome.headers]
    return ListenedAnswer(outcome.status, outcome.reason, headers, outcome.body, outcome.truncated)


def _told(asked: ListenedRequest, outcome: Outcome, took_s: float, timeout_s: float) -> str:
    """Return the line: `POST /orders  01a2…  attempt 1  → HTTP 200 OK in 34ms`."""
    attempt = next((value for name, value in asked.headers if name.lower() == "toril-attempt"), "?")
    sent = f"{asked.method} {printable((asked.path or '/')[:_SHOWN])}  {printable(asked.job_id[:_SHOWN])}"
    good = isinstance(outcome, Answered) and 200 <= outcome.status < 300
    colour = GREEN if good else YELLOW if isinstance(outcome, Answered) else RED
    became = coloured(printable(describe(outcome, timeout_s)[:_SHOWN]), colour)
    return f"{sent}  attempt {printable(attempt)}  → {became} in {duration_text(round(took_s, 3))}"
