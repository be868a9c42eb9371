"""Cases of the async proxy: requests that are submitted, and the answers that are replayed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from benchmarks.histories.caller import PAUSE_S, Answer, Caller
from benchmarks.histories.case import Case, Final
from benchmarks.histories.endpoint import Endpoint
from benchmarks.histories.fleet import UPSTREAM
from benchmarks.histories.records import Records

_STATUS_OF = 10
"""Of one case in so many the status is read too, where there is an answer, which only a completed request has."""


class ProxyDoor:
    """Makes the calls of cases, and reads what is left of them."""

    batches = False

    async def prepare(self, caller: Caller, endpoint: Endpoint) -> None:
        """Nothing: upstreams are in the configuration."""

    async def add_all(self, cases: Sequence[Case], caller: Caller) -> None:
        """Submit several, one after the other: no call has more than one request."""
        for case in cases:
            await self._submit(case, caller)

    async def run(self, case: Case, caller: Caller) -> None:
        """Do what the script of a case says."""
        script = case.script
        if not await self._submit(case, caller):
            return
        job_id = case.ids[-1]
        if script.again:
            await self._submit(case, caller)
        if script.cancelled:
            await caller.repeated([case], "cancel", "DELETE", f"/__jobs/{job_id}")
        elif script.replayed:
            await self._ended(job_id, caller)
            (call,), answer = await caller.call([case], "replay", "POST", f"/proxied/{job_id}/replay")
            if call.accepted:
                call.job_id = answer.json["jobId"]
        elif script.watched:
            await self._ended(job_id, caller)
            answer = await self._content(job_id, caller)
            if answer.body.startswith(b'{"number"'):
                case.results.append((job_id, answer.json["serial"], time.monotonic()))

    async def _ended(self, job_id: str, caller: Caller) -> None:
        while True:
            answer = await caller.asked("GET", f"/__jobs/{job_id}?wait=20")
            if answer.status == 404 or answer.json["status"] in {"completed", "failed"}:
                return

    async def _submit(self, case: Case, caller: Caller) -> bool:
        headers = {"idempotency-key": f"p{case.number}"} if case.script.keyed else {}
        path, keyed = f"{UPSTREAM}/{case.number}", case.script.keyed
        (call,), answer = await caller.repeated(
            [case], "add", "POST", path, {"number": case.number}, headers, again=keyed
        )
        if answer.status != 202:
            return False
        call.job_id = answer.json["jobId"]
        return True

    async def read_pages(self, records: Records, caller: Caller) -> None:
        """Nothing: there is no list of answers."""

    async def read(self, case: Case, caller: Caller) -> None:
        """Note what has become of the jobs of a case."""
        for job_id in case.ids:
            # An answer of the upstream may be a 500, so it is not repeated here.
            answer = await self._content(job_id, caller)
            final = case.finals[job_id] = Final("completed", result_status=answer.status)
            if answer.body.startswith(b'{"number": %d,' % case.number):
                final.serial = answer.json["serial"]
            else:
                final.shown = answer.body
            if final.serial is None or case.number % _STATUS_OF == 0:
                told = await caller.asked("GET", f"/__jobs/{job_id}")
                final.status = None if told.status == 404 else told.json["status"]

    async def _content(self, job_id: str, caller: Caller) -> Answer:
        while not (answer := await caller.ask("GET", f"/__jobs/{job_id}/content")).body.startswith(b'{"number"'):
            if not answer.uncertain:
                return answer
            await asyncio.sleep(PAUSE_S)
        return answer

    async def left(self, caller: Caller) -> list[str]:
        """Return what the queue of the upstream still holds that has not ended."""
        (upstream,) = (await caller.asked("GET", "/upstreams")).json["upstreams"]
        return [f"{count} requests are {state}" for state, count in upstream["counts"].items()
                if count and state not in {"completed", "failed"}]  # fmt: skip
