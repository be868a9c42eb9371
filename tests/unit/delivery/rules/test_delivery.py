"""What a change makes of a delivery: for every ledger the same, decided without one."""

import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.delivery.rules.changes import (
    AttemptResult,
    Begin,
    Cancel,
    Change,
    DeadLettered,
    Delivered,
    End,
    Expire,
    Lose,
    PutBack,
    Refused,
    Replay,
    RetryAt,
    Written,
)
from toril.delivery.rules.decisions import DEADLINE, Decision, decide
from toril.delivery.rules.delivery import (
    AttemptOutcome,
    AttemptRecord,
    Delivery,
    Envelope,
    NewDelivery,
    clean,
    new_job_id,
)
from toril.delivery.rules.lifecycle import NEXT, Status, Transition, faults

AT_S = 1_700_000_000.0


def accepted(**more: object) -> Delivery:
    new = NewDelivery(job_id="j", target="billing", envelope=Envelope(), at_s=AT_S, max_attempts=3, by="gateway")
    return msgspec.structs.replace(new, **more).first()[0]


def begin(token: str = "t", at_s: float = AT_S + 1, lease_s: float = 30.0) -> Begin:
    return Begin(job_id="j", token=token, by="worker", at_s=at_s, lease_until_s=at_s + lease_s)


def end(result: AttemptResult, number: int = 1, at_s: float = AT_S + 2, error: str | None = None) -> End:
    return End(
        job_id="j", number=number, by="worker", at_s=at_s, result=result, outcome=AttemptOutcome.ANSWERED,
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


def test_beginning_with_another_token_loses_the_attempt_under_way_without_spending_it() -> None:
    decided = decide(begin("other", AT_S + 5), dispatching("t"))
    assert isinstance(decided, Decision)
    assert [(step.source, step.to) for step in decided.transitions] == [
        (Status.DISPATCHING, Status.QUEUED),
        (Status.QUEUED, Status.DISPATCHING),
    ]
    assert [(attempt.number, attempt.outcome) for attempt in decided.attempts] == [(1, AttemptOutcome.LOST)]
    assert (decided.delivery.attempts_begun, decided.delivery.attempts_made) == (2, 0)


def test_a_finished_delivery_begins_no_attempt() -> None:
    cancelled = after(Cancel(job_id="j", by="x", at_s=AT_S), accepted())
    assert decide(begin(), cancelled) == Refused(cancelled)


def test_after_the_deadline_a_begin_makes_a_dead_letter() -> None:
    over = after(begin(at_s=AT_S + 10), accepted(deadline_s=AT_S + 10))
    assert (over.status, over.reason, over.last_error) == (Status.DEAD_LETTERED, DEADLINE, DEADLINE)
    assert over.attempts_begun == 0


def test_a_delivered_attempt_is_spent_and_finished() -> None:
    decided = decide(end(Delivered()), dispatching())
    assert isinstance(decided, Decision)
    assert (decided.delivery.status, decided.delivery.attempts_made) == (Status.DELIVERED, 1)
    assert decided.delivery.finished_at_s == AT_S + 2
    assert decided.attempts == (
        AttemptRecord(
            number=1, started_at_s=AT_S + 1, duration_s=0.5, outcome=AttemptOutcome.ANSWERED, status_code=200
        ),
    )  # fmt: skip


def test_a_retry_waits_until_its_time_and_keeps_the_error() -> None:
    retrying = after(end(RetryAt(AT_S + 60), error="HTTP 503"), dispatching())
    assert (retrying.status, retrying.next_attempt_at_s) == (Status.RETRYING, AT_S + 60)
    assert (retrying.attempts_made, retrying.last_error) == (1, "HTTP 503")
    delivered = after(end(Delivered(), 2), after(begin("u"), retrying))
    assert (delivered.last_error, delivered.attempts_made) == ("HTTP 503", 2)


def test_a_snooze_spends_no_attempt_and_restores_the_former_state() -> None:
    assert after(end(PutBack(AT_S + 9)), dispatching()).status is Status.QUEUED
    retrying = after(begin("u"), after(end(RetryAt(AT_S)), dispatching()))
    back = after(end(PutBack(AT_S + 9), 2), retrying)
    assert (back.status, back.attempts_made, back.next_attempt_at_s) == (Status.RETRYING, 1, AT_S + 9)


def test_an_end_that_was_recorded_is_not_recorded_twice() -> None:
    for result in (Delivered(), RetryAt(AT_S + 5), DeadLettered("no"), PutBack(AT_S + 5)):
        once = after(end(result), dispatching())
        assert decide(end(result), once) == Written(once)


def test_a_delivery_that_was_cancelled_during_its_attempt_stays_cancelled() -> None:
    decided = decide(Cancel(job_id="j", by="somebody", at_s=AT_S + 4), dispatching())
    assert isinstance(decided, Decision)
    assert [(one.outcome, one.duration_s) for one in decided.attempts] == [(AttemptOutcome.CANCELLED, 3.0)]
    assert decide(end(Delivered()), decided.delivery) == Written(decided.delivery)


LOSE = Lose(job_id="j", number=1, by="recoverer", at_s=AT_S + 31)


def test_a_lost_attempt_writes_nothing_once_another_has_begun() -> None:
    lost = after(LOSE, dispatching())
    assert lost.status is Status.QUEUED
    again = after(begin("u"), lost)
    assert decide(end(Delivered(), 1), again) == Refused(again)


def test_the_true_end_of_a_lost_attempt_is_recorded_while_it_is_the_newest() -> None:
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


def test_a_late_end_that_is_reported_twice_is_recorded_once() -> None:
    lost = after(LOSE, dispatching())
    for result in (RetryAt(AT_S + 60), PutBack(), DeadLettered("no")):
        done = after(end(result), lost)
        assert decide(end(result), done) == Written(done)
        assert done.next_attempt_at_s == (AT_S + 60 if isinstance(result, RetryAt) else None)


def test_a_late_end_does_not_reopen_a_finished_delivery() -> None:
    for change in (Cancel(job_id="j", by="x", at_s=AT_S + 32), Expire(job_id="j", by="x", at_s=AT_S + 32)):
        over = after(change, after(LOSE, msgspec.structs.replace(dispatching(), deadline_s=AT_S + 32)))
        assert decide(end(Delivered()), over) == Refused(over)


def test_an_attempt_whose_lease_is_valid_is_not_lost() -> None:
    assert decide(Lose(job_id="j", number=1, by="r", at_s=AT_S + 30), dispatching()) == Refused(dispatching())


def test_a_replay_has_a_fresh_budget_and_continues_the_attempt_numbers() -> None:
    dead = after(end(DeadLettered("HTTP 400")), dispatching())
    replayed = after(Replay(job_id="j", by="ops", at_s=AT_S + 100), dead)
    assert (replayed.status, replayed.attempts_made, replayed.attempts_begun) == (Status.QUEUED, 0, 1)
    assert (replayed.reason, replayed.finished_at_s) == (None, None)
    assert after(begin("u", AT_S + 101), replayed).attempts_begun == 2
    assert decide(Replay(job_id="j", by="ops", at_s=AT_S), replayed) == Refused(replayed)


def test_a_replay_keeps_the_sent_key_or_makes_a_new_one_for_all_its_attempts() -> None:
    dead = after(end(DeadLettered("refused")), after(begin(), accepted(idempotency_key="order-7")))
    kept = after(Replay(job_id="j", by="ops", at_s=AT_S + 100), dead)
    assert (dead.sent_key, kept.sent_key) == ("order-7", "order-7")
    made = after(Replay(job_id="j", by="ops", at_s=AT_S + 100, new_key=True), dead)
    assert made.sent_key == f"j.{made.seq}"
    assert made.idempotency_key == "order-7", "the caller's key still belongs to it"
    again = after(end(RetryAt(AT_S + 200), number=2), after(begin(token="t2"), made))
    assert again.sent_key == made.sent_key
    dead = after(end(DeadLettered("refused"), number=3), after(begin(token="t3"), again))
    assert after(Replay(job_id="j", by="ops", at_s=AT_S + 300), dead).sent_key == made.sent_key
    assert after(Replay(job_id="j", by="ops", at_s=AT_S + 300, new_key=True), dead).sent_key != made.sent_key


def test_a_replay_drops_a_deadline_that_has_passed() -> None:
    dead = after(Expire(job_id="j", by="r", at_s=AT_S + 10), accepted(deadline_s=AT_S + 10))
    assert after(Replay(job_id="j", by="ops", at_s=AT_S + 20), dead).deadline_s is None


def test_only_a_waiting_delivery_past_its_deadline_expires() -> None:
    waiting = accepted(deadline_s=AT_S + 10)
    assert decide(Expire(job_id="j", by="r", at_s=AT_S + 9), waiting) == Refused(waiting)
    running = after(begin(), waiting)
    assert decide(Expire(job_id="j", by="r", at_s=AT_S + 11), running) == Refused(running)


def test_texts_are_cleaned_so_that_every_store_can_hold_them() -> None:
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
def test_changes_in_any_order_make_a_legal_history(some: list[Change], deadline_s: float | None) -> None:
    new = NewDelivery(
        job_id="j", target="t", envelope=Envelope(), at_s=AT_S, max_attempts=3, by="g", deadline_s=deadline_s
    )
    delivery, first = new.first()
    history: list[Transition] = [first]
    attempts: dict[int, AttemptRecord] = {}
    for change in some:
        decided = decide(change, delivery)
        if isinstance(decided, Decision):
            delivery = decided.delivery
            history.extend(decided.transitions)
            attempts |= {attempt.number: attempt for attempt in decided.attempts}
            assert decide(change, delivery) != decided  # once written, the same call writes nothing again
        else:
            assert decided.delivery == delivery
        assert faults(history) == []
        assert (delivery.seq, delivery.status) == (history[-1].seq, history[-1].to)
        assert list(attempts) == list(range(1, len(attempts) + 1))
        assert len(attempts) == delivery.attempts_begun - (delivery.status is Status.DISPATCHING)
        assert delivery.attempts_made <= delivery.attempts_begun


DEADLINE_S = AT_S + 50
MADE_BY: dict[tuple[Status, Status], list[Change]] = {
    (Status.QUEUED, Status.DISPATCHING): [begin()],
    (Status.QUEUED, Status.CANCELLED): [Cancel(job_id="j", by="x", at_s=AT_S + 9)],
    (Status.QUEUED, Status.DEAD_LETTERED): [Expire(job_id="j", by="x", at_s=AT_S + 99)],
    (Status.DISPATCHING, Status.DELIVERED): [begin(), end(Delivered())],
    (Status.DISPATCHING, Status.RETRYING): [begin(), end(RetryAt(AT_S + 9))],
    (Status.DISPATCHING, Status.QUEUED): [begin(), Lose(job_id="j", number=1, by="x", at_s=AT_S + 99)],
    (Status.DISPATCHING, Status.CANCELLED): [begin(), Cancel(job_id="j", by="x", at_s=AT_S + 9)],
    (Status.DISPATCHING, Status.DEAD_LETTERED): [begin(), end(DeadLettered("refused"))],
    (Status.RETRYING, Status.DISPATCHING): [begin(), end(RetryAt(AT_S + 9)), begin("u", AT_S + 10)],
    (Status.RETRYING, Status.CANCELLED): [begin(), end(RetryAt(AT_S + 9)), Cancel(job_id="j", by="x", at_s=AT_S + 9)],
    (Status.RETRYING, Status.DEAD_LETTERED): [
        begin(), end(RetryAt(AT_S + 9)), Expire(job_id="j", by="x", at_s=AT_S + 99),
    ],
    (Status.DEAD_LETTERED, Status.QUEUED): [
        begin(), end(DeadLettered("refused")), Replay(job_id="j", by="x", at_s=AT_S + 9),
    ],
}  # fmt: skip


def test_each_transition_of_the_table_has_a_change_that_makes_it() -> None:
    assert set(MADE_BY) == {(source, to) for source, following in NEXT.items() if source for to in following}


@pytest.mark.parametrize(("source", "to"), sorted(MADE_BY))
def test_a_transition_that_is_taken_out_of_the_table_is_not_made(
    monkeypatch: pytest.MonkeyPatch, source: Status, to: Status
) -> None:
    *before, last = MADE_BY[source, to]
    delivery = accepted(deadline_s=DEADLINE_S)
    for change in before:
        delivery = after(change, delivery)
    assert delivery.status is source
    assert after(last, delivery).status is to
    monkeypatch.setitem(NEXT, source, NEXT[source] - {to})  # type: ignore[arg-type]
    assert made(last, delivery) in (Refused(delivery), f"a delivery that is {source} cannot become {to}")


def made(change: Change, delivery: Delivery) -> object:
    """What is decided on a change, or what is raised."""
    try:
        return decide(change, delivery)
    except ValueError as exc:
        return str(exc)
