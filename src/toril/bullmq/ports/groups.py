"""What the doors use to read and change the groups of queues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from toril.bullmq.rules.groups import GroupLimits, GroupState
from toril.core.access import Caller


class GroupStore(Protocol):
    """Reads and changes the groups of a queue. Each change is one atomic step, and counts for the next lease."""

    async def get(self, queue: str, group: str) -> GroupState:
        """Return the state of a group, also of one that has nothing."""
        ...

    async def page(
        self, queue: str, after: str, most: int, matches: Callable[[str], object]
    ) -> tuple[list[GroupState], bool]:
        """Return the next groups after this name that have jobs or limits and match; and whether there are more."""
        ...

    async def set_limits(self, queue: str, group: str, limits: GroupLimits, *, paused: bool | None) -> None:
        """Replace the limits of a group, and pause or resume it unless `paused` is None. Idempotent."""
        ...

    async def remove_limits(self, queue: str, group: str) -> None:
        """Remove the limits and the pause of a group. Idempotent."""
        ...

    async def pause(self, queue: str, group: str) -> None:
        """Start no job of a group, except those that a person promotes. Idempotent."""
        ...

    async def resume(self, queue: str, group: str) -> None:
        """Start the jobs of a paused group again. Idempotent."""
        ...

    async def waiting(self, queue: str, group: str, skip: int, most: int) -> list[str]:
        """Return the ids of the waiting jobs of a group behind the first `skip`, in order, at most `most`."""
        ...

    async def drain(self, queue: str, group: str) -> int:
        """Remove the waiting jobs of a group; return how many."""
        ...


class GroupDrains(Protocol):
    """Removes the waiting jobs of groups, also those of deliveries."""

    async def drain(self, queue: str, group: str, caller: Caller) -> int:
        """Remove the waiting jobs of a group, for a caller; return how many.

        Raises:
            Forbidden: they belong to deliveries, and the caller has no right to cancel these.
        """
        ...
