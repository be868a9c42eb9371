"""Scripts on the groups of a queue: their limits, what they have, and getting their jobs out."""

from __future__ import annotations

from toril.bullmq.lua.groups import FLAG, HELD, SLOT_NAME, group_functions
from toril.bullmq.lua.queue_script import QueueScript
from toril.bullmq.lua.waiting_lists import STANDING

_FUNCTIONS = group_functions(b"KEYS[1]")
_WAKE = b"""
if redis.call('HEXISTS', KEYS[1] .. 'meta', 'paused') == 0 then redis.call('ZADD', KEYS[1] .. 'marker', 0, '0') end
"""

# The limits are those of `GroupLimits.stored`, without the pause behind the last comma. What is at a limit looks at it
# again, and a new rate starts afresh.
CHANGE = QueueScript(
    "changeGroup",
    _FUNCTIONS
    + b"""
local id, limits, paused = ARGV[1], ARGV[2], ARGV[3]
local g = KEYS[1] .. 'toril:groups'
local before = redis.call('HGET', g .. ':limits', id) or ',,,,,'
local head, was = string.match(before, '^(.*),(%d*)$')
if limits == 'same' then limits = head end
if paused == 'same' then paused = was end
local after = limits .. ',' .. paused
if after == ',,,,,' then redis.call('HDEL', g .. ':limits', id) else redis.call('HSET', g .. ':limits', id, after) end
if redis.call('EXISTS', g .. ':limits') == 1 then
  redis.call('HSET', g, 'limits', 1, 'more', 1)
else
  redis.call('HDEL', g, 'limits')
  if redis.call('HEXISTS', KEYS[1] .. 'meta', '"""
    + FLAG
    + b"""') == 0 then redis.call('DEL', g) end
end
if string.match(after, '^%d') or string.match(after, '^,%d') then G.count(id) end
local rate = '^%d*,(%d*,%d*),'
if string.match(before, rate) ~= string.match(after, rate) then redis.call('DEL', g .. ':rate:' .. id) end
redis.call('ZREM', g .. ':later', id)
if redis.call('EXISTS', g .. ':wait:' .. id) == 1 then
  G.enter(id)
"""
    + _WAKE
    + b"""
end
return 0
""",
    keys="prefix",
    arguments="group limits paused",
    returns="0",
)

# Slots of jobs that have lost their lock are not counted, where there are not too many to look at.
READ = QueueScript(
    "readGroups",
    _FUNCTIONS
    + b"""
local g, found, holding = KEYS[1] .. 'toril:groups', {}, {}
local slots = redis.call('HGETALL', g .. ':slots')
for i = 1, #slots, 2 do
  local id = G.group_of(slots[i + 1])
  holding[id] = holding[id] or {}
  table.insert(holding[id], slots[i])
end
for _, id in ipairs(ARGV) do
  G.prune(id, 100)
  local jobs = holding[id] or {}
  local active = #jobs
  if active <= 100 then
    for _, job in ipairs(jobs) do active = active - 1 + redis.call('EXISTS', KEYS[1] .. job .. ':lock') end
  end
  local waiting = redis.call('ZCARD', g .. ':wait:' .. id)
  found[#found + 1] = {
    waiting, active, redis.call('HGET', g .. ':limits', id) or '', redis.call('GET', g .. ':rate:' .. id) or '0'
  }
end
return found
""",
    keys="prefix",
    arguments="groups*",
    returns="of each group how many jobs wait, how many are active, its limits, and the arrival time of its next start",
)

# In the order of their turn in each group, behind the jobs that wait. Held jobs of no known group come last.
RELEASE = QueueScript(
    "releaseGroups",
    STANDING
    + _FUNCTIONS
    + b"""
local call, p, moved = redis.call, KEYS[1], 0
local g, most = p .. 'toril:groups', tonumber(ARGV[1])
local wait = standing(p .. 'wait')
local function release(job)
  if call('ZREM', p .. 'delayed', job) == 0 then return end
  call('LPUSH', wait, job)
  call('XADD', p .. 'events', '*', 'event', 'waiting', 'jobId', job, 'prev', 'delayed')
  moved = moved + 1
end
local looked = 0
while looked < most do
  local id = call('ZRANGE', g .. ':index', 0, 0)[1]
  if not id then break end
  local jobs = call('ZRANGE', g .. ':wait:' .. id, 0, most - looked - 1)
  for _, job in ipairs(jobs) do
    release(job)
    G.forget(id, job)
  end
  if #jobs == 0 then G.forget(id, '') end
  looked = looked + math.max(1, #jobs)
end
for _, job in ipairs(call('ZRANGEBYSCORE', p .. 'delayed', %d, '+inf', 'LIMIT', 0, most - looked)) do
  release(job)
  looked = looked + 1
end
if moved > 0 then
%b
end
if call('EXISTS', g .. ':index') == 0 then G.reset() end
return {moved, looked}
"""
    % (HELD, _WAKE),
    keys="prefix",
    arguments="most",
    returns="how many jobs were moved to waiting, and how many were looked at: fewer than `most` when that was all",
    moves=True,
)

CLEAR = QueueScript(
    "clearGroups",
    b"""
local call, g, looked = redis.call, KEYS[1] .. 'toril:groups', 0
for _, id in ipairs(call('ZRANGE', g .. ':index', 0, 999)) do
  call('UNLINK', g .. ':wait:' .. id, g .. ':rate:' .. id, g .. ':turns:' .. string.match(id, '^[^/]*'))
  call('ZREM', g .. ':index', id)
  looked = looked + 1
end
local held = call('HSCAN', g .. ':slots', 0, 'COUNT', 1000)[2]
for i = 1, #held, 2 do
  call('UNLINK', g .. ':busy:' .. string.sub(held[i + 1], %d))
  call('HDEL', g .. ':slots', held[i])
  looked = looked + 1
end
if looked == 0 then call('UNLINK', g, g .. ':ready', g .. ':past', g .. ':later', g .. ':limits') end
return looked
"""
    % (SLOT_NAME + 1),
    keys="prefix",
    returns="how many groups and slots it removed; 0 when nothing is left",
)

# Before a job is removed: its slot is free, and it waits no longer.
LEAVE = QueueScript(
    "leaveGroup",
    _FUNCTIONS
    + b"""
local job = ARGV[1]
local id = G.named(redis.call('HGET', KEYS[1] .. job, 'opts'))
if not id then return 0 end
G.forget(id, job)
if G.vacate(job) then
"""
    + _WAKE
    + b"""
end
return 1
""",
    keys="prefix",
    arguments="job_id",
    returns="1, or 0 for a job without a group",
)
