"""Cases of the queues door: jobs that are pushed, or that pull workers lease.

Pushed jobs are in a queue with room for many, and some in one that takes one at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.histories.caller import PAUSE_S, Caller
from benchmarks.histories.case import Case, Final
from benchmarks.histories.endpoint import TIMEOUT_S, Endpoint
from benchmarks.histories.fleet import LINE, PULLED, QUEUE
from benchmarks.histories.records import Records

_STATES = ("waiting", "active", "delayed", "completed", "failed")
_ATTEMPTS = 40
_PAGE = 100


class QueuesDoor:
    """Makes the calls of cases, and reads what is left of them."""

    batches = True

    async def prepare(self, caller: Caller, endpoint: Endpoint) -> None:
        """Register the endpoint for all queues. That of the pull workers is paused at once: it only has their rules."""
        await caller.asked("PUT", f"/queues/{LINE}/concurrency", {"concurrency": 1})
        for queue, concurrency in ((QUEUE, 20), (LINE, 1), (PULLED, 1)):
            place = {"url": f"{endpoint.url}/queues/{queue}", "method": "POST", "timeout": int(TIMEOUT_S * 1000)}
            opts = {"concurrency": concurrency, "maxStalledCount": 1000}
            document = {"queue": queue, "endpoint": place, "opts": opts}
            answer = await caller.asked("POST", "/workers", document)
            assert answer.status == 200, answer
        await caller.asked("POST", f"/workers/{PULLED}/pause")

    async def add_all(self, cases: Sequence[Case], caller: Caller) -> None:
        """Add several jobs to the queue with room for many, in one call."""
        jobs = [_job(case) for case in cases]
        calls, answer = await caller.repeated(cases, "add", "POST", f"/queues/{QUEUE}/jobs", jobs)
        if answer.status == 200:
            for call, job in zip(calls, answer.json, strict=True):
                call.job_id = job["id"]

    async def run(self, case: Case, caller: Caller) -> None:
        """Do what the script of a case says."""
        queue, script = _queue(case), case.script
        if not await self._add(case, caller) or not case.ids:
            return
        path = f"/queues/{queue}/jobs/{case.ids[-1]}"
        if script.again:
            await self._add(case, caller)
        if script.cancelled:
            await caller.repeated([case], "cancel", "DELETE", path)
        elif script.replayed:
            while await _state(caller, path) != "completed":
                if await _state(caller, path) == "failed":
                    await caller.call([case], "retry", "POST", f"{path}/retry", {"state": "failed"})
                await asyncio.sleep(PAUSE_S)
        elif script.watched:
            answer = await caller.asked("GET", f"{path}/result?wait=20")
            if answer.status == 200:
                case.results.append((case.ids[-1], answer.json["serial"], time.monotonic()))

    async def _add(self, case: Case, caller: Caller) -> bool:
        path, keyed = f"/queues/{_queue(case)}/jobs", case.script.keyed
        (call,), answer = await caller.repeated([case], "add", "POST", path, [_job(case)], again=keyed)
        if answer.status != 200:
            return False
        call.job_id = answer.json[0]["id"]
        return True

    async def read_pages(self, records: Records, caller: Caller) -> None:
        """Note the jobs that have completed, page by page."""
        for queue in (QUEUE, LINE, PULLED):
            asked = f"/queues/{queue}/jobs?statuses=completed&order=oldest&fields=data,returnvalue,attemptsMade"
            start = 0
            while jobs := (await caller.asked("GET", f"{asked}&start={start}&length={_PAGE}")).json["jobs"]:
                start += len(jobs)
                for job in jobs:
                    number = job["data"]["number"]
                    records.found(number, {job["id"]: _final("completed", number, job)})

    async def read(self, case: Case, caller: Caller) -> None:
        """Note what has become of those jobs of a case that were on no page."""
        for job_id in case.ids:
            if job_id in case.finals:
                continue
            answer = await caller.asked("GET", f"/queues/{_queue(case)}/jobs/{job_id}?expand=state")
            if answer.status == 404:
                case.finals[job_id] = Final(None)
                continue
            job = answer.json
            case.finals[job_id] = _final(job["state"], case.number, job)

    async def left(self, caller: Caller) -> list[str]:
        """Return what the queues still hold that has not ended."""
        found = []
        for queue in (QUEUE, LINE, PULLED):
            counts = (await caller.asked("GET", f"/queues/{queue}")).json["counts"]
            found += [f"{count} jobs are {state} in {queue}" for state, count in counts.items()
                      if count and state not in {"completed", "failed"}]  # fmt: skip
        return found


async def _state(caller: Caller, path: str) -> str | None:
    answer = await caller.asked("GET", f"{path}?state")
    state: str | None = None if answer.status == 404 else answer.json["state"]
    return state


def _job(case: Case) -> dict[str, Any]:
    opts: dict[str, Any] = {"attempts": 1 if case.script.replayed else _ATTEMPTS, "backoff": 50}
    if case.script.delay_ms:
        opts["delay"] = case.script.delay_ms
    if case.script.keyed:
        opts["jobId"] = f"j{case.number}"
    return {"name": "work", "data": {"number": case.number}, "opts": opts}


def _final(state: str, number: int, job: dict[str, Any]) -> Final:
    value = job.get("returnvalue")
    serial = value.get("serial") if isinstance(value, dict) and value.get("number") == number else None
    shown = f"{value}, {job.get('failedReason')}" if serial is None else None
    return Final(state, serial, attempts=job["attemptsMade"], shown=shown)


def _queue(case: Case) -> str:
    return LINE if case.script.in_line else PULLED if case.script.pulled else QUEUE
