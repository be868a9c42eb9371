"""BullMQ's scripts with groups: what toril calls where a queue has groups, in place of the scripts without them.

A queue without groups is worked on by the same scripts as ever, with one addition: what they read of the queue's meta
has the flag that groups set, and where it is set the script leases nothing and says so (`noticing_groups`).
"""

from __future__ import annotations

from toril.bullmq.lua.group_choice import choosing_functions
from toril.bullmq.lua.groups import FLAG, FULL, HELD_MS, group_functions
from toril.bullmq.lua.queue_script import QueueScript, replaced_once

_READS_META = b'rcall("HMGET", queueMetaKey, "paused", "concurrency", "max", "duration")\n'
_ALSO_FLAG = b'rcall("HMGET", queueMetaKey, "paused", "concurrency", "max", "duration", "%b")\n' % FLAG
_NOTES_FLAG = b"  hasGroups = queueAttributes[5] and true or false\n"
_LIMITER = b"local limiterDuration = (opts['limiter'] and opts['limiter']['duration']) or rateLimitDuration\n"
_LEASES_NOTHING = b"if hasGroups then return {0, 0, 0, 0, 1} end\n"

# In moveToActive and in the function of the scripts that settle the arguments have different names.
_TAKES = b"prepareJobForProcessing(ARGV[1], rateLimiterKey, eventStreamKey, jobId, ARGV[2],"
_CHOOSES = b"""
if hasGroups then
  local chosen, isPlain, soonest, isMore = G.choose(opts, %b)
  if chosen then
    local reply = prepareJobForProcessing(%b, rateLimiterKey, eventStreamKey, chosen, %b,
                                          maxJobs, limiterDuration, markerKey, opts)
    if type(reply[1]) ~= 'table' then G.vacate(chosen) end
    reply[5], reply[6] = 1, G.held
    return reply
  end
  if not isPlain then
    local due = getNextDelayedTimestamp(delayedKey)
    if due and due < %d and due < (soonest or math.huge) then soonest = due end
    return {0, 0, 0, soonest or 0, isMore and 2 or 1, G.held}
  end
end
"""
_PROMOTES = b"""                tonumber(rcall("HGET", jobKey, "priority")) or 0
            if priority == 0 then
"""
_TAKES_IN = b"""                tonumber(rcall("HGET", jobKey, "priority")) or 0
            if G.take_in(jobId, true) then
            elseif priority == 0 then
"""
_REMOVED = b'local numRemovedElements = rcall("LREM", KEYS[2], -1, jobId)\n'
_FINISHED = b"""    if (numRemovedElements < 1) then
        return -3
    end
"""
_DELAYED = b"    if numRemovedElements < 1 then return -3 end\n"
_RETRIES = b"  if priority == 0 then\n    addJobInTargetList(KEYS[2], markerKey, ARGV[3]"
_RETRIES_IN_GROUP = (
    b"  if G.take_in(ARGV[4]) then\n    addBaseMarkerIfNeeded(markerKey, isPausedOrMaxed)\n  else" + _RETRIES.lstrip()
)
_RELEASES = b"  if priority > 0 then\n    pushBackJobWithPriority("
_RELEASES_IN_GROUP = (
    b"  if G.take_in(jobId) then\n    addBaseMarkerIfNeeded(KEYS[8], isPausedOrMaxed)\n  else" + _RELEASES.lstrip()
)
_COUNTS = b'local jobCounter = rcall("INCR", KEYS[4])\n'
_ADDS = b"addJobInTargetList(waitKey, KEYS[9], pushCmd, isPausedOrMaxed, jobId)\n"
# A job that is there already is no new one.
_REFUSES = (
    b"""
local groupId, groupPriority = G.read(opts['group'])
local most = groupId and G.limits(groupId).most
if most and ARGV[4] == 'unbounded' then
  G.use_room(groupId, args[2])
elseif most and G.room(groupId, most) < 1
  and not (args[2] ~= "" and rcall("EXISTS", args[1] .. args[2]) == 1)
  and not (deduplicationKey and rcall("EXISTS", deduplicationKey) == 1) then
  return %d
end
"""
    % FULL
)
_ADDS_TO_GROUP = (
    b"""if groupId then
  G.hold(groupId, jobId, groupPriority, 0)
  addBaseMarkerIfNeeded(KEYS[9], isPausedOrMaxed)
else
  %b
end
"""
    % _ADDS
)

# For a job that was leased by a script that knows no groups: the queue had none until then.
TAKE_IN = QueueScript(
    "takeIn",
    group_functions(b"KEYS[1]")
    + b"""
local job, key = ARGV[1], KEYS[1] .. ARGV[1]
if redis.call('GET', key .. ':lock') ~= ARGV[2] or not G.named(redis.call('HGET', key, 'opts')) then return 0 end
redis.call('DEL', key .. ':lock')
redis.call('SREM', KEYS[3], job)
if redis.call('LREM', KEYS[2], 1, job) == 0 then return 0 end
redis.call('HINCRBY', key, 'ats', -1)
G.take_in(job)
redis.call('ZADD', KEYS[4], 0, '0')
return 1
""",
    keys="prefix active stalled marker",
    arguments="job_id token",
    returns="1, or 0 where the token holds no job of a group",
)


def noticing_groups(text: bytes) -> bytes:
    """Return a leasing script of BullMQ that leases nothing where the queue has groups, and says so."""
    text = replaced_once(text, _READS_META, _ALSO_FLAG + _NOTES_FLAG)
    return b"local hasGroups = false\n" + replaced_once(text, _LIMITER, _LEASES_NOTHING + _LIMITER)


def choosing_among_groups(text: bytes, prefix: bytes) -> bytes:
    """Return a leasing script of BullMQ that starts the jobs of groups in their turn, and those without one in theirs.

    `prefix` is the Lua expression for the prefix of the queue's keys.
    """
    text = replaced_once(text, _READS_META, _ALSO_FLAG + _NOTES_FLAG)
    at_once = text.count(_TAKES) > 0
    arguments = (b"ARGV[1]", b"ARGV[2]") if at_once else (b"prefix", b"timestamp")
    chooses = _CHOOSES % (arguments[1], *arguments, HELD_MS)
    text = replaced_once(text, _LIMITER, _LIMITER + chooses)
    return choosing_functions(prefix) + taking_in_due(text)


def taking_in_due(text: bytes) -> bytes:
    """Return a script of BullMQ that promotes delayed jobs, which then holds those of groups."""
    return replaced_once(text, _PROMOTES, _TAKES_IN)


def freeing_when_finished(text: bytes) -> bytes:
    """Return BullMQ's script that ends a job, which then frees its slot."""
    return replaced_once(text, _FINISHED, _FINISHED + b'    G.done(jobId, ARGV[6] ~= "1")\n')


def freeing_when_delayed(text: bytes) -> bytes:
    """Return BullMQ's script that delays an active job, which then frees its slot."""
    return replaced_once(text, _DELAYED, _DELAYED + b'    G.done(jobId, ARGV[8] ~= "1")\n')


def retrying_in_group(text: bytes) -> bytes:
    """Return BullMQ's script that retries an active job at once, which then holds one of a group."""
    return group_functions(b"ARGV[1]") + taking_in_due(replaced_once(text, _RETRIES, _RETRIES_IN_GROUP))


def releasing_to_group(text: bytes) -> bytes:
    """Return BullMQ's script that gives a job back, which then holds one of a group."""
    prefix = b"string.sub(KEYS[1], 1, -7)"  # behind it stands `active`
    return group_functions(prefix) + replaced_once(text, _RELEASES, _RELEASES_IN_GROUP)


def adding_to_group(text: bytes) -> bytes:
    """Return BullMQ's script that adds a job, which then holds one of a group, or refuses it where that is full."""
    text = replaced_once(text, _COUNTS, _REFUSES + _COUNTS)
    return group_functions(b"string.sub(KEYS[1], 1, -5)") + replaced_once(text, _ADDS, _ADDS_TO_GROUP)
