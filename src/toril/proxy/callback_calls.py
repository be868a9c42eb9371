"""Makes the requests of callbacks: reads how a job ended, and calls its URL. The executor uses it as an `Outbound`."""

from __future__ import annotations

from msgspec.structs import replace

from toril.core.destination import OutboundRequest
from toril.core.errors import StoreError
from toril.core.http.signing import Secret
from toril.core.outcome import CutOff, Outcome
from toril.core.ports import Now
from toril.engine.ports import Outbound, OutboundPool
from toril.proxy.ports import ProxiedJobs
from toril.proxy.rules.callback import Forgotten, callback_request, read_order


class CallbackCalls:
    """Calls the URLs of callbacks.

    Args:
        outbound: connects only where the egress rules allow it.
        jobs: tells how a job ended.
        queue: where callbacks wait.
        secrets: sign the requests.
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
        """Return itself: each callback has its own URL, so no connection is kept."""
        return self

    async def send(self, request: OutboundRequest) -> Outcome:
        """Make the request of one callback."""
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
            made = callback_request(order, end, self._secrets, self._now(), request.timeout_s)
            return await pool.send(replace(made, head=made.head + request.head))
        finally:
            pool.close()

    async def _forgotten(self, job_id: str) -> Forgotten:
        return "expired" if await self._jobs.had_ended(job_id, self._queue) else "cancelled"

    def close(self) -> None:
        """Do nothing: no connection is kept."""
