"""The ledger in Redis, whose callers are answered when Redis has confirmed their writes as `acknowledge` asks.

What instances write by themselves is not confirmed: if it is lost, the attempt is made again.
"""

from __future__ import annotations

from collections.abc import Sequence

from toril.core.errors import StoreError
from toril.delivery.ledger.redis_ledger import RedisLedger
from toril.delivery.rules.changes import Accepted, Cancel, Duplicate, Refused, Replay, Written
from toril.delivery.rules.delivery import NewDelivery
from toril.redis.confirmations import Confirmations
from toril.redis.links import Links


class AcknowledgedLedger(RedisLedger):
    """Confirms deliveries that are accepted, cancelled, replayed or removed. All keys of the ledger are at one node."""

    def __init__(self, links: Links, prefix: str, confirmations: Confirmations) -> None:
        super().__init__(links, prefix)
        self._confirmations = confirmations
        self._key = self._keys.check.encode()

    async def accept(self, deliveries: Sequence[NewDelivery]) -> list[Accepted | Duplicate | StoreError]:
        """As `Ledger.accept`; `Unconfirmed` takes the place of deliveries that may have been accepted."""
        try:
            written = await self._confirmations.before(self._key)
        except StoreError as exc:
            return [exc for _ in deliveries]
        results = await super().accept(deliveries)
        try:
            await self._confirmations.confirm(written)
        except StoreError as exc:
            return [result if isinstance(result, StoreError) else exc for result in results]
        return results

    async def cancel(self, change: Cancel) -> Written | Refused:
        """As `Ledger.cancel`."""
        return await self._confirmations.after(self._key, lambda: super(AcknowledgedLedger, self).cancel(change))

    async def replay(self, change: Replay) -> Written | Refused:
        """As `Ledger.replay`."""
        return await self._confirmations.after(self._key, lambda: super(AcknowledgedLedger, self).replay(change))

    async def forget(self, job_ids: Sequence[str]) -> None:
        """As `LedgerUpkeep.forget`."""
        await self._confirmations.after(self._key, lambda: super(AcknowledgedLedger, self).forget(job_ids))
