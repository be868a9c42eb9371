"""Checks that the groups of jobs that are added together have room for them."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import UNSET

from toril.bullmq.keys import QueueKeys
from toril.bullmq.lua.groups import group_functions
from toril.bullmq.lua.queue_script import QueueScript
from toril.bullmq.lua.scripts import Scripts
from toril.bullmq.rules.job import JobSpec
from toril.core.errors import GroupFull

_FIRST_FULL = QueueScript(
    "firstFullGroup",
    group_functions(b"KEYS[1]")
    + b"""
for i = 1, #ARGV, 2 do
  local most = G.limits(ARGV[i]).most
  if most and G.room(ARGV[i], most) < tonumber(ARGV[i + 1]) then return ARGV[i] end
end
return false
""",
    keys="prefix",
    arguments="groups_and_counts*",
    returns="the first group that has no room for so many more waiting jobs, or nothing",
)


def waits_in(job: JobSpec) -> str | None:
    """Return the group in which this job will wait; None where it has none, or is delayed first."""
    if job.opts is None or job.opts.group is UNSET or job.opts.delay:
        return None
    return job.opts.group.name


async def check_room(scripts: Scripts, keys: QueueKeys, counts: Mapping[str, int]) -> None:
    """Refuse so many more waiting jobs of these groups of a queue where one of the groups has no room for them.

    Raises:
        GroupFull: names the group.
    """
    asked = [part for name, count in counts.items() for part in (name, count)]
    full = await scripts.call(_FIRST_FULL, keys, *asked)
    if full is not None:
        raise GroupFull(f"The group {full.decode(errors='replace')} has no room for so many more waiting jobs")
