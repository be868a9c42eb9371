"""Pull workers: they lease jobs over HTTP, do them or not, and settle them in time, late, twice or never.

Each job that they get is noted as an arrival with its lease. What they do with it is in the script of its case, as for
requests that the endpoint answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from benchmarks.histories.caller import PAUSE_S, Caller
from benchmarks.histories.case import UNSURE, Answer, Arrival, Held
from benchmarks.histories.endpoint import Endpoint
from benchmarks.histories.fleet import PULLED
from benchmarks.histories.plan import COMPLETING, DoorName, Reply
from benchmarks.histories.records import Records

LEASE_S = 3.0
_COUNT = 8
_WAIT_MS = 1000
_EXTENSIONS = 2


class Pullers:
    """Some pull workers of one queue; each leases up to eight jobs at a time, and works on all that it has at once."""

    def __init__(self, endpoint: Endpoint, records: Records, ports: Sequence[int], seed: int, lease_s: float) -> None:
        self._endpoint = endpoint
        self._records = records
        self._ports = ports
        self._seed = seed
        self._lease_s = lease_s
        self._work_s = {Reply.SLOW: 0.15, Reply.LATE: lease_s + 1.0, Reply.EXTENDED: lease_s * 0.6}
        self._over = False

    @contextlib.asynccontextmanager
    async def working(self, workers: int) -> AsyncIterator[None]:
        """Let so many work for the length of a block, and do what they have begun behind it."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(workers):
                tasks.create_task(self._lease(f"puller-{number}", tasks))
            try:
                yield
            finally:
                self._over = True

    async def _lease(self, name: str, tasks: asyncio.TaskGroup) -> None:
        caller = Caller(self._ports, f"{self._seed}/{name}")
        asked = {"count": _COUNT, "wait_ms": _WAIT_MS, "lock_ms": int(self._lease_s * 1000), "worker": name}
        while not self._over:
            began = time.monotonic()
            answer = await caller.ask("POST", f"/queues/{PULLED}/lease", asked)
            if answer.status != 200:
                if not answer.uncertain:
                    self._endpoint.wrong.append(f"a lease was answered {answer.status}: {answer.body!r}")
                await asyncio.sleep(PAUSE_S)
                continue
            at_once: list[_Work] = []
            for item in answer.json["jobs"]:
                work = self._begin(item, began)
                if work.arrival.reply is Reply.OK:
                    at_once.append(work)
                else:
                    tasks.create_task(self._work(work, f"{name}/{work.arrival.serial}"))
            if at_once:
                tasks.create_task(self._complete_all(at_once, f"{name}/all/{at_once[0].arrival.serial}"))
        caller.close()

    def _begin(self, item: Mapping[str, Any], began: float) -> _Work:
        number, job_id = item["job"]["data"]["number"], item["job"]["id"]
        arrival = self._endpoint.note(self._records, number, job_id, item["job"]["attemptsStarted"], None)
        arrival.held = held = Held(began, began + self._lease_s)
        return _Work(number, arrival, held, item["token"])

    async def _work(self, work: _Work, name: str) -> None:
        """Do with one job what its script says."""
        reply = work.arrival.reply
        caller = Caller(self._ports, f"{self._seed}/{name}")
        for _ in range(_EXTENSIONS if reply is Reply.EXTENDED else 0):
            await asyncio.sleep(self._work_s[reply])
            await self._extend(work, caller)
        await asyncio.sleep(self._work_s.get(reply, 0.0))
        match reply:
            case Reply.ERROR:
                await self._settle(work, caller, "fail", {"reason": "as planned"})
            case Reply.RELEASED:
                await self._settle(work, caller, "release", {})
            case Reply.VANISHED | Reply.DONE_AND_VANISHED:
                pass
            case _:
                await self._settle(work, caller, "complete", {"returnvalue": work.result})
                if reply is Reply.TWICE:
                    again = await self._ask(work, caller, "complete", {"returnvalue": work.result})
                    work.held.again = again.status
        self._end(work)
        caller.close()

    async def _extend(self, work: _Work, caller: Caller) -> None:
        """Extend a lease, again until there is an answer: without one it may run out."""
        while True:
            began = time.monotonic()
            answer = await self._ask(work, caller, "extend", {})
            if answer.status == 204:
                work.held.until = began + self._lease_s
            if not answer.uncertain:
                return
            await asyncio.sleep(PAUSE_S)

    async def _settle(self, work: _Work, caller: Caller, action: str, body: Mapping[str, Any]) -> None:
        """Settle a job, again until it is known what came of it. Unsure is a refusal behind a try without an answer."""
        unsure = False
        work.held.asked_at = time.monotonic()
        while True:
            answer = await self._ask(work, caller, action, body)
            if not answer.uncertain:
                work.settled(answer.status, unsure)
                return
            unsure = True
            await asyncio.sleep(PAUSE_S)

    async def _ask(self, work: _Work, caller: Caller, action: str, body: Mapping[str, Any]) -> Answer:
        path = f"/queues/{PULLED}/jobs/{work.arrival.job_id}/{action}"
        return await caller.ask("POST", path, body, {"authorization": f"Bearer {work.token}"})

    async def _complete_all(self, works: Sequence[_Work], name: str) -> None:
        """Complete several jobs in one call, and those of which nothing is known again."""
        caller = Caller(self._ports, f"{self._seed}/{name}")
        left, unsure = list(works), False
        for work in works:
            work.held.asked_at = time.monotonic()
        while left:
            items = [
                {"id": work.arrival.job_id, "token": work.token, "action": "complete", "returnvalue": work.result}
                for work in left
            ]
            answer = await caller.ask("POST", f"/queues/{PULLED}/settle", {"jobs": items})
            statuses = [item["status"] for item in answer.json["results"]] if answer.status == 200 else []
            again = [] if statuses else left
            for work, status in zip(left, statuses, strict=False):
                if status in UNSURE:
                    again.append(work)
                    continue
                work.settled(status, unsure)
                self._end(work)
            unsure, left = unsure or bool(again), again
            if left:
                await asyncio.sleep(PAUSE_S)
        caller.close()

    def _end(self, work: _Work) -> None:
        work.arrival.ended = time.monotonic()
        self._records.answered(work.arrival)


class _Work:
    """A job that a pull worker has."""

    def __init__(self, number: int, arrival: Arrival, held: Held, token: str) -> None:
        self.arrival = arrival
        self.held = held
        self.token = token
        self.result = {"number": number, "serial": arrival.serial}

    def settled(self, status: int, unsure: bool) -> None:
        """Note the answer to its settlement; `unsure`: an earlier try got none."""
        accepted = 200 <= status < 300
        self.held.status = status if accepted or not unsure else None
        self.arrival.whole = accepted and self.arrival.reply in COMPLETING


def pullers(
    endpoint: Endpoint, records: Mapping[DoorName, Records], ports: Sequence[int], seed: int, lease_s: float
) -> Pullers | None:
    """Return the pull workers of a run, who lease jobs for so long; None where it has no queues."""
    if DoorName.QUEUES not in records:
        return None
    return Pullers(endpoint, records[DoorName.QUEUES], ports, seed, lease_s)
