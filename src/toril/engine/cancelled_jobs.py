"""Recently cancelled jobs that no consumer of this process had at that time."""

from __future__ import annotations

import asyncio

_KEPT_S = 5.0
_MOST = 1000


class CancelledJobs:
    """Remembers each for a few seconds: the answer that leases it to this process may still be on its way."""

    __slots__ = ("_at_s",)

    def __init__(self) -> None:
        self._at_s: dict[tuple[str, bytes], float] = {}

    def __len__(self) -> int:
        """Return how many are remembered, the outdated ones that were not removed yet included."""
        return len(self._at_s)

    def note(self, queue: str, job_id: bytes) -> None:
        """Remember a job. Forgets those that are too old, or too many."""
        now = asyncio.get_running_loop().time()
        self._at_s[queue, job_id] = now
        for key, at_s in list(self._at_s.items()):
            if at_s > now - _KEPT_S and len(self._at_s) <= _MOST:
                break
            del self._at_s[key]

    def has(self, queue: str, job_id: bytes) -> bool:
        """Return True if this job was cancelled a moment ago."""
        at_s = self._at_s.get((queue, job_id))
        return at_s is not None and at_s > asyncio.get_running_loop().time() - _KEPT_S
