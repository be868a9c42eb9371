"""Conditions that last in PostgreSQL, by its clock: one row per condition, changed under its lock."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from toril.delivery.postgres_queue.database import QueueDatabase
from toril.delivery.postgres_queue.tables import NOW
from toril.telemetry.condition_events import ConditionEvents, Event
from toril.telemetry.conditions import LIFE_S, ROW, TOLD_EVERY_S, FleetCondition

_MAKE = """
INSERT INTO toril_conditions (kind, name, condition, until) VALUES ($1, $2, $3, 0) ON CONFLICT DO NOTHING"""
_LOCK = f"SELECT {NOW}, condition, until FROM toril_conditions WHERE kind = $1 AND name = $2 FOR UPDATE"
_WRITE = "UPDATE toril_conditions SET condition = $3, until = $4 WHERE kind = $1 AND name = $2"
_FORGET = f"""
DELETE FROM toril_conditions WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM toril_conditions WHERE until < {NOW} LIMIT 100 FOR UPDATE SKIP LOCKED
))"""
_CLAIM = f"""
INSERT INTO toril_conditions AS c (kind, name, condition, until) VALUES ($1, '', '', {NOW} + $2)
ON CONFLICT (kind, name) DO UPDATE SET until = excluded.until WHERE c.until <= {NOW} RETURNING 1"""
_MARK = f"""
INSERT INTO toril_conditions (kind, name, condition, until)
SELECT $1, name, '', {NOW} + $3 FROM unnest($2::text[]) AS given (name) ORDER BY name
ON CONFLICT (kind, name) DO UPDATE SET until = excluded.until"""
_MARKED = f"SELECT name FROM toril_conditions WHERE kind = $1 AND until > {NOW}"
_UNMARK = f"DELETE FROM toril_conditions WHERE kind = $1 AND name = ANY($2::text[]) AND until <= {NOW} + $3"


class _Known(Struct, frozen=True):
    """What is known of a condition; times are 0 where there is none.

    `share` and `count` are what crossed a threshold since the last time it was told.
    """

    since_s: float = 0.0
    ended_s: float = 0.0
    active: bool = False
    row: int = 0
    share: int = 0
    count: int = 0
    told_s: float = 0.0
    told_share: int = 0
    told_count: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Known).decode
_NOTHING = _Known()


class PostgresConditions(ConditionEvents):
    """`FleetConditions` in PostgreSQL."""

    def __init__(self, database: QueueDatabase) -> None:
        self._database = database

    async def mark(self, kind: str, names: Sequence[str]) -> None:
        """As `FleetConditions.mark`."""
        await self._database.fetch(_MARK, _marked(kind), sorted(set(names)), LIFE_S)

    async def marked(self, kind: str) -> set[str]:
        """As `FleetConditions.marked`."""
        return {row[0] for row in await self._database.fetch(_MARKED, _marked(kind))}

    async def unmark(self, kind: str, names: Sequence[str], for_s: float) -> None:
        """As `FleetConditions.unmark`."""
        await self._database.fetch(_UNMARK, _marked(kind), list(names), LIFE_S - for_s)

    async def claim(self, kind: str, for_s: float) -> bool:
        """As `FleetConditions.claim`."""
        return bool(await self._database.fetch(_CLAIM, f"claim {kind}", for_s))

    async def _change(
        self, kind: str, name: str, event: Event, number: int = 0, share: int = 0, *, life_s: float = LIFE_S
    ) -> FleetCondition:
        async with self._database.transaction() as connection:
            while (locked := await connection.fetchrow(_LOCK, kind, name)) is None:
                # Also a row that was just seen may be gone again: `_FORGET` of another one removes it.
                await connection.execute(_MAKE, kind, name, _encode(_NOTHING))
            now_s, stored, until_s = locked
            before = _decode(stored) if until_s > now_s else _NOTHING
            after = _changed(before, event, number, share, now_s)
            if after != before or event == "begin":
                await connection.execute(_WRITE, kind, name, _encode(after), now_s + life_s)
                await connection.execute(_FORGET)
        return FleetCondition(
            after.since_s, after.ended_s, after.active, after.row, after.count, after.told_s, after.told_share,
            after.told_count,
        )  # fmt: skip


def _marked(kind: str) -> str:
    return f"marked {kind}"


def _changed(known: _Known, event: Event, number: int, share: int, now_s: float) -> _Known:
    """Return the condition after an event; what waits to be told is told once in `TOLD_EVERY_S`."""
    match event:
        case "begin" if known.ended_s >= number / 1e6 > 0:
            pass
        case "begin":
            known = _begun(known, now_s)
        case "end":
            known = _ended(known, now_s)
        case "passed" if known.active:
            known = _ended(known, now_s)
        case "passed":
            began_s = now_s - number / 1e6
            known = replace(known, since_s=began_s, ended_s=now_s) if known.ended_s < began_s else known
        case "told":
            known = replace(known, told_s=now_s)
        case "crossed":
            known = replace(known, count=known.count + number, share=max(known.share, share))
        case "row":
            known = replace(_ended(known, now_s), row=number) if share else replace(known, row=known.row + number)
            if known.row >= ROW:
                known = _begun(known, now_s)
        case "look":
            pass
    if known.count and now_s - known.told_s >= TOLD_EVERY_S:
        told = replace(known, told_s=now_s, told_share=known.share, told_count=known.count, share=0, count=0)
        return _begun(told, now_s)
    return known


def _begun(known: _Known, now_s: float) -> _Known:
    return known if known.active else replace(known, active=True, since_s=now_s)


def _ended(known: _Known, now_s: float) -> _Known:
    return replace(known, active=False, ended_s=now_s, share=0, count=0) if known.active else known
