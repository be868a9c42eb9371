"""The largest groups of targets for metrics: how many of their jobs wait and run, and how long they have waited."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from toril.core.metrics import MOST_GROUPS, OTHER, GroupDepth
from toril.delivery.postgres_queue.database import QueueDatabase
from toril.delivery.postgres_queue.tables import NOW

# Whatever the largest ones are not is `other`, which comes last.
_LARGEST = f"""
WITH sizes AS (
    SELECT target, job_group, count(*) FILTER (WHERE token IS NULL) AS waiting,
        count(*) FILTER (WHERE token IS NOT NULL) AS active, min(added) FILTER (WHERE token IS NULL) AS since
    FROM toril_jobs WHERE target = ANY($1::text[]) AND job_group IS NOT NULL AND due IS NULL
    GROUP BY target, job_group
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY target ORDER BY waiting + active DESC, job_group) AS rank FROM sizes
)
SELECT target, CASE WHEN rank <= {MOST_GROUPS} THEN job_group END, sum(waiting)::int, sum(active)::int,
    {NOW} - min(since)
FROM ranked GROUP BY 1, 2 ORDER BY 1, min(rank)"""


async def largest_groups(database: QueueDatabase, targets: Sequence[str]) -> Mapping[str, tuple[GroupDepth, ...]]:
    """Return the largest groups of these targets, and all others of a target together as `other`."""
    found: dict[str, list[GroupDepth]] = defaultdict(list)
    for target, name, waiting, active, oldest_s in await database.fetch(_LARGEST, list(targets)):
        if name is None:
            found[target].append(GroupDepth(OTHER, waiting, active))
        else:
            age_s = None if oldest_s is None else max(0.0, oldest_s)
            found[target].append(GroupDepth(name, waiting, active, age_s))
    return {target: tuple(groups) for target, groups in found.items()}
