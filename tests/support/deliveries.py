"""The delivery door as the tests use it: a toril with targets, and one short method per route."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml

from tests.support.commands import run_toril
from tests.support.gateway import Gateway
from toril.delivery.ledger.sqlite_ledger import SqliteLedger
from toril.delivery.rules.changes import AttemptResult, Begin, Begun, DeadLettered, End
from toril.delivery.rules.delivery import AttemptOutcome, Inline, TargetResponse

T = TypeVar("T")
LATER = {"delay_ms": 3_600_000}
"""What waits for so long stays as it is while a test looks at it."""


def configuration(file: Path, targets: dict[str, Any], **more: Any) -> Path:
    """A configuration file with these targets; a text is a target's URL."""
    spelled = {name: {"url": given} if isinstance(given, str) else given for name, given in targets.items()}
    file.write_text(yaml.safe_dump({"targets": spelled} | more))
    return file


def ledger_in(folder: Path) -> dict[str, Any]:
    """The settings of a ledger file whose instances compare it with the queues at their start alone."""
    return {"ledger": {"url": f"sqlite:///{folder}/ledger.sqlite3"}, "delivery": {"recover_every": "1h"}}


def recovered(arguments: Sequence[str], env: Mapping[str, str | None]) -> str:
    """Run `toril recover` to its end; what it says."""
    done = run_toril("recover", *arguments, env={name: value for name, value in env.items() if value is not None})
    assert done.returncode == 0, done.stderr
    return done.stdout


class Door:
    """A caller with the API token."""

    def __init__(self, gateway: Gateway) -> None:
        self.http = gateway.http

    def post(self, envelope: dict[str, Any], key: str | None = None) -> httpx.Response:
        """`POST /enqueue`, whatever comes of it."""
        return self.http.post("/enqueue", json=envelope, headers={} if key is None else {"idempotency-key": key})

    def enqueue(self, target: str, key: str | None = None, **more: Any) -> str:
        """Have an envelope accepted; the job's id."""
        answer = self.post({"target": target} | more, key)
        assert answer.status_code == 202, answer.text
        job_id = answer.json()["job_id"]
        assert isinstance(job_id, str)
        return job_id

    def job(self, job_id: str, **query: Any) -> dict[str, Any]:
        """`GET /jobs/{id}`."""
        answer = self.http.get(f"/jobs/{job_id}", params=query, timeout=70)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def jobs(self, **query: Any) -> list[str]:
        """The ids of all pages of `GET /jobs`."""
        found: list[str] = []
        while True:
            answer = self.http.get("/jobs", params=query)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            found += [one["job_id"] for one in page["jobs"]]
            if page["next_cursor"] is None:
                return found
            query["cursor"] = page["next_cursor"]


def in_ledger(file: Path, work: Callable[[SqliteLedger], Awaitable[T]]) -> T:
    """Do something in a ledger file that a toril has open."""

    async def doing() -> T:
        ledger = SqliteLedger(file)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(ledger.run())
            try:
                return await work(ledger)
            finally:
                running.cancel()

    return asyncio.run(doing())


def settle(file: Path, job_id: str, result: AttemptResult, **more: Any) -> None:
    """Let a delivery go through an attempt that no request was made for."""

    async def work(ledger: SqliteLedger) -> None:
        now = time.time()
        begun = await ledger.begin(Begin(job_id=job_id, token=str(now), by="test", at_s=now, lease_until_s=now + 60))
        assert isinstance(begun, Begun)
        given = {"outcome": AttemptOutcome.ANSWERED, "status_code": 500, "duration_s": 0.25, "error": "HTTP 500"}
        number = begun.delivery.attempts_begun
        end = End(job_id=job_id, number=number, by="test", at_s=now, result=result, **(given | more))
        await ledger.end(end)

    in_ledger(file, work)


def dead_letter(file: Path, job_id: str, reason: str = "HTTP 500", **more: Any) -> None:
    """Make a dead letter of a delivery, with an answer."""
    response = TargetResponse(
        status=500,
        headers=(("Content-Type", "text/html"), ("X-A", "1"), ("X-A", "2"), ("Set-Cookie", "a=b"), ("Connection", "x")),
        content=Inline(b"<b>no</b>"),
    )
    settle(file, job_id, DeadLettered(reason), **({"error": reason, "response": response} | more))
