"""What a change makes of a delivery: for every ledger the same, decided without one."""

import uuid

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from toril.core.delivery import (
    DEADLINE,
    Attempt,
    AttemptOutcome,
    Begin,
    Cancel,
    Change,
    DeadLettered,
    Decision,
    Delivered,
    Delivery,
    End,
    Envelope,
    Expire,
    Lose,
    NewDelivery,
    PutBack,
    Refused,
    Replay,
    RetryAt,
    Settlement,
    Written,
    clean,
    decide,
    new_job_id,
)
from toril.core.lifecycle import Status, Transition, faults

AT_S = 1_700_000_000.0


def accepted(**more: object) -> Delivery:
    new = NewDelivery(job_id="j", target="billing", envelope=Envelope(), at_s=AT_S, max_attempts=3, by="gateway")
    return msgspec.structs.replace(new, **more).first()[0]


def begin(token: str = "t", at_s: float = AT_S + 1, lease_s: float = 30.0) -> Begin:
    return Begin(job_id="j", token=token, by="worker", at_s=at_s, lease_until_s=at_s + lease_s)


def end(settlement: Settlement, number: int = 1, at_s: float = AT_S + 2, error: str | None = None) -> End:
    return End(
        job_id="j", number=number, by="worker", at_s=at_s, settlement=settlement, outcome=AttemptOutcome.ANSWERED,
        duration_s=0.5, status_code=200, error=error,
    )  # fmt: skip


def after(change: Change, delivery: Delivery) -> Delivery:
    decided = decide(change, delivery)
    assert isinstance(decided, Decision), decided
    return decided.delivery


def dispatching(token: str = "t") -> Delivery:
    return after(begin(token), accepted())


def test_an_attempt_begins_and_has_a_number_and_a_lease() -> None:
    decided = decide(begin(), accepted())
    assert isinstance(decided, Decision)
    assert decided.delivery.status is Status.DISPATCHING
    assert (decided.delivery.attempts_begun, decided.delivery.attempts_made) == (1, 0)
    assert decided.delivery.lease_until_s == AT_S + 31
    assert [(step.source, step.to, step.attempt) for step in decided.transitions] == [
        (Status.QUEUED, Status.DISPATCHING, 1)
    ]


def test_beginning_again_with_the_same_token_changes_nothing() -> None:
    assert decide(begin("t", AT_S + 9), dispatching("t")) == Written(dispatching("t"))


def test_beginning_with_another_token_takes_the_attempt_under_way_for_lost_and_spends_none() -> None:
    decided = decide(begin("other", AT_S + 5), dispatching("t"))
    assert isinstance(decided, Decision)
    assert [(step.source, step.to) for step in decided.transitions] == [
        (Status.DISPATCHING, Status.QUEUED),
        (Status.QUEUED, Status.DISPATCHING),
    ]
    assert [(attempt.number, attempt.outcome) for attempt in decided.attempts] == [(1, AttemptOutcome.LOST)]
    assert (decided.delivery.attempts_begun, decided.delivery.attempts_made) == (2, 0)


def test_what_is_over_does_not_begin() -> None:
    cancelled = after(Cancel(job_id="j", by="x", at_s=AT_S), accepted())
    assert decide(begin(), cancelled) == Refused(cancelled)


def test_a_deadline_that_is_over_is_a_dead_letter_instead_of_an_attempt() -> None:
    over = after(begin(at_s=AT_S + 10), accepted(deadline_s=AT_S + 10))
    assert (over.status, over.reason, over.last_error) == (Status.DEAD_LETTERED, DEADLINE, DEADLINE)
    assert over.attempts_begun == 0


def test_a_delivered_attempt_is_spent_and_finished() -> None:
    decided = decide(end(Delivered()), dispatching())
    assert isinstance(decided, Decision)
    assert (decided.delivery.status, decided.delivery.attempts_made) == (Status.DELIVERED, 1)
    assert decided.delivery.finished_at_s == AT_S + 2
    assert decided.attempts == (
        Attempt(
            number=1, started_at_s=AT_S + 1, duration_s=0.5, outcome=AttemptOutcome.ANSWERED, status_code=200
        ),
    )  # fmt: skip


def test_a_retry_waits_until_its_time_and_keeps_the_error() -> None:
    retrying = after(end(RetryAt(AT_S + 60), error="HTTP 503"), dispatching())
    assert (retrying.status, retrying.next_attempt_at_s) == (Status.RETRYING, AT_S + 60)
    assert (retrying.attempts_made, retrying.last_error) == (1, "HTTP 503")
    delivered = after(end(Delivered(), 2), after(begin("u"), retrying))
    assert (delivered.last_error, delivered.attempts_made) == ("HTTP 503", 2)


def test_a_snooze_spends_nothing_and_goes_back_to_where_it_was() -> None:
    assert after(end(PutBack(AT_S + 9)), dispatching()).status is Status.QUEUED
    retrying = after(begin("u"), after(end(RetryAt(AT_S)), dispatching()))
    back = after(end(PutBack(AT_S + 9), 2), retrying)
    assert (back.status, back.attempts_made, back.next_attempt_at_s) == (Status.RETRYING, 1, AT_S + 9)


def test_an_end_that_was_recorded_is_not_recorded_twice() -> None:
    for settlement in (Delivered(), RetryAt(AT_S + 5), DeadLettered("no"), PutBack(AT_S + 5)):
        once = after(end(settlement), dispatching())
        assert decide(end(settlement), once) == Written(once)


def test_what_was_cancelled_meanwhile_stays_so_and_its_attempt_ended_with_it() -> None:
    decided = decide(Cancel(job_id="j", by="somebody", at_s=AT_S + 4), dispatching())
    assert isinstance(decided, Decision)
    assert [(one.outcome, one.duration_s) for one in decided.attempts] == [(AttemptOutcome.CANCELLED, 3.0)]
    assert decide(end(Delivered()), decided.delivery) == Written(decided.delivery)


LOSE = Lose(job_id="j", number=1, by="recoverer", at_s=AT_S + 31)


def test_an_attempt_that_was_taken_for_lost_writes_nothing_once_another_has_begun() -> None:
    lost = after(LOSE, dispatching())
    assert lost.status is Status.QUEUED
    again = after(begin("u"), lost)
    assert decide(end(Delivered(), 1), again) == Refused(again)


def test_an_attempt_that_was_taken_for_lost_ends_as_it_did_while_it_is_the_newest() -> None:
    lost = after(LOSE, dispatching())
    decided = decide(end(Delivered(), at_s=AT_S + 40), lost)
    assert isinstance(decided, Decision)
    steps = [(step.source, step.to, step.attempt) for step in decided.transitions]
    assert steps == [(Status.QUEUED, Status.DISPATCHING, 1), (Status.DISPATCHING, Status.DELIVERED, 1)]
    assert [step.seq for step in decided.transitions] == [lost.seq + 1, lost.seq + 2]
    (attempt,) = decided.attempts
    assert (attempt.number, attempt.outcome, attempt.duration_s) == (1, AttemptOutcome.ANSWERED, 0.5)
    done = decided.delivery
    assert (done.status, done.attempts_made, done.attempts_begun) == (Status.DELIVERED, 1, 1)
    assert decide(end(Delivered(), at_s=AT_S + 41), done) == Written(done)


def test_a_late_end_that_is_told_twice_is_recorded_once_whatever_it_was() -> None:
    lost = after(LOSE, dispatching())
    for settlement in (RetryAt(AT_S + 60), PutBack(), DeadLettered("no")):
        done = after(end(settlement), lost)
        assert decide(end(settlement), done) == Written(done)
        assert done.next_attempt_at_s == (AT_S + 60 if isinstance(settlement, RetryAt) else None)


def test_what_was_cancelled_or_given_up_since_it_was_taken_for_lost_stays_so() -> None:
    for change in (Cancel(job_id="j", by="x", at_s=AT_S + 32), Expire(job_id="j", by="x", at_s=AT_S + 32)):
        over = after(change, after(LOSE, msgspec.structs.replace(dispatching(), deadline_s=AT_S + 32)))
        assert decide(end(Delivered()), over) == Refused(over)


def test_a_lease_that_still_lives_is_not_lost() -> None:
    assert decide(Lose(job_id="j", number=1, by="r", at_s=AT_S + 30), dispatching()) == Refused(dispatching())


def test_a_replay_has_a_fresh_budget_and_numbers_that_go_on() -> None:
    dead = after(end(DeadLettered("HTTP 400")), dispatching())
    replayed = after(Replay(job_id="j", by="ops", at_s=AT_S + 100), dead)
    assert (replayed.status, replayed.attempts_made, replayed.attempts_begun) == (Status.QUEUED, 0, 1)
    assert (replayed.reason, replayed.finished_at_s) == (None, None)
    assert after(begin("u", AT_S + 101), replayed).attempts_begun == 2
    assert decide(Replay(job_id="j", by="ops", at_s=AT_S), replayed) == Refused(replayed)


def test_a_replay_is_not_sent_back_by_the_deadline_that_made_it_a_dead_letter() -> None:
    dead = after(Expire(job_id="j", by="r", at_s=AT_S + 10), accepted(deadline_s=AT_S + 10))
    assert after(Replay(job_id="j", by="ops", at_s=AT_S + 20), dead).deadline_s is None


def test_only_what_waits_and_is_over_expires() -> None:
    waiting = accepted(deadline_s=AT_S + 10)
    assert decide(Expire(job_id="j", by="r", at_s=AT_S + 9), waiting) == Refused(waiting)
    running = after(begin(), waiting)
    assert decide(Expire(job_id="j", by="r", at_s=AT_S + 11), running) == Refused(running)


def test_texts_are_made_such_that_every_store_holds_them() -> None:
    assert clean("a\x00b\ud800c") == "a\ufffdb?c"
    assert clean(None) is None


@given(st.floats(0, 2**33), st.binary(min_size=10, max_size=10), st.floats(0.002, 10**6))
def test_ids_are_uuids_that_sort_by_time(at_s: float, entropy: bytes, later_s: float) -> None:
    job_id = new_job_id(at_s, entropy)
    assert uuid.UUID(job_id).version == 7
    assert job_id < new_job_id(at_s + later_s, bytes(10))


changes = st.one_of(
    st.builds(begin, st.sampled_from("tuv"), st.floats(AT_S, AT_S + 100)),
    st.builds(
        end,
        st.one_of(
            st.just(Delivered()), st.just(DeadLettered("no")), st.builds(RetryAt, st.just(AT_S)), st.just(PutBack())
        ),
        st.integers(0, 5),
        st.floats(AT_S, AT_S + 100),
    ),
    *(
        st.builds(kind, job_id=st.just("j"), by=st.just("x"), at_s=st.floats(AT_S, AT_S + 100))
        for kind in (Cancel, Replay, Expire)
    ),
    st.builds(Lose, job_id=st.just("j"), number=st.integers(0, 5), by=st.just("x"), at_s=st.floats(AT_S, AT_S + 100)),
)


@given(st.lists(changes, max_size=40), st.one_of(st.none(), st.floats(AT_S, AT_S + 100)))
def test_no_changes_in_any_order_make_a_history_that_is_not_legal(some: list[Change], deadline_s: float | None) -> None:
    new = NewDelivery(
        job_id="j", target="t", envelope=Envelope(), at_s=AT_S, max_attempts=3, by="g", deadline_s=deadline_s
    )
    delivery, first = new.first()
    history: list[Transition] = [first]
    attempts: dict[int, Attempt] = {}
    for change in some:
        decided = decide(change, delivery)
        if isinstance(decided, Decision):
            delivery = decided.delivery
            history.extend(decided.transitions)
            attempts |= {attempt.number: attempt for attempt in decided.attempts}
            assert decide(change, delivery) != decided  # once written, the same call writes nothing of its own again
        else:
            assert decided.delivery == delivery
        assert faults(history) == []
        assert (delivery.seq, delivery.status) == (history[-1].seq, history[-1].to)
        assert list(attempts) == list(range(1, len(attempts) + 1))
        assert len(attempts) == delivery.attempts_begun - (delivery.status is Status.DISPATCHING)
        assert delivery.attempts_made <= delivery.attempts_begun
