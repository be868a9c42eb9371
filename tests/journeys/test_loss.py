"""The loss tests, their short versions: `benchmarks/loss.py` and `sql_loss.py` say what is done, and what must hold."""

import pytest
from benchmarks import sql_loss
from benchmarks.loss import run

pytestmark = pytest.mark.promise


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_no_accepted_job_is_lost_when_any_part_dies() -> None:
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


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_exactly_what_commits_in_sql_is_delivered_when_any_part_dies() -> None:
    account = sql_loss.run(300, kills=4, per_s=40.0, seed=20, patience_s=120.0)
    report = "\n".join(account.lines())
    print(report)
    assert account.passed, report
    assert account.rolled_back > 80
    assert account.events.keys() >= {
        "Redis killed and restarted",
        "Redis flushed",
        "PostgreSQL crashed and restarted",
    }


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_no_accepted_job_is_lost_over_postgresql_alone_when_it_crashes_and_workers_are_killed() -> None:
    account = run(500, kills=5, per_s=100.0, seed=20, patience_s=120.0, alone=True)
    report = "\n".join(account.lines())
    print(report)
    assert account.passed, report
    assert account.events["PostgreSQL crashed and restarted"] == 3


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_exactly_what_commits_in_sql_is_delivered_over_postgresql_alone() -> None:
    account = sql_loss.run(200, kills=3, per_s=40.0, seed=20, patience_s=120.0, alone=True)
    report = "\n".join(account.lines())
    print(report)
    assert account.passed, report
    assert account.rolled_back > 40
