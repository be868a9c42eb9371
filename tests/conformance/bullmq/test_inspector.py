"""Reading jobs, and writing what their workers report, on a real Valkey."""

import json
from collections.abc import Mapping, Sequence

import pytest

from tests.conformance.worlds import RealWorld
from toril.bullmq.inspector import Inspector
from toril.core.errors import WrongKeyType
from toril.core.lease import Lease
from toril.core.stored_job import Fields
from toril.core.verdict import Complete, Fail

DONE = Complete(b"1")


@pytest.fixture
def inspector(world: RealWorld) -> Inspector:
    return Inspector(world.scripts, "bull")


async def page(
    inspector: Inspector, queue: str, statuses: Sequence[str], start: int, length: int
) -> tuple[Mapping[str, int], list[tuple[bytes, Fields]]]:
    counts, pieces = await inspector.page(queue, statuses, start, length)
    return counts, [job async for piece in pieces for job in piece]


async def logs(inspector: Inspector, queue: str, job_id: str, start: int, end: int) -> tuple[list[bytes], int]:
    pieces = inspector.logs(queue, job_id, start, end)
    return [line async for piece in pieces for line in piece], await inspector.log_count(queue, job_id)


async def taken(world: RealWorld, token: bytes = b"us:1") -> Lease:
    lease = await world.store.take(token)
    assert isinstance(lease, Lease)
    return lease


async def test_a_job_is_read_as_the_fields_of_its_hash(world: RealWorld, inspector: Inspector) -> None:
    await world.add("a", data='{"n":1.10}')
    assert await inspector.get(world.queue, "a") == await world.fields(b"a")
    assert await inspector.get(world.queue, "b") is None
    assert await inspector.get("no-such-queue", "a") is None


async def test_a_job_whose_key_is_no_hash_is_listed_as_broken_among_the_others(
    world: RealWorld, inspector: Inspector
) -> None:
    for job_id in ("first", "broken", "last"):
        await world.add(job_id)
    await world.link.call("DEL", world.keys.key("broken"))
    await world.link.call("SADD", world.keys.key("broken"), "a", "b")
    counts, jobs = await page(inspector, world.queue, ("waiting",), 0, 10)
    assert counts == {"waiting": 3, "paused": 0}
    assert [job_id for job_id, _ in jobs] == [b"last", b"broken", b"first"]
    assert jobs[1][1] == {b"failedReason": b"The job's key in Redis holds a set, not a hash"}
    assert jobs[2][1] == await world.fields(b"first")
    with pytest.raises(WrongKeyType, match=world.queue):
        await inspector.get(world.queue, "broken")


async def test_a_list_of_another_type_is_a_clear_error(world: RealWorld, inspector: Inspector) -> None:
    await world.link.call("SET", world.keys.key("wait"), "a text")
    with pytest.raises(WrongKeyType, match=world.queue):
        await page(inspector, world.queue, ("waiting",), 0, 10)


async def test_counts_and_jobs_come_by_status(world: RealWorld, inspector: Inspector) -> None:
    for job_id in ("c-1", "f-1", "a-1"):
        await world.add(job_id)
    await world.store.complete(await taken(world), DONE, fetch_next=False)
    await world.store.fail(await taken(world), Fail("r", "t"), fetch_next=False)
    await taken(world)
    await world.add("w-1")
    await world.add("w-2")
    await world.add("d-1", delay_s=100.0)
    statuses = ("waiting", "active", "completed", "failed", "delayed")
    counts, jobs = await page(inspector, world.queue, statuses, 0, 10)
    assert counts == {"waiting": 2, "paused": 0, "active": 1, "completed": 1, "failed": 1, "delayed": 1}
    assert [job_id for job_id, _ in jobs] == [b"w-2", b"w-1", b"a-1", b"c-1", b"f-1", b"d-1"]
    assert all(fields[b"name"] == b"job" for _, fields in jobs)


@pytest.mark.parametrize("status", ["waiting", "completed"])
async def test_a_page_is_a_window_on_the_newest(world: RealWorld, inspector: Inspector, status: str) -> None:
    for number in range(10):
        await world.add(f"job-{number}")
        if status == "completed":
            await world.store.complete(await taken(world), DONE, fetch_next=False)
            await world.pass_time(1.0)
    for start, length, expected in ((0, 3, [9, 8, 7]), (3, 3, [6, 5, 4]), (8, 5, [1, 0]), (10, 5, []), (0, 0, [])):
        counts, jobs = await page(inspector, world.queue, [status], start, length)
        assert counts[status] == 10
        assert [job_id for job_id, _ in jobs] == [b"job-%d" % number for number in expected]


async def test_the_window_holds_for_each_status(world: RealWorld, inspector: Inspector) -> None:
    for number in range(4):
        await world.add(f"w-{number}")
        await world.add(f"d-{number}", delay_s=100.0 + number)
    _, jobs = await page(inspector, world.queue, ["waiting", "delayed"], 1, 2)
    assert [job_id for job_id, _ in jobs] == [b"w-2", b"w-1", b"d-2", b"d-1"]


async def test_an_unknown_queue_is_empty(inspector: Inspector) -> None:
    counts, jobs = await page(inspector, "no-such-queue", ["waiting", "failed"], 0, 10)
    assert (counts, jobs) == ({"waiting": 0, "paused": 0, "failed": 0}, [])


async def test_reading_writes_nothing(world: RealWorld, inspector: Inspector) -> None:
    await page(inspector, world.queue, ["waiting", "active", "completed", "failed", "delayed"], 0, 10)
    await inspector.get(world.queue, "a")
    await logs(inspector, world.queue, "a", 0, -1)
    await inspector.lock_token(world.queue, "a")
    assert await world.link.call("KEYS", world.keys.key("*")) == []


async def test_the_lock_token_that_is_read_is_that_of_the_jobs_holder(world: RealWorld, inspector: Inspector) -> None:
    job_id = await world.add("a")
    assert await inspector.lock_token(world.queue, "a") is None
    lease = await taken(world, b"us:9")
    assert await inspector.lock_token(world.queue, "a") == b"us:9"
    await world.store.complete(lease, DONE, fetch_next=False)
    assert await inspector.lock_token(world.queue, job_id.decode()) is None


@pytest.mark.parametrize("value", [b"50", b'{"progress":50}', b"null", b'"x"', b"1.10", '"größe"'.encode()])
async def test_progress_is_stored_as_it_came_and_announced(
    world: RealWorld, inspector: Inspector, value: bytes
) -> None:
    await world.add("a")
    assert await inspector.progress(world.queue, "a", value)
    assert (await world.fields(b"a"))[b"progress"] == value
    ((_, last),) = await world.link.call("XREVRANGE", world.keys.key("events"), "+", "-", "COUNT", 1)
    event = dict(zip(last[::2], last[1::2], strict=True))
    assert event == {b"event": b"progress", b"jobId": b"a", b"data": value}


async def test_progress_of_a_job_that_is_gone_is_not_stored(world: RealWorld, inspector: Inspector) -> None:
    assert not await inspector.progress(world.queue, "a", b"50")
    assert await world.fields(b"a") == {}


async def test_log_lines_come_back_in_order(world: RealWorld, inspector: Inspector) -> None:
    await world.add("a")
    lines = ["first", "größe", "", "with\nnewline", "x" * 10_000]
    for line in lines:
        assert await inspector.log(world.queue, "a", line)
    encoded = [line.encode() for line in lines]
    assert await logs(inspector, world.queue, "a", 0, -1) == (encoded, 5)
    assert await logs(inspector, world.queue, "a", 1, 2) == (encoded[1:3], 5)
    assert await logs(inspector, world.queue, "a", -2, -1) == (encoded[-2:], 5)
    assert await logs(inspector, world.queue, "a", 9, 20) == ([], 5)


async def test_a_job_may_limit_its_log(world: RealWorld, inspector: Inspector) -> None:
    await world.add("a", fields={b"opts": json.dumps({"kl": 3}).encode()})
    for number in range(6):
        await inspector.log(world.queue, "a", f"line {number}")
    assert await logs(inspector, world.queue, "a", 0, -1) == ([b"line 3", b"line 4", b"line 5"], 3)


async def test_a_log_of_a_job_that_is_gone_is_not_kept(world: RealWorld, inspector: Inspector) -> None:
    assert not await inspector.log(world.queue, "a", "line")
    assert await logs(inspector, world.queue, "a", 0, -1) == ([], 0)
