"""The few HTTP calls that the demo makes, on toril's own outbound client."""

from __future__ import annotations

from typing import Any

import msgspec

from toril.core.destinations.base import OutboundRequest
from toril.core.headers import request_head
from toril.core.outcome import Answered
from toril.core.ports.calls import OutboundPool

_TIMEOUT_S = 10.0


class CallFailed(Exception):
    """A call got no answer, or one that is not 200."""


class Client:
    """Calls one toril."""

    def __init__(self, pool: OutboundPool, host: str, token: str) -> None:
        self._pool = pool
        self._host = host.encode()
        self._token = token

    async def get(self, path: str) -> Any:
        """GET, decoded."""
        return msgspec.json.decode(await self._call("GET", path, b"", self._token))

    async def post(self, path: str, value: object, token: str | None = None) -> bytes:
        """POST a value as JSON; the body of the answer."""
        return await self._call("POST", path, msgspec.json.encode(value), token or self._token)

    async def _call(self, method: str, path: str, body: bytes, token: str) -> bytes:
        headers = [(b"authorization", b"Bearer " + token.encode()), (b"content-type", b"application/json")]
        head = request_head(method.encode(), path.encode(), self._host, headers)
        outcome = await self._pool.send(OutboundRequest(head, body, _TIMEOUT_S))
        if not isinstance(outcome, Answered):
            raise CallFailed(f"{method} {path}: {outcome}")
        if outcome.status != 200:
            raise CallFailed(f"{method} {path}: {outcome.status} {outcome.body.decode(errors='replace')}")
        return outcome.body
