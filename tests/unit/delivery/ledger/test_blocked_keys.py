"""Keys that were held a moment ago."""

import uuid

from toril.delivery.ledger.blocked_keys import BlockedKeys
from toril.delivery.rules.delivery import Envelope, NewDelivery


def new(target: str = "billing", idempotency_key: str | None = None) -> NewDelivery:
    """A delivery to accept."""
    return NewDelivery(
        job_id=str(uuid.uuid4()),
        target=target,
        envelope=Envelope(),
        at_s=0.0,
        max_attempts=1,
        by="test",
        idempotency_key=idempotency_key,
    )


def test_a_key_is_remembered_for_a_minute_and_for_its_target() -> None:
    blocked = BlockedKeys()
    held, other = new(idempotency_key="k"), new(idempotency_key="other")
    elsewhere, keyless = new("email", idempotency_key="k"), new()
    assert blocked.among([held], 0.0) == set()
    blocked.note(held, 100.0)
    again = new(idempotency_key="k")
    assert blocked.among([again, other, elsewhere, keyless], 159.0) == {again.job_id}
    assert blocked.among([again], 160.0) == set()


def test_a_full_memory_forgets_what_is_over_and_takes_no_more() -> None:
    blocked = BlockedKeys()
    for number in range(10_000):
        blocked.note(new(idempotency_key=str(number)), 0.0)
    late = new(idempotency_key="late")
    blocked.note(late, 1.0)
    assert blocked.among([late], 2.0) == set()
    blocked.note(late, 61.0)
    assert blocked.among([late], 62.0) == {late.job_id}
