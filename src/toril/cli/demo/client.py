"""The few HTTP calls that the demo makes, on toril's own outbound client."""

from __future__ import annotations

from typing import Any

import msgspec

from toril.core.destination import OutboundRequest
from toril.core.http.headers import request_head
from toril.core.outcome import Answered
from toril.engine.ports import OutboundPool

_TIMEOUT_S = 10.0


class CallFailed(Exception):
    """A call got no answer, or one with another status than 2xx."""


class Client:
    """A client of one toril.

    Args:
        below: the path that all paths are below.
    """

    def __init__(self, pool: OutboundPool, host: str, token: str, below: str | None = None) -> None:
        self._pool = pool
        self._host = host.encode()
        self._token = token
        self._below = below or ""

    async def get(self, path: str) -> Any:
        """Return the decoded answer to a GET."""
        return msgspec.json.decode(await self._call("GET", path, b"", self._token))

    async def post(self, path: str, value: object, token: str | None = None) -> bytes:
        """POST a value as JSON and return the body of the answer."""
        return await self._call("POST", path, msgspec.json.encode(value), token or self._token)

    async def send(self, method: str, path: str, value: object = None) -> None:
        """Make a request, with a value as JSON unless it is None, and see that it is not refused."""
        await self._call(method, path, b"" if value is None else msgspec.json.encode(value), self._token)

    async def _call(self, method: str, path: str, body: bytes, token: str) -> bytes:
        headers = [(b"authorization", b"Bearer " + token.encode()), (b"content-type", b"application/json")]
        head = request_head(method.encode(), (self._below + path).encode(), self._host, headers)
        outcome = await self._pool.send(OutboundRequest(head, body, _TIMEOUT_S))
        if not isinstance(outcome, Answered):
            raise CallFailed(f"{method} {path}: {outcome}")
        if not 200 <= outcome.status < 300:
            raise CallFailed(f"{method} {path}: {outcome.status} {outcome.body.decode(errors='replace')}")
        return outcome.body
