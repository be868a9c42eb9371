"""Keeps the table of targets, by which `toril.enqueue` knows them, in line with the configuration of this instance.

Instances may have different configurations for a while (a rollout), so each writes its targets when it starts and when
they have changed, and otherwise only that it still has them. A target that no instance has had for a minute is removed
by any instance that is running. With all instances away nothing is removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toril.delivery.rules.target import TargetSpec

REMOVED_AFTER_S = 60.0

_GIVEN = "unnest($1::text[], $2::int[], $3::text[], $4::text[]) AS given (name, max_attempts, auth, own_header)"
# In one order, so that two instances do not wait for each other.
_KEEP = f"""
INSERT INTO toril.targets (name, max_attempts, max_body, auth, own_header, seen_at)
SELECT name, max_attempts, $5, auth, own_header, now() FROM {_GIVEN} ORDER BY name
ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at"""
_WRITE = f"""{_KEEP}, max_attempts = excluded.max_attempts, max_body = excluded.max_body, auth = excluded.auth,
own_header = excluded.own_header"""
_REMOVE = "DELETE FROM toril.targets WHERE name <> ALL($1::text[]) AND seen_at < now() - make_interval(secs => $2)"
# The recoverer queues them if their target comes back.
_PRUNE = "DELETE FROM toril.unqueued AS one WHERE NOT EXISTS (SELECT FROM toril.targets WHERE name = one.target)"


async def write_targets(
    connection: Any, targets: Sequence[TargetSpec], max_body_bytes: int, *, changed: bool = True
) -> None:
    """Write that an instance has these targets. Without `changed`, what stands in their rows is left as it is."""
    await connection.execute(
        _WRITE if changed else _KEEP,
        [one.name for one in targets],
        [one.retry.max_attempts for one in targets],
        [one.auth.scheme for one in targets],
        [one.auth.own_header for one in targets],
        max_body_bytes,
    )


async def remove_others(connection: Any, targets: Sequence[TargetSpec]) -> None:
    """Remove the targets that neither this instance has, nor another one has had for a minute."""
    await connection.execute(_REMOVE, [one.name for one in targets], REMOVED_AFTER_S)
    await connection.execute(_PRUNE)
