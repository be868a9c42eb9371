"""Cancelled jobs whose removal is confirmed before a caller is told of it."""

from __future__ import annotations

from toril.bullmq.keys import QueueKeys
from toril.bullmq.ports.jobs import Cancels
from toril.redis.confirmations import Confirmations


class AcknowledgedCancels:
    """A `Cancels` whose removals are confirmed."""

    def __init__(self, cancels: Cancels, confirmations: Confirmations, prefix: str) -> None:
        self._cancels = cancels
        self._confirmations = confirmations
        self._prefix = prefix

    async def cancel(self, queue: str, job_id: str) -> bool:
        """As `Cancels.cancel`. Raises `Unconfirmed` if the job may have been removed, but it could not be confirmed."""
        key = QueueKeys(self._prefix, queue).prefix
        return await self._confirmations.after(key, lambda: self._cancels.cancel(queue, job_id))
