"""Reads and changes the groups of a queue: limits, pauses, drains, and getting all held jobs out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from toril.bullmq.groups.defaults import GroupDefaults
from toril.bullmq.groups.scripts import CHANGE, LEAVE, READ, RELEASE
from toril.bullmq.keys import QueueKeys
from toril.bullmq.lua.groups import HELD, SLOT_NAME
from toril.bullmq.lua.scripts import Scripts
from toril.bullmq.rules.groups import GroupLimits, GroupState, read_limits
from toril.core.errors import StoreError, unwrapped
from toril.core.group_limits import GroupDefault
from toril.redis.resp import pack

_SAME = "same"
_AT_ONCE = 100
_PAGE = 1000


class GroupControl:
    """The groups of any queue.

    Args:
        scripts: BullMQ's scripts.
        prefix: the prefix of BullMQ's keys.
        defaults: what holds for groups without limits.
    """

    def __init__(self, scripts: Scripts, prefix: str, defaults: GroupDefaults) -> None:
        self._scripts = scripts
        self._prefix = prefix
        self._defaults = defaults

    def _keys(self, queue: str) -> QueueKeys:
        return QueueKeys(self._prefix, queue)

    async def get(self, queue: str, group: str) -> GroupState:
        """Return the state of a group, also of one that has nothing."""
        (found,) = await self._read(queue, [group.encode()])
        return found

    async def page(
        self, queue: str, after: str, most: int, matches: Callable[[str], object]
    ) -> tuple[list[GroupState], bool]:
        """Return the next groups after this name that have jobs or limits and match; and whether there are more."""
        keys = self._keys(queue)
        link = self._scripts.links.of(keys.prefix)
        limited, slots = await link.pipeline(
            [pack("HKEYS", keys.key("toril:groups:limits")), pack("HVALS", keys.key("toril:groups:slots"))]
        )
        others = {*limited, *(slot[SLOT_NAME:] for slot in slots)}
        names: list[bytes] = []
        place = after.encode()
        is_last = False
        while not is_last and len(names) <= most:
            least = b"(" + place if place else b"-"
            found = await link.call("ZRANGEBYLEX", keys.key("toril:groups:index"), least, "+", "LIMIT", 0, _PAGE)
            is_last = len(found) < _PAGE
            upto = None if is_last else found[-1]
            beside = {name for name in others if name > place and (upto is None or name <= upto)}
            names += [name for name in sorted({*found, *beside}) if matches(name.decode(errors="replace"))]
            place = upto or place
        return await self._read(queue, names[:most]), len(names) > most

    async def _read(self, queue: str, names: Sequence[bytes]) -> list[GroupState]:
        keys, default = self._keys(queue), self._defaults.of(queue) or GroupDefault()
        parts = [names[first : first + _AT_ONCE] for first in range(0, len(names), _AT_ONCE)]
        with unwrapped():
            async with asyncio.TaskGroup() as tasks:
                reading = [tasks.create_task(self._scripts.call(READ, keys, *part)) for part in parts]
        rows = [row for task in reading for row in task.result()]
        return [
            GroupState(
                name.decode(errors="replace"), waiting, active, read_limits(limits.decode()), default, float(arrival)
            )
            for name, (waiting, active, limits, arrival) in zip(names, rows, strict=True)
        ]

    async def set_limits(self, queue: str, group: str, limits: GroupLimits, *, paused: bool | None) -> None:
        """Replace the limits of a group, and pause or resume it unless `paused` is None."""
        stored = limits.stored().rpartition(",")[0] or ",,,,"
        await self._change(queue, group, stored, _SAME if paused is None else _flag(paused))

    async def remove_limits(self, queue: str, group: str) -> None:
        """Remove the limits and the pause of a group."""
        await self._change(queue, group, ",,,,", "")

    async def pause(self, queue: str, group: str) -> None:
        """Start no job of a group, except those that a person promotes."""
        await self._change(queue, group, _SAME, _flag(True))

    async def resume(self, queue: str, group: str) -> None:
        """Start the jobs of a paused group again."""
        await self._change(queue, group, _SAME, _flag(False))

    async def _change(self, queue: str, group: str, limits: str, paused: str) -> None:
        await self._scripts.call(CHANGE, self._keys(queue), group, limits, paused)

    async def waiting(self, queue: str, group: str, skip: int, most: int) -> list[str]:
        """Return the ids of the waiting jobs of a group behind the first `skip`, in order, at most `most`."""
        keys = self._keys(queue)
        waiting = keys.key(b"toril:groups:wait:" + group.encode())
        found = await self._scripts.links.of(keys.prefix).call("ZRANGE", waiting, skip, skip + most - 1)
        return [job_id.decode(errors="replace") for job_id in found]

    async def drain(self, queue: str, group: str) -> int:
        """Remove the waiting jobs of a group; return how many."""
        keys, removed = self._keys(queue), 0
        script = self._scripts.remove_job
        waiting = keys.key(b"toril:groups:wait:" + group.encode())
        while True:
            jobs = await self._scripts.links.of(keys.prefix).call("ZRANGE", waiting, 0, _AT_ONCE - 1)
            if not jobs:
                return removed
            for job in jobs:
                leave = (LEAVE, LEAVE.of(keys, job))
                _, reply = await self._scripts.transaction(
                    keys.prefix, [leave, (script, script.of(keys, job, "0", keys.prefix, job=job))]
                )
                if isinstance(reply, StoreError):
                    raise reply
                removed += 1 if reply == 1 else 0

    async def held(self, queue: str) -> int | None:
        """Return how many jobs of a queue are held; None where there is no such queue."""
        keys = self._keys(queue)
        link = self._scripts.links.of(keys.prefix)
        found, held = await link.pipeline(
            [pack("EXISTS", keys.key("meta")), pack("ZCOUNT", keys.key("delayed"), HELD, "+inf")]
        )
        return int(held) if found or held else None

    async def release(self, queue: str, told: Callable[[int], object] = lambda _: None) -> int:
        """Move all held jobs of a queue to waiting, where any BullMQ worker takes them; return how many.

        A consumer of toril's that works on the queue meanwhile would hold them again: no more are moved than were held.

        Args:
            told: told from time to time how many were moved.
        """
        released, most = 0, await self.held(queue) or 0
        while True:
            moved, looked = await self._scripts.call(RELEASE, self._keys(queue), _AT_ONCE)
            released += int(moved)
            told(released)
            # The ids of jobs that are gone are looked at too, so there may be more behind the last one.
            if looked < _AT_ONCE or released > most:
                return released


def _flag(paused: bool) -> str:
    return "1" if paused else ""
