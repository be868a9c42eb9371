"""Locks that have lapsed while Redis was away: their holders take them back, and no stalled check is quicker.

A lock lapses while its holder cannot renew it, and usually the job is not touched meanwhile: it is still in `active`,
and has begun no other time. Its holder may then lock it again, and settle it as if the lock had never been gone.
"""

from __future__ import annotations

from toril.bullmq.lua.queue_script import QueueScript, replaced_once

LATE_MS = 1000
"""How late a stalled check may come to Redis: one that was held up is not made, as renewals were held up with it."""

# A lock that is the lease's is renewed: of two calls at the same time the other one has taken it back.
# Of each lease it takes the job's id, the token, `ats` and `processedOn` of its job, and its group or "".
# BullMQ counts the starts of a job in `ats`. One that another worker has begun since has another count, and one whose
# count was set back (by a retry of a person) another `processedOn`. A job of a group must still have its slot.
TAKE_BACK = QueueScript(
    "takeBack",
    b"""
local left = {}
for n = 2, #ARGV, 5 do
  local id, token, group = ARGV[n], ARGV[n + 1], ARGV[n + 4]
  local lock = KEYS[1] .. id .. ':lock'
  local holder = redis.call('GET', lock)
  local job = redis.pcall('HMGET', KEYS[1] .. id, 'ats', 'processedOn')
  if holder == token or not holder and not job.err and job[1] == ARGV[n + 2] and job[2] == ARGV[n + 3]
    and (group == '' or redis.call('HEXISTS', KEYS[1] .. 'toril:groups:slots', id) == 1)
    and redis.call('LPOS', KEYS[2], id) then
    redis.call('SET', lock, token, 'PX', ARGV[1])
    redis.call('SREM', KEYS[3], id)
  else
    left[#left + 1] = id
  end
end
return left
""",
    keys="prefix active stalled",
    arguments="lock_ms leases*",
    returns="the ids that another token holds, or that have begun again, moved or gone",
)


_READS = b"local maxCheckTime = ARGV[4]\n"
_IS_LATE = (
    b"""local clock = redis.call('TIME')
if clock[1] * 1000 + clock[2] / 1000 - tonumber(timestamp) > %d then return {} end
"""
    % LATE_MS
)


def passing_over_late_checks(text: bytes) -> bytes:
    """Return BullMQ's stalled check, which then does nothing if it comes to Redis late: a later one does its work."""
    return replaced_once(text, _READS, _READS + _IS_LATE)
