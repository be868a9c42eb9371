"""Circuit breakers and holds in PostgreSQL: one row per target, decided by `toril.delivery.rules.breaker` under a lock.

What is asked for during one transaction shares the next one. Most questions change nothing: those are answered by one
read, without a lock. PostgreSQL's clock counts, so the clocks of the instances need not agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from toril.core.errors import StoreError
from toril.core.ports import Now
from toril.delivery.ledger.group_commit import GroupCommit
from toril.delivery.postgres_queue.database import QueueDatabase, answering, unless_rolled_back
from toril.delivery.postgres_queue.tables import NOW
from toril.delivery.rules.breaker import (
    NO_SUCCESSES,
    Breaker,
    BreakerDecision,
    FailedAttempt,
    Successes,
    admit,
    failed,
    held,
    left,
    passed,
    succeeded,
)
from toril.delivery.rules.target import BreakerPolicy

_NONE = Breaker()
_SIZE_BYTES = 200
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Breaker).decode

_READ = f"""
SELECT given.target, {NOW}, b.breaker FROM unnest($1::text[]) AS given (target)
LEFT JOIN toril_breakers AS b USING (target)"""
_MAKE = """
INSERT INTO toril_breakers SELECT target, $2 FROM unnest($1::text[]) AS given (target) ORDER BY target
ON CONFLICT DO NOTHING"""
_LOCK = f"""
SELECT target, {NOW}, breaker FROM toril_breakers WHERE target = ANY($1::text[]) ORDER BY target FOR UPDATE"""
_WRITE = """
UPDATE toril_breakers AS b SET breaker = given.breaker FROM unnest($1::text[], $2::bytea[]) AS given (target, breaker)
WHERE b.target = given.target"""

Deciding = Callable[[Breaker, float], tuple[Breaker, Any]]


class _Step(Struct, frozen=True):
    """What to make of a target's breaker at a time: the next one, and an answer."""

    target: str
    decide: Deciding


class PostgresBreakers:
    """`Breakers` in PostgreSQL. `now` is another clock than PostgreSQL's own, for tests."""

    def __init__(self, database: QueueDatabase, now: Now | None = None) -> None:
        self._database = database
        self._now = now
        self._steps: GroupCommit[_Step, Any] = GroupCommit(self._commit, size=lambda _: _SIZE_BYTES)

    async def run(self) -> None:
        """Decide until cancelled."""
        await self._steps.run()

    async def admit(
        self,
        target: str,
        policy: BreakerPolicy | None,
        probe: str,
        probe_for_s: float,
        successes: Successes = NO_SUCCESSES,
    ) -> BreakerDecision:
        """As `Breakers.admit`."""

        def deciding(breaker: Breaker, now_s: float) -> tuple[Breaker, BreakerDecision]:
            return admit(succeeded(breaker, policy, now_s, successes), policy, now_s, probe, probe_for_s)

        decision: BreakerDecision = await self._step(target, deciding)
        return decision

    async def succeeded(self, target: str, policy: BreakerPolicy, successes: Successes) -> Breaker:
        """As `Breakers.succeeded`."""
        return await self._become(target, lambda breaker, now_s: succeeded(breaker, policy, now_s, successes))

    async def failed(
        self, target: str, policy: BreakerPolicy | None, failure: FailedAttempt, successes: Successes = NO_SUCCESSES
    ) -> Breaker:
        """As `Breakers.failed`."""
        return await self._become(
            target, lambda breaker, now_s: failed(succeeded(breaker, policy, now_s, successes), policy, now_s, failure)
        )

    async def hold(self, target: str, for_s: float) -> Breaker:
        """As `Breakers.hold`."""
        return await self._become(target, lambda breaker, now_s: held(breaker, now_s, for_s))

    async def release(self, target: str) -> bool:
        """As `Breakers.release`."""

        def deciding(breaker: Breaker, now_s: float) -> tuple[Breaker, bool]:
            until_s = breaker.held_until_s
            return replace(breaker, held_until_s=None), until_s is not None and until_s > now_s

        was_held: bool = await self._step(target, deciding)
        return was_held

    async def passed(self, target: str, policy: BreakerPolicy, probe: str) -> Breaker:
        """As `Breakers.passed`."""
        return await self._become(target, lambda breaker, _: passed(breaker, policy, probe))

    async def left(self, target: str, policy: BreakerPolicy, probe: str) -> None:
        """As `Breakers.left`."""
        await self._become(target, lambda breaker, _: left(breaker, probe))

    async def read(self, target: str) -> Breaker:
        """As `Breakers.read`."""
        return await self._become(target, lambda breaker, _: breaker)

    async def _become(self, target: str, change: Callable[[Breaker, float], Breaker]) -> Breaker:
        def deciding(breaker: Breaker, now_s: float) -> tuple[Breaker, Breaker]:
            after = change(breaker, now_s)
            return after, after

        after: Breaker = await self._step(target, deciding)
        return after

    async def _step(self, target: str, decide: Deciding) -> Any:
        with answering():
            return await self._steps.submit(_Step(target, decide))

    async def _commit(self, batch: Sequence[_Step]) -> list[Any]:
        targets = sorted({step.target for step in batch})
        before = self._breakers(await self._database.fetch(_READ, targets))
        after, answers = _decided(batch, before)
        if all(after[target] == breaker for target, (breaker, _) in before.items()):
            return answers
        return await unless_rolled_back(lambda: self._change(batch, targets))

    async def _change(self, batch: Sequence[_Step], targets: list[str]) -> list[Any]:
        async with self._database.transaction() as connection:
            await connection.execute(_MAKE, targets, _encode(_NONE))
            before = self._breakers(await connection.fetch(_LOCK, targets))
            after, answers = _decided(batch, before)
            changed = {target: one for target, one in after.items() if one != before[target][0]}
            await connection.execute(_WRITE, list(changed), [_encode(one) for one in changed.values()])
        return answers

    def _breakers(self, rows: Sequence[Any]) -> dict[str, tuple[Breaker, float]]:
        return {
            target: (_NONE if stored is None else _read(stored), now_s if self._now is None else self._now())
            for target, now_s, stored in rows
        }


def _decided(batch: Sequence[_Step], before: dict[str, tuple[Breaker, float]]) -> tuple[dict[str, Breaker], list[Any]]:
    """Return the breakers after a batch, and the answers of its steps."""
    after = {target: breaker for target, (breaker, _) in before.items()}
    answers = []
    for step in batch:
        after[step.target], answer = step.decide(after[step.target], before[step.target][1])
        answers.append(answer)
    return after, answers


def _read(stored: bytes) -> Breaker:
    try:
        return _decode(stored)
    except msgspec.DecodeError as exc:
        raise StoreError(f"A row of toril_breakers cannot be read: {exc}") from exc
