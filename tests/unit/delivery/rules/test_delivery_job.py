"""A delivery's job, and the ledger that it names."""

import pytest

from toril.delivery.rules.delivery import Envelope, NewDelivery, new_job_id
from toril.delivery.rules.delivery_job import job_of, ledger_of


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
def test_unreadable_data_names_no_ledger(data: bytes) -> None:
    # The first is a job of the version before ledgers had ids; any program may have added the others.
    assert ledger_of(data) is None


@pytest.mark.parametrize(
    ("labels", "group"),
    [
        ({"tenant": "acme"}, "acme"),
        ({"other": "acme"}, None),
        ({"tenant": ""}, None),
        ({"tenant": "a" * 257}, None),  # accepted in SQL, where nothing checks it
        ({"tenant": "a\u200bb"}, "a\u200bb"),
        ({"tenant": "a\u0085b"}, None),
        ({"tenant": ".."}, None),
    ],
)
def test_a_label_names_the_group_of_the_job(labels: dict[str, str], group: str | None) -> None:
    new = NewDelivery(
        job_id=new_job_id(5.0, bytes(10)),
        target="billing",
        envelope=Envelope(),
        at_s=5.0,
        max_attempts=3,
        by="g",
        labels=labels,
    )
    for label, named in (("tenant", group), (None, None)):
        opts = job_of(new.queued(), 5.0, "one", label).opts
        assert opts is not None
        assert opts.as_shown().get("group") == (named and {"id": named})
