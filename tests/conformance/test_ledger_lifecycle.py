"""Every ledger makes the transitions of `lifecycle.NEXT` and no other, and decides as the rules do."""

import asyncio
import random
from collections.abc import Callable, Sequence

import pytest

from tests.conformance.ledgers import AT_S, begin_of, end_of, new
from toril.delivery.ports import AnyLedger
from toril.delivery.rules.changes import (
    Accepted,
    Begin,
    Begun,
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
from toril.delivery.rules.decisions import Decision, begun, decide, written
from toril.delivery.rules.delivery import AttemptOutcome, AttemptRecord, Delivery, NewDelivery
from toril.delivery.rules.lifecycle import NEXT, Status, Transition, faults, may_follow

CHANGES = 40
DELIVERIES = 60


async def write(ledger: AnyLedger, change: Change) -> Begun | Written | Refused:
    match change:
        case Begin():
            return await ledger.begin(change)
        case End():
            return await ledger.end(change)
        case Cancel():
            return await ledger.cancel(change)
        case Replay():
            return await ledger.replay(change)
        case Expire():
            return await ledger.expire(change)
        case Lose():
            return await ledger.lose(change)


def cancel(one: Delivery) -> Change:
    return Cancel(job_id=one.job_id, by="caller", at_s=AT_S + 5)


def replay(one: Delivery) -> Change:
    return Replay(job_id=one.job_id, by="operator", at_s=AT_S + 5, new_key=True)


def expire(one: Delivery) -> Change:
    return Expire(job_id=one.job_id, by="recoverer", at_s=AT_S + 1000)


def lose(one: Delivery) -> Change:
    return Lose(job_id=one.job_id, number=one.attempts_begun, by="recoverer", at_s=AT_S + 1000)


PATHS: dict[Status, list[Callable[[Delivery], Change]]] = {
    Status.QUEUED: [],
    Status.DISPATCHING: [begin_of],
    Status.RETRYING: [begin_of, lambda one: end_of(one, RetryAt(AT_S + 60))],
    Status.DELIVERED: [begin_of, lambda one: end_of(one, Delivered())],
    Status.DEAD_LETTERED: [begin_of, lambda one: end_of(one, DeadLettered("attempts"))],
    Status.CANCELLED: [cancel],
}
"""How a delivery gets into each state."""

STEPS: dict[str, tuple[Status, Callable[[Delivery], Change]]] = {
    "begin": (Status.DISPATCHING, lambda one: begin_of(one, "another", AT_S + 5)),
    "deliver": (Status.DELIVERED, lambda one: end_of(one, Delivered(), number=one.attempts_begun + 1)),
    "cancel": (Status.CANCELLED, cancel),
    "replay": (Status.QUEUED, replay),
    "expire": (Status.DEAD_LETTERED, expire),
    "lose": (Status.QUEUED, lose),
}
"""Each change, and the state that it is to bring about. The end is one of an attempt that never began."""


# An attempt that another worker takes over is lost first, so beginning it again is no refusal.
REFUSED = [
    (status, step)
    for status in Status
    for step, (to, _) in STEPS.items()
    if step == "deliver" or (not may_follow(status, to) and (status, step) != (Status.DISPATCHING, "begin"))
]


@pytest.mark.parametrize(("status", "step"), REFUSED)
async def test_an_illegal_transition_is_refused_and_changes_nothing(
    ledger: AnyLedger, status: Status, step: str
) -> None:
    _, change_of = STEPS[step]
    given = new(deadline_s=AT_S + 900)
    (result,) = await ledger.accept([given])
    assert isinstance(result, Accepted)
    one = result.delivery
    for path in PATHS[status]:
        moved = await write(ledger, path(one))
        assert isinstance(moved, Begun | Written)
        one = moved.delivery
    assert one.status is status
    before = await ledger.history(one.job_id)
    assert await write(ledger, change_of(one)) == Refused(one)
    assert await ledger.history(one.job_id) == before


def some_change(chance: random.Random, one: Delivery, before: Sequence[Delivery] = ()) -> Change:
    """Any change, at any time, by anyone, of the attempt under way or of another one. An end may know the delivery as
    it is now, or as it was before.
    """
    at_s = AT_S + chance.uniform(0, 200)
    number = max(0, one.attempts_begun + chance.choice([0, 0, 0, -1, 1]))
    given = {"job_id": one.job_id, "by": chance.choice(["one", "two"]), "at_s": at_s}
    results = [Delivered(), RetryAt(at_s + 60), DeadLettered("refused"), PutBack(at_s + 5, "away"), PutBack()]
    return chance.choice(
        [
            Begin(token=chance.choice(["a", "b", "c"]), lease_until_s=at_s + chance.uniform(0, 60), **given),
            End(
                number=number,
                result=chance.choice(results),
                outcome=chance.choice(list(AttemptOutcome)),
                duration_s=0.5,
                error=chance.choice([None, "HTTP 503"]),
                begun=chance.choice([None, one, *before[-3:]]),
                **given,
            ),
            End(number=number, result=RetryAt(at_s), outcome=AttemptOutcome.TIMEOUT, duration_s=0.5, **given),
            Cancel(**given) if chance.random() < 0.2 else Lose(number=number, **given),
            Replay(**given),
            Expire(**given),
            Lose(number=number, **given),
        ]
    )


@pytest.mark.parametrize("seed", range(4))
async def test_any_changes_in_any_order_are_decided_as_the_rules_decide_them(ledger: AnyLedger, seed: int) -> None:
    chance = random.Random(seed)
    some = [new(deadline_s=chance.choice([None, AT_S + 100]), max_attempts=3) for _ in range(DELIVERIES)]
    await ledger.accept(some)
    async with asyncio.TaskGroup() as tasks:
        for given in some:
            tasks.create_task(live(ledger, given, random.Random(chance.random())))


async def live(ledger: AnyLedger, given: NewDelivery, chance: random.Random) -> None:
    """Take a delivery through changes, with the rules beside it."""
    expected, first = given.first()
    steps: list[Transition] = [first]
    attempts: dict[int, AttemptRecord] = {}
    before: list[Delivery] = []
    for _ in range(CHANGES):
        change = some_change(chance, expected, before)
        decided = decide(change, expected)
        answer = begun(decided, given.envelope) if isinstance(change, Begin) else written(decided)
        assert await write(ledger, change) == answer
        if isinstance(decided, Decision):
            before.append(expected)
            expected = decided.delivery
            steps.extend(decided.transitions)
            attempts |= {attempt.number: attempt for attempt in decided.attempts}
    history = await ledger.history(given.job_id)
    assert history is not None
    assert history.delivery == expected
    assert history.transitions == steps
    assert history.attempts == [attempts[number] for number in sorted(attempts)]
    assert faults(history.transitions) == []


def test_the_random_changes_reach_every_transition_of_the_table() -> None:
    """So that the test before this one cannot pass for want of changes that matter."""
    seen: set[tuple[Status | None, Status]] = set()
    chance = random.Random(0)
    for _ in range(DELIVERIES * 4):
        one, first = new(deadline_s=chance.choice([None, AT_S + 100])).first()
        seen.add((first.source, first.to))
        for _ in range(CHANGES):
            decided = decide(some_change(chance, one), one)
            if isinstance(decided, Decision):
                one = decided.delivery
                seen.update((step.source, step.to) for step in decided.transitions)
    assert seen == {(source, to) for source, following in NEXT.items() for to in following}
