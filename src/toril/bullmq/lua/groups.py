"""The Lua functions that hold the jobs of groups, choose the next one and count what runs.

`toril.bullmq.rules.groups` has the same rules in Python, and the tests compare the two. `docs/explanation/groups.md`
says what each key holds. The functions go in front of BullMQ's scripts (`group_scripts`) and of toril's own.

Keys, all behind `{queue}:toril:groups`:

    (itself)        hash: v, the virtual time; t0, the tag of the jobs without a group; seq and turn, counters; seen,
                    the newest waiting job that was looked at; look, when to look at the slots again; more, whether
                    there is one of these: cursor, how far that has come; d, the worker's default when it was last
                    seen; h, which groups were held back and not told of yet; limits, whether a group has limits;
                    counts, whether all groups are counted
    :index          sorted set: the groups that have waiting jobs
    :wait:GROUP     sorted set: its waiting jobs; promoted ones first, then retries, then by priority and arrival
    :ready          sorted set: the members that have a group which may start a job, by their tag; and WIDE as the last
    :turns:MEMBER   sorted set: the groups of a member that may start a job, in the order of their turns; it is
                    missing where that is only the group of the same name
    :past           sorted set: the tags of members that have left `ready` with one beyond the virtual time
    :later          sorted set: the groups at a limit, by the time at which they may start; inf: when a slot is free
    :slots          hash: of each job that holds a slot +WIDEGROUP, or -WIDEGROUP where the group is not counted
    :busy:GROUP     set: the jobs that hold a slot of a counted group: one that has a concurrency or a rate
    :rate:GROUP     the theoretical arrival time of its next start (GCRA), milliseconds; expires at that time
    :reserved:GROUP sorted set: COUNT:TOKEN of the room that adds have taken beforehand, by when it is free again
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
RETRIED = -(2**52)
"""The score of the first retried job of a group in its waiting set; those of promoted jobs are below it."""
_PROMOTED = -(2**53)
# No member has a slash.
_WIDE = b"/" * 64
_COUNTED = ord("+")
SLOT_NAME = 1 + len(_WIDE)
"""Where the name of the group begins in the value of a slot."""

# What adding, leasing and settling need. `p` is the prefix of the queue's keys. Making thirty functions costs as much
# as six commands, so what most leases do without is made when one needs it.
_BASE = b"""
local hasGroups, G = false
do
local call, p = redis.call, %%(prefix)b
local g = p .. 'toril:groups'
local ready, later, slots, past = g .. ':ready', g .. ':later', g .. ':slots', g .. ':past'
-- Redis reads through a set or hash of few short values. One value of more than 64 bytes makes it look them up.
local wide = '%(wide)b'

local vacate, rest

local function others()
  if rest then return rest end

  local function group_of(slot) return string.sub(slot, %(name)d) end

  -- An id that `check_group_id` refuses is no group, so that every group can be named in a path.
  local function is_id(id)
    if type(id) ~= 'string' or id == '' or id == '.' or id == '..' then return false end
    if #id > 256 and (#id > 1024 or select(2, string.gsub(id, '[^\\128-\\191]', '')) > 256) then return false end
    if not string.find(id, '[%%%%c\\194]') then return true end
    return not string.find(id, '%%%%c') and not string.find(id, '\\194[\\128-\\159]')
  end

  local function read(group)
    if type(group) ~= 'table' then return nil end
    local id, priority = group.id, tonumber(group.priority) or 0
    if type(id) == 'number' and id %%%% 1 == 0 and math.abs(id) < 2^53 then id = string.format('%%%%.0f', id) end
    if not is_id(id) then return nil end
    if priority < 0 or priority > 2097152 then priority = 0 end
    return id, math.floor(priority)
  end

  local function named(opts)
    if not opts or not string.find(opts, '"group"', 1, true) then return nil end
    local ok, decoded = pcall(cjson.decode, opts)
    return read(ok and type(decoded) == 'table' and decoded.group)
  end

  local function member_of(id) return string.match(id, '^[^/]*') end

  local function limits_of(id)
    local text = call('HGET', g .. ':limits', id)
    if not text then return {} end
    local parts = {}
    for part in string.gmatch(text .. ',', '(%%%%d*),') do parts[#parts + 1] = part end
    return {
      concurrency = tonumber(parts[1]), max = tonumber(parts[2]), duration = tonumber(parts[3]),
      weight = tonumber(parts[4]), most = tonumber(parts[5]), paused = parts[6] == '1',
    }
  end

  local function enter(id)
    local member = member_of(id)
    local turns = g .. ':turns:' .. member
    if call('ZSCORE', ready, member) then
      if call('EXISTS', turns) == 0 then
        if id == member then return end
        call('ZADD', turns, call('HINCRBY', g, 'turn', 1), member)
      end
      call('ZADD', turns, 'NX', call('HINCRBY', g, 'turn', 1), id)
      return
    end
    if id ~= member then call('ZADD', turns, call('HINCRBY', g, 'turn', 1), id) end
    local tag, before = tonumber(call('HGET', g, 'v') or 0), call('ZSCORE', past, member)
    if before then
      call('ZREM', past, member)
      tag = math.max(tag, tonumber(before))
    end
    call('ZADD', ready, tag, member)
  end

  local function clear_past(v, most)
    local old = call('ZRANGEBYSCORE', past, '-inf', v, 'LIMIT', 0, most)
    if #old > 0 then call('ZREM', past, unpack(old)) end
  end

  local function leave(id)
    local member = member_of(id)
    local turns = g .. ':turns:' .. member
    if call('EXISTS', turns) == 1 then
      if call('ZREM', turns, id) == 0 or call('EXISTS', turns) == 1 then return end
    elseif id ~= member then
      return
    end
    local tag = tonumber(call('ZSCORE', ready, member) or '')
    if not tag then return end
    call('ZREM', ready, member)
    local v = tonumber(call('HGET', g, 'v') or 0)
    if tag <= v then return end
    call('ZADD', past, tag, member)
    clear_past(v, 10)
  end

  local function hold(id, job, priority, band)
    local seq = call('HINCRBY', g, 'seq', 1)
    call('ZADD', p .. 'delayed', %(held)d + 32 * seq, job)
    call('ZADD', g .. ':wait:' .. id, band + priority * 2^30 + seq %%%% 2^30, job)
    if call('HSETNX', p .. 'meta', '%(flag)b', 1) == 1 then call('ZADD', ready, '+inf', wide) end
    local isNew = call('ZADD', g .. ':index', 0, id) == 1
    if isNew or band == %(promoted)d then
      call('ZREM', later, id)
      enter(id)
    end
  end

  -- The job is no longer among the waiting ones of its group. Returns true if the group has others.
  local function forget(id, job)
    call('ZREM', g .. ':wait:' .. id, job)
    if call('EXISTS', g .. ':wait:' .. id) == 1 then return true end
    call('ZREM', g .. ':index', id)
    call('ZREM', later, id)
    leave(id)
    return false
  end

  -- Counts the jobs that hold a slot of a group, or of all groups, from now on.
  local function count_slots(id)
    local all = call('HGETALL', slots)
    for i = 1, #all, 2 do
      local its = group_of(all[i + 1])
      if string.byte(all[i + 1]) ~= %(counted)d and (its == id or not id) then
        call('SADD', g .. ':busy:' .. its, all[i])
        call('HSET', slots, all[i], '+' .. wide .. its)
      end
    end
  end

  -- No job of any group waits.
  local function reset()
    call('UNLINK', past)
    if call('EXISTS', slots) == 1 then
      call('HDEL', g, 'v', 't0', 'seen', 'turn')
      return
    end
    call('DEL', g, ready)
    call('HDEL', p .. 'meta', '%(flag)b')
    if call('EXISTS', g .. ':limits') == 1 then call('HSET', g, 'limits', 1, 'more', 1) end
  end

  -- A job that stands in another list. One that was held there and is not due was promoted by a person.
  local function take_in(job, isDue)
    local found = redis.pcall('HMGET', p .. job, 'opts', 'ats')
    if found.err then return false end
    local id, priority = named(found[1])
    if not id then return false end
    vacate(job)
    local band = 0
    if not isDue and call('ZSCORE', g .. ':wait:' .. id, job) then band = %(promoted)d
    elseif (tonumber(found[2]) or 0) > 0 then band = %(retried)d end
    hold(id, job, priority, band)
    return true
  end

  rest = {
    read = read, named = named, limits = limits_of, enter = enter, leave = leave, clear_past = clear_past, hold = hold,
    forget = forget, count = count_slots, reset = reset, take_in = take_in, group_of = group_of,
  }
  return rest
end

-- The job holds no slot any longer. Returns false if it held none.
function vacate(job)
  local slot = call('HGET', slots, job)
  if not slot then return false end
  call('HDEL', slots, job)
  if string.byte(slot) == %(counted)d then
    local id = string.sub(slot, %(name)d)
    call('SREM', g .. ':busy:' .. id, job)
    if call('ZREM', later, id) == 1 then others().enter(id) end
  end
  return true
end

local function take_in(job, isDue) return others().take_in(job, isDue) end

local function done(job, isLast)
  if not vacate(job) then return end
  if isLast and call('EXISTS', g .. ':index') == 1 then call('ZADD', p .. 'marker', 0, '0') end
end

%%(more)b
end
""" % {
    b"held": HELD, b"flag": FLAG, b"promoted": _PROMOTED, b"retried": RETRIED, b"wide": _WIDE, b"counted": _COUNTED,
    b"name": SLOT_NAME + 1,
}  # fmt: skip

# What counts how many more jobs may wait. Jobs that were removed without toril leave their ids behind.
_ROOM = b"""
G = others()
G.vacate, G.done = vacate, done

function G.prune(id, most)
  for _, job in ipairs(call('ZRANGE', g .. ':wait:' .. id, 0, most - 1)) do
    if not call('ZSCORE', p .. 'delayed', job) and call('EXISTS', p .. job) == 0 then G.forget(id, job) end
  end
end

-- Adds of several jobs, and envelopes, take their room before they add them.
local function reserved(id)
  local key, sum = g .. ':reserved:' .. id, 0
  if call('EXISTS', key) == 0 then return 0 end
  call('ZREMRANGEBYSCORE', key, '-inf', call('TIME')[1])
  for _, one in ipairs(call('ZRANGE', key, 0, -1)) do sum = sum + tonumber(string.match(one, '^%d+')) end
  return sum
end

-- The job whose room was taken before is there now.
function G.use_room(id, job) call('ZREM', g .. ':reserved:' .. id, '1:' .. job) end

function G.room(id, most)
  local wait = g .. ':wait:' .. id
  most = most - reserved(id)
  if call('ZCARD', wait) >= most and call('ZCOUNT', wait, 0, '+inf') >= most then
    G.prune(id, 100)
    return most - call('ZCOUNT', wait, 0, '+inf')
  end
  return most - call('ZCOUNT', wait, 0, '+inf')
end
"""


def group_functions(prefix: bytes) -> bytes:
    """Return the functions as Lua text, in the table `G`; `prefix` is the expression of the prefix of the keys."""
    return _BASE % {b"prefix": prefix, b"more": _ROOM}


def leasing_functions(prefix: bytes, choosing: bytes) -> bytes:
    """Return what a script that leases needs of them, and behind it those of `toril.bullmq.lua.group_choice`."""
    return _BASE % {b"prefix": prefix, b"more": choosing}
