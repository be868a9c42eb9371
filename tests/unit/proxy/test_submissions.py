"""What an `Idempotency-Key` stands for, where two clients, or a client and a crash, come at the same moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from toril.bullmq.rules.flow import FlowJob
from toril.bullmq.rules.job import JobOptions, JobSpec
from toril.core.errors import IdempotencyMismatch, StoreUnavailable
from toril.proxy.ports import IdempotencyEntry, Submission
from toril.proxy.rules.proxied_job import ProxiedJob
from toril.proxy.rules.upstream import Upstream
from toril.proxy.submissions import QueuedSubmissions, SubmissionStores

UPSTREAM = Upstream(prefix="/api", url="http://127.0.0.1:1")


class Flows:
    """Remembers the options of what stands below each callback."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def add(self, flows: Sequence[FlowJob], timestamp_ms: int) -> None:
        self._world.options += [child.opts for flow in flows for child in flow.children or () if child.opts]


class World:
    """Jobs, keys and producer in memory; `between` is done before each look at a job."""

    def __init__(self) -> None:
        self.entries: dict[str, IdempotencyEntry] = {}
        self.jobs: dict[str, str] = {}
        self.added: list[str] = []
        self.options: list[JobOptions] = []
        self.between: Any = lambda: None
        self.submissions = QueuedSubmissions(
            SubmissionStores(self, Flows(self), self, self), "proxy", 3, bytes, lambda: 0.0
        )  # type: ignore[arg-type]

    async def claim(
        self, name: str, job_id: str, digest: str, instead_of: IdempotencyEntry | None = None
    ) -> IdempotencyEntry:
        found = self.entries.get(name)
        if found is None or found == instead_of:
            self.entries[name] = found = IdempotencyEntry(job_id, digest, settled=False)
        return found

    async def settle(self, name: str, entry: IdempotencyEntry) -> None:
        if self.entries[name].job_id == entry.job_id:
            self.entries[name] = IdempotencyEntry(entry.job_id, entry.digest, settled=True)

    async def find(self, job_id: str) -> ProxiedJob | None:
        self.between()
        status: Any = self.jobs.get(job_id)
        return None if status is None else ProxiedJob(id=job_id, queue="proxy", status=status)

    async def add(self, queue: str, jobs: Sequence[JobSpec], timestamp_ms: int) -> list[str]:
        self.options += [job.opts for job in jobs if job.opts]
        ids = [str(job.opts.jobId) for job in jobs if job.opts]
        self.added += [job_id for job_id in ids if job_id not in self.jobs]
        self.jobs |= {job_id: self.jobs.get(job_id, "queued") for job_id in ids}
        return ids

    async def submit(self, job_id: str, body: bytes = b"body") -> str:
        asked = Submission(upstream=UPSTREAM, method="POST", target=b"/api/x", headers=[], body=body, key=b"key")
        return await self.submissions.accept(asked, job_id)


@pytest.mark.parametrize(
    ("state", "same"), [("queued", True), ("running", True), ("completed", True), ("failed", False)]
)
async def test_a_key_stands_for_its_job_while_that_is_under_way_or_answered(state: str, same: bool) -> None:
    world = World()
    assert await world.submit("one") == "one"
    world.jobs["one"] = state
    assert await world.submit("two") == ("one" if same else "two")
    assert world.added == (["one"] if same else ["one", "two"])


async def test_a_client_that_loses_the_key_gets_the_winners_job() -> None:
    world = World()
    await world.submit("one")
    world.jobs["one"] = "failed"
    (name,) = world.entries
    taken = IdempotencyEntry("winner", world.entries[name].digest, settled=False)

    def take() -> None:
        world.between = lambda: None
        world.entries[name] = taken

    world.between = take
    assert await world.submit("loser") == "winner"
    assert world.added == ["one", "winner"]
    assert world.entries[name].settled


@pytest.mark.parametrize(("age_s", "free"), [(0, False), (59, False), (60, True)])
async def test_another_request_waits_for_a_claimant_that_may_be_alive(age_s: int, free: bool) -> None:
    world = World()
    await world.submit("one")
    (name,) = world.entries
    world.entries[name] = IdempotencyEntry("dead", world.entries[name].digest, settled=False, age_s=age_s)
    if free:
        assert await world.submit("two", b"another") == "two"
    else:
        with pytest.raises(IdempotencyMismatch, match="Another request was accepted under this idempotency key"):
            await world.submit("two", b"another")
    assert ("two" in world.added) is free


async def test_a_job_that_was_stored_before_its_claimant_crashed_is_not_stored_again() -> None:
    world = World()
    await world.submit("one")
    (name,) = world.entries
    world.entries[name] = IdempotencyEntry("one", world.entries[name].digest, settled=False)
    assert await world.submit("two") == "one"
    assert world.added == ["one"]


async def submitted_among_others(*, kept: bool) -> str:
    """Submit while others with the same key make jobs that fail at once, and that are known afterwards, or not."""
    world = World()
    await world.submit("one")
    (name,) = world.entries
    digest, taken = world.entries[name].digest, iter(range(100))
    world.jobs["one"] = "failed"

    def fail() -> None:
        job_id = f"job-{next(taken)}"
        world.entries[name] = IdempotencyEntry(job_id, digest, settled=True)
        world.jobs |= {job_id: "failed"} if kept else {}

    world.between = fail
    return await world.submit("two")


async def test_where_jobs_of_a_key_fail_as_often_as_they_are_made_the_last_one_is_the_answer() -> None:
    assert (await submitted_among_others(kept=True)).startswith("job-")


async def test_a_key_whose_jobs_are_gone_as_often_as_they_are_made_is_given_up() -> None:
    with pytest.raises(StoreUnavailable):
        await submitted_among_others(kept=False)


@pytest.mark.parametrize("callback", [None, "http://127.0.0.1:1/told"])
@pytest.mark.parametrize("group", [None, "acme"])
async def test_a_request_is_stored_in_its_group(group: str | None, callback: str | None) -> None:
    world = World()
    asked = Submission(
        upstream=UPSTREAM, method="GET", target=b"/x", headers=[], body=b"", group=group, callback=callback
    )
    await world.submissions.accept(asked, "one")
    assert [opts.as_shown().get("group") for opts in world.options] == [group and {"id": group}]
