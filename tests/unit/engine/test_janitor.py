"""What is kept no longer is removed, and nothing else."""

from collections.abc import Sequence
from typing import Any

from toril.core.blob import reference
from toril.core.errors import StoreUnavailable
from toril.core.proxied_job import ProxiedJob
from toril.engine.janitor import Leftovers, ProxyJanitor
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


def leftovers() -> Leftovers:
    jobs: Any = Jobs()
    return Leftovers(FakeBlobs(lambda: 100.0), jobs, 1.0, lambda: 100.0)


async def test_ended_jobs_of_both_kinds_are_removed_to_the_last() -> None:
    control: Any = Control(2500)
    await ProxyJanitor(control, ["q/"], 1.5, leftovers()).sweep("q/")
    assert control.ended == 0
    assert {call[1] for call in control.calls} == {"completed", "failed"}
    assert {call[2] for call in control.calls} == {1500}


async def test_a_sweep_without_redis_ends_without_an_error() -> None:
    control: Any = Control(1, away=True)
    await ProxyJanitor(control, ["q/"], 1.0, leftovers()).sweep("q/")
    assert control.ended == 1


class Jobs:
    """Knows some jobs."""

    def __init__(self, *known: str) -> None:
        self.known = known

    async def find(self, job_id: str) -> ProxiedJob | None:
        return ProxiedJob(id=job_id, queue="q/", status="completed") if job_id in self.known else None


async def test_an_answer_goes_when_it_is_old_and_its_job_is_gone() -> None:
    blobs = FakeBlobs(lambda: 100.0)
    names = {job_id: reference("responses", job_id, "response", b"x").name for job_id in ("known", "gone")}
    other = reference("deliveries", "gone", "response", b"x").name
    for name in (*names.values(), other):
        await blobs.put(name, b"x")
    jobs: Any = Jobs("known")
    await Leftovers(blobs, jobs, 60.0, lambda: 101.0).sweep()
    assert len([blob async for blob in blobs.list("")]) == 3
    await Leftovers(blobs, jobs, 60.0, lambda: 161.0).sweep()
    assert {blob.name async for blob in blobs.list("")} == {names["known"], other}
