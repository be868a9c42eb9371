"""Which idempotency keys were held a moment ago by a transaction that had not ended (`toril.enqueue` in a long one).

Deliveries with such a key are committed apart from the others, which would wait with them.
"""

from __future__ import annotations

from collections.abc import Sequence

from toril.delivery.rules.delivery import NewDelivery

_REMEMBERED_S = 60.0
_MOST = 10_000


class BlockedKeys:
    """Remembers a bounded number of keys for a minute. Times are those of one clock, in seconds."""

    def __init__(self) -> None:
        self._until_s: dict[tuple[str, str | None], float] = {}

    def note(self, delivery: NewDelivery, now_s: float) -> None:
        """Remember the key of a delivery."""
        if len(self._until_s) >= _MOST:
            self._until_s = {key: until_s for key, until_s in self._until_s.items() if until_s > now_s}
        if len(self._until_s) < _MOST:
            self._until_s[delivery.target, delivery.idempotency_key] = now_s + _REMEMBERED_S

    def among(self, deliveries: Sequence[NewDelivery], now_s: float) -> set[str]:
        """Return the job ids of those whose key is remembered."""
        if not self._until_s:
            return set()
        return {one.job_id for one in deliveries if self._until_s.get((one.target, one.idempotency_key), 0.0) > now_s}
