"""Since when a queue is paused. BullMQ keeps that it is paused, and emits an event; toril also notes the time.

The time is a field of the queue's `meta`, which toril's pause sets with BullMQ's own field, and its resume removes with
it. A queue that another program has paused is known by its event, as long as that is among the newest ones.
"""

from __future__ import annotations

from toril.bullmq.lua.queue_script import QueueScript, replaced_once

_FIELD = b"toril:pausedAt"
_LOOKED_AT = 500
"""How many events are looked at, which takes Redis about 0.4 ms."""
_PAUSES = b'rcall("HSET", KEYS[3], "paused", 1)'
_RESUMES = b'rcall("HDEL", KEYS[3], "paused")'

# What another program has resumed and paused again may still have the time of toril's pause: later events count.
PAUSED_SINCE = QueueScript(
    "pausedSince",
    b"""
local meta = redis.call('HMGET', KEYS[1], 'paused', '%b')
if not meta[1] then return false end
local since
for _, entry in ipairs(redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', %d)) do
  for i = 1, #entry[2], 2 do
    local event = entry[2][i] == 'event' and entry[2][i + 1]
    if event == 'resumed' then return since or false end
    if event == 'paused' then since = string.match(entry[1], '^%%d+') end
  end
end
return meta[2] or since or false
"""
    % (_FIELD, _LOOKED_AT),
    keys="meta events",
    returns="since when the queue is paused (milliseconds), or nothing where it is not, or that is not known",
)


def noting_pauses(text: bytes) -> bytes:
    """Return BullMQ's script that pauses and resumes, which then notes the time of a pause, its third argument."""
    noting = (
        b'if rcall("HEXISTS", KEYS[3], "paused") == 0 then rcall("HSET", KEYS[3], "%b", ARGV[3]) end\n    ' % _FIELD
    )
    text = replaced_once(text, _PAUSES, noting + _PAUSES)
    return replaced_once(text, _RESUMES, b'rcall("HDEL", KEYS[3], "paused", "%b")' % _FIELD)
