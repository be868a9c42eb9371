"""Lists of a million jobs in BullMQ's scripts that look for one job in them: Redis must not be blocked for long.

Redis looks at every element from one end on, 8 to 12 ns for each: a job that is far from that end costs 10 ms.
"""

from __future__ import annotations

from toril.bullmq.lua.queue_script import QueueScript, bullmq_text, replaced_once
from toril.bullmq.lua.waiting_lists import guarded

LONG = 100_000
"""Longer lists are not searched as a whole."""
_ENDS = 50_000
"""How many elements at each end of a long list are looked at."""
_LOOKED_AT = (b'rcall("LPOS", KEYS[5] , ARGV[1])', b'rcall("LPOS", KEYS[6] , ARGV[1])')
_REMOVED_FROM = (b'rcall("LREM", prefix .. "wait", 1, jobId)', b'rcall("LREM", prefix .. "paused", 1, jobId)')

# A job that exists, and is neither near an end of a long list nor in any other state, waits in the middle of it.
_IS_IN = b"""
local function is_in(list, id)
  if redis.call('LLEN', list) <= %d then return redis.call('LPOS', list, id) end
  return redis.call('LPOS', list, id, 'MAXLEN', %d) or redis.call('LPOS', list, id, 'RANK', -1, 'MAXLEN', %d)
    or (not redis.call('ZSCORE', KEYS[7], id) and redis.call('EXISTS', string.match(list, '^(.*:)') .. id) == 1)
end
""" % (LONG, _ENDS, _ENDS)

# A list has the newest job first: the time of a job tells from which end it is nearer. Where that is wrong, removing
# takes longer, and removes the same job.
_TAKE_FROM = b"""
local function take_from(list, prefix, id)
  local function added(job) return job and tonumber(redis.call('HGET', prefix .. job, 'timestamp') or '') end
  local count = 1
  if redis.call('LLEN', list) > %d then
    local newest, oldest = added(redis.call('LINDEX', list, 0)), added(redis.call('LINDEX', list, -1))
    local at = added(id)
    if at and newest and oldest and newest - at > at - oldest then count = -1 end
  end
  return redis.call('LREM', list, count, id)
end
""" % (LONG // 10)


# Each job's place in the list is emptied before BullMQ's functions remove the job, so that they do not look for it.
# At the end, one pass removes all the empty places. A job that is not removed gets its place back.
_REMOVE_LISTED = b"""
local listed, prefix, first, last = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local taken, places, replies, empty = {}, {}, {}, 0
local function remove_one(KEYS, ARGV)
%b
end
for number, id in ipairs(redis.call('LRANGE', listed, first, last)) do places[id] = first + number - 1 end
for i = 4, #ARGV do
  local id, reply = ARGV[i], false
  local place = places[id]
  if place and redis.call('EXISTS', prefix .. id) == 1 then
    redis.call('LSET', listed, place, '')
    taken[id] = true
    local ran, code = pcall(remove_one, {prefix .. id, KEYS[2]}, {id, '1', prefix})
    if ran and code == 1 then
      empty = empty + 1
    else
      taken[id] = nil
      redis.call('LSET', listed, place, id)
    end
    reply = ran and code or false
  end
  replies[#replies + 1] = reply
end
if empty > 0 then
  redis.call('LREM', listed, first < redis.call('LLEN', listed) - last and empty or -empty, '')
end
return replies
"""
_TAKEN = b"local function take_from(list, prefix, id)\n"


def removing_listed() -> QueueScript:
    """Return a script that removes jobs which stand near each other in a list, with BullMQ's functions."""
    one = guarded(taking_from_nearer_end(bullmq_text("removeJob", 2)))
    one = replaced_once(one, _TAKEN, _TAKEN + b"  if taken[id] and list == listed then return 1 end\n")
    return QueueScript(
        "removeListed",
        _REMOVE_LISTED % one,
        keys="{list} repeat",
        arguments="prefix first last job_ids*",
        returns="for each job what removeJob returns; nothing where it is not in this part of the list",
        moves=True,
    )


def looking_at_ends(text: bytes) -> bytes:
    """Return BullMQ's script that finds the state of a job, which looks through no long list as a whole."""
    for call in _LOOKED_AT:
        text = replaced_once(text, call, b"is_in(" + call.removeprefix(b'rcall("LPOS", ').replace(b" ,", b","))
    return _IS_IN + text


def taking_from_nearer_end(text: bytes) -> bytes:
    """Return a script of BullMQ that removes jobs, which looks for a waiting one from the nearer end of its list."""
    for call in _REMOVED_FROM:
        list_key = call.removeprefix(b'rcall("LREM", ').partition(b",")[0]
        text = replaced_once(text, call, b"take_from(%b, prefix, jobId)" % list_key)
    return _TAKE_FROM + text
