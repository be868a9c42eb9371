"""Endpoints that answer `202` with `toril-settle: later`, and settle by lock token; on real servers."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import redis

from tests.support.endpoint import Answer, Call, Endpoint, StartEndpoint, reply_json, respond
from tests.support.gateway import PLAIN, Gateway, job
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually


def later(lease_ms: int | str | None = 60_000) -> Answer:
    headers = [("toril-settle", "later")]
    return respond(202, "Accepted", headers + ([] if lease_ms is None else [("toril-lease-ms", str(lease_ms))]))


def end(gateway: Gateway, queue: str, call: Call, action: str, **body: Any) -> tuple[int, Any]:
    """End a pushed job with the token that came with it; the status, and the problem where there is one."""
    url = f"{gateway.url}/queues/{queue}/jobs/{call.job['id']}/{action}"
    headers = {"authorization": f"Bearer {call.token}"}
    answer = httpx.post(url, content=json.dumps(body), headers=headers, trust_env=False, timeout=20, verify=PLAIN)
    return answer.status_code, None if answer.status_code == 204 else answer.json()


def state(gateway: Gateway, queue: str, job_id: str) -> str:
    found: str = gateway.http.get(f"/queues/{queue}/jobs/{job_id}?state").json()["state"]
    return found


def lock_left_ms(store: redis.Redis, call: Call, queue: str) -> int:
    """For how long the job of a call is locked yet."""
    left: int = store.pttl(f"bull:{queue}:{call.job['id']}:lock")
    return left


@pytest.fixture(scope="module")
def other(valkey: ValkeyProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorilProcess]:
    """A toril that works on no queue of the shared one, on the same Valkey."""
    env = {"WORKER_METADATA_KEY": "nobody:w", "WORKER_METADATA_STREAM": "nobody:s"}
    with TorilProcess(valkey.url, tmp_path_factory.mktemp("other") / "toril.log", env=env) as toril:
        yield toril
        assert toril.complaints() == []


class TestSettling:
    @pytest.mark.parametrize(
        "how",
        [
            ("complete", {"returnvalue": {"pages": 3}}, "completed"),
            ("fail", {"reason": "no ink", "unrecoverable": True}, "failed"),
            ("fail", {"reason": "no ink", "retry_in_ms": 60_000}, "delayed"),
        ],
        ids=["complete", "fail", "fail for later"],
    )
    def test_an_endpoint_settles_a_handed_over_job_through_any_instance(
        self,
        gateway: Gateway,
        other: TorilProcess,
        endpoint: Endpoint,
        queue: str,
        store: redis.Redis,
        how: tuple[str, dict[str, Any], str],
    ) -> None:
        action, body, becomes = how
        endpoint.behaviour = lambda call: later() if call.number == 0 else reply_json("second")
        gateway.register(queue, endpoint.url, concurrency=1)
        first, second = (added["id"] for added in gateway.add(queue, job(attempts=2), job()))
        (call,) = endpoint.wait_for_calls(1)
        eventually(lambda: lock_left_ms(store, call, queue) > 35_000, what="the endpoint's lease")
        assert (state(gateway, queue, first), state(gateway, queue, second)) == ("active", "waiting")
        assert end(other.gateway, queue, call, action, **body)[0] == 204
        began = time.monotonic()
        assert state(gateway, queue, first) == becomes
        # Its slot is free: not only when it is looked at again, which takes twenty seconds.
        assert gateway.finished(queue, second, timeout_s=40)["returnvalue"] == "second"
        assert time.monotonic() - began < 15
        status, problem = end(gateway, queue, call, "complete", returnvalue=2)
        assert (status, problem["code"], problem["state"]) == (409, "lease_lost", becomes)

    def test_a_handed_over_job_still_accepts_progress_and_logs(
        self, gateway: Gateway, endpoint: Endpoint, queue: str, store: redis.Redis
    ) -> None:
        endpoint.behaviour = lambda _: later()
        gateway.register(queue, endpoint.url)
        job_id = gateway.add_one(queue)
        (call,) = endpoint.wait_for_calls(1)
        eventually(lambda: lock_left_ms(store, call, queue) > 35_000, what="the endpoint's lease")
        headers = {"authorization": f"Bearer {call.token}"}
        url = f"{gateway.url}/queues/{queue}/jobs/{job_id}"
        for path, body in (("progress", "50"), ("logs", '"half"')):
            assert httpx.post(f"{url}/{path}", content=body, headers=headers, trust_env=False).status_code == 200
        assert gateway.job(queue, job_id)["progress"] == 50
        assert end(gateway, queue, call, "complete", returnvalue="whole")[0] == 204
        assert gateway.finished(queue, job_id)["returnvalue"] == "whole"

    def test_a_released_job_is_pushed_again_and_has_spent_no_attempt(
        self, gateway: Gateway, other: TorilProcess, endpoint: Endpoint, queue: str
    ) -> None:
        endpoint.behaviour = lambda call: later() if call.number == 0 else reply_json("again")
        gateway.register(queue, endpoint.url)
        job_id = gateway.add_one(queue, attempts=1)
        (call,) = endpoint.wait_for_calls(1)
        assert end(other.gateway, queue, call, "release")[0] == 204
        done = gateway.finished(queue, job_id)
        assert (done["returnvalue"], done["attemptsMade"]) == ("again", 1)
        assert endpoint.calls[1].token != call.token

    def test_the_workers_own_retention_holds(
        self, gateway: Gateway, endpoint: Endpoint, queue: str, store: redis.Redis
    ) -> None:
        endpoint.behaviour = lambda _: later()
        gateway.register(queue, endpoint.url, removeOnComplete={"count": 1})
        for number in (1, 2):
            gateway.add_one(queue)
            calls = endpoint.wait_for_calls(number)
            assert end(gateway, queue, calls[-1], "complete")[0] == 204
        assert store.zcard(f"bull:{queue}:completed") == 1

    def test_each_handover_keeps_a_slot(
        self, gateway: Gateway, other: TorilProcess, endpoint: Endpoint, queue: str
    ) -> None:
        endpoint.behaviour = lambda _: later()
        gateway.register(queue, endpoint.url, concurrency=10)
        gateway.add(queue, *(job(number) for number in range(40)))
        for turn in range(4):
            calls = endpoint.wait_for_calls(10 * (turn + 1))
            assert len(calls) == 10 * (turn + 1)
            items = [
                {"id": call.job["id"], "token": call.token, "action": "complete", "returnvalue": call.job["data"]}
                for call in calls[-10:]
            ]
            answer = other.client.post(f"/queues/{queue}/settle", json={"jobs": items})
            assert [result["status"] for result in answer.json()["results"]] == [204] * 10
        assert gateway.counts(queue)["completed"] == 40


class TestTheLease:
    def test_a_handover_lasts_thirty_seconds_by_default(
        self, gateway: Gateway, endpoint: Endpoint, queue: str, store: redis.Redis
    ) -> None:
        endpoint.behaviour = lambda call: later(None if call.number == 0 else "soon")
        gateway.register(queue, endpoint.url)
        for number in (1, 2):
            job_id = gateway.add_one(queue)
            call = endpoint.wait_for_calls(number)[-1]
            assert 20_000 < lock_left_ms(store, call, queue) <= 30_000
            assert end(gateway, queue, call, "complete")[0] == 204
            gateway.finished(queue, job_id)

    def test_a_handover_that_runs_out_releases_the_job_and_counts_a_stall(
        self, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        endpoint.behaviour = lambda call: later(1000) if call.number == 0 else reply_json("second time")
        gateway.register(queue, endpoint.url)
        job_id = gateway.add_one(queue, attempts=1)
        began = time.monotonic()
        first, second = endpoint.wait_for_calls(2, timeout_s=40)
        assert time.monotonic() - began < 12  # 5, and what a busy machine adds
        assert second.token != first.token
        done = gateway.finished(queue, job_id)
        assert (done["returnvalue"], done["stalledCounter"], done["attemptsMade"]) == ("second time", 1, 1)
        assert end(gateway, queue, first, "complete")[0] == 409

    def test_an_extended_handover_lasts(
        self, gateway: Gateway, other: TorilProcess, endpoint: Endpoint, queue: str
    ) -> None:
        endpoint.behaviour = lambda _: later(1500)
        gateway.register(queue, endpoint.url)
        job_id = gateway.add_one(queue)
        (call,) = endpoint.wait_for_calls(1)
        assert end(other.gateway, queue, call, "extend", lock_ms=60_000)[0] == 204
        time.sleep(4)  # longer than it would have lasted, and a sweep
        assert (state(gateway, queue, job_id), len(endpoint.calls)) == ("active", 1)
        assert end(gateway, queue, call, "complete")[0] == 204
        assert gateway.finished(queue, job_id)["stalledCounter"] == 0

    def test_a_handover_extended_without_a_length_is_extended_by_its_own_length(
        self, gateway: Gateway, other: TorilProcess, endpoint: Endpoint, queue: str, store: redis.Redis
    ) -> None:
        endpoint.behaviour = lambda _: later(600_000)
        gateway.register(queue, endpoint.url)
        job_id = gateway.add_one(queue)
        (call,) = endpoint.wait_for_calls(1)
        lock = f"bull:{queue}:{job_id}:lock"
        eventually(lambda: store.pttl(lock) > 500_000, what="the job to be handed over")
        assert end(other.gateway, queue, call, "extend", lock_ms=50_000)[0] == 204
        assert store.pttl(lock) <= 50_000
        assert end(other.gateway, queue, call, "extend")[0] == 204
        assert store.pttl(lock) > 590_000


class TestGoingDown:
    """The servers of this module's tests."""

    def test_a_shutdown_neither_waits_for_a_handover_nor_loses_it(
        self,
        start_valkey: Callable[..., ValkeyProcess],
        start_toril: StartToril,
        start_endpoint: StartEndpoint,
    ) -> None:
        valkey = start_valkey()
        ending, staying = start_toril(valkey), start_toril(valkey)
        endpoint = start_endpoint(lambda call: later(4000) if call.job["data"] == "lapses" else later(60_000))
        staying.gateway.register("long", endpoint.url, concurrency=2)
        ids = {one["data"]: one["id"] for one in staying.gateway.add("long", job("lapses"), job("settled"))}
        calls = {call.job["data"]: call for call in endpoint.wait_for_calls(2)}
        assert ending.terminate().took_s < 10  # the grace is 30
        endpoint.behaviour = lambda _: reply_json("second time")
        assert end(staying.gateway, "long", calls["settled"], "complete", returnvalue="by then")[0] == 204
        assert staying.gateway.finished("long", ids["settled"])["returnvalue"] == "by then"
        done = staying.gateway.finished("long", ids["lapses"], timeout_s=40)
        assert done["returnvalue"] == "second time"

    def test_a_killed_instance_does_not_lose_a_handover(
        self,
        start_valkey: Callable[..., ValkeyProcess],
        start_toril: StartToril,
        start_endpoint: StartEndpoint,
    ) -> None:
        valkey = start_valkey()
        killed = start_toril(valkey, args=("--processes", "2"))
        endpoint = start_endpoint(lambda call: later(3000) if call.number < 2 else reply_json("second time"))
        killed.gateway.register("long", endpoint.url, concurrency=2)
        first, second = (one["id"] for one in killed.gateway.add("long", job(), job()))
        calls = {call.job["id"]: call for call in endpoint.wait_for_calls(2)}
        # Whichever of the two processes gets this call.
        assert end(killed.gateway, "long", calls[first], "extend", lock_ms=60_000)[0] == 204
        killed.kill()
        again = start_toril(valkey)
        assert end(again.gateway, "long", calls[first], "complete", returnvalue="after all")[0] == 204
        assert again.gateway.finished("long", first)["returnvalue"] == "after all"
        assert again.gateway.finished("long", second, timeout_s=40)["returnvalue"] == "second time"
