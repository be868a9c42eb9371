"""The Lua functions that choose the next job of a queue with groups, for the scripts that lease.

They go behind those of `toril.bullmq.lua.groups`, which says what each key holds.
"""

from __future__ import annotations

from toril.bullmq.lua.groups import HELD, RETRIED, group_functions

MOST_TRIES = 50
"""How many groups one call looks at, at most, before it asks to be called again."""

_CHOOSING = (
    b"""
local function take_in_waiting(seen)
  local wait, plain, taken = p .. 'wait', false, 0
  while taken < 100 do
    local job = call('LINDEX', wait, -1)
    if not job then break end
    if not G.take_in(job) then
      plain = true
      break
    end
    call('RPOP', wait)
    taken = taken + 1
  end
  if plain and call('LINDEX', wait, 0) ~= seen then
    local newest
    for _, job in ipairs(call('LRANGE', wait, 0, 49)) do
      if job == seen then break end
      if G.take_in(job) then call('LREM', wait, 1, job) else newest = newest or job end
    end
    if newest then call('HSET', g, 'seen', newest) end
  end
  while taken < 100 do
    local job = call('ZRANGE', p .. 'prioritized', 0, 0)[1]
    if not job then break end
    if not G.take_in(job) then
      plain = true
      break
    end
    call('ZREM', p .. 'prioritized', job)
    taken = taken + 1
  end
  return plain, taken == 100
end

-- Frees the slots whose job has no lock. Returns when to look again.
local function free_lapsed(now)
  for _, slot in ipairs(call('ZRANGEBYSCORE', slots, '-inf', now, 'LIMIT', 0, 50)) do
    local length = string.match(slot, '^(%d+):')
    local first = #length + 2
    local id, job = string.sub(slot, first, first + length - 1), string.sub(slot, first + length)
    local left = call('PTTL', p .. job .. ':lock')
    if left == -1 then left = 60000 end
    if left > 0 then
      call('ZADD', slots, math.ceil(now + left), slot)
    elseif not G.vacate(id, job) then
      call('ZREM', slots, slot)
    end
  end
  local look = call('ZRANGE', slots, 0, 0, 'WITHSCORES')[2] or 'inf'
  call('HSET', g, 'look', look)
  return tonumber(look)
end

local held = {}

local function note(id, reason)
  local n = #held
  held[n + 1], held[n + 2], held[n + 3] = id, reason, call('ZCARD', g .. ':wait:' .. id)
end

-- The groups that were held back, for the reply: of each its id, why, and how many of its jobs wait.
function G.held() return #held > 0 and held or nil end

local function park(id, at)
  G.leave(id)
  call('ZADD', later, at, id)
end

-- A lock may be gone before its time: the job was cancelled or removed.
local function all_locked(id, busy)
  local locked = true
  for _, job in ipairs(call('SRANDMEMBER', busy, 20)) do
    if call('EXISTS', p .. job .. ':lock') == 0 then
      G.vacate(id, job)
      locked = false
    end
  end
  return locked
end

local function may_start(id, limits, default, isPromoted, now)
  local concurrency = limits.concurrency or default.concurrency
  local busy = g .. ':busy:' .. id
  if concurrency and call('SCARD', busy) >= concurrency and all_locked(id, busy) then
    park(id, '+inf')
    note(id, 'concurrency')
    return false
  end
  if isPromoted then return true end
  if limits.paused then
    G.leave(id)
    note(id, 'paused')
    return false
  end
  local max, duration = limits.max or default.max, limits.duration or default.duration
  if max then
    local at = tonumber(call('GET', g .. ':rate:' .. id) or 0) - duration + duration / max
    if at > now then
      park(id, at)
      note(id, 'rate')
      return false
    end
  end
  return true
end

-- Takes a job from the waiting ones of its group. `behind` is what comes after it: the group's next `job`, the member's
-- next group `id`, its `turns`, its new `tag`, and `v`, the virtual time of now.
local function advance(id, member, job, behind, now)
  call('ZREM', g .. ':wait:' .. id, job)
  if not behind.job then
    call('ZREM', g .. ':index', id)
    call('ZREM', behind.turns, id)
  elseif behind.id then
    call('ZADD', behind.turns, call('HINCRBY', g, 'turn', 1), id)
  end
  if behind.job or behind.id then
    call('ZADD', ready, behind.tag, member)
  else
    call('ZREM', ready, member)
    call('ZADD', past, behind.tag, member)
    -- Looking costs the same for one as for many, so it does so in one of eight milliseconds.
    if now % 8 < 1 then G.clear_past(behind.v, 100) end
  end
end

local function occupy(id, job, limits, default, now, lapses)
  call('SADD', g .. ':busy:' .. id, job)
  call('ZADD', slots, lapses, #id .. ':' .. id .. job)
  local max, duration = limits.max or default.max, limits.duration or default.duration
  if max then
    local key = g .. ':rate:' .. id
    local at = math.max(tonumber(call('GET', key) or 0), now) + duration / max
    call('SET', key, string.format('%.3f', at), 'PX', math.ceil(at - now))
  end
  call('LPUSH', p .. 'active', job)
end

-- The earliest time at which a group that is at a limit may start a job: milliseconds, or nothing, and true if that is
-- now.
local function soonest(now)
  local first = call('ZRANGE', later, 0, 0, 'WITHSCORES')
  if not first[1] then return nil, false end
  local lapse = call('ZRANGE', slots, 0, 0, 'WITHSCORES')
  local at = tonumber(first[2])
  if lapse[1] then at = math.min(at, tonumber(lapse[2])) end
  if at <= now then return nil, true end
  return at < math.huge and math.ceil(at) or nil, false
end

-- Makes the groups at a limit look at it again when the worker's default is another one.
local function follow(default, known)
  local text = table.concat({default.concurrency or '', default.max or '', default.duration or ''}, ',')
  if text == (known or ',,') then return end
  call('HSET', g, 'd', text)
  if call('EXISTS', later) == 1 then call('ZUNIONSTORE', later, 1, later, 'WEIGHTS', 0) end
end

local chosen

-- Frees the slot of the job that was chosen last: it has no hash, and was not leased.
function G.drop(job) G.vacate(chosen, job) end

-- Moves the next job of a group to active. Returns its id; or false, and true where a job without a group is to start
-- now; or false, false, the time from which a group may start, and true where there may be more to look at now.
function G.choose(opts)
  local time = call('TIME')
  local now = time[1] * 1000 + time[2] / 1000
  local default = opts['group'] or {}
  local state = call('HMGET', g, 'v', 't0', 'd', 'seen', 'h', 'look')
  local v, t0, look = tonumber(state[1] or 0), tonumber(state[2] or 0), tonumber(state[6] or 0)
  -- One command that says that three others would find nothing.
  local hasMore = call('EXISTS', p .. 'wait', p .. 'prioritized', later) > 0
  local plain, isMore = false, false
  if hasMore then plain, isMore = take_in_waiting(state[4]) end
  if look <= now then look = free_lapsed(now) end
  if state[5] then
    held = cmsgpack.unpack(state[5])
    call('HDEL', g, 'h')
  end
  local first = call('ZRANGE', ready, 0, 0, 'WITHSCORES')
  if not first[1] and call('EXISTS', g .. ':index') == 0 then
    call('DEL', g)
    call('UNLINK', past)
    if call('EXISTS', slots) == 0 then call('HDEL', p .. 'meta', 'toril:groups') end
    return false, plain, nil, isMore
  end
  follow(default, state[3])
  if hasMore then
    local due = call('ZRANGEBYSCORE', later, '-inf', now, 'LIMIT', 0, 50)
    for _, id in ipairs(due) do
      call('ZREM', later, id)
      G.enter(id)
    end
    if #due > 0 then first = call('ZRANGE', ready, 0, 0, 'WITHSCORES') end
  end
  for _ = 1, @TRIES@ do
    local member, tag = first[1], tonumber(first[2])
    local own = math.max(v, t0)
    if plain and (not tag or own < tag) then
      call('HSET', g, 'v', own, 't0', own + 1)
      -- The reply for a job without a group has no place for them.
      if #held > 0 then call('HSET', g, 'h', cmsgpack.pack(held)) end
      return false, true
    end
    if not tag then
      local at, isNow = soonest(now)
      return false, false, at, isMore or isNow
    end
    local turns = g .. ':turns:' .. member
    local ids = call('ZRANGE', turns, 0, 1)
    local id = ids[1]
    local head = id and call('ZRANGE', g .. ':wait:' .. id, 0, 1, 'WITHSCORES') or {}
    local job = head[1]
    if not id then
      call('ZREM', ready, member)
    elseif not job then
      G.forget(id, '')
    else
      local limits = G.limits(id)
      if may_start(id, limits, default, tonumber(head[2]) < @RETRIED@, now) then
        -- A person may have given a held job a delay: it is taken in again when that is over.
        if tonumber(call('ZSCORE', p .. 'delayed', job) or 0) >= @HELD@ then
          call('ZREM', p .. 'delayed', job)
          local weight = (member == id and limits or G.limits(member)).weight or 1
          local lapses = math.ceil(now + opts['lockDuration'])
          if tag ~= v then call('HSET', g, 'v', tag) end
          if lapses < look then call('HSET', g, 'look', lapses) end
          local behind = {job = head[3], id = ids[2], turns = turns, tag = tag + 1 / weight, v = tag}
          advance(id, member, job, behind, now)
          occupy(id, job, limits, default, now, lapses)
          chosen = id
          return job
        end
        G.forget(id, job)
      end
    end
    first = call('ZRANGE', ready, 0, 0, 'WITHSCORES')
  end
  return false, false, nil, true
end
""".replace(b"@TRIES@", b"%d" % MOST_TRIES)
    .replace(b"@RETRIED@", b"%d" % RETRIED)
    .replace(b"@HELD@", b"%d" % HELD)
)


def choosing_functions(prefix: bytes) -> bytes:
    """Return the functions of groups for a script that leases, with the expression that gives its keys' prefix."""
    return group_functions(prefix, _CHOOSING)
