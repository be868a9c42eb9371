"""Cases of the delivery door: envelopes that are posted, cancelled and replayed as dead letters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.histories.caller import PAUSE_S, Caller
from benchmarks.histories.case import UNSURE, Case, Final
from benchmarks.histories.endpoint import Endpoint
from benchmarks.histories.fleet import TARGET
from benchmarks.histories.plan import Reply
from benchmarks.histories.records import Records
from benchmarks.histories.shop import Shop

_PAGE = 500
_HISTORY_OF = 10
"""Of one uneventful case in so many the history is read too; of all others it is read anyway."""
_LOST = "the worker was lost"
"""The reason of the step that puts a delivery back whose attempt is recorded as lost."""
_BEGUN_BY_S = 0.4
"""By when a delivery has come to the endpoint that is to be cancelled while it is there."""
NearFault = Callable[[float, float], bool]
"""Returns True if a fault has lasted between two times, or ended or began near them."""


class DeliveryDoor:
    """Makes the calls of cases, and reads what is left of them."""

    batches = True

    def __init__(self, near_fault: NearFault, database: Callable[[], str]) -> None:
        self._near_fault = near_fault
        self._database = database
        self._orders: dict[int, list[str]] = {}

    async def prepare(self, caller: Caller, endpoint: Endpoint) -> None:
        """Open the database of the program that enqueues in transactions; targets are in the configuration."""
        self._shop = Shop(self._database())
        await self._shop.open()

    async def add_all(self, cases: Sequence[Case], caller: Caller) -> None:
        """Post several envelopes in one call, and those of which nothing is known again."""
        left = list(cases)
        while left:
            envelopes = [_envelope(case) | {"idempotency_key": _key(case)} for case in left]
            calls, answer = await caller.repeated(left, "add", "POST", "/enqueue/batch", envelopes)
            if answer.status != 207:
                return
            unsure = []
            for case, call, item in zip(left, calls, answer.json, strict=True):
                call.status = item["status_code"]
                if call.accepted:
                    call.job_id = item["job_id"]
                elif call.status in UNSURE:
                    unsure.append(case)
            if left := unsure:
                await asyncio.sleep(PAUSE_S)

    async def run(self, case: Case, caller: Caller) -> None:
        """Do what the script of a case says."""
        script = case.script
        add = self._post if script.sql is None else self._order
        if not await add(case, caller):
            return
        job_id = case.ids[-1]
        if script.again:
            await add(case, caller)
        if script.cancelled:
            if script.replies[0] is Reply.LATE:
                await asyncio.sleep(_BEGUN_BY_S)
            await caller.repeated([case], "cancel", "DELETE", f"/jobs/{job_id}")
        elif script.replayed:
            while await self._ended(job_id, caller) == "dead_lettered":
                await caller.call(
                    [case], "replay", "POST", f"/targets/{TARGET}/dead-letters/replay", {"job_ids": [job_id]}
                )
                await asyncio.sleep(PAUSE_S)
        elif script.watched and await self._ended(job_id, caller) == "delivered":
            answer = await caller.asked("GET", f"/jobs/{job_id}/response")
            case.results.append((job_id, answer.json["serial"], time.monotonic()))

    async def _ended(self, job_id: str, caller: Caller) -> str:
        while True:
            answer = await caller.asked("GET", f"/jobs/{job_id}?wait=20")
            if answer.status == 404:
                return "lost"
            status: str = answer.json["status"]
            if status in {"delivered", "dead_lettered", "cancelled"}:
                return status

    async def _order(self, case: Case, caller: Caller) -> bool:
        return await self._shop.order(case)

    async def _post(self, case: Case, caller: Caller) -> bool:
        keyed = case.script.keyed
        headers = {"idempotency-key": _key(case)} if keyed else {}
        (call,), answer = await caller.repeated(
            [case], "add", "POST", "/enqueue", _envelope(case), headers, again=keyed
        )
        if answer.status not in {200, 202}:
            return False
        call.job_id = answer.json["job_id"]
        return True

    async def read_pages(self, records: Records, caller: Caller) -> None:
        """Note the deliveries of uneventful cases, page by page: lists of deliveries have no histories."""
        self._orders = await self._shop.orders()
        await self._shop.close()
        numbers = {case.ids[0]: case.number for case in records.called() if self._is_uneventful(case, records)}
        cursor = ""
        while cursor is not None:
            page = (await caller.asked("GET", f"/jobs?target={TARGET}&limit={_PAGE}{cursor}")).json
            for job in page["jobs"]:
                if (number := numbers.get(job["job_id"])) is not None:
                    final = Final(job["status"], attempts=job["attempts_made"], shown=job["last_error"], listed=True)
                    records.found(number, {job["job_id"]: final})
            cursor = page["next_cursor"] and f"&cursor={page['next_cursor']}"

    def _is_uneventful(self, case: Case, records: Records) -> bool:
        """Return True for a case that was added, came once, and was not near a fault; not for one in ten of these."""
        script = case.script
        if script.cancelled or script.replayed or script.watched or script.sql or case.number % _HISTORY_OF == 0:
            return False
        once = len(case.ids) == 1 and records.arrivals_of(case.number) == 1
        return once and not self._near_fault(case.began, case.ended)

    async def read(self, case: Case, caller: Caller) -> None:
        """Note what has become of those deliveries of a case that were on no page, with their histories."""
        orders = self._orders.get(case.number, [])
        for job_id in dict.fromkeys([*case.ids, *orders]):
            if job_id in case.finals:
                continue
            answer = await caller.asked("GET", f"/jobs/{job_id}")
            if answer.status == 404:
                case.finals[job_id] = Final(None, committed=job_id in orders)
                continue
            job = answer.json
            final = case.finals[job_id] = Final(job["status"], attempts=len(job["attempts"]))
            final.committed = job_id in orders
            final.numbers = [attempt["number"] for attempt in job["attempts"]]
            final.transitions = [(step["seq"], step["from"], step["to"]) for step in job["transitions"]]
            lost = {attempt["number"] for attempt in job["attempts"] if attempt["outcome"] == "lost"}
            final.lost = sorted(lost | {step["attempt"] for step in job["transitions"] if step["reason"] == _LOST})
            final.shown = [f"{one['number']} {one['outcome']} {one['status_code']}" for one in job["attempts"]]
            if final.status == "delivered" and case.script.watched:
                final.serial = (await caller.asked("GET", f"/jobs/{job_id}/response")).json["serial"]

    async def left(self, caller: Caller) -> list[str]:
        """Return which deliveries have not ended."""
        depth = (await caller.asked("GET", f"/targets/{TARGET}")).json["depth"]
        return [f"{count} deliveries are {state}" for state, count in depth.items() if count]


def _envelope(case: Case) -> dict[str, Any]:
    envelope: dict[str, Any] = {"target": TARGET, "path": f"/{case.number}", "body": {"number": case.number}}
    if case.script.delay_ms:
        envelope["delay_ms"] = case.script.delay_ms
    return envelope


def _key(case: Case) -> str:
    return f"d{case.number}"
