"""One action on many jobs: those of a list of ids, or all that match a search."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, assert_never

from toril.bullmq.ports.jobs import JobControl, JobReader
from toril.bullmq.ports.scanning import JobScanner
from toril.bullmq.rules.actions import Bulk, RetryJob
from toril.bullmq.rules.place import WalkPlace
from toril.core.errors import JobNotFound, JobRefused, TorilError, unwrapped
from toril.queues.finding.scan import Looked, Sought, look
from toril.queues.shapes.answers import BulkDone, RefusedJob

MOST_FAILED = 100
"""How many of the jobs that were refused are named."""
_AT_ONCE = 25
_REMOVED_AT_ONCE = 2
"""How many are removed at once by their ids: looking for one in a list of a million takes Redis up to 5 ms."""
_LISTS = frozenset({"waiting", "paused"})
_SHIFTED = 200
"""How far jobs may have moved in a list since they were looked at, to be found there."""
# Where each action can do something. Of active jobs, the ones without a lock can be removed.
_FITTING = {
    "retry": frozenset({"failed", "completed"}),
    "promote": frozenset({"delayed"}),
    "delay": frozenset({"delayed"}),
    "remove": frozenset({"waiting", "paused", "completed", "failed", "delayed", "prioritized", "waiting-children"}),
}


class BulkRun:
    """Runs an action, a few jobs at a time, and counts the results. A dry run changes nothing.

    Args:
        control: changes one job.
        reader: counts jobs.
        scanner: walks through jobs.
        may_remove: raises `Forbidden` where a job has children that the caller must not remove.
    """

    def __init__(
        self,
        control: JobControl,
        reader: JobReader,
        scanner: JobScanner,
        may_remove: Callable[[str, str], Awaitable[None]],
        asked: Bulk,
        sought: Sought,
    ) -> None:
        self._control = control
        self._reader = reader
        self._scanner = scanner
        self._may_remove = may_remove
        self._asked = asked
        self._sought = sought
        self.counts = BulkDone(0, 0, 0, [])

    def steps(self) -> AsyncGenerator[None, None]:
        """Run the action in short steps."""
        if self._asked.ids is not None:
            return self._of_ids(list(dict.fromkeys(self._asked.ids)))
        if self._asked.dry_run and self._sought.condition is None:
            return self._counted()
        return self._of_matches()

    async def _of_ids(self, ids: Sequence[str]) -> AsyncGenerator[None, None]:
        at_once = _REMOVED_AT_ONCE if self._asked.action == "remove" and not self._asked.dry_run else _AT_ONCE
        for at in range(0, len(ids), at_once):
            await self._each([(job_id, None) for job_id in ids[at : at + at_once]])
            yield

    async def _counted(self) -> AsyncGenerator[None, None]:
        counts = await self._reader.counts(self._sought.queue, self._sought.states)
        for state, count in counts.items():
            self.counts.matched += count
            if state in _FITTING[self._asked.action]:
                self.counts.done += count
            else:
                self.counts.refused += count
        yield

    async def _of_matches(self) -> AsyncGenerator[None, None]:
        """Act on the matching jobs, the newest first, so that a job that fails again is not retried twice."""
        place = WalkPlace()
        seen: set[bytes] = set()
        while (looked := await look(self._scanner, self._sought, place)) is not None:
            ids = looked.walked.ids
            matches = [index for index in looked.matches if ids[index] not in seen]
            if self._asked.action == "delay":  # these stay in the set, and may be met again
                seen.update(ids[index] for index in matches)
            gone: set[int] = set()
            for at in range(0, len(matches), _AT_ONCE):
                some = matches[at : at + _AT_ONCE]
                jobs = [ids[index].decode(errors="replace") for index in some]
                if self._asked.action == "remove" and looked.walked.state in _LISTS and not self._asked.dry_run:
                    first = looked.walked.first + some[0] - len(gone)
                    done = await self._remove_listed(looked.walked.state, jobs, (first, first + some[-1] - some[0]))
                else:
                    done = await self._each([(job_id, looked.walked.state) for job_id in jobs])
                gone.update(index for index, is_done in zip(some, done, strict=True) if is_done)
                yield
            place = self._behind(looked, place, gone)
            if not matches:
                yield

    def _behind(self, looked: Looked, before: WalkPlace, gone: set[int]) -> WalkPlace:
        """Return the place to continue from: after the last job that is still where it was."""
        if self._asked.dry_run or not gone:
            return looked.place
        left = next((index for index in range(looked.scanned - 1, -1, -1) if index not in gone), None)
        if left is not None:
            return looked.walked.place(left)
        if looked.walked.scores:
            return looked.place  # by its score
        return before if before.state == looked.walked.number else WalkPlace(looked.walked.number)

    async def _remove_listed(self, state: str, job_ids: Sequence[str], at: tuple[int, int]) -> list[bool]:
        """Remove waiting jobs of a list together: one by one, each would be looked for in all of the list.

        `at` is where they stood a moment ago; one that is elsewhere by now is removed alone.
        """
        codes = await self._codes([self._forbidden(job_id) for job_id in job_ids])
        allowed = [job_id for job_id, code in zip(job_ids, codes, strict=True) if code is None]
        part = (max(0, at[0] - _SHIFTED), at[1] + _SHIFTED)
        removed = dict(
            zip(allowed, await self._control.remove_listed(self._sought.queue, state, allowed, part), strict=True)
            if allowed
            else ()
        )
        alone = await self._codes([self._one(job_id, state) for job_id in allowed if removed[job_id] is not True])
        rest = iter(alone)
        return self._counted_up(
            job_ids,
            [
                code if code is not None or removed[job_id] is True else next(rest)
                for job_id, code in zip(job_ids, codes, strict=True)
            ],
        )

    async def _forbidden(self, job_id: str) -> str | None:
        """Return the code of the error where a job has children that the caller must not remove."""
        try:
            await self._may_remove(self._sought.queue, job_id)
        except TorilError as exc:
            if exc.status >= 500:
                raise
            return exc.code
        return None

    async def _each(self, jobs: Sequence[tuple[str, str | None]]) -> list[bool]:
        codes = await self._codes([self._one(job_id, state) for job_id, state in jobs])
        return self._counted_up([job_id for job_id, _ in jobs], codes)

    async def _codes(self, acting: Sequence[Coroutine[Any, Any, str | None]]) -> list[str | None]:
        """Do these at the same time, and return the code of what is in the way of each."""
        with unwrapped():
            async with asyncio.TaskGroup() as tasks:
                started = [tasks.create_task(one) for one in acting]
        return [task.result() for task in started]

    def _counted_up(self, job_ids: Sequence[str], codes: Sequence[str | None]) -> list[bool]:
        """Count jobs that were acted on; return for each whether that was done."""
        self.counts.matched += len(job_ids)
        for job_id, code in zip(job_ids, codes, strict=True):
            if code is None:
                self.counts.done += 1
                continue
            self.counts.refused += 1
            if len(self.counts.failed) < MOST_FAILED:
                self.counts.failed.append(RefusedJob(job_id, code))
        return [code is None for code in codes]

    async def _one(self, job_id: str, state: str | None) -> str | None:
        """Act on one job; return the code of the error, or None if there was none."""
        asked, queue = self._asked, self._sought.queue
        try:
            if state is None and (asked.dry_run or asked.action == "retry"):
                state = await self._state(queue, job_id)
            if asked.dry_run:
                return None if state in _FITTING[asked.action] else JobRefused.code
            await self._act(queue, job_id, state)
        except TorilError as exc:
            if exc.status >= 500:
                raise
            return exc.code
        return None

    async def _state(self, queue: str, job_id: str) -> str:
        state = await self._control.state(queue, job_id)
        if state == "unknown":
            raise JobNotFound
        return state

    async def _act(self, queue: str, job_id: str, state: str | None) -> None:
        asked = self._asked
        match asked.action:
            case "retry":
                if state not in ("failed", "completed"):
                    raise JobRefused(state=state)
                finished: Any = state
                await self._control.retry(queue, job_id, RetryJob(state=finished))
            case "promote":
                await self._control.promote(queue, job_id)
            case "delay":
                await self._control.change_delay(queue, job_id, asked.delay_ms or 0)
            case "remove":
                await self._may_remove(queue, job_id)
                await self._control.remove(queue, job_id, children=True)
            case _:
                assert_never(asked.action)
