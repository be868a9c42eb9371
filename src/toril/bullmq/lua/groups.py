"""The Lua functions that hold the jobs of groups, choose the next one and count what runs.

`toril.bullmq.rules.groups` has the same rules in Python, and the tests compare the two. `docs/explanation/groups.md`
says what each key holds. The functions go in front of BullMQ's scripts (`group_scripts`) and of toril's own.

Keys, all behind `{queue}:toril:groups`:

    (itself)        hash: v, the virtual time; t0, the tag of the jobs without a group; seq and turn, counters; seen,
                    the newest waiting job that was looked at; d, the worker's default when it was last seen; h, which
                    groups were held back and not told of yet; look, when to look at the first slot again
    :index          sorted set: the groups that have waiting jobs
    :wait:GROUP     sorted set: its waiting jobs; promoted ones first, then retries, then by priority and arrival
    :ready          sorted set: the members that have a group which may start a job, by their tag
    :turns:MEMBER   sorted set: the groups of a member that may start a job, in the order of their turns
    :past           sorted set: the tags of members that have left `ready` with one beyond the virtual time
    :later          sorted set: the groups at a limit, by the time at which they may start; inf: when a slot is free
    :busy:GROUP     set: its jobs that hold a slot
    :slots          sorted set: LENGTH:GROUPJOB of each slot, by the time at which to look at the job's lock again
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

# What adding, leasing and settling need. `p` is the prefix of the queue's keys.
_BASE = b"""
local hasGroups = false
local G = {}
do
local call, p = redis.call, %%(prefix)b
local g = p .. 'toril:groups'
local ready, later, slots, past = g .. ':ready', g .. ':later', g .. ':slots', g .. ':past'

-- An id that `check_group_id` refuses is no group, so that every group can be named in a path.
local function is_id(id)
  if type(id) ~= 'string' or id == '' or id == '.' or id == '..' then return false end
  if #id > 256 and (#id > 1024 or select(2, string.gsub(id, '[^\\128-\\191]', '')) > 256) then return false end
  if not string.find(id, '[%%%%c\\194]') then return true end
  return not string.find(id, '%%%%c') and not string.find(id, '\\194[\\128-\\159]')
end

function G.read(group)
  if type(group) ~= 'table' then return nil end
  local id, priority = group.id, tonumber(group.priority) or 0
  if type(id) == 'number' and id %%%% 1 == 0 and math.abs(id) < 2^53 then id = string.format('%%%%.0f', id) end
  if not is_id(id) then return nil end
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
  local v = tonumber(call('HGET', g, 'v') or 0)
  if tag <= v then return end
  call('ZADD', past, tag, member)
  G.clear_past(v, 10)
end

function G.clear_past(v, most)
  local old = call('ZRANGEBYSCORE', past, '-inf', v, 'LIMIT', 0, most)
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

-- A job that stands in another list. One that was held there and is not due was promoted by a person.
function G.take_in(job, isDue)
  local found = redis.pcall('HMGET', p .. job, 'opts', 'ats')
  if found.err then return false end
  local id, priority = G.named(found[1])
  if not id then return false end
  G.vacate(id, job)
  local band = 0
  if not isDue and call('ZSCORE', g .. ':wait:' .. id, job) then band = %(promoted)d
  elseif (tonumber(found[2]) or 0) > 0 then band = %(retried)d end
  G.hold(id, job, priority, band)
  return true
end

function G.done(job, isLast)
  local id = G.named(call('HGET', p .. job, 'opts'))
  if not id or not G.vacate(id, job) then return end
  if isLast and call('EXISTS', g .. ':index') == 1 then call('ZADD', p .. 'marker', 0, '0') end
end

%%(more)b
end
""" % {b"held": HELD, b"flag": FLAG, b"promoted": _PROMOTED, b"retried": RETRIED}

# What counts how many more jobs may wait. Jobs that were removed without toril leave their ids behind.
_ROOM = b"""
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


def group_functions(prefix: bytes, more: bytes = _ROOM) -> bytes:
    """Return the functions as Lua text: those that all scripts use, and more.

    Args:
        prefix: the expression that gives the prefix of the queue's keys.
        more: those of `toril.bullmq.lua.group_choice` for a script that leases; else what counts and frees room.
    """
    return _BASE % {b"prefix": prefix, b"more": more}
