"""What is kept no longer is removed, and nothing else."""

from collections.abc import Sequence
from typing import Any

from toril.core.blob import reference
from toril.core.errors import BlobsUnavailable, StoreUnavailable
from toril.proxy.janitor import CLOCKS_S, OTHERS_S, BlobSweep, ExpiredAnswers, OrphanedAnswers, ProxyJanitor
from toril.proxy.rules.proxied_job import ProxiedJob, new_id
from toril.testing.blobs import FakeBlobs


class Control:
    """Has so many ended jobs per queue and state."""

    def __init__(self, ended: int, *, away: bool = False) -> None:
        self.ended = ended
        self.away = away
        self.calls: list[tuple[str, str, int]] = []

    async def clean(self, queue: str, state: str, grace_ms: int, limit: int) -> Sequence[bytes]:
        if self.away:
            raise StoreUnavailable
        self.calls.append((queue, state, grace_ms))
        removed = min(self.ended, limit)
        self.ended -= removed
        return [b"1"] * removed


def nothing() -> BlobSweep:
    return BlobSweep(FakeBlobs(lambda: 100.0), [])


async def test_ended_jobs_of_both_kinds_are_removed_to_the_last() -> None:
    control: Any = Control(2500)
    await ProxyJanitor(control, ["q/"], 1.5, nothing()).sweep("q/")
    assert control.ended == 0
    assert {call[1] for call in control.calls} == {"completed", "failed"}
    assert {call[2] for call in control.calls} == {1500}


async def test_a_sweep_without_redis_ends_without_an_error() -> None:
    control: Any = Control(1, away=True)
    await ProxyJanitor(control, ["q/"], 1.0, nothing()).sweep("q/")
    assert control.ended == 1


class Jobs:
    """Knows some jobs."""

    def __init__(self, *known: str) -> None:
        self.known = known

    async def find(self, job_id: str) -> ProxiedJob | None:
        return ProxiedJob(id=job_id, queue="q/", status="completed") if job_id in self.known else None


async def test_an_answer_goes_when_it_is_old_and_its_job_is_gone() -> None:
    blobs = FakeBlobs(lambda: 100.0)
    known, gone, others = (new_id(bytes([number]) * 16, queue) for number, queue in enumerate(("q/", "q/", "other/")))
    names = {job_id: reference("responses", job_id, "response", b"x").name for job_id in (known, gone, others)}
    elsewhere = reference("deliveries", gone, "response", b"x").name
    for name in (*names.values(), elsewhere):
        await blobs.put(name, b"x")
    jobs: Any = Jobs(known)

    async def left(now_s: float) -> set[str]:
        await BlobSweep(blobs, [OrphanedAnswers(blobs, jobs, ["q/"], 60.0, lambda: now_s)]).sweep()
        return {blob.name async for blob in blobs.list("")}

    assert len(await left(101.0)) == 4
    # For a queue of another instance it is not known here whether a job is gone.
    assert await left(161.0) == {names[known], names[others], elsewhere}
    assert await left(100.0 + OTHERS_S) == {names[known], elsewhere}


async def test_a_cached_answer_goes_when_its_time_is_over() -> None:
    blobs = FakeBlobs(lambda: 100.0)
    await blobs.put(reference("cached", "key", "answer", b"x").name, b"x")
    for now_s, left in ((100.0 + 60.0, 1), (100.0 + 60.0 + CLOCKS_S, 0)):
        await BlobSweep(blobs, [ExpiredAnswers(blobs, 60.0, lambda now_s=now_s: now_s)]).sweep()
        assert len(blobs.bodies) == left


async def test_an_unavailable_store_is_swept_at_the_next_sweep() -> None:
    blobs = FakeBlobs(lambda: 100.0)
    blobs.fault = BlobsUnavailable("away")
    await BlobSweep(blobs, [ExpiredAnswers(blobs, 60.0, lambda: 1000.0)]).sweep()
