"""Holds: for a while no job of a queue starts. A hold is one key that expires.

Like BullMQ's `rateLimit`, a hold sets the limiter's key to the largest number. BullMQ's workers read that key only if
they or the queue have a limit. toril's workers always read it, by an expression that is put into BullMQ's scripts here.
"""

from __future__ import annotations

from toril.bullmq.lua.queue_script import QueueScript, replaced_once
from toril.core.integers import MAX_SAFE_INTEGER

HELD = b"%d" % MAX_SAFE_INTEGER

_LIMITED = b"if maxJobs and maxJobs <= tonumber("
_LIMITED_OR_HELD = b"if (maxJobs or %b) <= tonumber(" % HELD

# Earlier versions of toril left a limit in `meta` that is none; both scripts remove it. ARGV[1] is the value of a hold.
_FORGET_OLD_LIMIT = b"""
if redis.call('HGET', KEYS[2], 'max') == ARGV[1] then redis.call('HDEL', KEYS[2], 'max', 'duration') end
"""

# The hold that ends last counts.
HOLD = QueueScript(
    "hold",
    _FORGET_OLD_LIMIT
    + b"""
if redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PTTL', KEYS[1]) > tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
""",
    keys="limiter meta",
    arguments="hold for_ms",
    returns="1, or 0 if the current hold ends later",
)

# Adds a marker if jobs may start now; also for delayed jobs, whose marker may have been popped meanwhile.
LET_GO = QueueScript(
    "letGo",
    _FORGET_OLD_LIMIT
    + b"""
local held = redis.call('DEL', KEYS[1])
local jobs = redis.call('LLEN', KEYS[3]) + redis.call('ZCARD', KEYS[4]) + redis.call('ZCARD', KEYS[5])
if jobs > 0 and redis.call('HEXISTS', KEYS[2], 'paused') == 0 then redis.call('ZADD', KEYS[6], 0, '0') end
return held
""",
    keys="limiter meta wait prioritized delayed marker",
    arguments="hold",
    returns="the number of limiters that were removed",
)


def obeying_holds(text: bytes) -> bytes:
    """Return the text of a leasing script of BullMQ, changed to obey holds for workers without a limit too.

    Raises:
        ValueError: the script does not have the expected part.
    """
    return replaced_once(text, _LIMITED, _LIMITED_OR_HELD)
