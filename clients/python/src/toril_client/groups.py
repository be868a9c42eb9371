"""Groups of a queue's jobs: their limits, and what waits and runs of each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict, Unpack

from toril_client.calls import AsyncCalling, Call, Calling, path


class GroupOption(TypedDict):
    """The option `group` of a job: `priority` goes from 0, the first, to 2,097,152."""

    id: str | int
    priority: NotRequired[int]


class GroupRate(TypedDict):
    """At most `max` starts in `duration` milliseconds."""

    max: int
    duration: int


class GroupLimits(TypedDict, total=False):
    """The limits of a group; what is left out has no limit, or the default of the queue's worker.

    Attributes:
        concurrency: so many of its jobs run at once.
        limit: so many start in a time.
        weight: its share beside other groups, from 1 to 1,000.
        max_waiting: with so many waiting jobs, an add is refused with the code `group_full`.
        paused: none of its jobs starts; left as it is unless it is given.
    """

    concurrency: int
    limit: GroupRate
    weight: int
    max_waiting: int
    paused: bool


@dataclass(frozen=True)
class Group:
    """A group. `limits` are those that were set, `effective` those with the default of the queue's worker.

    Both have `concurrency`, `limit`, `weight` and `max_waiting`; None is no limit. `held_until` is when its rate lets
    the next job start (RFC 3339), None where that is now.
    """

    id: str
    waiting: int
    active: int
    paused: bool
    limits: Mapping[str, Any]
    effective: Mapping[str, Any]
    held_until: str | None

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Group:
        """Read a group's JSON."""
        return cls(
            id=raw["id"],
            waiting=raw["waiting"],
            active=raw["active"],
            paused=raw["paused"],
            limits=raw["limits"],
            effective=raw["effective"],
            held_until=raw["held_until"],
        )


@dataclass(frozen=True)
class GroupPage:
    """Some groups by id, and the cursor to continue with; None at the end."""

    groups: list[Group]
    next_cursor: str | None


def in_group(group: GroupOption | None, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of a job that belongs to a group, where one is named."""
    return options if group is None else {**options, "group": group}


def page(queue: str, match: str | None, cursor: str | None) -> Call[GroupPage]:
    """The next groups that have jobs or limits, by id."""
    params = {"match": match or "", "cursor": cursor or "", "limit": "1000"}
    return Call(
        "GET",
        path("queues", queue, "groups"),
        lambda response: GroupPage(
            [Group.from_json(raw) for raw in response.json()["groups"]], response.json()["next_cursor"]
        ),
        params={name: value for name, value in params.items() if value},
    )


def get(queue: str, group: str | int) -> Call[Group]:
    """One group."""
    return Call("GET", _path(queue, group), lambda response: Group.from_json(response.json()))


def put(queue: str, group: str | int, limits: GroupLimits) -> Call[Group]:
    """Replace the limits of a group."""
    return Call("PUT", _path(queue, group), lambda response: Group.from_json(response.json()), json=dict(limits))


def reset(queue: str, group: str | int) -> Call[None]:
    """Remove the limits and the pause of a group."""
    return Call("DELETE", _path(queue, group), lambda _: None)


def switch(queue: str, group: str | int, action: Literal["pause", "resume"]) -> Call[None]:
    """Pause or resume a group."""
    return Call("POST", f"{_path(queue, group)}/{action}", lambda _: None)


def drain(queue: str, group: str | int) -> Call[int]:
    """Remove the waiting jobs of a group. Not repeated: the second answer would count none."""
    return Call("POST", f"{_path(queue, group)}/drain", lambda response: int(response.json()["removed"]), once=True)


def _path(queue: str, group: str | int) -> str:
    return path("queues", queue, "groups", str(group))


class Groups:
    """The groups of queues. Every method takes the queue first; an integer names the same group as its text."""

    def __init__(self, call: Calling) -> None:
        self._call = call

    def list(self, queue: str, match: str | None = None) -> Iterator[Group]:
        """Go through the groups that have jobs or limits, by id; `match` is a glob for their ids."""
        cursor: str | None = None
        while True:
            found = self._call(page(queue, match, cursor))
            yield from found.groups
            if (cursor := found.next_cursor) is None:
                return

    def get(self, queue: str, group: str | int) -> Group:
        """Return a group, also one that has nothing."""
        return self._call(get(queue, group))

    def set(self, queue: str, group: str | int, **limits: Unpack[GroupLimits]) -> Group:
        """Replace the limits of a group; they count at once."""
        return self._call(put(queue, group, limits))

    def reset(self, queue: str, group: str | int) -> None:
        """Remove the limits and the pause of a group."""
        self._call(reset(queue, group))

    def pause(self, queue: str, group: str | int) -> None:
        """Pause a group: none of its jobs starts."""
        self._call(switch(queue, group, "pause"))

    def resume(self, queue: str, group: str | int) -> None:
        """Resume a paused group."""
        self._call(switch(queue, group, "resume"))

    def drain(self, queue: str, group: str | int) -> int:
        """Remove the waiting jobs of a group; how many there were."""
        return self._call(drain(queue, group))


class AsyncGroups:
    """The same, to be awaited."""

    def __init__(self, call: AsyncCalling) -> None:
        self._call = call

    async def list(self, queue: str, match: str | None = None) -> AsyncIterator[Group]:
        """Go through the groups that have jobs or limits, by id; `match` is a glob for their ids."""
        cursor: str | None = None
        while True:
            found = await self._call(page(queue, match, cursor))
            for group in found.groups:
                yield group
            if (cursor := found.next_cursor) is None:
                return

    async def get(self, queue: str, group: str | int) -> Group:
        """Return a group, also one that has nothing."""
        return await self._call(get(queue, group))

    async def set(self, queue: str, group: str | int, **limits: Unpack[GroupLimits]) -> Group:
        """Replace the limits of a group; they count at once."""
        return await self._call(put(queue, group, limits))

    async def reset(self, queue: str, group: str | int) -> None:
        """Remove the limits and the pause of a group."""
        await self._call(reset(queue, group))

    async def pause(self, queue: str, group: str | int) -> None:
        """Pause a group: none of its jobs starts."""
        await self._call(switch(queue, group, "pause"))

    async def resume(self, queue: str, group: str | int) -> None:
        """Resume a paused group."""
        await self._call(switch(queue, group, "resume"))

    async def drain(self, queue: str, group: str | int) -> int:
        """Remove the waiting jobs of a group; how many there were."""
        return await self._call(drain(queue, group))
