"""Answers changes of queues when they are confirmed as `acknowledge` asks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import wraps
from typing import TypeVar

from starlette.responses import Response

from toril.bullmq.keys import QueueKeys
from toril.redis.confirmations import Confirmations
from toril.web.request import Request
from toril.web.routing import Handler

T = TypeVar("T")


class Acknowledging:
    """Confirms changes of queues; with `acknowledge: memory`, or without confirmations, nothing is done.

    Each method raises `Unconfirmed` where the change may have been made, but could not be confirmed.

    Args:
        confirmations: of writes to Redis.
        prefix: the prefix of BullMQ's keys.
    """

    def __init__(self, confirmations: Confirmations | None = None, prefix: str = "") -> None:
        self._confirmations = confirmations if confirmations is not None and confirmations.wanted else None
        self._prefix = prefix

    def handler(self, handler: Handler) -> Handler:
        """Return a handler of changes of the queue in its path, whose response waits until they are confirmed."""
        if self._confirmations is None:
            return handler

        @wraps(handler)
        async def confirmed(request: Request) -> Response:
            return await self.after(request.queue, lambda: handler(request))

        return confirmed

    async def after(self, queue: str, change: Callable[[], Awaitable[T]]) -> T:
        """Make a change, and return its result when it is confirmed."""
        if self._confirmations is None:
            return await change()
        return await self._confirmations.after(self._key(queue), change)

    async def steps(self, queue: str, steps: AsyncGenerator[None, None]) -> AsyncGenerator[None, None]:
        """Yield for each step of a change; end when all are confirmed."""
        written = None if self._confirmations is None else await self._confirmations.before(self._key(queue))
        async with aclosing(steps):
            async for _ in steps:
                yield
        if self._confirmations is not None and written is not None:
            await self._confirmations.confirm(written)

    def _key(self, queue: str) -> bytes:
        return QueueKeys(self._prefix, queue).prefix


AT_ONCE = Acknowledging()
"""Confirms nothing."""
