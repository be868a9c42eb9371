"""What every `LeaseStore` promises, over the fake and over BullMQ's scripts on a real Valkey."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from tests.conformance.holding import held
from tests.conformance.worlds import LOCK_S, FakeWorld, World, real_world
from toril.core.errors import JobRefused, LeaseLost
from toril.core.lease import NOTHING, Lease, NoJob
from toril.core.verdict import Complete, Fail, Retry, Snooze
from toril.engine.ports import LeaseStore
from toril.queues.rules.worker import Limiter

DONE = Complete(b'{"ok":true}')
FAILED = Fail("Bad Gateway", "Error: Bad Gateway\n    at POST")
AGAIN = Retry(0, "Bad Gateway", "Error: again")
LATER = Retry(5000, "Bad Gateway", "Error: later")
SNOOZED = Snooze(5000, "not now")


@pytest.fixture(params=["fake", "valkey"])
async def world(request: pytest.FixtureRequest, queue: str) -> AsyncIterator[World]:
    if request.param == "fake":
        yield FakeWorld()
        return
    async for made in held(real_world(request.getfixturevalue("valkey"), queue)):
        yield made


async def taken(store: LeaseStore, token: bytes = b"us:1") -> Lease:
    lease = await store.take(token)
    assert isinstance(lease, Lease)
    return lease


Settle = Callable[[LeaseStore, Lease], Any]
SETTLEMENTS: dict[str, Settle] = {
    "complete": lambda store, lease: store.complete(lease, DONE, fetch_next=True),
    "fail": lambda store, lease: store.fail(lease, FAILED, fetch_next=True),
    "retry": lambda store, lease: store.retry(lease, AGAIN, fetch_next=True),
    "delay": lambda store, lease: store.retry(lease, LATER, fetch_next=True),
    "snooze": lambda store, lease: store.snooze(lease, SNOOZED, fetch_next=True),
    "release": lambda store, lease: store.release(lease),
}


@pytest.fixture(params=list(SETTLEMENTS))
def settle(request: pytest.FixtureRequest) -> Settle:
    return SETTLEMENTS[request.param]


async def test_an_empty_queue_has_nothing_to_lease(world: World) -> None:
    assert await world.store.take(b"us:1") == NOTHING


async def test_jobs_are_leased_in_the_order_they_came(world: World) -> None:
    for job_id in ("a", "b", "c"):
        await world.add(job_id)
    assert [(await taken(world.store, token)).job_id for token in (b"us:1", b"us:2", b"us:3")] == [b"a", b"b", b"c"]
    assert await world.store.take(b"us:4") == NOTHING


async def test_a_lease_holds_the_fields_of_the_job(world: World) -> None:
    await world.add("a", data='{ "n": 1.10 }', opts={"attempts": 3, "backoff": {"type": "fixed", "delay": 7}})
    lease = await taken(world.store)
    assert (lease.job_id, lease.token, lease.attempts_made, lease.attempt, lease.lost) == (b"a", b"us:1", 0, 1, False)
    assert (lease.fields[b"name"], lease.fields[b"data"]) == (b"job", b'{ "n": 1.10 }')
    assert lease.fields[b"ats"] == b"1"
    assert int(lease.fields[b"processedOn"]) > 0
    assert lease.options.attempts == 3
    assert lease.options.backoff is not None
    assert lease.options.backoff.delay_ms == 7


async def test_a_leased_job_is_active_and_locked(world: World) -> None:
    job_id = await world.add("a")
    await taken(world.store)
    assert await world.places(job_id) == ["active"]
    assert LOCK_S - 2 < await world.lock_left_s(job_id) <= LOCK_S


async def test_no_job_is_leased_twice(world: World) -> None:
    for number in range(30):
        await world.add(f"job-{number}")
    async with asyncio.TaskGroup() as tasks:
        takes = [tasks.create_task(world.store.take(b"us:%d" % number)) for number in range(50)]
    leased = [lease for take in takes if isinstance(lease := take.result(), Lease)]
    assert sorted(lease.job_id for lease in leased) == sorted(b"job-%d" % number for number in range(30))
    assert [take.result() for take in takes].count(NOTHING) == 20


async def test_a_delayed_job_is_told_of_and_leased_in_its_time(world: World) -> None:
    now = time.time()
    job_id = await world.add("a", delay_s=10.0)
    await world.add("b", delay_s=20.0)
    assert await world.places(job_id) == ["delayed"]
    found = await world.store.take(b"us:1")
    assert isinstance(found, NoJob)
    if not isinstance(world, FakeWorld):
        assert found.next_at_s == pytest.approx(now + 10.0, abs=1.0)
    await world.pass_time(10.1)
    assert (await taken(world.store)).job_id == job_id


async def test_a_completed_job_has_its_return_value(world: World) -> None:
    job_id = await world.add("a")
    lease = await taken(world.store)
    assert await world.store.complete(lease, DONE, fetch_next=True) == NOTHING
    assert await world.places(job_id) == ["completed"]
    assert await world.returned(job_id) == b'{"ok":true}'
    assert (await world.fields(job_id))[b"atm"] == b"1"


async def test_a_completed_job_has_the_fields_of_its_verdict(world: World) -> None:
    job_id = await world.add("a")
    verdict = Complete(b'{"status":200}', (b"response", b"{}", b"other", b"1"))
    await world.store.complete(await taken(world.store), verdict, fetch_next=False)
    fields = await world.fields(job_id)
    assert (fields[b"response"], fields[b"other"]) == (b"{}", b"1")
    assert await world.returned(job_id) == b'{"status":200}'


async def test_a_failed_job_has_its_reason_and_its_trace(world: World) -> None:
    job_id = await world.add("a")
    lease = await taken(world.store)
    assert await world.store.fail(lease, FAILED, fetch_next=True) == NOTHING
    assert await world.places(job_id) == ["failed"]
    assert await world.reason(job_id) == b"Bad Gateway"
    fields = await world.fields(job_id)
    assert msgspec.json.decode(fields[b"stacktrace"]) == [FAILED.trace]
    assert fields[b"atm"] == b"1"


async def test_a_retried_job_waits_behind_the_others(world: World) -> None:
    first = await world.add("a", opts={"attempts": 3})
    await world.add("b")
    lease = await taken(world.store)
    assert await world.store.retry(lease, AGAIN, fetch_next=True) is None
    assert await world.waiting() == [b"b", b"a"]
    assert await world.reason(first) == b"Bad Gateway"


async def test_each_attempt_counts_and_leaves_its_trace(world: World) -> None:
    job_id = await world.add("a", opts={"attempts": 5})
    for attempt in range(1, 4):
        lease = await taken(world.store)
        assert (lease.attempt, lease.fields[b"ats"]) == (attempt, str(attempt).encode())
        await world.store.retry(lease, Retry(0, f"reason {attempt}", f"trace {attempt}"), fetch_next=False)
    fields = await world.fields(job_id)
    assert msgspec.json.decode(fields[b"stacktrace"]) == ["trace 1", "trace 2", "trace 3"]
    assert fields[b"failedReason"] == b"reason 3"


async def test_a_retry_may_wait_for_its_time(world: World) -> None:
    job_id = await world.add("a", opts={"attempts": 3})
    lease = await taken(world.store)
    assert not isinstance(await world.store.retry(lease, LATER, fetch_next=True), Lease)
    assert await world.places(job_id) == ["delayed"]
    await world.pass_time(5.1)
    assert (await taken(world.store)).attempt == 2


async def test_a_snoozed_job_waits_for_its_time_and_has_spent_no_attempt(world: World) -> None:
    job_id = await world.add("a", opts={"attempts": 1})
    before = await world.fields(job_id)
    assert not isinstance(await world.store.snooze(await taken(world.store), SNOOZED, fetch_next=True), Lease)
    assert await world.places(job_id) == ["delayed"]
    after = await world.fields(job_id)
    assert {b"failedReason", b"stacktrace"} & set(after) == {b"failedReason", b"stacktrace"} & set(before)
    await world.pass_time(5.1)
    lease = await taken(world.store)
    assert (lease.job_id, lease.attempt) == (job_id, 1)


async def test_a_snooze_of_zero_seconds_comes_back(world: World) -> None:
    job_id = await world.add("a")
    await world.store.snooze(await taken(world.store), Snooze(0, "not now"), fetch_next=False)
    await world.pass_time(0.1)
    assert (await taken(world.store)).job_id == job_id


async def test_a_released_job_is_next_and_has_spent_no_attempt(world: World) -> None:
    job_id = await world.add("a", opts={"attempts": 1})
    await world.add("b")
    await world.store.release(await taken(world.store))
    assert await world.waiting() == [b"a", b"b"]
    lease = await taken(world.store)
    assert (lease.job_id, lease.attempt) == (job_id, 1)


@pytest.mark.parametrize("name", ["complete", "fail", "delay"])
async def test_settling_leases_the_next_job_under_the_same_token(world: World, name: str) -> None:
    await world.add("a", opts={"attempts": 3})
    await world.add("b")
    found = await SETTLEMENTS[name](world.store, await taken(world.store, b"us:7"))
    assert isinstance(found, Lease)
    assert (found.job_id, found.token) == (b"b", b"us:7")
    assert await world.places(b"b") == ["active"]


@pytest.mark.parametrize("verdict", [DONE, FAILED, AGAIN, LATER])
async def test_settling_leases_no_job_unless_asked_to(world: World, verdict: Any) -> None:
    await world.add("a", opts={"attempts": 3})
    await world.add("b")
    lease = await taken(world.store)
    method = type(verdict).__name__.lower()
    assert await getattr(world.store, method)(lease, verdict, fetch_next=False) is None
    assert await world.places(b"b") == ["waiting"]


async def test_a_lease_whose_lock_has_lapsed_settles_nothing(world: World, settle: Settle) -> None:
    job_id = await world.add("a", opts={"attempts": 3})
    lease = await taken(world.store)
    await world.lapse(job_id)
    before = await world.fields(job_id)
    with pytest.raises(LeaseLost):
        await settle(world.store, lease)
    assert await world.places(job_id) == ["active"]
    assert await world.fields(job_id) == before


async def test_a_lease_that_another_token_holds_settles_nothing(world: World, settle: Settle) -> None:
    job_id = await world.add("a", opts={"attempts": 3})
    lease = await taken(world.store)
    await world.steal(job_id, b"them:1")
    before = await world.fields(job_id)
    with pytest.raises(LeaseLost):
        await settle(world.store, lease)
    assert await world.places(job_id) == ["active"]
    assert await world.fields(job_id) == before


@pytest.mark.parametrize("first", list(SETTLEMENTS))
async def test_a_lease_is_settled_once(world: World, settle: Settle, first: str) -> None:
    job_id = await world.add("a", opts={"attempts": 3})
    lease = await taken(world.store)
    await SETTLEMENTS[first](world.store, lease)
    before = (await world.places(job_id), await world.fields(job_id))
    with pytest.raises(LeaseLost):
        await settle(world.store, lease)
    assert (await world.places(job_id), await world.fields(job_id)) == before


async def test_a_lost_lease_takes_no_other_job_along(world: World, settle: Settle) -> None:
    job_id = await world.add("a", opts={"attempts": 3})
    lease = await taken(world.store)
    await world.add("b")
    await world.lapse(job_id)
    with pytest.raises(LeaseLost):
        await settle(world.store, lease)
    assert await world.places(b"b") == ["waiting"]


async def test_a_job_with_a_pending_child_cannot_complete_and_stays_leased(world: World) -> None:
    job_id = await world.add("a")
    lease = await taken(world.store)
    await world.expect_child(job_id)
    with pytest.raises(JobRefused) as caught:
        await world.store.complete(lease, DONE, fetch_next=True)
    assert not isinstance(caught.value, LeaseLost)
    assert await world.places(job_id) == ["active"]
    assert await world.store.extend([lease]) == set()


async def test_renewed_locks_live_on(world: World) -> None:
    ids = [await world.add(job_id) for job_id in ("a", "b", "c")]
    leases = [await taken(world.store, b"us:%d" % number) for number in range(3)]
    assert await world.store.extend(leases) == set()
    for job_id in ids:
        assert await world.lock_left_s(job_id) > LOCK_S - 2


async def test_renewing_names_the_lost_leases(world: World) -> None:
    for job_id in ("lapsed", "stolen", "settled", "ours"):
        await world.add(job_id)
    leases = [await taken(world.store, b"us:%d" % number) for number in range(4)]
    await world.lapse(b"lapsed")
    await world.steal(b"stolen", b"them:1")
    await world.store.complete(leases[2], DONE, fetch_next=False)
    assert await world.store.extend(leases) == {b"stolen", b"settled"}
    assert await world.places(b"ours") == ["active"]


async def test_renewing_takes_back_a_lapsed_lock_whose_job_no_other_worker_has_begun(
    world: World, settle: Settle
) -> None:
    job_id = await world.add("a", opts={"attempts": 3})
    lease = await taken(world.store)
    await world.store.recover_stalled()
    await world.lapse(job_id)
    assert await world.store.extend([lease]) == set()
    assert await world.lock_left_s(job_id) > LOCK_S - 2
    await world.pass_time(0.01)
    assert await world.store.recover_stalled() == [], "a check that has seen it before does not move it"
    await settle(world.store, lease)
    assert await world.places(job_id) != ["active"]


async def test_a_job_that_stalled_is_not_taken_back(world: World) -> None:
    job_id = await world.add("a")
    lease = await taken(world.store)
    await world.store.recover_stalled()
    await world.lapse(job_id)
    await world.pass_time(0.01)
    assert await world.store.recover_stalled() == [job_id]
    assert await world.store.extend([lease]) == {job_id}
    assert await world.places(job_id) == ["waiting"]


@pytest.mark.parametrize("token", [b"them:1", b"us:1"])
async def test_a_job_that_was_begun_again_is_not_taken_back_though_its_lock_has_lapsed_again(
    world: World, token: bytes
) -> None:
    job_id = await world.add("a")
    lease = await taken(world.store)
    await world.store.release(lease)
    newer = await taken(world.store, token)
    await world.lapse(job_id)
    assert await world.store.extend([lease]) == {job_id}
    assert await world.store.extend([newer]) == set()


async def test_calls_at_the_same_time_take_a_lapsed_lock_back_together(world: World) -> None:
    job_id = await world.add("a")
    lease = await taken(world.store)
    await world.lapse(job_id)
    async with asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(world.store.extend([lease])) for _ in range(3)]
    assert [call.result() for call in calls] == [set()] * 3


async def test_many_lapsed_locks_are_taken_back_in_one_call(world: World) -> None:
    leases = []
    for number in range(120):
        await world.add(f"job-{number}")
        leases.append(await taken(world.store, b"us:%d" % number))
        await world.lapse(leases[-1].job_id)
    await world.steal(leases[77].job_id, b"them:1")
    assert await world.store.extend(leases) == {leases[77].job_id}


async def test_a_job_without_a_lock_stalls_back_to_the_head(world: World) -> None:
    job_id = await world.add("a", opts={"attempts": 1})
    await taken(world.store)
    await world.add("b")
    await world.lapse(job_id)
    assert await world.store.recover_stalled() == [], "the first check only suspects"
    await world.pass_time(0.01)
    assert await world.store.recover_stalled() == [job_id]
    assert await world.waiting() == [b"a", b"b"]
    lease = await taken(world.store)
    assert (lease.attempt, lease.fields[b"stc"]) == (1, b"1")


async def test_a_locked_job_does_not_stall(world: World) -> None:
    job_id = await world.add("a")
    await taken(world.store)
    for _ in range(3):
        assert await world.store.recover_stalled() == []
        await world.pass_time(0.01)
    assert await world.places(job_id) == ["active"]


async def test_an_abandoned_job_is_back_at_once(world: World) -> None:
    job_id = await world.add("a")
    await taken(world.store)
    await world.lapse(job_id)
    await world.add("b")
    assert await world.store.recover_abandoned() == ([job_id], 0.0)
    assert await world.waiting() == [b"a", b"b"]
    assert (await taken(world.store)).fields[b"stc"] == b"1"


async def test_an_abandoned_job_that_a_check_has_seen_is_back_at_once(world: World) -> None:
    job_id = await world.add("a")
    await taken(world.store)
    await world.store.recover_stalled()
    await world.lapse(job_id)
    assert await world.store.recover_abandoned() == ([job_id], 0.0)
    assert (await world.fields(job_id))[b"stc"] == b"1"


async def test_a_locked_job_is_not_abandoned(world: World) -> None:
    assert await world.store.recover_abandoned() == ([], 0.0)
    job_id, other = await world.add("a"), await world.add("b")
    await taken(world.store)
    await taken(world.store, b"other:1")
    await world.lapse(other)
    found, locked_s = await world.store.recover_abandoned()
    assert found == [other]
    assert 0 < locked_s <= 30
    assert await world.places(job_id) == ["active"]
    for _ in range(3):
        assert (await world.store.recover_abandoned())[0] == []
    assert await world.places(job_id) == ["active"]


async def test_a_job_that_stalls_too_often_is_to_fail(world: World) -> None:
    job_id = await world.add("a")
    for _ in range(2):
        await taken(world.store)
        await world.lapse(job_id)
        for _ in range(2):
            await world.store.recover_stalled()
            await world.pass_time(0.01)
    lease = await taken(world.store)
    assert lease.fields[b"defa"] == b"job stalled more than allowable limit"


async def test_a_stall_is_counted_while_the_job_is_held(world: World) -> None:
    job_id = await world.add("a", opts={"attempts": 5})
    for stalls, too_often in [(1, False), (2, True)]:
        lease = await taken(world.store)
        for _ in range(2):  # as after an answer that got lost
            assert await world.store.count_stall(lease) is too_often
        assert (await world.fields(job_id))[b"stc"] == b"%d" % stalls
        assert await world.places(job_id) == ["active"]
        await world.store.release(lease)
    assert b"atm" not in await world.fields(job_id)


async def test_a_stall_of_a_lost_lease_is_not_counted(world: World) -> None:
    job_id = await world.add("a")
    lease = await taken(world.store)
    await world.lapse(job_id)
    with pytest.raises(LeaseLost):
        await world.store.count_stall(lease)
    assert (await world.fields(job_id)).get(b"stc", b"0") == b"0"


async def test_jobs_held_by_tokens_in_doubt_are_found(world: World) -> None:
    for job_id in ("a", "b", "c"):
        await world.add(job_id)
    for number in range(3):
        await taken(world.store, b"us:%d" % number)
    found = {lease.job_id: lease for lease in await world.store.adopt([b"us:0", b"us:2", b"us:9"])}
    assert {job_id: lease.token for job_id, lease in found.items()} == {b"a": b"us:0", b"c": b"us:2"}
    await world.store.complete(found[b"a"], DONE, fetch_next=False)
    assert await world.places(b"a") == ["completed"]


async def test_no_job_is_found_for_tokens_that_hold_none(world: World) -> None:
    assert await world.store.adopt([b"us:1"]) == []
    job_id = await world.add("a")
    lease = await taken(world.store)
    assert await world.store.adopt([b"us:2"]) == []
    await world.lapse(job_id)
    assert await world.store.adopt([lease.token]) == []


async def test_a_rate_limit_says_when_to_look_again(world: World) -> None:
    for job_id in ("a", "b", "c"):
        await world.add(job_id)
    store = world.limited(Limiter(2, 400))
    first = await taken(store, b"us:1")
    await taken(store, b"us:2")
    found = await store.take(b"us:3")
    assert isinstance(found, NoJob)
    assert 0 < found.retry_in_s <= 0.4
    limited = await store.complete(first, DONE, fetch_next=True)
    assert isinstance(limited, NoJob)
    assert limited.retry_in_s > 0
    await asyncio.sleep(limited.retry_in_s + 0.005)
    assert (await taken(store, b"us:3")).job_id == b"c"


@pytest.mark.parametrize("name", ["complete", "fail", "retry", "delay"])
async def test_no_settlement_reports_an_empty_queue_while_a_rate_limit_holds(world: World, name: str) -> None:
    """Whoever hears that there is nothing waits for a marker; a job held up by a limit leaves none when it is over."""
    for job_id in ("a", "b", "c"):
        await world.add(job_id, opts={"attempts": 3})
    store = world.limited(Limiter(1, 10_000))
    found = await SETTLEMENTS[name](store, await taken(store))
    assert found is None or (isinstance(found, NoJob) and found.retry_in_s > 0)


async def test_a_failure_decided_elsewhere_comes_with_the_lease(world: World) -> None:
    await world.add("a", fields={b"defa": b"child 5 failed"})
    assert (await taken(world.store)).fields[b"defa"] == b"child 5 failed"


async def test_a_lock_that_is_handed_over_lasts_as_long_as_was_asked_for(world: World) -> None:
    job_id = await world.add("a")
    lease = await taken(world.store)
    assert await world.store.hand_over(lease, 90_000) == pytest.approx(90, abs=2)
    assert await world.lock_left_s(job_id) == pytest.approx(90, abs=2)
    left_s = await world.store.left_s(lease)
    assert left_s == pytest.approx(90, abs=2)


async def test_a_shorter_handover_shortens_the_lock(world: World) -> None:
    job_id = await world.add("a")
    assert await world.store.hand_over(await taken(world.store), 5_000) == pytest.approx(5, abs=2)
    assert await world.lock_left_s(job_id) <= 5


async def test_handing_over_never_shortens_a_lock_that_was_extended(world: World) -> None:
    job_id = await world.add("a")
    lease = await taken(world.store)
    await world.store.hand_over(lease, 90_000)
    assert await world.store.hand_over(lease, 1_000) == pytest.approx(90, abs=2)
    assert await world.lock_left_s(job_id) == pytest.approx(90, abs=2)


async def test_a_lost_lease_cannot_be_handed_over(world: World) -> None:
    for job_id in ("a", "b"):
        await world.add(job_id)
    stolen, lapsed = await taken(world.store, b"us:1"), await taken(world.store, b"us:2")
    await world.steal(b"a", b"them:1")
    await world.lapse(b"b")
    for lease in (stolen, lapsed):
        assert await world.store.left_s(lease) is None
        assert await world.store.hand_over(lease, 90_000) is None
    assert await world.lock_left_s(b"a") <= LOCK_S


async def test_a_job_without_a_hash_is_passed_over(world: World) -> None:
    for job_id in ("gone-1", "gone-2", "here"):
        await world.add(job_id)
    for job_id in (b"gone-1", b"gone-2"):
        await world.lose_hash(job_id)
    assert (await taken(world.store)).job_id == b"here"
    for job_id in (b"gone-1", b"gone-2"):
        assert await world.places(job_id) == []


async def test_settling_never_leases_a_job_without_a_hash(world: World, settle: Settle) -> None:
    for job_id in ("first", "gone", "here"):
        await world.add(job_id)
    lease = await taken(world.store)
    await world.lose_hash(b"gone")
    found = await settle(world.store, lease)
    leased = [found.job_id] if isinstance(found, Lease) else []
    number = 1
    while isinstance(found := await world.store.take(b"us:%d" % (number := number + 1)), Lease):
        leased.append(found.job_id)
    assert [job_id for job_id in leased if job_id != b"first"] == [b"here"]
    assert await world.places(b"gone") == []
