"""Conditions that last in Redis, by its clock. One key per condition, so a cluster can have each anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toril.redis.links import Links
from toril.redis.script import Script
from toril.telemetry.condition_events import ConditionEvents, Event
from toril.telemetry.conditions import LIFE_S, ROW, TOLD_EVERY_S, FleetCondition

# The hash has the fields since and ended (microseconds; ended is that of the last one that ended), active (0 or 1),
# row, and what crossed a threshold: share and count since the last time it was told, told (when), told_share,
# told_count. The events: begin (seen at `number`, 0 for now; not if it has ended since) and end; passed (it began
# `number` microseconds ago, and has ended); look; told; crossed (`number` deliveries, `share` the highest threshold):
# the condition begins, and is told at most once in `every`; row (`number` failures, after a success where `share` is
# 1): it begins with the fifth in a row, and ends with a success.
_CHANGE = Script(
    "changeCondition",
    """
local key, event, number, share = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local every, most = tonumber(ARGV[4]), tonumber(ARGV[5])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local names = {'since', 'ended', 'active', 'row', 'share', 'count', 'told', 'told_share', 'told_count'}
local kept, is, changed = redis.call('HMGET', key, unpack(names)), {}, false
for i, name in ipairs(names) do is[name] = tonumber(kept[i] or 0) end

local function begin()
  if is.active == 0 then is.active, is.since = 1, now end
  changed = true
end
local function finish()
  if is.active == 1 then
    is.active, is.ended, is.share, is.count, changed = 0, now, 0, 0, true
  end
end
if event == 'begin' then
  if number == 0 or is.active == 1 or is.ended < number then begin() end
elseif event == 'end' then
  finish()
elseif event == 'passed' then
  if is.active == 1 then
    finish()
  elseif is.ended < now - number then
    is.since, is.ended, changed = now - number, now, true
  end
elseif event == 'told' then
  is.told, changed = now, true
elseif event == 'crossed' then
  is.count, is.share, changed = is.count + number, math.max(is.share, share), true
elseif event == 'row' then
  if share == 1 then finish() end
  is.row, changed = share == 1 and number or is.row + number, true
  if is.row >= most then begin() end
end
if is.count > 0 and now - is.told >= every then
  begin()
  is.told, is.told_share, is.told_count, is.share, is.count = now, is.share, is.count, 0, 0
end
local reply = {}
for i, name in ipairs(names) do
  reply[i] = string.format('%.0f', is[name])
  if changed then redis.call('HSET', key, name, reply[i]) end
end
if changed then redis.call('PEXPIRE', key, ARGV[6]) end
return reply
""",
    keys="condition",
    arguments="event number share every_us row life_ms",
    returns="since, ended, active, row, share, count, told, told_share, told_count",
)

# Names by the second in which they were last marked. What was marked longer ago than conditions last is removed.
_MARK = Script(
    "markConditions",
    """
local now = tonumber(redis.call('TIME')[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], now, ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
""",
    keys="marked",
    arguments="life_s names*",
    returns="1",
)
_UNMARK = Script(
    "unmarkConditions",
    """
local before = tonumber(redis.call('TIME')[1]) - ARGV[1]
for i = 2, #ARGV do
  local at = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if at and tonumber(at) <= before then redis.call('ZREM', KEYS[1], ARGV[i]) end
end
return 1
""",
    keys="marked",
    arguments="unmarked_for_s names*",
    returns="1; what was marked again since then stays",
)


class RedisConditions(ConditionEvents):
    """`FleetConditions` in Redis."""

    def __init__(self, links: Links, prefix: str) -> None:
        self._links = links
        self._prefix = prefix

    async def mark(self, kind: str, names: Sequence[str]) -> None:
        """Mark conditions that may have begun, so that other instances look at them."""
        await _MARK.call(self._links, [self._marked(kind)], round(LIFE_S), *names)

    async def marked(self, kind: str) -> set[str]:
        """Return the names that are marked."""
        key = self._marked(kind)
        return {name.decode() for name in await self._links.of(key.encode()).call("ZRANGE", key, 0, -1)}

    async def unmark(self, kind: str, names: Sequence[str], for_s: float) -> None:
        """Forget the marks of those of these names that were not marked for so long."""
        await _UNMARK.call(self._links, [self._marked(kind)], round(for_s), *names)

    def _marked(self, kind: str) -> str:
        return f"toril:marked:{self._prefix}:{kind}"

    async def claim(self, kind: str, for_s: float) -> bool:
        """Return True on one instance of the fleet, for so long."""
        key = f"toril:condition:{self._prefix}:{kind}"
        reply = await self._links.of(key.encode()).call("SET", key, "1", "NX", "PX", round(for_s * 1000))
        return reply is not None

    async def _change(
        self, kind: str, name: str, event: Event, number: int = 0, share: int = 0, *, life_s: float = LIFE_S
    ) -> FleetCondition:
        every_us = round(TOLD_EVERY_S * 1e6)
        reply: list[Any] = await _CHANGE.call(
            self._links,
            [f"toril:condition:{self._prefix}:{kind}:{name}"],
            event,
            number,
            share,
            every_us,
            ROW,
            round(life_s * 1000),
        )
        since, ended, active, row, _, count, told, told_share, told_count = (int(part) for part in reply)
        return FleetCondition(since / 1e6, ended / 1e6, bool(active), row, count, told / 1e6, told_share, told_count)
