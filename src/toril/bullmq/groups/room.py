"""Checks that the groups of jobs that are added together have room for them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from msgspec import UNSET

from toril.bullmq.keys import QueueKeys
from toril.bullmq.lua.groups import group_functions
from toril.bullmq.lua.queue_script import QueueScript
from toril.bullmq.lua.scripts import Scripts
from toril.bullmq.rules.job import JobSpec
from toril.core.errors import GroupFull

_RESERVED_S = 10
"""How long the room for several jobs is kept for them: many times as long as adding them may take."""

# Within a second of the time, since it counts whole ones. What has no limit needs no room.
_RESERVE = QueueScript(
    "reserveRoom",
    group_functions(b"KEYS[1]")
    + b"""
local limited = {}
for i = 2, #ARGV, 2 do
  local most = G.limits(ARGV[i]).most
  if most then
    if G.room(ARGV[i], most) < tonumber(ARGV[i + 1]) then return ARGV[i] end
    limited[#limited + 1] = i
  end
end
for _, i in ipairs(limited) do
  local key = KEYS[1] .. 'toril:groups:reserved:' .. ARGV[i]
  redis.call('ZADD', key, redis.call('TIME')[1] + %d, ARGV[i + 1] .. ARGV[1])
  redis.call('EXPIRE', key, %d)
end
return false
"""
    % (_RESERVED_S, _RESERVED_S + 1),
    keys="prefix",
    arguments="token groups_and_counts*",
    returns="the first group that has no room for so many more waiting jobs, or nothing; then the token has the room",
)
_RELEASE = QueueScript(
    "releaseRoom",
    b"""
for i = 2, #ARGV, 2 do
  redis.call('ZREM', KEYS[1] .. 'toril:groups:reserved:' .. ARGV[i], ARGV[i + 1] .. ARGV[1])
end
return 0
""",
    keys="prefix",
    arguments="token groups_and_counts*",
    returns="0",
)


def waits_in(job: JobSpec) -> str | None:
    """Return the group in which this job will wait; None where it has none, or is delayed first."""
    if job.opts is None or job.opts.group is UNSET or job.opts.delay:
        return None
    return job.opts.group.name


class ReservedRoom:
    """Room in groups for jobs that are added together, so that nothing else takes it before they are there.

    `release` is a call for the transaction that adds them. Room that is not released is free after some seconds.
    """

    def __init__(self, keys: QueueKeys, token: str, counts: Mapping[str, int]) -> None:
        self.release = (_RELEASE, _RELEASE.of(keys, token, *_flat(counts)))


async def reserve_room(scripts: Scripts, keys: QueueKeys, counts: Mapping[str, int]) -> ReservedRoom:
    """Take room for so many more waiting jobs of these groups, in all of them or in none.

    Raises:
        GroupFull: names the group that has none.
    """
    token = f":{secrets.token_hex(8)}"
    await _ask(scripts, keys, token, counts)
    return ReservedRoom(keys, token, counts)


async def take_room(scripts: Scripts, keys: QueueKeys, group: str, job_id: str) -> None:
    """Take room in a group for the job with this id. The script that adds the job to a full group, too, uses it up.

    Raises:
        GroupFull: there is none.
    """
    await _ask(scripts, keys, f":{job_id}", {group: 1})


async def free_room(scripts: Scripts, keys: QueueKeys, group: str, job_id: str) -> None:
    """Free the room of a job that will not be added. Idempotent."""
    await scripts.call(_RELEASE, keys, f":{job_id}", group, 1)


async def _ask(scripts: Scripts, keys: QueueKeys, token: str, counts: Mapping[str, int]) -> None:
    full = await scripts.call(_RESERVE, keys, token, *_flat(counts))
    if full is not None:
        raise GroupFull(f"The group {full.decode(errors='replace')} has no room for so many more waiting jobs")


def _flat(counts: Mapping[str, int]) -> list[str | int]:
    return [part for name, count in counts.items() for part in (name, count)]
