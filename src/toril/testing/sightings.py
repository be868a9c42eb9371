"""Which ledgers the instances have, in memory."""

from __future__ import annotations

from collections.abc import Sequence

from toril.core.ports import Now
from toril.delivery.ports import Sighting

LIVE_S = 30.0


class FakeSightings:
    """Keeps the promises of `LedgerSightings`; several instances share one."""

    def __init__(self, now: Now) -> None:
        self._now = now
        self._calls = 0
        self._seen: dict[tuple[str, str], tuple[float, float]] = {}
        self._places: dict[str, tuple[str, float]] = {}

    async def note(
        self, ledger_id: str, targets: Sequence[str], *, place: str = "", starting: bool = False
    ) -> list[Sighting]:
        """As `LedgerSightings.note`."""
        self._calls += 1
        now_s = self._now() + self._calls * 1e-6  # two are never seen in the same moment
        if place:
            former, _ = self._places.get(place, (ledger_id, now_s))
            self._places[place] = (ledger_id, now_s)
            elsewhere = any(there == former and now_s - seen_s <= LIVE_S for there, seen_s in self._places.values())
            if starting and former != ledger_id and not elsewhere:
                self._seen = {key: times for key, times in self._seen.items() if key[1] != former}
        for target in targets:
            began_s, seen_s = self._seen.get((target, ledger_id), (now_s, now_s))
            self._seen[target, ledger_id] = (began_s if now_s - seen_s <= LIVE_S else now_s, now_s)
        found = []
        for (target, other), (began_s, seen_s) in self._seen.items():
            if other == ledger_id or target not in targets:
                continue
            live = now_s - seen_s <= LIVE_S
            senior = live and (began_s, other) < (self._seen[target, ledger_id][0], ledger_id)
            found.append(Sighting(target=target, ledger_id=other, seen_s=now_s - seen_s, live=live, senior=senior))
        return found
