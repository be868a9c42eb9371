"""Looks for jobs that match a condition, a step at a time."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from toril.bullmq.ports.scanning import JobScanner, Walked
from toril.bullmq.rules.place import WalkPlace
from toril.core.redaction import Redaction
from toril.queues.rules.search import Condition

# So many times a few fields take Redis about three quarters of a millisecond.
AT_ONCE = 250


class Sought(Struct, frozen=True):
    """A search: the jobs of a queue in these states that meet a condition; all of them without one.

    With `hide` the condition sees no more than a caller without `payloads:read`, who could find out by many searches
    what it cannot read.
    """

    queue: str
    states: Sequence[str]
    condition: Condition | None
    oldest_first: bool
    hide: Redaction | None


class Looked(Struct, frozen=True):
    """The result of one step: how many of the walked jobs were examined, and the indexes of those that match."""

    walked: Walked
    scanned: int
    matches: Sequence[int]

    @property
    def place(self) -> WalkPlace:
        """Return the place after the last examined job."""
        return self.walked.place(self.scanned - 1)


async def look(scanner: JobScanner, sought: Sought, place: WalkPlace) -> Looked | None:
    """Examine the next jobs after a place; return None if there are no more."""
    queue, condition = sought.queue, sought.condition
    walked = await scanner.walk(queue, sought.states, place, AT_ONCE, oldest_first=sought.oldest_first)
    if walked is None:
        return None
    ids = walked.ids
    if condition is None:
        return Looked(walked, len(ids), range(len(ids)))
    if not condition.fields:
        return Looked(
            walked, len(ids), [index for index, job_id in enumerate(ids) if condition.matches(_text(job_id), {})]
        )
    parts = await scanner.fields(queue, ids, sorted(condition.fields))
    if sought.hide is not None:
        parts = [sought.hide.fields(part) for part in parts]
    matches = condition.matches
    return Looked(
        walked,
        len(parts),
        [index for index, part in enumerate(parts) if matches(_text(ids[index]), part)],
    )


def _text(job_id: bytes) -> str:
    return job_id.decode(errors="replace")
