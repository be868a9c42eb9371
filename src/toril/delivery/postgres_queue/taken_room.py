"""The room in groups that deliveries of this process have taken before their jobs are added."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

_KEPT_S = 10.0


class TakenRoom:
    """Counts the deliveries of each group that are being accepted. What is not freed is forgotten after ten seconds.

    Args:
        now: any clock.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._until: defaultdict[tuple[str, str], dict[str, float]] = defaultdict(dict)

    def take(self, target: str, group: str, job_id: str) -> int:
        """Take room for one more; return how many of the group have taken some, this one among them."""
        now = self._now()
        taken = self._until[target, group]
        for other in [other for other, until in taken.items() if until <= now]:
            del taken[other]
        taken[job_id] = now + _KEPT_S
        return len(taken)

    def free(self, target: str, group: str, job_id: str) -> None:
        """Free the room of one, if it has any."""
        taken = self._until.get((target, group))
        if taken is not None:
            taken.pop(job_id, None)
            if not taken:
                del self._until[target, group]
