"""Makes the requests of callbacks: reads how the job ended, and tells its URL. An `Outbound` to the executor."""

from __future__ import annotations

from toril.core.destinations.base import OutboundRequest
from toril.core.destinations.callback import Forgotten, callback_request, read_order
from toril.core.errors import StoreError
from toril.core.outcome import CutOff, Outcome
from toril.core.ports.calls import Outbound, OutboundPool
from toril.core.ports.proxy import ProxiedJobs
from toril.core.ports.shared import Now
from toril.core.signing import Secret


class CallbackCalls:
    """Tells callers' URLs.

    Args:
        outbound: connects only where callers may have something sent to.
        jobs: how a job ended.
        queue: where callbacks wait.
        secrets: sign what is sent.
        now: the wall clock.
    """

    def __init__(
        self, outbound: Outbound, jobs: ProxiedJobs, queue: str, secrets: tuple[Secret, ...], now: Now
    ) -> None:
        self._outbound = outbound
        self._jobs = jobs
        self._queue = queue
        self._secrets = secrets
        self._now = now

    def pool(self, url: str) -> OutboundPool:
        """One for all URLs: each has its own, so there is no connection to keep."""
        return self

    async def send(self, request: OutboundRequest) -> Outcome:
        """Carry out one order."""
        try:
            order = read_order(request.body)
        except ValueError as exc:
            return CutOff("EINVAL", f"the job holds no callback that can be made: {exc}", 0.0)
        try:
            end = await self._jobs.find(order.job) or await self._forgotten(order.job)
        except StoreError as exc:
            return CutOff("ESTORE", str(exc), 0.0)
        pool = self._outbound.pool(order.url)
        try:
            return await pool.send(callback_request(order, end, self._secrets, self._now(), request.timeout_s))
        finally:
            pool.close()

    async def _forgotten(self, job_id: str) -> Forgotten:
        return "expired" if await self._jobs.had_ended(job_id, self._queue) else "cancelled"

    def close(self) -> None:
        """There is nothing to let go."""
