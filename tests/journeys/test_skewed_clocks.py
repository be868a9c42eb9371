"""Instances whose machines have another time than Redis: nothing is sent twice, early or late."""

import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Answer, Call, Endpoint, respond
from tests.support.toril import StartToril
from tests.support.valkey import StartValkey
from tests.support.waiting import eventually

HOUR_S = 3600.0
EARLY_S = 0.1
"""How much earlier a busy machine may make it look; the clocks are wrong by an hour."""

# A process that imports this at its start has another time from then on.
_SKEW = """
import time
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + {skew}
time.time_ns = lambda: _time_ns() + int({skew} * 1e9)
"""


def skewed(folder: Path, skew_s: float) -> dict[str, str]:
    """The environment of a process whose clock is ahead by so much."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SKEW.format(skew=skew_s))
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("skew_s", [HOUR_S, -HOUR_S], ids=["an hour ahead", "an hour behind"])
def test_deliveries_come_once_and_in_time_whosever_clock_is_wrong(
    tmp_path: Path, start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint, skew_s: float
) -> None:
    calls: dict[str, list[Call]] = defaultdict(list)

    def behaviour(call: Call) -> Answer:
        job_id = call.header("toril-job-id") or ""
        calls[job_id].append(call)
        # The first attempt of each is to be retried; the second one takes longer than the recoverer's look.
        return respond(503) if len(calls[job_id]) == 1 else respond().after(1.5)

    endpoint.behaviour = behaviour
    retry = {"max_attempts": 5, "base": "1s", "max": "1s", "jitter": 0}
    targets = {"billing": {"url": endpoint.url, "concurrency": 20, "retry": retry, "breaker": {"failures": 1000}}}
    file = configuration(
        tmp_path / "toril.yaml", targets, ledger={"url": f"sqlite:///{tmp_path}/ledger.sqlite3"},
        delivery={"recover_every": "200ms", "janitor_every": "200ms"},
    )  # fmt: skip
    valkey = start_valkey()
    wrong = start_toril(valkey, args=["--config", str(file)], env=skewed(tmp_path / "site", skew_s))
    right = start_toril(valkey, args=["--config", str(file)])
    accepted: dict[str, float] = {}
    for number in range(12):
        door = Door((wrong, right)[number % 2].gateway)
        before = time.time()
        deadline = datetime.fromtimestamp(before + 60, UTC).isoformat()
        accepted[door.enqueue("billing", delay_ms=1000, deadline=deadline)] = before
    eventually(lambda: len([some for some in calls.values() if len(some) > 1]) == 12, timeout_s=30, what="all retries")
    for number, (job_id, at_s) in enumerate(accepted.items()):
        found = Door((right, wrong)[number % 2].gateway).job(job_id, wait=20)
        assert found["status"] == "delivered"
        assert [attempt["outcome"] for attempt in found["attempts"]] == ["answered", "answered"]
        first, second = calls[job_id]  # and no third one
        assert first.at >= at_s + 1.0 - EARLY_S
        assert second.at >= first.at + 1.0 - EARLY_S
        created = datetime.fromisoformat(found["created_at"]).timestamp()
        assert abs(created - at_s) < 60
    assert "clock.skewed" in wrong.log()
    assert "clock.skewed" not in right.log()
