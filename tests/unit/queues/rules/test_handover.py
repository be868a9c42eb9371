import pytest

from toril.core.lease import MAX_LOCK_MS
from toril.core.outcome import Answered
from toril.core.verdict import HandOver
from toril.queues.rules.handover import DEFAULT_LEASE_MS, read_handover


def answer(*headers: tuple[bytes, bytes], status: int = 202) -> Answered:
    return Answered(status, "Accepted", list(headers), b"", 0.01)


LATER = (b"Toril-Settle", b"later")


def test_an_answer_with_toril_settle_later_takes_the_job_over() -> None:
    assert read_handover(answer(LATER)) == HandOver(30_000)
    assert read_handover(answer((b"toril-settle", b" LATER "))) == HandOver(30_000)
    assert read_handover(answer(LATER, (b"Toril-Lease-Ms", b"600000"))) == HandOver(600_000)
    assert read_handover(answer(LATER, (b"toril-lease-ms", b" 1000 "))) == HandOver(1000)


@pytest.mark.parametrize(
    "other",
    [
        answer(),
        answer((b"toril-settle", b"now")),
        answer((b"toril-settle", b"")),
        answer((b"toril-lease-ms", b"600000")),
        answer(LATER, status=200),
        answer(LATER, status=503),
    ],
)
def test_any_other_answer_does_not_take_the_job_over(other: Answered) -> None:
    assert read_handover(other) is None


@pytest.mark.parametrize("length", [b"", b"0", b"999", b"-1", b"1.5e4", b"30s", b"%d" % (MAX_LOCK_MS + 1), b"9" * 40])
def test_an_invalid_lease_length_is_ignored_and_reported(length: bytes) -> None:
    found = read_handover(answer(LATER, (b"toril-lease-ms", length)))
    assert found is not None
    assert found.lock_ms == DEFAULT_LEASE_MS
    assert found.reason is not None
    assert found.reason.startswith("toril-lease-ms was ignored")
