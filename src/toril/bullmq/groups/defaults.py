"""The limits of groups that have none, by queue: what its registered worker, upstream or target says."""

from __future__ import annotations

from collections.abc import Callable

from toril.core.group_limits import GroupDefault


class GroupDefaults:
    """What holds for groups without limits, by queue.

    It is asked at each lease in a queue with groups, so a worker that is registered anew counts at once, and one that
    is unregistered leaves nothing behind.
    """

    def __init__(self) -> None:
        self.of: Callable[[str], GroupDefault | None] = lambda _: None

    def follow(self, of: Callable[[str], GroupDefault | None]) -> None:
        """Take the limits from here: what the destination of a queue says, None where it says nothing."""
        self.of = of
