"""The Lua functions that choose the next job of a queue with groups, for the scripts that lease.

They go behind those of `toril.bullmq.lua.groups`, which says what each key holds.
"""

from __future__ import annotations

from toril.bullmq.lua.groups import HELD, RETRIED, leasing_functions

MOST_TRIES = 50
"""How many groups one call looks at, at most, before it asks to be called again."""

_CHOOSING = (
    b"""
G = {vacate = vacate, done = done, take_in = take_in}

-- What most leases do without.
local rare

local function rarely()
  if rare then return rare end
  local all = others()

  local function take_in_waiting()
    local wait, plain, taken, seen = p .. 'wait', false, 0, call('HGET', g, 'seen')
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

  -- Frees the slots whose job has no lock, some hundred of them. Returns when to look again, 0 for at once.
  local function free_lapsed(now, look, cursor, lock_ms)
    if not cursor then look = math.huge end
    local found = call('HSCAN', slots, cursor or 0, 'COUNT', 200)
    for i = 1, #found[2], 2 do
      local job = found[2][i]
      local left = call('PTTL', p .. job .. ':lock')
      if left == -1 then left = 60000 end
      if left > 0 then look = math.min(look, math.ceil(now + left)) else vacate(job) end
    end
    if found[1] ~= '0' then
      -- What starts before the last of them is seen may not be seen.
      call('HSET', g, 'look', math.min(look, math.ceil(now + lock_ms)), 'cursor', found[1], 'more', 1)
      return 0
    end
    call('HSET', g, 'look', look)
    if cursor then call('HDEL', g, 'cursor') end
    return look
  end

  local function note(id, reason)
    G.held = G.held or {}
    local held = G.held
    local n = #held
    held[n + 1], held[n + 2], held[n + 3] = id, reason, call('ZCARD', g .. ':wait:' .. id)
  end

  -- A lock may be gone before its time: the job was cancelled or removed.
  local function all_locked(busy)
    local locked = true
    for _, job in ipairs(call('SRANDMEMBER', busy, 20)) do
      if call('EXISTS', p .. job .. ':lock') == 0 then
        if not vacate(job) then call('SREM', busy, job) end
        locked = false
      end
    end
    return locked
  end

  local function park(id, at, reason)
    all.leave(id)
    if at then call('ZADD', later, at, id) end
    note(id, reason)
    return false
  end

  -- The earliest time at which a group that is at a limit may start a job: milliseconds, or nothing, and true if that
  -- is now.
  local function soonest(now, look)
    local first = call('ZRANGE', later, 0, 0, 'WITHSCORES')
    if not first[1] then return nil, false end
    local at = math.min(tonumber(first[2]), look)
    if at <= now then return nil, true end
    return at < math.huge and math.ceil(at) or nil, false
  end

  -- Makes the groups at a limit look at it again when the worker's default is another one. Returns whether all groups
  -- are counted.
  local function follow(default, known, counts)
    if not counts and (default.concurrency or default.max) then
      all.count()
      call('HSET', g, 'counts', 1, 'more', 1)
      counts = true
    end
    local text = table.concat({default.concurrency or '', default.max or '', default.duration or ''}, ',')
    if text ~= (known or ',,') then
      call('HSET', g, 'd', text, 'more', 1)
      if call('EXISTS', later) == 1 then call('ZUNIONSTORE', later, 1, later, 'WEIGHTS', 0) end
    end
    return counts
  end

  local function enter_due(now)
    for _, id in ipairs(call('ZRANGEBYSCORE', later, '-inf', now, 'LIMIT', 0, 50)) do
      call('ZREM', later, id)
      all.enter(id)
    end
  end

  rare = {
    take_in_waiting = take_in_waiting, free_lapsed = free_lapsed, all_locked = all_locked, park = park,
    soonest = soonest, follow = follow, enter_due = enter_due, limits = all.limits, forget = all.forget,
    reset = all.reset, clear_past = all.clear_past,
  }
  return rare
end

-- `now` is Redis' own time where it matters: where a group has limits, or one waits for a time.
local function may_start(id, job, limits, default, now)
  local concurrency = limits.concurrency or default.concurrency
  if concurrency then
    local busy = g .. ':busy:' .. id
    if call('SCARD', busy) >= concurrency and rarely().all_locked(busy) then
      return rarely().park(id, '+inf', 'concurrency')
    end
  end
  local max, duration = limits.max or default.max, limits.duration or default.duration
  if not max and not limits.paused then return true end
  local isPromoted = tonumber(call('ZSCORE', g .. ':wait:' .. id, job)) < @RETRIED@
  if isPromoted then return true end
  if limits.paused then return rarely().park(id, nil, 'paused') end
  if max then
    local at = tonumber(call('GET', g .. ':rate:' .. id) or 0) - duration + duration / max
    if at > now then return rarely().park(id, at, 'rate') end
  end
  return true
end

local none = {}

-- Moves the next job of a group to active. Returns its id; or false, and true where a job without a group is to start
-- now; or false, false, the time from which a group may start, and true where there may be more to look at now. The
-- caller's time, `now`, is in milliseconds.
function G.choose(opts, now)
  local state = call('HMGET', g, 'v', 't0', 'look', 'more', 'turn')
  local v, t0, look, hasTurns = tonumber(state[1] or 0), tonumber(state[2] or 0), tonumber(state[3] or 0), state[5]
  local default = opts['group'] or none
  local cursor, known, untold, isLimited, counts
  if state[4] then
    cursor, known, untold, isLimited, counts = unpack(call('HMGET', g, 'cursor', 'd', 'h', 'limits', 'counts'))
  end
  -- One command that says that three others would find nothing.
  local hasMore = call('EXISTS', p .. 'wait', p .. 'prioritized', later) > 0
  local plain, isMore = false, false
  now = tonumber(now)
  if hasMore or state[4] or default ~= none then
    local time = call('TIME')
    now = time[1] * 1000 + time[2] / 1000
  end
  if hasMore then plain, isMore = rarely().take_in_waiting() end
  if look <= now or cursor then look = rarely().free_lapsed(now, look, cursor, opts['lockDuration']) end
  if untold then
    G.held = cmsgpack.unpack(untold)
    call('HDEL', g, 'h')
  end
  local first = call('ZRANGE', ready, 0, 0, 'WITHSCORES')
  if (first[2] or 'inf') == 'inf' and call('EXISTS', g .. ':index') == 0 then
    rarely().reset()
    return false, plain, nil, isMore
  end
  if known or default ~= none then counts = rarely().follow(default, known, counts) end
  if hasMore then
    rarely().enter_due(now)
    first = call('ZRANGE', ready, 0, 0, 'WITHSCORES')
  end
  for _ = 1, @TRIES@ do
    local member, tag = first[1], first[2] ~= 'inf' and tonumber(first[2])
    local own = math.max(v, t0)
    if plain and (not tag or own < tag) then
      call('HSET', g, 'v', own, 't0', own + 1)
      -- The reply for a job without a group has no place for them.
      if G.held then call('HSET', g, 'h', cmsgpack.pack(G.held), 'more', 1) end
      return false, true
    end
    if not tag then
      local at, isNow = rarely().soonest(now, look)
      return false, false, at, isMore or isNow
    end
    local turns = hasTurns and g .. ':turns:' .. member
    local ids = hasTurns and call('ZRANGE', turns, 0, 1) or none
    local id = ids[1] or member
    local wait = g .. ':wait:' .. id
    local job, behind = unpack(call('ZRANGE', wait, 0, 1))
    local limits = isLimited and rarely().limits(id) or none
    if not job then
      rarely().forget(id, '')
    elseif limits == none and not counts or may_start(id, job, limits, default, now) then
      -- A person may have given a held job a delay: it is taken in again when that is over.
      if tonumber(call('ZSCORE', p .. 'delayed', job) or 0) >= @HELD@ then
        call('ZREM', p .. 'delayed', job)
        local lapses = math.ceil(now + opts['lockDuration'])
        if tag ~= v then call('HSET', g, 'v', tag) end
        if lapses < look then call('HSET', g, 'look', lapses) end
        -- The group and its member have had their turn.
        local weight = limits.weight
        if isLimited and member ~= id then weight = rarely().limits(member).weight end
        call('ZREM', wait, job)
        if not behind then
          call('ZREM', g .. ':index', id)
          if ids[1] then call('ZREM', turns, id) end
        elseif ids[2] then
          call('ZADD', turns, call('HINCRBY', g, 'turn', 1), id)
        end
        if behind or ids[2] then
          call('ZADD', ready, tag + 1 / (weight or 1), member)
        else
          call('ZREM', ready, member)
          call('ZADD', past, tag + 1 / (weight or 1), member)
          -- Looking costs the same for one as for many, so it does so in one of some milliseconds.
          if now % 64 < 1 then rarely().clear_past(tag, 100) end
        end
        -- The job has a slot.
        local max, duration = limits.max or default.max, limits.duration or default.duration
        if counts or max or limits.concurrency then
          call('SADD', g .. ':busy:' .. id, job)
          call('HSET', slots, job, '+' .. wide .. id)
        else
          call('HSET', slots, job, '-' .. wide .. id)
        end
        if max then
          local key = g .. ':rate:' .. id
          local at = math.max(tonumber(call('GET', key) or 0), now) + duration / max
          call('SET', key, string.format('%.3f', at), 'PX', math.ceil(at - now))
        end
        call('LPUSH', p .. 'active', job)
        return job
      end
      rarely().forget(id, job)
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
    return leasing_functions(prefix, _CHOOSING)
