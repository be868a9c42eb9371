"""Tells our ledger from those of other instances on the same queues, and gives back the jobs of deliveries in them.

Two instances on one Redis with a ledger each take each other's jobs. A job that names another ledger, or that has no
row in ours, has not finished: it is given back after a pause, without spending an attempt, until an instance that has
its row takes it. Must never remove a job.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import structlog
from msgspec import Struct

from toril.core.errors import StoreError
from toril.core.lease import Lease
from toril.core.verdict import Snooze
from toril.delivery.ports import LedgerReader, LedgerSightings, Sighting
from toril.delivery.rules.delivery import is_job_id
from toril.delivery.rules.delivery_job import ledger_of

log = structlog.get_logger(__name__)

REMEDY = (
    "give all instances that have these targets one ledger (ledger.url, PostgreSQL), or a Redis or a queue prefix of "
    "their own each"
)
_EVERY_S = 2.0
_SAID_EVERY_S = 60.0
_TAKES = 0.5
_PAUSE_S = 0.2
_QUICK_STARTS = 10
_STARTS_TO_DOUBLE = 5
_LONGEST_PAUSE_S = 30.0
_LONGEST_AWAY_S = 300.0
_RECENT_S = 2 * _LONGEST_AWAY_S
_MOST_REMEMBERED = 100
_MOST_NAMED = 3


class _GivenBack(Struct):
    """How many jobs of a target were given back since the last log line about them, and when that was."""

    count: int = 0
    said_at_s: float | None = None


class LedgerFleet:
    """The ledgers of the instances on one Redis, as one instance sees them.

    Args:
        ledger: ours.
        sightings: where instances record which ledger they have.
        targets: returns the names of the targets that are configured now.
        chance: returns a random number from 0 to 1.
        place: names where this instance has its ledger. Of two ledgers in one place, the earlier one is gone.
    """

    def __init__(
        self,
        ledger: LedgerReader,
        sightings: LedgerSightings,
        targets: Callable[[], Iterable[str]],
        chance: Callable[[], float],
        place: str = "",
    ) -> None:
        self._ledger = ledger
        self._sightings = sightings
        self._targets = targets
        self._chance = chance
        self._place = place
        self._id: str | None = None
        self._noted: str | None = None
        # The data of the last job that was ours, as all jobs of a target have it, and our ledger's id then.
        self._ours = b""
        self._ours_of: str | None = None
        self._others: Mapping[tuple[str, str], Sighting] = {}
        self._said: tuple[frozenset[tuple[str, str]], float] = (frozenset(), 0.0)
        self._given_back: dict[tuple[str, bool], _GivenBack] = {}
        self._missed: dict[str | None, float] = {}  # when a job last named each ledger; None is ours

    async def run(self) -> None:
        """Call `look` until cancelled."""
        while True:
            try:
                await self.look()
            except StoreError as exc:
                log.debug("ledger_fleet.failed", error=exc.message)
            await asyncio.sleep(_EVERY_S)

    async def look(self) -> None:
        """Record which ledger this instance has, and learn which ones the others have.

        Raises:
            StoreUnavailable: the ledger or Redis did not answer.
        """
        self._id = await self._ledger.identity()
        starting = self._id != self._noted
        found = await self._sightings.note(self._id, list(self._targets()), place=self._place, starting=starting)
        self._noted = self._id
        self._others = {(one.target, one.ledger_id): one for one in found}
        self._complain()

    def conflicts(self) -> list[str]:
        """Return a sentence for each other ledger whose instances came first; any makes this instance not ready."""
        return self._sentences(senior=True)

    def warnings(self) -> list[str]:
        """Return sentences about other ledgers that came later, and about jobs whose rows are not in our ledger."""
        now_s = _loop_s()
        said = self._sentences(senior=False)
        live = set(self.others())
        missed = {ledger_id for ledger_id, at_s in self._missed.items() if now_s - at_s <= _RECENT_S} - live
        if None in missed and not live:
            said.append(f"deliveries wait that ledger {self._id} of this instance has no row of")
        if named := sorted(ledger_id for ledger_id in missed if ledger_id is not None)[:_MOST_NAMED]:
            said.append(f"deliveries wait that are not in ledger {self._id} of this instance but in {', '.join(named)}")
        return said

    def others(self) -> list[str]:
        """Return the ids of the other ledgers whose instances work on our queues now."""
        return sorted({other.ledger_id for other in self._live()})

    def may_take(self, target: str) -> bool:
        """Return True if this instance may look for a job now; where another ledger is at work, at random.

        A job that was given back is due for all instances at the same moment. Without randomness the instance that is a
        millisecond faster would always take it, even if it cannot deliver it.
        """
        shared = any(other.target == target for other in self._live())
        return not shared or self._chance() < _TAKES

    def elsewhere(self, lease: Lease, target: str) -> Snooze | None:
        """Return the pause of a job whose row is in another ledger; None for a job that may be ours."""
        data = lease.fields.get(b"data", b"")
        if data == self._ours and self._id is self._ours_of:
            return None
        ledger_id = ledger_of(data)
        if ledger_id is None or self._id is None or ledger_id == self._id:
            self._ours, self._ours_of = data, self._id
            return None
        return self._back(lease, target, ledger_id)

    def rowless(self, lease: Lease, target: str) -> Snooze | None:
        """Return the pause of a job that has no row in our ledger; None for one whose id no delivery can have.

        The job of a finished delivery leaves the queue before the row is removed. So the row is in another ledger, or
        was lost; it may come back when a backup is restored.
        """
        if not is_job_id(lease.job_id.decode(errors="replace")):
            return None
        return self._back(lease, target, ledger_of(lease.fields.get(b"data", b"")))

    def _back(self, lease: Lease, target: str, ledger_id: str | None) -> Snooze:
        self._note(lease, target, ledger_id)
        return Snooze(round(self._pause_s(lease, target, ledger_id) * 1000), "its delivery is in another ledger")

    def _pause_s(self, lease: Lease, target: str, ledger_id: str | None) -> float:
        """Return a pause that is short while an instance with the row may take the job, and grows with each start."""
        starts = _starts(lease)
        if ledger_id is None or ledger_id == self._id:
            live = bool(self._live())
        else:
            other = self._others.get((target, ledger_id))
            live = other is not None and other.live
            if other is not None and not live:
                # The job is then late by at most half as long again as its instance was away.
                return min(_LONGEST_AWAY_S, max(1.0, other.seen_s / 2))
        longest_s = _LONGEST_PAUSE_S if live else _LONGEST_AWAY_S
        return float(min(longest_s, _PAUSE_S * 2.0 ** min(max(0, starts - _QUICK_STARTS) / _STARTS_TO_DOUBLE, 16)))

    def _note(self, lease: Lease, target: str, ledger_id: str | None) -> None:
        now_s = _loop_s()
        own = ledger_id in (None, self._id)
        if len(self._missed) >= _MOST_REMEMBERED:
            self._missed.clear()
        self._missed[None if own else ledger_id] = now_s
        given_back = self._given_back.setdefault((target, own), _GivenBack())
        given_back.count += 1
        if given_back.said_at_s is not None and now_s - given_back.said_at_s < _SAID_EVERY_S:
            return
        log.error(
            "delivery.no_row" if own else "delivery.in_another_ledger",
            target=target,
            job_id=lease.job_id.decode(errors="replace"),
            given_back=given_back.count,
            ledger=self._id,
            other=None if own else ledger_id,
            hint="the ledger may have been restored or exchanged: bring back the one that has it, or remove the job"
            if own
            else REMEDY,
        )
        given_back.count, given_back.said_at_s = 0, now_s

    def _live(self) -> list[Sighting]:
        return [one for one in self._others.values() if one.live]

    def _sentences(self, *, senior: bool) -> list[str]:
        by_ledger = Counter(one.ledger_id for one in self._live() if one.senior is senior)
        return [
            f"this instance has ledger {self._id}, others on this Redis have ledger {other} for {count} of the same "
            f"targets: {REMEDY}"
            for other, count in sorted(by_ledger.items())
        ]

    def _complain(self) -> None:
        live = frozenset((one.target, one.ledger_id) for one in self._live())
        before, said_at_s = self._said
        if not live:
            if before:
                log.info("ledger.one_again", ledger=self._id)
            self._said = (live, 0.0)
        elif live != before or _loop_s() - said_at_s >= _SAID_EVERY_S:
            log.error(
                "ledger.several_on_one_redis",
                ledger=self._id,
                others=self.others(),
                targets=sorted({target for target, _ in live}),
                hint=REMEDY,
            )
            self._said = (live, _loop_s())


def _loop_s() -> float:
    return asyncio.get_running_loop().time()


def _starts(lease: Lease) -> int:
    """Return how often a job was taken, as BullMQ counts it."""
    stored = lease.fields.get(b"ats", b"")
    return int(stored) if stored.isdigit() and len(stored) < 10 else 0
