"""A hold: for a while no job of a queue starts. It is one key that expires by itself, so it leaves nothing behind.

BullMQ's `rateLimit` sets the limiter's key to the largest number. Its workers look at that key only where they or the
queue have a limit; toril's look at it always, by one expression that is put into BullMQ's scripts here.
"""

from __future__ import annotations

from toril.core.job import MAX_SAFE_INTEGER

HELD = b"%d" % MAX_SAFE_INTEGER

_LIMITED = b"if maxJobs and maxJobs <= tonumber("
_LIMITED_OR_HELD = b"if (maxJobs or %b) <= tonumber(" % HELD

# What earlier versions of toril left in `meta` is no limit of anybody's; the scripts here remove it.
_FORGET_OLD_LIMIT = b"""
if redis.call('HGET', KEYS[2], 'max') == ARGV[1] then redis.call('HDEL', KEYS[2], 'max', 'duration') end
"""

# KEYS[1] limiter, KEYS[2] meta; ARGV[1] the value of a hold, ARGV[2] for how long (milliseconds).
# Of two holds the one that ends last counts. Returns 1, or 0 where one that ends later is under way.
HOLD = (
    _FORGET_OLD_LIMIT
    + b"""
if redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PTTL', KEYS[1]) > tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
)

# KEYS[1] limiter, KEYS[2] meta; ARGV[1] the value of a hold. Returns how many limiters there were.
LET_GO = (
    _FORGET_OLD_LIMIT
    + b"""
return redis.call('DEL', KEYS[1])
"""
)


def obeying_holds(text: bytes) -> bytes:
    """The text of a script of BullMQ's that leases jobs, made to obey holds for workers without a limit too.

    Raises:
        ValueError: the script reads the limiter in another way than the one we know.
    """
    if text.count(_LIMITED) != 1:
        raise ValueError("BullMQ's script does not read the rate limiter as expected")
    return text.replace(_LIMITED, _LIMITED_OR_HELD)
