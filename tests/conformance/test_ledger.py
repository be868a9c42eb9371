"""What every ledger promises of accepting, attempts, cancelling, replaying, expiring and losing."""

import asyncio
import os

from tests.conformance.ledgers import (
    AT_S,
    RESPONSE,
    accepted,
    begin_of,
    begun,
    end_of,
    ended,
    finished,
    new,
)
from toril.bullmq.rules.groups import GroupOption
from toril.delivery.ports import AnyLedger, DeliveryFilter
from toril.delivery.rules.changes import (
    Accepted,
    Begun,
    Cancel,
    DeadLettered,
    Delivered,
    Duplicate,
    Expire,
    Lose,
    Refused,
    Replay,
    RetryAt,
    Written,
)
from toril.delivery.rules.delivery import AttemptOutcome, Delivery, Envelope, Inline, Stored
from toril.delivery.rules.lifecycle import Status, faults


def cancel(one: Delivery) -> Cancel:
    return Cancel(job_id=one.job_id, by="somebody", at_s=AT_S + 3)


def replay(one: Delivery) -> Replay:
    return Replay(job_id=one.job_id, by="ops", at_s=AT_S + 9)


def ids(found: list[Delivery]) -> list[str]:
    return [one.job_id for one in found]


async def test_the_id_of_a_ledger_stays_the_same(ledger: AnyLedger) -> None:
    first = await ledger.identity()
    await accepted(ledger)
    await ledger.check()
    assert await ledger.identity() == first != ""


# accepting


async def test_the_group_of_an_envelope_stays_over_attempts_and_replays(ledger: AnyLedger) -> None:
    groups = [None, GroupOption("acme/ü 1"), None, GroupOption("7", 2_097_152)]
    given = [new(group=group, labels={"n": "1"} if n > 1 else {}) for n, group in enumerate(groups)]
    results = await ledger.accept(given)
    assert [result.delivery.group for result in results if isinstance(result, Accepted)] == groups
    last = await ledger.get(given[3].job_id)
    assert last is not None
    dead = await ended(ledger, await begun(ledger, last), DeadLettered("refused"))
    replayed = await ledger.replay(replay(dead))
    assert isinstance(replayed, Written)
    found = await ledger.some([one.job_id for one in given])
    page = await ledger.page(DeliveryFilter(), before=None, limit=9)
    assert [found[one.job_id].group for one in given] == groups
    assert {one.job_id: one.group for one in page} == {one.job_id: one.group for one in given}
    assert (found[last.job_id], found[last.job_id].status) == (replayed.delivery, Status.QUEUED)


async def test_an_accepted_delivery_is_read_as_it_was_given(ledger: AnyLedger) -> None:
    given = new(
        labels={"order": "é7", "b": ""}, deadline_s=AT_S + 60, not_before_s=AT_S + 5, priority=7, idempotency_key="k"
    )
    (result,) = await ledger.accept([given])
    history = await ledger.history(given.job_id)
    assert history is not None
    assert result == Accepted(history.delivery)
    assert history.delivery == given.first()[0]
    assert history.transitions == [given.first()[1]]
    assert (history.attempts, history.response) == ([], None)
    assert await ledger.get(given.job_id) == history.delivery


async def test_an_unknown_delivery_is_not_found(ledger: AnyLedger) -> None:
    assert await ledger.get("nothing") is None
    assert await ledger.history("nothing") is None
    assert await ledger.some(["nothing"]) == {}
    assert await ledger.cancel(Cancel(job_id="nothing", by="x", at_s=AT_S)) == Refused(None)


async def test_accepting_the_same_job_again_changes_nothing(ledger: AnyLedger) -> None:
    given = new(idempotency_key="k")
    first = await ledger.accept([given])
    assert await ledger.accept([given]) == first
    history = await ledger.history(given.job_id)
    assert history is not None
    assert len(history.transitions) == 1


async def test_a_key_belongs_to_the_first_of_its_target(ledger: AnyLedger) -> None:
    first = new(idempotency_key="k", fingerprint=b"1")
    results = await ledger.accept(
        [first, new(idempotency_key="k", fingerprint=b"2"), new("email", idempotency_key="k"), new(), new()]
    )
    assert [type(result) for result in results] == [Accepted, Duplicate, Accepted, Accepted, Accepted]
    assert results[1] == Duplicate(first.first()[0], b"1")
    one = await begun(ledger, first.first()[0])
    (later,) = await ledger.accept([new(idempotency_key="k", fingerprint=b"3")])
    assert later == Duplicate(one, b"1")


async def test_of_many_concurrent_deliveries_with_one_key_one_is_accepted(ledger: AnyLedger) -> None:
    many = [new(idempotency_key="k", fingerprint=os.urandom(4)) for _ in range(40)]
    results = [
        result for results in await asyncio.gather(*(ledger.accept([one]) for one in many)) for result in results
    ]
    (first,) = (result.delivery for result in results if isinstance(result, Accepted))
    duplicates = [result for result in results if isinstance(result, Duplicate)]
    assert len(duplicates) == 39
    assert {one.delivery.job_id for one in duplicates} == {first.job_id}
    assert len(await ledger.page(DeliveryFilter(), before=None, limit=100)) == 1


async def test_a_thousand_deliveries_at_once_are_all_accepted(ledger: AnyLedger) -> None:
    many = [new(labels={"n": str(n)}) for n in range(1000)]
    assert all(isinstance(result, Accepted) for result in await ledger.accept(many))
    assert len(await ledger.some([one.job_id for one in many])) == 1000


# attempts


async def test_an_attempt_gets_the_envelope_as_it_was_given(ledger: AnyLedger) -> None:
    envelope = Envelope(
        method="PUT", path="/a%2Fb?c", headers=(("X-A", "1"), ("x-a", "é")), content=Inline(bytes(range(256)))
    )
    one = await accepted(ledger, envelope=envelope)
    result = await ledger.begin(begin_of(one))
    assert isinstance(result, Begun)
    assert result.envelope == envelope
    assert result.delivery == await ledger.get(one.job_id)
    assert await ledger.begin(begin_of(one)) == result  # the same call again


async def test_the_whole_history_is_kept_in_order(ledger: AnyLedger) -> None:
    one = await accepted(ledger)
    one = await ended(ledger, await begun(ledger, one), RetryAt(AT_S + 4), error="HTTP 503", response=RESPONSE)
    one = await ended(ledger, await begun(ledger, one, "u"), DeadLettered("HTTP 400"), error="HTTP 400")
    assert isinstance(await ledger.replay(replay(one)), Written)
    one = await ended(ledger, await begun(ledger, one, "v"), Delivered())
    history = await ledger.history(one.job_id)
    assert history is not None
    assert history.delivery == one
    assert faults(history.transitions) == []
    assert [(step.to, step.attempt) for step in history.transitions] == [
        ("queued", None), ("dispatching", 1), ("retrying", 1), ("dispatching", 2), ("dead_lettered", 2),
        ("queued", None), ("dispatching", 3), ("delivered", 3),
    ]  # fmt: skip
    assert [attempt.number for attempt in history.attempts] == [1, 2, 3]
    assert history.response == RESPONSE
    assert (one.attempts_made, one.attempts_begun, one.status) == (1, 3, Status.DELIVERED)


async def test_an_end_that_is_reported_twice_is_recorded_once(ledger: AnyLedger) -> None:
    one = await begun(ledger, await accepted(ledger))
    assert await ledger.end(end_of(one, RetryAt(AT_S + 4))) == await ledger.end(end_of(one, RetryAt(AT_S + 4)))
    history = await ledger.history(one.job_id)
    assert history is not None
    assert len(history.attempts) == 1
    assert faults(history.transitions) == []


async def test_an_end_that_knows_its_delivery_as_it_was_begun_is_decided_on_the_delivery_as_it_is(
    ledger: AnyLedger,
) -> None:
    """Among ends, begins and cancels that are committed together."""
    some = [await begun(ledger, await accepted(ledger)) for _ in range(5)]
    taken_over = await begun(ledger, some[1], "another")
    cancelled = await ledger.cancel(cancel(some[2]))
    async with asyncio.TaskGroup() as tasks:
        ends = [
            tasks.create_task(ledger.end(end_of(one, Delivered(), begun=one, response=RESPONSE))) for one in some[:4]
        ]
        both = [tasks.create_task(ledger.cancel(cancel(some[3]))), tasks.create_task(begun(ledger, some[4], "again"))]
    assert (ends[1].result(), ends[2].result()) == (Refused(taken_over), cancelled)
    there = await ledger.some([one.job_id for one in some])
    assert there[some[0].job_id].status is Status.DELIVERED
    assert there[some[3].job_id].status in {Status.DELIVERED, Status.CANCELLED}
    assert there[some[4].job_id] == both[1].result()
    for one in some:
        history = await ledger.history(one.job_id)
        assert history is not None
        assert faults(history.transitions) == []
        assert (history.response is not None) == (history.delivery.status is Status.DELIVERED)


async def test_a_begin_with_another_token_takes_over(ledger: AnyLedger) -> None:
    first = await begun(ledger, await accepted(ledger))
    second = await begun(ledger, first, "u")
    assert await ledger.end(end_of(first, Delivered())) == Refused(second)
    assert (await ended(ledger, second, Delivered())).status is Status.DELIVERED
    history = await ledger.history(first.job_id)
    assert history is not None
    assert [attempt.outcome for attempt in history.attempts] == [AttemptOutcome.LOST, AttemptOutcome.ANSWERED]
    assert faults(history.transitions) == []


async def test_an_outcome_that_a_newer_version_has_written_is_read_as_it_is(ledger: AnyLedger) -> None:
    one = await begun(ledger, await accepted(ledger))
    await ended(ledger, one, RetryAt(AT_S + 4), outcome="lost_by_a_pigeon")
    again = await begun(ledger, one, "u", AT_S + 5)
    await ended(ledger, again, Delivered())
    history = await ledger.history(one.job_id)
    assert history is not None
    assert [attempt.outcome for attempt in history.attempts] == ["lost_by_a_pigeon", "answered"]
    assert [found.status for found in await ledger.page(DeliveryFilter(), before=None, limit=10)] == [Status.DELIVERED]


async def test_of_many_concurrent_begins_the_last_one_wins(ledger: AnyLedger) -> None:
    one = await accepted(ledger)
    results = await asyncio.gather(*(ledger.begin(begin_of(one, str(n))) for n in range(20)))
    last = await ledger.get(one.job_id)
    assert last is not None
    assert last.attempts_begun == 20
    assert sorted(result.delivery.attempts_begun for result in results if isinstance(result, Begun)) == [*range(1, 21)]
    history = await ledger.history(one.job_id)
    assert history is not None
    assert faults(history.transitions) == []


async def test_a_begin_after_the_deadline_makes_a_dead_letter(ledger: AnyLedger) -> None:
    one = await accepted(ledger, deadline_s=AT_S + 1)
    result = await ledger.begin(begin_of(one))
    assert result == Refused(await ledger.get(one.job_id))
    assert result.delivery is not None
    assert (result.delivery.status, result.delivery.reason) == (Status.DEAD_LETTERED, "deadline")


async def test_an_offloaded_response_is_kept_by_its_name(ledger: AnyLedger) -> None:
    response = type(RESPONSE)(status=200, content=Stored("r/1", 9), truncated=True)
    one = await finished(ledger, Delivered(), envelope=Envelope(content=Stored("e/1", 7)), response=response)
    history = await ledger.history(one.job_id)
    assert history is not None
    assert history.response == response
    assert sorted(await ledger.blobs([one.job_id, "nothing"])) == ["e/1", "r/1"]


async def test_texts_that_a_database_refuses_are_cleaned(ledger: AnyLedger) -> None:
    one = await finished(ledger, DeadLettered("a\x00b"), error="\x00\ud800 'quoted' é")
    assert (one.reason, one.last_error) == ("a\ufffdb", "\ufffd? 'quoted' é")
    assert await ledger.get(one.job_id) == one


async def test_the_true_end_of_an_attempt_that_was_recorded_as_lost_is_recorded(ledger: AnyLedger) -> None:
    one = await ended(ledger, await begun(ledger, await accepted(ledger), "first"), RetryAt(AT_S + 3))
    running = await begun(ledger, one, "second", AT_S + 4)
    lose = Lose(job_id=one.job_id, number=2, by="recoverer", at_s=AT_S + 99)
    assert isinstance(await ledger.lose(lose), Written)
    done = await ended(ledger, running, Delivered(), at_s=AT_S + 100, response=RESPONSE)
    assert (done.status, done.attempts_made) == (Status.DELIVERED, 2)
    history = await ledger.history(one.job_id)
    assert history is not None
    assert faults(history.transitions) == []
    assert [step.to.value for step in history.transitions][-3:] == ["retrying", "dispatching", "delivered"]
    assert [(a.number, a.outcome, a.status_code) for a in history.attempts] == [
        (1, "answered", 200),
        (2, "answered", 200),
    ]
    assert history.response == RESPONSE
    assert await ended(ledger, running, Delivered(), at_s=AT_S + 100) == done


async def test_a_loss_and_the_true_end_at_once_leave_the_true_end(ledger: AnyLedger) -> None:
    some = [await begun(ledger, await accepted(ledger)) for _ in range(10)]
    async with asyncio.TaskGroup() as tasks:
        for one in some:
            tasks.create_task(ledger.lose(Lose(job_id=one.job_id, number=1, by="recoverer", at_s=AT_S + 99)))
            tasks.create_task(ledger.end(end_of(one, Delivered())))
    for one in some:
        history = await ledger.history(one.job_id)
        assert history is not None
        assert faults(history.transitions) == []
        assert history.delivery.status is Status.DELIVERED
        assert [(attempt.number, str(attempt.outcome)) for attempt in history.attempts] == [(1, "answered")]


# cancelling, replaying, expiring, losing


async def test_cancelling_wins_over_a_running_attempt(ledger: AnyLedger) -> None:
    one = await begun(ledger, await accepted(ledger))
    result = await ledger.cancel(cancel(one))
    assert isinstance(result, Written)
    assert result.delivery.status is Status.CANCELLED
    assert await ledger.end(end_of(one, Delivered(), response=RESPONSE)) == result
    assert await ledger.cancel(cancel(one)) == Refused(result.delivery)
    assert await ledger.begin(begin_of(one, "u")) == Refused(result.delivery)


async def test_an_end_and_a_cancel_at_once_leave_one_of_the_two(ledger: AnyLedger) -> None:
    for _ in range(10):
        one = await begun(ledger, await accepted(ledger))
        end, cancelled = await asyncio.gather(ledger.end(end_of(one, Delivered())), ledger.cancel(cancel(one)))
        now = await ledger.get(one.job_id)
        assert now is not None
        assert end == Written(now)
        assert cancelled == (Written(now) if now.status is Status.CANCELLED else Refused(now))


async def test_only_a_dead_letter_is_replayed(ledger: AnyLedger) -> None:
    one = await accepted(ledger)
    assert await ledger.replay(replay(one)) == Refused(one)
    dead = await finished(ledger, DeadLettered("no"))
    result = await ledger.replay(replay(dead))
    assert isinstance(result, Written)
    assert (result.delivery.status, result.delivery.attempts_made) == (Status.QUEUED, 0)


async def test_only_deliveries_that_wait_past_their_deadline_expire(ledger: AnyLedger) -> None:
    over = await accepted(ledger, deadline_s=AT_S + 5, not_before_s=AT_S + 100)
    later = await accepted(ledger, deadline_s=AT_S + 6)
    running = await begun(ledger, await accepted(ledger, deadline_s=AT_S + 5))
    assert ids(await ledger.expired(AT_S + 5, 10)) == [over.job_id]
    results = [await ledger.expire(Expire(job_id=one.job_id, by="r", at_s=AT_S + 5)) for one in (over, later, running)]
    assert [type(result) for result in results] == [Written, Refused, Refused]
    assert await ledger.expired(AT_S + 5, 10) == []


async def test_an_attempt_whose_lease_is_over_is_lost(ledger: AnyLedger) -> None:
    one = await begun(ledger, await accepted(ledger), at_s=AT_S)
    other = await begun(ledger, await accepted(ledger), at_s=AT_S + 100)
    await accepted(ledger)
    assert await ledger.overrun(AT_S + 29, 10) == []
    assert ids(await ledger.overrun(AT_S + 30, 10)) == [one.job_id]
    assert isinstance(await ledger.lose(Lose(job_id=other.job_id, number=1, by="r", at_s=AT_S + 31)), Refused)
    assert isinstance(await ledger.lose(Lose(job_id=one.job_id, number=2, by="r", at_s=AT_S + 31)), Refused)
    lost = await ledger.lose(Lose(job_id=one.job_id, number=1, by="r", at_s=AT_S + 31))
    assert isinstance(lost, Written)
    assert lost.delivery.status is Status.QUEUED
    assert await ledger.overrun(AT_S + 31, 10) == []
