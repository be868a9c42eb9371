"""The active jobs of a queue with their locks, for those who want to know who holds them."""

from __future__ import annotations

from msgspec import Struct

from toril.bullmq.keys import QueueKeys, expected_types
from toril.bullmq.lua.queue_script import QueueScript
from toril.bullmq.lua.scripts import Scripts

_AT_ONCE = 250
_MOST = 5_000
"""How many active jobs of a queue are looked at."""

_ACTIVE = QueueScript(
    "activeJobs",
    b"""
local found = {}
for _, id in ipairs(redis.call('LRANGE', KEYS[2], ARGV[1], ARGV[2])) do
  local lock = KEYS[1] .. id .. ':lock'
  local job = redis.pcall('HMGET', KEYS[1] .. id, 'pb', 'processedOn')
  if job.err then job = {} end
  found[#found + 1] = {id, redis.call('GET', lock), redis.call('PTTL', lock), job[1] or false, job[2] or false}
end
return found
""",
    keys="prefix active",
    arguments="first last",
    returns="of each of these jobs its id, its lock's token, for how many milliseconds that holds, its worker's name, "
    "and when its attempt began",
)


class ActiveJob(Struct, frozen=True):
    """A job that a worker has. `worker` is the name that it gave; times are milliseconds, None where not known."""

    job_id: bytes
    token: bytes
    worker: str | None
    began_ms: int | None
    lock_ms: int


class ActiveJobReader:
    """Reads the active jobs of queues, in steps of which each takes Redis less than a millisecond."""

    def __init__(self, scripts: Scripts, prefix: str) -> None:
        self._scripts = scripts
        self._prefix = prefix

    async def of(self, queue: str) -> list[ActiveJob]:
        """Return the active jobs of a queue that are locked, those that were taken last first."""
        keys = QueueKeys(self._prefix, queue)
        found: list[ActiveJob] = []
        for first in range(0, _MOST, _AT_ONCE):
            with expected_types(queue):
                rows = await self._scripts.call(_ACTIVE, keys, first, first + _AT_ONCE - 1)
            for job_id, token, lock_ms, worker, began in rows:
                if token is not None:
                    name = None if worker is None else worker.decode(errors="replace")
                    found.append(
                        ActiveJob(job_id, token, name, int(began) if began and began.isdigit() else None, lock_ms)
                    )
            if len(rows) < _AT_ONCE:
                break
        return found
