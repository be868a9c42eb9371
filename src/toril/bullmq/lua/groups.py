"""The Lua functions that hold the jobs of groups, choose the next one and count what runs.

`toril.bullmq.rules.groups` has the same rules in Python, and the tests compare the two. `docs/explanation/groups.md`
says what each key holds. The functions go in front of BullMQ's scripts (`group_scripts`) and of toril's own.

Keys, all behind `{queue}:toril:groups`:

    (itself)        hash: v, the virtual time; t0, the tag of the jobs without a group; seq and turn, counters; seen,
                    the newest waiting job that was looked at; d, the worker's default when it was last seen; h, which
                    groups were held back and not told of yet
    :index          sorted set: the groups that have waiting jobs
    :wait:GROUP     sorted set: its waiting jobs; promoted ones first, then retries, then by priority and arrival
    :ready          sorted set: the members that have a group which may start a job, by their tag
    :turns:MEMBER   sorted set: the groups of a member that may start a job, in the order of their turns
    :past           sorted set: the tags of members that have left `ready` with one beyond the virtual time
    :later          sorted set: the groups at a limit, by the time at which they may start; inf: when a slot is free
    :busy:GROUP     set: its jobs that hold a slot
    :slots          sorted set: LENGTH:GROUPJOB of each slot, by the time at which to look at the job's lock again
    :rate:GROUP     the theoretical arrival time of its next start (GCRA), milliseconds; expires at that time
    :reserved:GROUP sorted set: COUNT:TOKEN of the room that adds of several jobs have taken, by when it is free again
    :limits         hash: CONCURRENCY,MAX,DURATION,WEIGHT,MAX_WAITING,PAUSED of groups that have limits
"""

from __future__ import annotations

HELD = 2**57
"""The least score of a held job in `delayed`: the year 3084 in BullMQ's units. No script promotes it."""
HELD_MS = HELD / 4096
"""The same as a time in milliseconds."""
FLAG = b"toril:groups"
"""The field of a queue's `meta` that says that it has groups."""
FULL = -20
"""What the script that adds a job returns when its group has as many waiting jobs as it may have."""
MOST_TRIES = 50
"""How many groups one call looks at, at most, before it asks to be called again."""
_RETRIED = -(2**52)
_PROMOTED = -(2**53)

# What adding, leasing and settling need. `p` is the prefix of the queue's keys.
_BASE = b"""
local hasGroups = false
local G = {}
do
local call, p = redis.call, %%(prefix)b
local g = p .. 'toril:groups'
local ready, later, slots, past = g .. ':ready', g .. ':later', g .. ':slots', g .. ':past'

function G.read(group)
  if type(group) ~= 'table' then return nil end
  local id, priority = group.id, tonumber(group.priority) or 0
  if type(id) == 'number' and id %%%% 1 == 0 and math.abs(id) < 2^53 then id = string.format('%%%%.0f', id) end
  if type(id) ~= 'string' or id == '' or #id > 1024 then return nil end
  if priority < 0 or priority > 2097152 then priority = 0 end
  return id, math.floor(priority)
end

function G.named(opts)
  if not opts or not string.find(opts, '"group"', 1, true) then return nil end
  local ok, decoded = pcall(cjson.decode, opts)
  return G.read(ok and type(decoded) == 'table' and decoded.group)
end

local function member_of(id) return string.match(id, '^[^/]*') end

function G.limits(id)
  local text = call('HGET', g .. ':limits', id)
  if not text then return {} end
  local parts = {}
  for part in string.gmatch(text .. ',', '(%%%%d*),') do parts[#parts + 1] = part end
  return {
    concurrency = tonumber(parts[1]), max = tonumber(parts[2]), duration = tonumber(parts[3]),
    weight = tonumber(parts[4]), most = tonumber(parts[5]), paused = parts[6] == '1',
  }
end

function G.enter(id)
  local member = member_of(id)
  if call('ZADD', g .. ':turns:' .. member, 'NX', call('HINCRBY', g, 'turn', 1), id) == 0 then return end
  if call('ZSCORE', ready, member) then return end
  local tag, before = tonumber(call('HGET', g, 'v') or 0), call('ZSCORE', past, member)
  if before then
    call('ZREM', past, member)
    tag = math.max(tag, tonumber(before))
  end
  call('ZADD', ready, tag, member)
end

function G.leave(id)
  local member = member_of(id)
  local turns = g .. ':turns:' .. member
  if call('ZREM', turns, id) == 0 or call('EXISTS', turns) == 1 then return end
  local tag = tonumber(call('ZSCORE', ready, member) or 0)
  call('ZREM', ready, member)
  local now = tonumber(call('HGET', g, 'v') or 0)
  if tag <= now then return end
  call('ZADD', past, tag, member)
  local old = call('ZRANGEBYSCORE', past, '-inf', now, 'LIMIT', 0, 10)
  if #old > 0 then call('ZREM', past, unpack(old)) end
end

function G.hold(id, job, priority, band)
  local seq = call('HINCRBY', g, 'seq', 1)
  call('ZADD', p .. 'delayed', %(held)d + 32 * seq, job)
  call('ZADD', g .. ':wait:' .. id, band + priority * 2^30 + seq %%%% 2^30, job)
  call('HSETNX', p .. 'meta', '%(flag)b', 1)
  local isNew = call('ZADD', g .. ':index', 0, id) == 1
  if isNew or band == %(promoted)d then
    call('ZREM', later, id)
    G.enter(id)
  end
end

-- The job is no longer among the waiting ones of its group. Returns true if the group has others.
function G.forget(id, job)
  call('ZREM', g .. ':wait:' .. id, job)
  if call('EXISTS', g .. ':wait:' .. id) == 1 then return true end
  call('ZREM', g .. ':index', id)
  call('ZREM', later, id)
  G.leave(id)
  return false
end

function G.vacate(id, job)
  if call('SREM', g .. ':busy:' .. id, job) == 0 then return false end
  call('ZREM', slots, #id .. ':' .. id .. job)
  if call('ZREM', later, id) == 1 then G.enter(id) end
  return true
end

function G.take_in(job)
  local found = redis.pcall('HMGET', p .. job, 'opts', 'ats')
  if found.err then return false end
  local id, priority = G.named(found[1])
  if not id then return false end
  G.vacate(id, job)
  local band = 0
  if call('ZSCORE', g .. ':wait:' .. id, job) then band = %(promoted)d
  elseif (tonumber(found[2]) or 0) > 0 then band = %(retried)d end
  G.hold(id, job, priority, band)
  return true
end

function G.done(job, isLast)
  local id = G.named(call('HGET', p .. job, 'opts'))
  if not id or not G.vacate(id, job) then return end
  if isLast and call('EXISTS', g .. ':index') == 1 then call('ZADD', p .. 'marker', 0, '0') end
end

-- Jobs that were removed without toril leave their ids behind; at most this many are looked at.
function G.prune(id, most)
  for _, job in ipairs(call('ZRANGE', g .. ':wait:' .. id, 0, most - 1)) do
    if not call('ZSCORE', p .. 'delayed', job) and call('EXISTS', p .. job) == 0 then G.forget(id, job) end
  end
end

-- Adds of several jobs take their room before they add them.
local function reserved(id)
  local key, sum = g .. ':reserved:' .. id, 0
  if call('EXISTS', key) == 0 then return 0 end
  call('ZREMRANGEBYSCORE', key, '-inf', call('TIME')[1])
  for _, one in ipairs(call('ZRANGE', key, 0, -1)) do sum = sum + tonumber(string.match(one, '^%%%%d+')) end
  return sum
end

function G.room(id, most)
  local wait = g .. ':wait:' .. id
  most = most - reserved(id)
  if call('ZCARD', wait) >= most and call('ZCOUNT', wait, 0, '+inf') >= most then
    G.prune(id, 100)
    return most - call('ZCOUNT', wait, 0, '+inf')
  end
  return most - call('ZCOUNT', wait, 0, '+inf')
end
%%(more)b
end
""" % {b"held": HELD, b"flag": FLAG, b"promoted": _PROMOTED, b"retried": _RETRIED}

# What only leasing needs.
_CHOOSING = b"""
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

local function free_lapsed(now)
  for _, slot in ipairs(call('ZRANGEBYSCORE', slots, '-inf', now, 'LIMIT', 0, 50)) do
    local length = string.match(slot, '^(%d+):')
    local first = #length + 2
    local id, job = string.sub(slot, first, first + length - 1), string.sub(slot, first + length)
    local left = call('PTTL', p .. job .. ':lock')
    if left == -1 then left = 60000 end
    if left > 0 then
      call('ZADD', slots, now + left, slot)
    elseif not G.vacate(id, job) then
      call('ZREM', slots, slot)
    end
  end
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

local function start(id, member, tag, job, limits, default, now, lock_ms, hasOthers)
  local weight = limits.weight
  if member ~= id then weight = G.limits(member).weight end
  call('HSET', g, 'v', tag)
  call('ZADD', ready, tag + 1 / (weight or 1), member)
  if G.forget(id, job) and hasOthers then
    call('ZADD', g .. ':turns:' .. member, call('HINCRBY', g, 'turn', 1), id)
  end
  call('SADD', g .. ':busy:' .. id, job)
  call('ZADD', slots, now + lock_ms, #id .. ':' .. id .. job)
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
  local state = call('HMGET', g, 'v', 't0', 'd', 'seen', 'h')
  local v, t0 = tonumber(state[1] or 0), tonumber(state[2] or 0)
  local plain, isMore = take_in_waiting(state[4])
  free_lapsed(now)
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
  for _, id in ipairs(call('ZRANGEBYSCORE', later, '-inf', now, 'LIMIT', 0, 50)) do
    call('ZREM', later, id)
    G.enter(id)
  end
  for _ = 1, @TRIES@ do
    first = call('ZRANGE', ready, 0, 0, 'WITHSCORES')
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
    local turns = call('ZRANGE', g .. ':turns:' .. member, 0, 1)
    local id = turns[1]
    local head = id and call('ZRANGE', g .. ':wait:' .. id, 0, 0, 'WITHSCORES') or {}
    local job = head[1]
    if not id then
      call('ZREM', ready, member)
    elseif not job then
      G.forget(id, '')
    else
      local limits = G.limits(id)
      if may_start(id, limits, default, tonumber(head[2]) < @RETRIED@, now) then
        if call('ZREM', p .. 'delayed', job) == 1 then
          start(id, member, tag, job, limits, default, now, opts['lockDuration'], turns[2])
          chosen = id
          return job
        end
        G.forget(id, job)
      end
    end
  end
  return false, false, nil, true
end
""".replace(b"@TRIES@", b"%d" % MOST_TRIES).replace(b"@RETRIED@", b"%d" % _RETRIED)


def group_functions(prefix: bytes, *, choosing: bool = False) -> bytes:
    """Return the functions as Lua text, with the expression that gives the prefix of the queue's keys."""
    return _BASE % {b"prefix": prefix, b"more": _CHOOSING if choosing else b""}
