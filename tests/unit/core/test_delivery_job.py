"""A delivery's job, and the ledger that it names."""

import pytest

from toril.core.delivery import Envelope, NewDelivery, new_job_id
from toril.core.delivery_job import job_of, ledger_of


def test_a_job_names_its_target_and_its_ledger() -> None:
    new = NewDelivery(
        job_id=new_job_id(5.0, bytes(10)), target="billing", envelope=Envelope(), at_s=5.0, max_attempts=3, by="g"
    )
    delivery, _ = new.first()
    job = job_of(delivery, 5.0, "one")
    assert bytes(job.data) == b'{"target":"billing","ledger":"one"}'
    assert ledger_of(bytes(job.data)) == "one"


@pytest.mark.parametrize(
    "data",
    [
        b'{"target":"billing"}',
        b"",
        b"[",
        b"\xff",
        b"[]",
        b'{"ledger":5}',
        b'{"ledger":""}',
        b'{"ledger":"a b"}',
        b'{"ledger":"%b"}' % (b"x" * 65),
        b'{"ledger":"\\ud800"}',
        b"[" * 100_000,
    ],
)
def test_what_names_no_ledger_names_none(data: bytes) -> None:
    # The first is a job of the version before ledgers had ids; anybody may have added the others.
    assert ledger_of(data) is None
