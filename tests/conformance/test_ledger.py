"""One suite over every ledger: accepting, attempts, cancelling, replaying, finding again, recovery, retention."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.holding import held
from tests.conformance.ledgers import (
    AT_S,
    RESPONSE,
    accepted,
    begin_of,
    begun,
    emptied,
    end_of,
    ended,
    finished,
    in_redis,
    new,
    serving,
    sqlite_path,
)
from tests.support.postgres import PostgresProcess
from toril.adapters.asyncpg_ledger import AsyncpgLedger
from toril.adapters.sqlite_ledger import SqliteLedger
from toril.core.delivery import (
    Accepted,
    AttemptOutcome,
    Begun,
    Cancel,
    DeadLettered,
    Delivered,
    Delivery,
    Duplicate,
    Envelope,
    Expire,
    Inline,
    Lose,
    PutBack,
    Refused,
    Replay,
    RetryAt,
    Stored,
    Written,
)
from toril.core.lifecycle import Status, faults
from toril.core.ports.ledger import AnyLedger, Depth, Filter
from toril.testing import FakeLedger


@pytest.fixture(scope="module")
def database(postgres: PostgresProcess) -> str:
    """A database that the tests of this module share; each finds it empty."""
    return postgres.database()


@pytest.fixture(params=["fake", "sqlite", "postgres", "pooled", "redis"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AnyLedger]:
    if request.param == "fake":
        yield FakeLedger()
        return
    if request.param == "redis":
        async for made in held(in_redis(request.getfixturevalue("valkey"))):
            yield made
        return
    if request.param == "sqlite":
        async for made in held(serving(SqliteLedger(sqlite_path(tmp_path)))):
            yield made
        return
    database = request.getfixturevalue("database")
    url = request.getfixturevalue("pgbouncer").through(database) if request.param == "pooled" else database
    async for made in held(serving(AsyncpgLedger(url))):
        await emptied(database)
        yield made


def cancel(one: Delivery) -> Cancel:
    return Cancel(job_id=one.job_id, by="somebody", at_s=AT_S + 3)


def replay(one: Delivery) -> Replay:
    return Replay(job_id=one.job_id, by="ops", at_s=AT_S + 9)


def ids(found: list[Delivery]) -> list[str]:
    return [one.job_id for one in found]


async def test_its_id_stays_the_same(ledger: AnyLedger) -> None:
    first = await ledger.identity()
    await accepted(ledger)
    await ledger.check()
    assert await ledger.identity() == first != ""


# accepting


async def test_what_is_accepted_is_there_as_it_was_given(ledger: AnyLedger) -> None:
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


async def test_nothing_is_known_of_what_was_never_accepted(ledger: AnyLedger) -> None:
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


async def test_of_many_with_one_key_at_once_one_is_accepted(ledger: AnyLedger) -> None:
    many = [new(idempotency_key="k", fingerprint=os.urandom(4)) for _ in range(40)]
    results = [
        result for results in await asyncio.gather(*(ledger.accept([one]) for one in many)) for result in results
    ]
    (first,) = (result.delivery for result in results if isinstance(result, Accepted))
    duplicates = [result for result in results if isinstance(result, Duplicate)]
    assert len(duplicates) == 39
    assert {one.delivery.job_id for one in duplicates} == {first.job_id}
    assert len(await ledger.page(Filter(), before=None, limit=100)) == 1


async def test_a_thousand_at_once_are_all_there(ledger: AnyLedger) -> None:
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


async def test_a_whole_life_is_kept_in_order(ledger: AnyLedger) -> None:
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


async def test_an_end_that_is_told_twice_is_recorded_once(ledger: AnyLedger) -> None:
    one = await begun(ledger, await accepted(ledger))
    assert await ledger.end(end_of(one, RetryAt(AT_S + 4))) == await ledger.end(end_of(one, RetryAt(AT_S + 4)))
    history = await ledger.history(one.job_id)
    assert history is not None
    assert len(history.attempts) == 1
    assert faults(history.transitions) == []


async def test_one_who_begins_with_another_token_takes_over(ledger: AnyLedger) -> None:
    first = await begun(ledger, await accepted(ledger))
    second = await begun(ledger, first, "u")
    assert await ledger.end(end_of(first, Delivered())) == Refused(second)
    assert (await ended(ledger, second, Delivered())).status is Status.DELIVERED
    history = await ledger.history(first.job_id)
    assert history is not None
    assert [attempt.outcome for attempt in history.attempts] == [AttemptOutcome.LOST, AttemptOutcome.ANSWERED]
    assert faults(history.transitions) == []


async def test_of_many_who_begin_at_once_the_last_one_has_it(ledger: AnyLedger) -> None:
    one = await accepted(ledger)
    results = await asyncio.gather(*(ledger.begin(begin_of(one, str(n))) for n in range(20)))
    last = await ledger.get(one.job_id)
    assert last is not None
    assert last.attempts_begun == 20
    assert sorted(result.delivery.attempts_begun for result in results if isinstance(result, Begun)) == [*range(1, 21)]
    history = await ledger.history(one.job_id)
    assert history is not None
    assert faults(history.transitions) == []


async def test_a_deadline_that_is_over_is_no_attempt_but_a_dead_letter(ledger: AnyLedger) -> None:
    one = await accepted(ledger, deadline_s=AT_S + 1)
    result = await ledger.begin(begin_of(one))
    assert result == Refused(await ledger.get(one.job_id))
    assert result.delivery is not None
    assert (result.delivery.status, result.delivery.reason) == (Status.DEAD_LETTERED, "deadline")


async def test_a_response_in_the_blob_store_is_kept_as_its_name(ledger: AnyLedger) -> None:
    response = type(RESPONSE)(status=200, content=Stored("r/1", 9), truncated=True)
    one = await finished(ledger, Delivered(), envelope=Envelope(content=Stored("e/1", 7)), response=response)
    history = await ledger.history(one.job_id)
    assert history is not None
    assert history.response == response
    assert sorted(await ledger.blobs([one.job_id, "nothing"])) == ["e/1", "r/1"]


async def test_texts_that_a_database_dislikes_are_kept_readable(ledger: AnyLedger) -> None:
    one = await finished(ledger, DeadLettered("a\x00b"), error="\x00\ud800 'quoted' é")
    assert (one.reason, one.last_error) == ("a\ufffdb", "\ufffd? 'quoted' é")
    assert await ledger.get(one.job_id) == one


async def test_an_attempt_that_was_taken_for_lost_is_recorded_as_it_ended(ledger: AnyLedger) -> None:
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
    assert [(a.number, a.outcome.value, a.status_code) for a in history.attempts] == [
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
        assert [(attempt.number, attempt.outcome.value) for attempt in history.attempts] == [(1, "answered")]


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


async def test_what_waits_past_its_deadline_expires_and_nothing_else_does(ledger: AnyLedger) -> None:
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


# finding again


async def test_the_newest_come_first_and_pages_do_not_overlap(ledger: AnyLedger) -> None:
    some = [(await accepted(ledger)).job_id for _ in range(5)]
    assert ids(await ledger.page(Filter(), before=None, limit=2)) == some[:2:-1]
    assert ids(await ledger.page(Filter(), before=some[3], limit=2)) == [some[2], some[1]]
    assert ids(await ledger.page(Filter(), before=some[1], limit=2)) == [some[0]]
    assert await ledger.page(Filter(), before=some[0], limit=2) == []


async def test_filters_must_all_hold(ledger: AnyLedger) -> None:
    a = await accepted(ledger, at_s=AT_S, labels={"x": "1", "y": "2"})
    b = await accepted(ledger, at_s=AT_S + 1, labels={"x": "1"})
    c = await accepted(ledger, "email", at_s=AT_S + 2, labels={"x": "2"})
    d = await finished(ledger, DeadLettered("HTTP 410: gone%"), at_s=AT_S + 3, end_s=AT_S + 50, error="HTTP 410: gone%")
    for which, expected in (
        (Filter(), [d, c, b, a]),
        (Filter(targets=("billing",)), [d, b, a]),
        (Filter(targets=("billing", "email"), statuses=(Status.QUEUED,)), [c, b, a]),
        (Filter(targets=()), []),
        (Filter(statuses=(Status.DEAD_LETTERED, Status.CANCELLED)), [d]),
        (Filter(labels=(("x", "1"),)), [b, a]),
        (Filter(labels=(("x", "1"), ("y", "2"))), [a]),
        (Filter(labels=(("x", "3"),)), []),
        (Filter(since_s=AT_S + 1), [d, c, b]),
        (Filter(until_s=AT_S + 1), [a]),
        (Filter(since_s=AT_S + 1, until_s=AT_S + 3), [c, b]),
        (Filter(by_end=True, since_s=AT_S + 50, until_s=AT_S + 51), [d]),
        (Filter(by_end=True, since_s=AT_S + 51), []),
        (Filter(error_contains="410: gone%"), [d]),
        (Filter(error_contains="http"), []),
    ):
        assert ids(await ledger.page(which, before=None, limit=10)) == ids(expected), which


async def test_what_a_target_has_in_hand_is_counted(ledger: AnyLedger) -> None:
    assert await ledger.depth("billing") == Depth()
    await finished(ledger, Delivered(), at_s=AT_S - 9)
    await accepted(ledger, at_s=AT_S + 2)
    await accepted(ledger, at_s=AT_S + 1)
    await begun(ledger, await accepted(ledger, at_s=AT_S + 3))
    await finished(ledger, RetryAt(AT_S), at_s=AT_S + 4)
    await finished(ledger, DeadLettered("no"), at_s=AT_S)
    await accepted(ledger, "email", at_s=AT_S)
    assert await ledger.depth("billing") == Depth(
        queued=2, dispatching=1, retrying=1, dead_letters=1, oldest_s=AT_S + 1
    )
    assert await ledger.targets() == ["billing", "email"]


# recovery and retention


async def test_what_waits_and_is_due_is_found_in_order(ledger: AnyLedger) -> None:
    due = await accepted(ledger)
    retrying = await finished(ledger, RetryAt(AT_S + 5))
    later = await accepted(ledger, not_before_s=AT_S + 60)
    await begun(ledger, await accepted(ledger))
    await finished(ledger, Delivered())
    await accepted(ledger, "email")
    back = await finished(ledger, PutBack(AT_S + 4))

    async def waiting(due_before_s: float, after: str | None = None, limit: int = 10) -> list[str]:
        return ids(await ledger.waiting("billing", due_before_s=due_before_s, after=after, limit=limit))

    assert await waiting(AT_S + 6) == ids([due, retrying, back])
    assert await waiting(AT_S + 5) == ids([due, back])
    assert await waiting(AT_S + 61, after=due.job_id, limit=2) == ids([retrying, later])


async def test_what_is_finished_is_found_by_target_status_and_time(ledger: AnyLedger) -> None:
    b = await finished(ledger, Delivered(), end_s=AT_S + 20)
    a = await finished(ledger, Delivered(), end_s=AT_S + 10)
    await finished(ledger, DeadLettered("no"), end_s=AT_S + 10)
    await finished(ledger, Delivered(), "email", end_s=AT_S + 10)
    await finished(ledger, Delivered(), end_s=AT_S + 30)
    assert ids(await ledger.finished("billing", Status.DELIVERED, AT_S + 30, 10)) == ids([a, b])
    assert ids(await ledger.finished("billing", Status.DELIVERED, AT_S + 30, 1)) == ids([a])


async def test_what_is_forgotten_is_gone_with_its_key_and_what_is_not_finished_stays(ledger: AnyLedger) -> None:
    done = await finished(ledger, Delivered(), idempotency_key="k", labels={"x": "1"})
    open_one = await accepted(ledger, idempotency_key="l", labels={"x": "1"})
    for _ in range(2):
        await ledger.forget([done.job_id, open_one.job_id, "nothing"])
    assert await ledger.history(done.job_id) is None
    kept = await ledger.history(open_one.job_id)
    assert kept is not None
    assert (kept.delivery, len(kept.transitions)) == (open_one, 1)
    assert ids(await ledger.page(Filter(labels=(("x", "1"),)), before=None, limit=9)) == [open_one.job_id]
    again, other = await ledger.accept([new(idempotency_key="k"), new(idempotency_key="l")])
    assert isinstance(again, Accepted)
    assert other == Duplicate(open_one, b"")
