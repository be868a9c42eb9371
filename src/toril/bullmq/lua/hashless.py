"""Drops ids in lists whose jobs have no hash, and so no name, data or options.

BullMQ's scripts would lease such an id, and create a hash with only the time of the lease. Such ids come from a program
that removes only the hash, or that pushes a part of a key as an id; then the key may hold a list or a text, which is
kept. toril's leasing scripts remove the id from the list in the same step, before it gets a lock, counts for a limit
or is announced.
"""

from __future__ import annotations

from typing import Any

from toril.bullmq.lua.queue_script import replaced_once

_PREPARE = b"""  local jobKey = keyPrefix .. jobId
  -- Check if we need to perform rate limiting.
"""
_PASS_OVER = b"""  local jobKey = keyPrefix .. jobId
  local named = redis.pcall("HEXISTS", jobKey, "name")
  local isOther = type(named) == "table"
  if isOther or (named == 0 and rcall("HEXISTS", jobKey, "data") == 0) then
    rcall("LREM", keyPrefix .. "active", 1, jobId)
    if not isOther then rcall("DEL", jobKey) end
    addBaseMarkerIfNeeded(markerKey, false)
    return {0, jobId, 0, 0}
  end
"""


def passing_over_hashless(text: bytes) -> bytes:
    """Return the text of a leasing script of BullMQ, changed to drop ids without a hash; see `passed_over`.

    Raises:
        ValueError: the script does not have the expected part.
    """
    return replaced_once(text, _PREPARE, _PASS_OVER)


def passed_over(reply: Any) -> bytes | None:
    """Return the id that the script dropped instead of leasing it, from its reply; the queue may have more jobs."""
    if isinstance(reply, list) and not reply[0] and isinstance(reply[1], bytes):
        return reply[1]
    return None
