"""Two instances on one Redis with a ledger each: nothing is lost, and everybody is told."""

import json
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import run_toril
from tests.support.deliveries import LATER, Door, configuration, in_ledger
from tests.support.endpoint import Endpoint, StartEndpoint, respond
from tests.support.gateway import TOKEN
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import StartValkey, ValkeyProcess
from tests.support.waiting import eventually
from toril.delivery.rules.delivery import queue_of

PATIENCE_S = 60.0


@pytest.fixture
def valkey(start_valkey: StartValkey) -> ValkeyProcess:
    return start_valkey()


@pytest.fixture
def endpoint(start_endpoint: StartEndpoint) -> Endpoint:
    return start_endpoint(lambda _: respond())


def arguments(folder: Path, endpoint: Endpoint, **delivery: str) -> list[str]:
    """Those of an instance whose ledger is in this folder."""
    folder.mkdir(exist_ok=True)
    targets = {"billing": {"url": endpoint.url, "concurrency": 5}}
    file = configuration(folder / "toril.yaml", targets, ledger={"url": ledger_url(folder)}, delivery=delivery)
    return ["--config", str(file)]


def ledger_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'ledger.sqlite3'}"


def ledger_id(folder: Path) -> str:
    return in_ledger(folder / "ledger.sqlite3", lambda ledger: ledger.identity())


def noted(valkey: ValkeyProcess) -> list[str]:
    """Which ledgers the instances have noted, with their targets."""
    fields: Any = valkey.client().hkeys("bull:toril:ledgers")
    return list(fields)


@pytest.fixture
def pair(
    tmp_path: Path, valkey: ValkeyProcess, start_toril: StartToril, endpoint: Endpoint
) -> tuple[TorilProcess, TorilProcess]:
    """One that was there first, and one that came later, with its own ledger."""
    first = start_toril(valkey, args=arguments(tmp_path / "a", endpoint))
    eventually(lambda: noted(valkey), what="the first one to be known")
    return first, start_toril(valkey, wait_for="/health", args=arguments(tmp_path / "b", endpoint))


def logged(toril: TorilProcess, event: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in toril.log().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def test_two_ledgers_on_one_redis_deliver_everything_and_report_each_other(
    pair: tuple[TorilProcess, TorilProcess], tmp_path: Path, endpoint: Endpoint
) -> None:
    first, second = pair
    doors = [Door(toril.gateway) for toril in pair]

    def enqueue(number: int) -> str:
        return doors[number % 2].enqueue("billing", body=number)

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(enqueue, range(200)))
    eventually(lambda: len(endpoint.calls) >= 200, timeout_s=PATIENCE_S, what="200 deliveries")
    eventually(
        lambda: all(
            doors[number % 2].job(job_id)["status"] == "delivered" for number, job_id in list(enumerate(ids))[-20:]
        ),
        timeout_s=PATIENCE_S,
    )
    sent = Counter(call.header("toril-job-id") for call in endpoint.calls)
    assert sent == Counter(ids), "each once"
    assert all(call.header("toril-attempt") == "1" for call in endpoint.calls), "and no attempt was spent on it"

    one, other = ledger_id(tmp_path / "a"), ledger_id(tmp_path / "b")
    eventually(lambda: "warnings" in first.client.get("/ready").json(), timeout_s=PATIENCE_S)
    eventually(lambda: second.client.get("/ready").status_code == 503, timeout_s=PATIENCE_S)
    ready, not_ready = first.client.get("/ready"), second.client.get("/ready")
    assert (ready.status_code, not_ready.status_code) == (200, 503)
    for sentence in (*ready.json()["warnings"], *not_ready.json()["reasons"]):
        assert one in sentence
        assert other in sentence
        assert "ledger.url" in sentence
    for toril, ours, theirs in ((first, one, other), (second, other, one)):
        (line, *_) = logged(toril, "ledger.several_on_one_redis")
        assert (line["level"], line["ledger"], line["others"]) == ("error", ours, [theirs])
        assert logged(toril, "delivery.in_another_ledger")[0]["other"] == theirs


def test_a_delivery_of_another_ledger_is_503_and_left_unchanged(
    pair: tuple[TorilProcess, TorilProcess],
) -> None:
    first, second = pair
    job_id = Door(first.gateway).enqueue("billing", **LATER)
    eventually(lambda: "warnings" in first.client.get("/ready").json(), timeout_s=PATIENCE_S)
    eventually(lambda: second.client.get("/ready").status_code == 503, timeout_s=PATIENCE_S)
    for answer in (second.client.get(f"/jobs/{job_id}"), second.client.delete(f"/jobs/{job_id}")):
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable"), answer.text
        assert "other ledgers" in answer.json()["detail"]
    assert second.client.get("/jobs/nonsense").status_code == 404
    assert Door(first.gateway).job(job_id)["status"] == "queued"
    assert first.client.delete(f"/jobs/{job_id}").status_code == 200


def test_jobs_wait_for_an_instance_with_their_ledger(
    tmp_path: Path, valkey: ValkeyProcess, start_toril: StartToril, endpoint: Endpoint
) -> None:
    first = start_toril(valkey, args=arguments(tmp_path / "a", endpoint))
    ids = [Door(first.gateway).enqueue("billing", delay_ms=1500) for _ in range(5)]
    first.kill()
    other = start_toril(valkey, wait_for="/health", args=arguments(tmp_path / "b", endpoint))
    eventually(lambda: logged(other, "delivery.in_another_ledger"), timeout_s=PATIENCE_S)
    first.start(wait_for="/health")
    eventually(lambda: len(endpoint.calls) >= 5, timeout_s=PATIENCE_S)
    assert sorted(call.header("toril-job-id") for call in endpoint.calls) == sorted(ids)


def test_a_ledger_that_is_made_anew_after_its_file_was_deleted_is_no_second_one(
    tmp_path: Path, valkey: ValkeyProcess, start_toril: StartToril, endpoint: Endpoint
) -> None:
    toril = start_toril(valkey, args=arguments(tmp_path / "a", endpoint))
    former = ledger_id(tmp_path / "a")
    eventually(lambda: f"{former}:billing" in noted(valkey), timeout_s=PATIENCE_S)
    toril.kill()
    for file in (tmp_path / "a").glob("ledger.sqlite3*"):
        file.unlink()
    toril.start(wait_for="/health")
    eventually((tmp_path / "a" / "ledger.sqlite3").exists, timeout_s=PATIENCE_S)
    eventually(lambda: f"{ledger_id(tmp_path / 'a')}:billing" in noted(valkey), timeout_s=PATIENCE_S)
    assert f"{former}:billing" not in noted(valkey)
    eventually(lambda: toril.status("/ready") == 200, timeout_s=PATIENCE_S)
    assert logged(toril, "ledger.several_on_one_redis") == []


def test_a_job_of_the_version_before_ledgers_had_ids_is_delivered(
    tmp_path: Path, valkey: ValkeyProcess, start_toril: StartToril, endpoint: Endpoint
) -> None:
    toril = start_toril(valkey, args=arguments(tmp_path / "a", endpoint))
    door = Door(toril.gateway)
    job_id = door.enqueue("billing", delay_ms=1500)
    key = f"bull:{queue_of('billing')}:{job_id}"
    assert json.loads(valkey.client().hget(key, "data") or "")["ledger"] == ledger_id(tmp_path / "a")
    valkey.client().hset(key, "data", '{"target":"billing"}')
    assert door.job(job_id, wait=30)["status"] == "delivered"


def test_a_ledger_that_was_restored_from_a_backup_keeps_the_jobs_that_it_has_lost(
    tmp_path: Path, valkey: ValkeyProcess, start_toril: StartToril, endpoint: Endpoint
) -> None:
    folder = tmp_path / "a"
    toril = start_toril(valkey, args=arguments(folder, endpoint))
    toril.terminate()
    backup = (folder / "ledger.sqlite3").read_bytes()
    toril.start()
    job_id = Door(toril.gateway).enqueue("billing", delay_ms=1500)
    toril.terminate()
    lost = (folder / "ledger.sqlite3").read_bytes()
    (folder / "ledger.sqlite3").write_bytes(backup)
    toril.start()
    eventually(lambda: logged(toril, "delivery.no_row"), timeout_s=PATIENCE_S)
    (warning,) = toril.client.get("/ready").json()["warnings"]
    assert ledger_id(folder) in warning
    assert endpoint.calls == []
    toril.terminate()
    (folder / "ledger.sqlite3").write_bytes(lost)
    toril.start()
    assert Door(toril.gateway).job(job_id, wait=30)["status"] == "delivered"


def test_recover_says_that_another_ledger_is_at_work(
    pair: tuple[TorilProcess, TorilProcess], tmp_path: Path, valkey: ValkeyProcess, endpoint: Endpoint
) -> None:
    eventually(lambda: pair[1].client.get("/ready").status_code == 503, timeout_s=PATIENCE_S)
    env = {"REDIS_URL": valkey.url, "AUTH_TOKENS": TOKEN}
    done = run_toril("recover", *arguments(tmp_path / "b", endpoint), env=env)
    assert done.returncode == 0, done.stderr
    assert ledger_id(tmp_path / "a") in done.stderr
    assert uuid.UUID(ledger_id(tmp_path / "b"))
