"""What every ledger promises of finding deliveries again, of recovery and of retention."""

from tests.conformance.ledgers import (
    AT_S,
    accepted,
    begun,
    finished,
    new,
)
from toril.delivery.ports import AnyLedger, DeliveryFilter, TargetDepth
from toril.delivery.rules.changes import (
    Accepted,
    Cancel,
    DeadLettered,
    Delivered,
    Duplicate,
    PutBack,
    Replay,
    RetryAt,
)
from toril.delivery.rules.delivery import Delivery, Envelope, Inline
from toril.delivery.rules.lifecycle import Status


def cancel(one: Delivery) -> Cancel:
    return Cancel(job_id=one.job_id, by="somebody", at_s=AT_S + 3)


def replay(one: Delivery) -> Replay:
    return Replay(job_id=one.job_id, by="ops", at_s=AT_S + 9)


def ids(found: list[Delivery]) -> list[str]:
    return [one.job_id for one in found]


# finding again


async def test_the_newest_come_first_and_pages_do_not_overlap(ledger: AnyLedger) -> None:
    some = [(await accepted(ledger)).job_id for _ in range(5)]
    assert ids(await ledger.page(DeliveryFilter(), before=None, limit=2)) == some[:2:-1]
    assert ids(await ledger.page(DeliveryFilter(), before=some[3], limit=2)) == [some[2], some[1]]
    assert ids(await ledger.page(DeliveryFilter(), before=some[1], limit=2)) == [some[0]]
    assert await ledger.page(DeliveryFilter(), before=some[0], limit=2) == []


async def test_filters_must_all_hold(ledger: AnyLedger) -> None:
    a = await accepted(ledger, at_s=AT_S, labels={"x": "1", "y": "2"})
    b = await accepted(ledger, at_s=AT_S + 1, labels={"x": "1"})
    c = await accepted(ledger, "email", at_s=AT_S + 2, labels={"x": "2"})
    d = await finished(ledger, DeadLettered("HTTP 410: gone%"), at_s=AT_S + 3, end_s=AT_S + 50, error="HTTP 410: gone%")
    for which, expected in (
        (DeliveryFilter(), [d, c, b, a]),
        (DeliveryFilter(targets=("billing",)), [d, b, a]),
        (DeliveryFilter(targets=("billing", "email"), statuses=(Status.QUEUED,)), [c, b, a]),
        (DeliveryFilter(targets=()), []),
        (DeliveryFilter(statuses=(Status.DEAD_LETTERED, Status.CANCELLED)), [d]),
        (DeliveryFilter(labels=(("x", "1"),)), [b, a]),
        (DeliveryFilter(labels=(("x", "1"), ("y", "2"))), [a]),
        (DeliveryFilter(labels=(("x", "3"),)), []),
        (DeliveryFilter(since_s=AT_S + 1), [d, c, b]),
        (DeliveryFilter(until_s=AT_S + 1), [a]),
        (DeliveryFilter(since_s=AT_S + 1, until_s=AT_S + 3), [c, b]),
        (DeliveryFilter(by_end=True, since_s=AT_S + 50, until_s=AT_S + 51), [d]),
        (DeliveryFilter(by_end=True, since_s=AT_S + 51), []),
        (DeliveryFilter(error_contains="410: gone%"), [d]),
        (DeliveryFilter(error_contains="http"), []),
        (DeliveryFilter(reason="HTTP 410: gone%"), [d]),
        (DeliveryFilter(reason="HTTP 410"), []),
    ):
        assert ids(await ledger.page(which, before=None, limit=10)) == ids(expected), which


async def test_an_envelope_is_read_as_it_was_accepted(ledger: AnyLedger) -> None:
    envelope = Envelope(method="PUT", path="/x", headers=(("A", "1"), ("a", "2")), content=Inline(b"\0\xff"))
    one = new(envelope=envelope)
    await ledger.accept([one])
    assert await ledger.envelope(one.job_id) == envelope
    assert await ledger.envelope("nothing") is None


async def test_the_deliveries_of_a_target_are_counted_by_status(ledger: AnyLedger) -> None:
    assert await ledger.depth("billing") == TargetDepth()
    await finished(ledger, Delivered(), at_s=AT_S - 9)
    await accepted(ledger, at_s=AT_S + 2)
    await accepted(ledger, at_s=AT_S + 1)
    await begun(ledger, await accepted(ledger, at_s=AT_S + 3))
    await finished(ledger, RetryAt(AT_S), at_s=AT_S + 4)
    await finished(ledger, DeadLettered("no"), at_s=AT_S)
    await accepted(ledger, "email", at_s=AT_S)
    assert await ledger.depth("billing") == TargetDepth(
        queued=2, dispatching=1, retrying=1, dead_letters=1, oldest_s=AT_S + 1
    )
    assert await ledger.targets() == ["billing", "email"]


# recovery and retention


async def test_waiting_deliveries_that_are_due_are_found_in_order(ledger: AnyLedger) -> None:
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


async def test_finished_deliveries_are_found_by_target_status_and_time(ledger: AnyLedger) -> None:
    b = await finished(ledger, Delivered(), end_s=AT_S + 20)
    a = await finished(ledger, Delivered(), end_s=AT_S + 10)
    await finished(ledger, DeadLettered("no"), end_s=AT_S + 10)
    await finished(ledger, Delivered(), "email", end_s=AT_S + 10)
    await finished(ledger, Delivered(), end_s=AT_S + 30)
    assert ids(await ledger.finished("billing", Status.DELIVERED, AT_S + 30, 10)) == ids([a, b])
    assert ids(await ledger.finished("billing", Status.DELIVERED, AT_S + 30, 1)) == ids([a])


async def test_forgetting_removes_finished_deliveries_with_their_keys_and_no_others(ledger: AnyLedger) -> None:
    done = await finished(ledger, Delivered(), idempotency_key="k", labels={"x": "1"})
    open_one = await accepted(ledger, idempotency_key="l", labels={"x": "1"})
    for _ in range(2):
        await ledger.forget([done.job_id, open_one.job_id, "nothing"])
    assert await ledger.history(done.job_id) is None
    kept = await ledger.history(open_one.job_id)
    assert kept is not None
    assert (kept.delivery, len(kept.transitions)) == (open_one, 1)
    assert ids(await ledger.page(DeliveryFilter(labels=(("x", "1"),)), before=None, limit=9)) == [open_one.job_id]
    again, other = await ledger.accept([new(idempotency_key="k"), new(idempotency_key="l")])
    assert isinstance(again, Accepted)
    assert other == Duplicate(open_one, b"")
