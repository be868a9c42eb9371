"""The loss test, its short version: `benchmarks/loss.py` says what is done to whom, and what must hold."""

import pytest
from benchmarks.loss import run


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_nothing_accepted_is_lost_whatever_dies() -> None:
    account = run(1000, kills=8, per_s=100.0, seed=20, patience_s=120.0)
    report = "\n".join(account.lines())
    print(report)
    assert account.passed, report
    assert account.events.keys() >= {
        "Redis killed and restarted",
        "Redis flushed",
        "PostgreSQL crashed and restarted",
        "gateway killed",
        "worker killed",
    }
