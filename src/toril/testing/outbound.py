"""Outbound HTTP without a network: a function answers the requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

from toril.core.destination import OutboundRequest
from toril.core.outcome import Answered, Outcome, TimedOut
from toril.engine.ports import Outbound, OutboundPool

Answering = Callable[[OutboundRequest], Awaitable[Outcome]]


def answered(
    status: int = 200,
    body: bytes = b"",
    *,
    reason: str | None = None,
    headers: Iterable[tuple[bytes, bytes]] = (),
    duration_s: float = 0.01,
) -> Answered:
    """Return a whole answer; without a `reason` it has the usual one of its status."""
    if reason is None:
        reason = HTTPStatus(status).phrase if status in {known.value for known in HTTPStatus} else ""
    return Answered(status, reason, list(headers), body, duration_s)


async def _ok(_: OutboundRequest) -> Outcome:
    return answered()


class FakePool:
    """Answers requests by a function, within each request's own timeout.

    `closed` is True once the pool was closed.
    """

    def __init__(self, url: str, owner: FakeOutbound) -> None:
        self.url = url
        self.closed = False
        self._owner = owner

    async def send(self, request: OutboundRequest) -> Outcome:
        """Make one request. Raises nothing but `CancelledError`."""
        owner, loop = self._owner, asyncio.get_running_loop()
        began = loop.time()
        owner.requests.append(request)
        owner.in_flight += 1
        owner.most_in_flight = max(owner.most_in_flight, owner.in_flight)
        try:
            async with asyncio.timeout(request.timeout_s):
                return await owner.answering(request)
        except TimeoutError:
            return TimedOut("answer", loop.time() - began)
        except asyncio.CancelledError:
            owner.broken_off.append(request)
            raise
        finally:
            owner.in_flight -= 1

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True


class FakeOutbound:
    """Makes pools whose requests `answering` answers; by default at once with an empty 200.

    `requests` has every request in order, `broken_off` those that were cancelled, `pools` the pools made. `in_flight`
    and `most_in_flight` count requests.
    """

    def __init__(self, answering: Answering = _ok) -> None:
        self.answering = answering
        self.requests: list[OutboundRequest] = []
        self.broken_off: list[OutboundRequest] = []
        self.pools: list[FakePool] = []
        self.in_flight = 0
        self.most_in_flight = 0

    def pool(self, url: str) -> FakePool:
        """Return a pool for the origin of this URL."""
        pool = FakePool(url, self)
        self.pools.append(pool)
        return pool


if TYPE_CHECKING:
    _pool: type[OutboundPool] = FakePool
    _outbound: type[Outbound] = FakeOutbound
