"""What is shown of groups."""

from __future__ import annotations

from msgspec import Struct

from toril.core.group_limits import GroupRate


class Limits(Struct, frozen=True):
    """Limits of a group; null where there is none."""

    concurrency: int | None
    limit: GroupRate | None
    weight: int | None
    max_waiting: int | None


class Group(Struct, frozen=True):
    """A group: how many of its jobs wait and are active, and its limits.

    `effective` are the limits with the defaults of the queue's worker. `held_until` is when its rate lets the next job
    start, null where it may start now.
    """

    id: str
    waiting: int
    active: int
    paused: bool
    limits: Limits
    effective: Limits
    held_until: str | None


class GroupPage(Struct, frozen=True):
    """Groups by id; `next_cursor` asks for the next page, null at the end."""

    groups: list[Group]
    next_cursor: str | None
