"""A job whose hash is gone is no job: nothing is left of its name, its data and its options.

BullMQ's scripts would lease it all the same, and make a hash that holds nothing but when it was leased. The id gets
into a list when something removes the hash alone, or puts a part of a key there for an id: then the key may be a list
or a text, which stays. In toril's leasing scripts the id leaves the list in the same step, before it has a lock, counts
for a limit or is announced.
"""

from __future__ import annotations

from typing import Any

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
    """The text of a script of BullMQ's that leases jobs, made to drop ids that have no hash: see `passed_over`.

    Raises:
        ValueError: the script prepares a job in another way than the one we know.
    """
    if text.count(_PREPARE) != 1:
        raise ValueError("BullMQ's script does not prepare a job as expected")
    return text.replace(_PREPARE, _PASS_OVER)


def passed_over(reply: Any) -> bytes | None:
    """The id that was dropped instead of leased, by what the script returned; there may be another job behind it."""
    if isinstance(reply, list) and not reply[0] and isinstance(reply[1], bytes):
        return reply[1]
    return None
