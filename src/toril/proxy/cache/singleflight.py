"""Equal requests share one answer: from the cache, or from the one of them that is under way.

Within a process later requests wait for the first one. With a cache that processes share, the process that claims the
key makes the request, and the others wait for the answer in the cache. While the cache cannot be reached, each request
is made by itself; none fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from toril.core.errors import StoreError
from toril.core.outcome import Answered, Outcome, TimedOut
from toril.proxy.ports import AnswerCache
from toril.proxy.rules.caching import as_hit, as_miss, from_record, is_cacheable, to_record
from toril.proxy.rules.envelope import decode_response, encode_response

log = structlog.get_logger(__name__)

Ask = Callable[[float], Awaitable[Outcome]]
"""Makes the request, within this number of seconds."""

CLAIM_S = 6.0
_RENEW_S = 2.0
_LOOK_S = 0.05


class Singleflight:
    """Answers requests by their cache keys.

    Args:
        cache: keeps answers.
        who: identifies this process to the cache.
    """

    def __init__(self, cache: AnswerCache, who: bytes) -> None:
        self._cache = cache
        self._who = who
        self._flights: dict[str, asyncio.Future[Outcome | None]] = {}

    async def answer(self, key: str, ask: Ask, timeout_s: float) -> Outcome:
        """Return the answer to a request: kept, shared, or from the upstream. Waiting for others counts as its time."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            left_s = began + timeout_s - loop.time()
            if left_s <= 0:
                return TimedOut("answer", loop.time() - began)
            flight = self._flights.get(key)
            if flight is None:
                return await self._fly(key, ask, left_s)
            await asyncio.wait([flight], timeout=left_s)
            shared = flight.result() if flight.done() else None
            if isinstance(shared, Answered):
                return as_hit(shared) if is_cacheable(shared) else shared
            # The first one had no answer, perhaps because it was cancelled: make the request again.

    async def _fly(self, key: str, ask: Ask, timeout_s: float) -> Outcome:
        flight: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._flights[key] = flight
        outcome: Outcome | None = None
        try:
            outcome = await self._ask(key, ask, timeout_s)
            return outcome
        finally:
            del self._flights[key]
            flight.set_result(outcome)

    async def _ask(self, key: str, ask: Ask, timeout_s: float) -> Outcome:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            while True:
                kept = await self._cache.get(key)
                if kept is not None:
                    return as_hit(from_record(decode_response(kept), loop.time() - began))
                if await self._cache.claim(key, self._who, CLAIM_S):
                    break
                if loop.time() - began >= timeout_s:
                    return TimedOut("answer", loop.time() - began)
                await asyncio.sleep(_LOOK_S)
        except (StoreError, ValueError) as exc:
            log.warning("cache.unavailable", error=str(exc))
            return _marked(await ask(began + timeout_s - loop.time()))
        try:
            async with asyncio.TaskGroup() as tasks:
                renewing = tasks.create_task(self._renew(key))
                outcome = await ask(began + timeout_s - loop.time())
                renewing.cancel()
            if isinstance(outcome, Answered) and is_cacheable(outcome):
                await self._quietly(self._cache.put(key, encode_response(to_record(outcome))))
            return _marked(outcome)
        finally:
            await self._quietly(self._cache.release(key, self._who))

    async def _renew(self, key: str) -> None:
        while True:
            await asyncio.sleep(_RENEW_S)
            await self._quietly(self._cache.claim(key, self._who, CLAIM_S))

    async def _quietly(self, call: Awaitable[object]) -> None:
        try:
            await call
        except StoreError as exc:
            log.debug("cache.unavailable", error=exc.message)


def _marked(outcome: Outcome) -> Outcome:
    return as_miss(outcome) if isinstance(outcome, Answered) else outcome
