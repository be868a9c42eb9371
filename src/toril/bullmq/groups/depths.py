"""The largest groups of queues for metrics: how many of their jobs wait and run, and how long they have waited."""

from __future__ import annotations

from msgspec import Struct

from toril.bullmq.keys import QueueKeys
from toril.bullmq.lua.groups import HELD, group_functions
from toril.bullmq.lua.queue_script import QueueScript
from toril.bullmq.lua.scripts import Scripts
from toril.core.metrics import MOST_GROUPS, OTHER, GroupDepth
from toril.core.ports import Now

LOOKED_AT = 200
"""How many groups one reading looks at, by name; the next reading goes on behind them.

It also looks at the largest ones that were found before, and at those of some random jobs: the more of its jobs wait,
the sooner a group is found.
"""
SAMPLED = 50
"""How many random jobs one reading looks at."""
_MOST_QUEUES = 10_000

_DEPTHS = QueueScript(
    "groupDepths",
    group_functions(b"KEYS[1]")
    + b"""
local call, p = redis.call, KEYS[1]
local g = p .. 'toril:groups'
local after, most, shown = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local found, seen, active, running = {}, {}, {}, 0
for _, slot in ipairs(call('HVALS', g .. ':slots')) do
  local id = G.group_of(slot)
  active[id], running = (active[id] or 0) + 1, running + 1
end
local function look_at(id)
  if seen[id] then return end
  seen[id] = true
  local size = call('ZCARD', g .. ':wait:' .. id) + (active[id] or 0)
  if size > 0 then found[#found + 1] = {id, size} end
end
for i = 5, #ARGV do look_at(ARGV[i]) end
local page = call('ZRANGEBYLEX', g .. ':index', after == '' and '-' or '(' .. after, '+', 'LIMIT', 0, most)
for _, id in ipairs(page) do look_at(id) end
local looked = 0
for id in pairs(active) do
  looked = looked + 1
  if looked > most then break end
  look_at(id)
end
for _, job in ipairs(call('ZRANDMEMBER', p .. 'delayed', ARGV[4])) do
  local id = G.named(call('HGET', p .. job, 'opts'))
  if id then look_at(id) end
end
table.sort(found, function(a, b)
  if a[2] ~= b[2] then return a[2] > b[2] end
  return a[1] < b[1]
end)
local function since(id)
  local wait, oldest = g .. ':wait:' .. id, nil
  for _, jobs in ipairs({
    call('ZRANGE', wait, 0, 0), call('ZRANGEBYSCORE', wait, 0, '+inf', 'LIMIT', 0, 1), call('ZRANGE', wait, -1, -1),
  }) do
    local at = jobs[1] and call('HMGET', p .. jobs[1], 'timestamp', 'delay') or {}
    if at[1] then oldest = math.min(oldest or math.huge, tonumber(at[1]) + (tonumber(at[2]) or 0)) end
  end
  return oldest and string.format('%%.0f', oldest) or ''
end
local groups = {}
for i = 1, math.min(shown, #found) do
  local id = found[i][1]
  groups[i] = {id, call('ZCARD', g .. ':wait:' .. id), active[id] or 0, since(id)}
end
return {
  #page == most and page[most] or '', call('ZCOUNT', p .. 'delayed', %d, '+inf'), running, groups
}
"""
    % HELD,
    keys="prefix",
    arguments="after most shown sampled groups*",
    returns="the group after which to go on (empty: from the beginning), how many jobs of all groups wait and are "
    "active, and of each of the largest groups its id, both numbers, and since when its oldest job waits",
)


class _Seen(Struct):
    """Where the next reading of a queue goes on, and the largest groups that were found before."""

    after: bytes = b""
    largest: tuple[bytes, ...] = ()


class GroupDepths:
    """Reads the largest groups of queues."""

    def __init__(self, scripts: Scripts, prefix: str, now: Now) -> None:
        self._scripts = scripts
        self._prefix = prefix
        self._now = now
        self._seen: dict[str, _Seen] = {}

    async def of(self, queue: str) -> tuple[GroupDepth, ...]:
        """Return the largest groups of a queue that has groups, and all others together as `other`."""
        if len(self._seen) > _MOST_QUEUES:
            self._seen.clear()
        seen = self._seen.setdefault(queue, _Seen())
        after, waiting, active, rows = await self._scripts.call(
            _DEPTHS, QueueKeys(self._prefix, queue), seen.after, LOOKED_AT, MOST_GROUPS, SAMPLED, *seen.largest
        )
        seen.after, seen.largest = after, tuple(row[0] for row in rows)
        shown = [
            GroupDepth(name.decode(errors="replace"), waits, runs, self._age_s(since))
            for name, waits, runs, since in rows
        ]
        waiting -= sum(group.waiting for group in shown)
        active -= sum(group.active for group in shown)
        if waiting > 0 or active > 0:
            shown.append(GroupDepth(OTHER, max(0, waiting), max(0, active)))
        return tuple(shown)

    def forget(self, queue: str) -> None:
        """Forget what was seen of a queue that has no groups now."""
        self._seen.pop(queue, None)

    def _age_s(self, since: bytes) -> float | None:
        return max(0.0, self._now() - int(since) / 1000) if since else None
