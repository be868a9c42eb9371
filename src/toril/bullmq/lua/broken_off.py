"""Attempts that were broken off, kept with their job: additions to BullMQ's scripts that let active jobs wait again.

An attempt is a line of the job's field `toril:attempts`, as `toril.core.made_attempt` reads it. It is written in the
step that moves the job, so a worker that takes the job next has it, and adds its own behind it.
"""

from __future__ import annotations

import msgspec

from toril.bullmq.lua.queue_script import replaced_once
from toril.core.made_attempt import FIELD, MOST, STALLED, WORKER_GONE

_text = msgspec.json.Encoder().encode

_KEEP_STALLED = b"""
local function keep_stalled(job, now, fails)
  local was = redis.call('HMGET', job, '%(field)b', 'atm', 'processedOn')
  local kept, at = was[1] or '', math.min(tonumber(was[3]) or tonumber(now), tonumber(now))
  local _, breaks = string.gsub(kept, '\\n', '')
  if breaks >= %(most)d then kept = string.match(kept, '\\n(.*)$') end
  local line = string.format(
    '{"number":%%d,"at":%%d,"durationMs":%%d,"outcome":%(outcome)b,"verdict":"%%s","reason":%(reason)b}',
    (tonumber(was[2]) or 0) + 1, at, tonumber(now) - at, fails and 'fail' or 'retry')
  redis.call('HSET', job, '%(field)b', kept == '' and line or kept .. '\\n' .. line)
end
""" % {
    b"field": FIELD.encode(),
    b"most": MOST - 1,
    b"outcome": _text(STALLED),
    b"reason": _text(WORKER_GONE),
}
_STALLED = b"-- Emit the stalled event\n"
_RELEASED = b"local metaKey = KEYS[5]\n"


def keeping_stalled(text: bytes) -> bytes:
    """Return BullMQ's stalled check, which then keeps an attempt with each job that it moves."""
    keep = b"keep_stalled(jobKey, timestamp, stalledCount > maxStalledJobCount and not isRepeatableJob)\n"
    return _KEEP_STALLED + replaced_once(text, _STALLED, keep + _STALLED)


def keeping_released(text: bytes) -> bytes:
    """Return BullMQ's script that gives a job back, which then writes one more field of the job, where it is given."""
    keep = b'if ARGV[4] then rcall("HSET", jobKey, ARGV[4], ARGV[5]) end\n'
    return replaced_once(text, _RELEASED, keep + _RELEASED)
