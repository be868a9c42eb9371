"""The list in which a job waits while its queue is paused: `wait` or `paused`.

BullMQ 5 renames `wait` to `paused` when it pauses, adds to `paused` meanwhile, and renames `paused` over `wait` when it
resumes, so jobs that others have added to `wait` meanwhile are lost. BullMQ 6, and the scripts of the `bullmq` package
that toril calls, leave the jobs in `wait`; their resume moves the jobs of a `paused` list back.

The rule for every script that makes a job wait: if a paused queue has a `paused` list, or was last opened by BullMQ 5,
the job goes into `paused`, at the end at which BullMQ 5 would put it, and the jobs in `wait` are moved there too.
Otherwise it goes into `wait`. The rule is part of the script that makes the job wait, so the job is never in the wrong
list.

`guarded` puts the rule into a script's text. It must never change anything else in it.
"""

from __future__ import annotations

import functools
import re

from toril.bullmq.lua.queue_script import QueueScript

# How many jobs one call moves from list to list at most, which takes Redis 1.5 ms (5 ms with ids of a kilobyte). One
# list is usually short or empty, so jobs are left over only if both are longer than this.
_MOST = 1500
# How many of them one command moves: Lua limits the number of arguments.
_AT_ONCE = 500

# standing(wait): `wait` is the key of a queue's list. Returns the key of the list in which a job is to wait now.
#
# If that is `paused`, the jobs in `wait` are moved behind those in `paused` (a list is served from the right): the
# shorter list is moved, and the longer one gets the name.
STANDING = b"""
local function standing(wait)
  local call = redis.call
  local queue = string.sub(wait, 1, -5)
  local meta = call('HMGET', queue .. 'meta', 'paused', 'version')
  if not meta[1] then return wait end
  local paused = queue .. 'paused'
  local aside = call('LLEN', paused)
  if aside == 0 and not string.find(meta[2] or '', '^bullmq:5%%.') then return wait end
  local waiting = call('LLEN', wait)
  if waiting > aside and aside <= %(most)d then
    for first = 0, aside - 1, %(at_once)d do
      call('RPUSH', wait, unpack(call('LRANGE', paused, first, first + %(at_once)d - 1)))
    end
    call('RENAME', wait, paused)
  else
    local left = math.min(waiting, %(most)d)
    while left > 0 do
      local jobs = call('LRANGE', wait, -math.min(left, %(at_once)d), -1)
      local reversed = {}
      for i = #jobs, 1, -1 do reversed[#reversed + 1] = jobs[i] end
      call('LPUSH', paused, unpack(reversed))
      call('LTRIM', wait, 0, -#jobs - 1)
      left = left - #jobs
    end
  end
  return paused
end
""" % {b"most": _MOST, b"at_once": _AT_ONCE}

# Applies the rule to a queue without adding a job. Adds a marker if jobs may start: a BullMQ 5 that resumes adds none
# for those in `wait`.
LOOK_AFTER = QueueScript(
    "lookAfter",
    STANDING
    + b"""
local rcall = redis.call
local wait = KEYS[1]
local meta = rcall('HMGET', KEYS[2], 'paused', 'concurrency')
if meta[1] then
  if standing(wait) == wait then return 1 end
  return 1 + rcall('EXISTS', wait)
end
local free = not meta[2] or rcall('LLEN', KEYS[3]) < tonumber(meta[2])
if free and rcall('EXISTS', wait) == 1 then rcall('ZADD', KEYS[4], 0, '0') end
return 0
""",
    keys="wait meta active marker",
    returns="0 when the queue is not paused, 1 when it is, 2 when there are more jobs to move",
)

_PUSH = b"""
local function push(command, list, ...)
  if string.sub(list, -5) == ':wait' then list = standing(list) end
  return redis.call(command, list, ...)
end
"""

# BullMQ searches a waiting job in one list only.
_TAKE_OUT = b"""
local function take_out(list, count, job)
  local removed = redis.call('LREM', list, count, job)
  if removed > 0 then return removed end
  local queue, name = string.match(list, '^(.*:)(%a+)$')
  return redis.call('LREM', queue .. (name == 'wait' and 'paused' or 'wait'), count, job)
end
"""

# A command that pushes, or one that is only known when the script runs, except to lists that hold no waiting jobs.
_PUSHES = re.compile(
    rb"""\brcall\((?=\s*(?:["'][LR]PUSH["']|[A-Za-z]))(?!"LPUSH", (?:activeKey|dataPointsList),)""",
)
_TAKES_OUT = re.compile(rb"""\brcall\("LREM", (?=(?:waitKey|pausedOrWaitKey),)""")
# If BullMQ's functions know already that the queue is not paused, checking again would cost 7 % of an add.
_KNOWN = (
    (
        b"push(pushCmd, targetKey, jobId)",
        b"rcall(pushCmd, isPausedOrMaxed and standing(targetKey) or targetKey, jobId)",
    ),
    (
        b'push("LPUSH", targetKey, jobId)',
        b'rcall("LPUSH", isPaused and standing(targetKey) or targetKey, jobId)',
    ),
)


@functools.cache  # an instance makes its scripts twice: for two kinds of connections
def guarded(text: bytes) -> bytes:
    """Return the text of a script of BullMQ, with the rule in it if the script makes jobs wait."""
    changed = _TAKES_OUT.sub(b"take_out(", _PUSHES.sub(b"push(", text))
    for before, after in _KNOWN:
        changed = changed.replace(before, after)
    if changed == text:
        return text
    parts = [STANDING]
    parts += [_PUSH] if b"push(" in changed else []
    parts += [_TAKE_OUT] if b"take_out(" in changed else []
    return b"".join((*parts, changed))
