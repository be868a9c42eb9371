"""Pull workers: lease, long poll, settle by lock token, leases that run out; on a real toril and a real Valkey."""

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import redis

from tests.support.gateway import PLAIN, TOKEN, Gateway, job
from tests.support.sockets import socket_to
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually


def lease(gateway: Gateway, queue: str, **ask: Any) -> list[dict[str, Any]]:
    """Ask for jobs; what came."""
    answer = gateway.http.post(f"/queues/{queue}/lease", content=json.dumps(ask), timeout=70)
    assert answer.status_code == 200, answer.text
    return answer.json()["jobs"]


def end(gateway: Gateway, queue: str, held: dict[str, Any], action: str, body: Any = None, **change: str) -> Any:
    """End a job with its lock token; the status, and the problem where there is one."""
    content = b"" if body is None else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {change.get('token', held['token'])}"}
    job_id = change.get("id", held["job"]["id"])
    answer = httpx.post(
        f"{gateway.http.base_url}/queues/{queue}/jobs/{job_id}/{action}".replace("//queues", "/queues"),
        content=content, headers=headers, trust_env=False, timeout=20, verify=PLAIN,
    )  # fmt: skip
    return answer.status_code if answer.status_code == 204 else (answer.status_code, answer.json())


def stored(gateway: Gateway, queue: str, job_id: str) -> dict[str, Any]:
    """The job as it is now, with its state."""
    answer = gateway.http.get(f"/queues/{queue}/jobs/{job_id}?state")
    return answer.json()


class TestLease:
    """`POST /queues/{queue}/lease`"""

    def test_a_job_comes_as_an_endpoint_is_sent_it(self, gateway: Gateway, queue: str) -> None:
        (added,) = gateway.add(queue, job({"n": 1.10}, name="mail", attempts=3))
        (held,) = lease(gateway, queue, worker="cron-box")
        assert (held["job"]["id"], held["job"]["data"], held["job"]["name"]) == (added["id"], {"n": 1.1}, "mail")
        assert (held["job"]["attemptsStarted"], held["job"]["processedBy"]) == (1, "cron-box")
        assert stored(gateway, queue, added["id"])["state"] == "active"
        assert lease(gateway, queue) == []

    def test_a_pull_returns_the_waiting_jobs_at_once_each_with_its_own_token(
        self, gateway: Gateway, queue: str
    ) -> None:
        gateway.add(queue, *(job(number) for number in range(30)))
        held = lease(gateway, queue, count=20)
        assert sorted(one["job"]["data"] for one in held) == list(range(20))
        assert len({one["token"] for one in held}) == 20
        assert len(lease(gateway, queue, count=20)) == 10

    def test_a_waiting_pull_returns_as_soon_as_a_job_is_added(self, gateway: Gateway, queue: str) -> None:
        found: list[Any] = []
        waiting = threading.Thread(target=lambda: found.append((lease(gateway, queue, wait_ms=20_000), time.time())))
        waiting.start()
        time.sleep(0.3)  # let it wait; were it late, it would have the job all the same
        gateway.add_one(queue, "now")
        added_at = time.time()
        waiting.join(25)
        ((jobs, at),) = found
        assert [one["job"]["data"] for one in jobs] == ["now"]
        assert at - added_at < 5

    def test_several_waiting_pulls_get_a_job_each(self, gateway: Gateway, queue: str) -> None:
        found: list[Any] = []
        threads = [
            threading.Thread(target=lambda: found.extend(lease(gateway, queue, wait_ms=20_000))) for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for number in range(5):
            gateway.add_one(queue, number)
        for thread in threads:
            thread.join(25)
        assert sorted(one["job"]["data"] for one in found) == list(range(5))

    @pytest.mark.parametrize("kind", ["registered", "on a socket"])
    def test_a_pull_is_woken_after_another_worker_of_its_queue_has_left(
        self, toril: TorilProcess, gateway: Gateway, queue: str, kind: str
    ) -> None:
        found: list[Any] = []
        # Shorter than the ten seconds after which a pull looks without being woken.
        waiting = threading.Thread(target=lambda: found.append(lease(gateway, queue, wait_ms=8_000)))
        waiting.start()
        time.sleep(0.5)  # let it wait; were it late, it would have the job all the same
        if kind == "registered":
            gateway.register(queue, "http://127.0.0.1:65000/")
            gateway.unregister(queue)
        else:
            with socket_to(toril.url, f"/ws/queues/{queue}/process/1") as worker:
                assert worker.is_quiet(0.1)
            time.sleep(0.5)  # let it leave; were it late, it would be sent the job, and give it back
        gateway.add_one(queue, "now")
        waiting.join(25)
        assert [one["job"]["data"] for (one,) in found] == ["now"]

    def test_a_delayed_job_is_waited_for(self, gateway: Gateway, queue: str) -> None:
        gateway.add_one(queue, "later", delay=700)
        (held,) = lease(gateway, queue, wait_ms=20_000)
        assert held["job"]["data"] == "later"
        assert time.time() * 1000 >= held["job"]["timestamp"] + 700

    def test_a_pull_that_waits_in_vain_returns_no_jobs(self, gateway: Gateway, queue: str) -> None:
        gateway.add_one(queue, delay=60_000)
        assert lease(gateway, queue, wait_ms=300) == []

    def test_a_consumer_elsewhere_hears_of_a_delayed_job_that_the_pull_knew_of(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        """Its marker was popped by the pull, which ends before the job is due."""
        job_id = gateway.add_one(queue, delay=1200)
        assert lease(gateway, queue, wait_ms=200) == []
        with socket_to(toril.url, f"/ws/queues/{queue}/process/1") as worker:
            began = time.monotonic()
            worker.finish(worker.jobs(1)[0], "done")
            assert gateway.finished(queue, job_id)["returnvalue"] == "done"
            assert time.monotonic() - began < 9, "and not only when it polls"

    def test_a_pull_whose_client_hangs_up_takes_no_job(self, toril: TorilProcess, gateway: Gateway, queue: str) -> None:
        body = b'{"wait_ms":60000}'
        head = (
            f"POST /queues/{queue}/lease HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        ).encode()
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", toril.port)) as connection:
                connection.sendall(head + body)
                time.sleep(0.2)  # let it wait; were it late, no worker would take the job either
        job_id = gateway.add_one(queue, "left")
        (held,) = lease(gateway, queue, wait_ms=10_000)
        assert held["job"]["id"] == job_id

    def test_paused_and_limited_queues_lease_no_jobs(self, gateway: Gateway, queue: str) -> None:
        gateway.add_one(queue)
        gateway.http.post(f"/queues/{queue}/pause")
        assert lease(gateway, queue, wait_ms=200) == []
        gateway.http.post(f"/queues/{queue}/resume")
        gateway.http.put(f"/queues/{queue}/rate-limit/hold", content=b'{"ms":700}')
        began = time.monotonic()
        assert lease(gateway, queue) == []
        assert len(lease(gateway, queue, wait_ms=10_000)) == 1
        assert time.monotonic() - began >= 0.5

    @pytest.mark.parametrize(
        ("path", "limit"), [("rate-limit/hold", {"ms": 600_000}), ("rate-limit", {"max": 1, "duration": 600_000})]
    )
    def test_a_limit_that_is_removed_wakes_a_lease_that_waits(
        self, gateway: Gateway, queue: str, path: str, limit: dict[str, int]
    ) -> None:
        """Removed when the lease has long been told of the limit, which it would otherwise trust for half a minute."""
        for _ in range(3):
            gateway.add_one(queue)
        assert gateway.http.put(f"/queues/{queue}/{path}", json=limit).is_success
        lease(gateway, queue)  # the first job is within a limit of one
        removing = threading.Timer(2.0, lambda: gateway.http.delete(f"/queues/{queue}/{path}"))
        removing.start()
        try:
            assert len(lease(gateway, queue, wait_ms=20_000)) == 1
        finally:
            removing.join()

    @pytest.mark.parametrize(
        ("ask", "field"),
        [
            ({"count": 0}, "count"),
            ({"count": 101}, "count"),
            ({"wait_ms": -1}, "wait_ms"),
            ({"wait_ms": 60_001}, "wait_ms"),
            ({"lock_ms": 999}, "lock_ms"),
            ({"worker": ""}, "worker"),
            ({"worker": "a\nb"}, "worker"),
            ({"much": 1}, "much"),
        ],
    )
    def test_an_invalid_request_is_refused(self, gateway: Gateway, queue: str, ask: dict[str, Any], field: str) -> None:
        answer = gateway.http.post(f"/queues/{queue}/lease", content=json.dumps(ask))
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (400, "invalid_request", field)


class TestSettling:
    """`POST /queues/{queue}/jobs/{id}/complete`, `/fail`, `/extend`, `/release`"""

    def test_completing_a_lease_stores_the_return_value(self, gateway: Gateway, queue: str) -> None:
        job_id = gateway.add_one(queue)
        (held,) = lease(gateway, queue)
        assert end(gateway, queue, held, "complete", {"returnvalue": {"ok": [1, None]}}) == 204
        done = stored(gateway, queue, job_id)
        assert (done["state"], done["returnvalue"], done["attemptsMade"]) == ("completed", {"ok": [1, None]}, 1)

    def test_failing_a_lease_retries_the_job_while_attempts_are_left(self, gateway: Gateway, queue: str) -> None:
        job_id = gateway.add_one(queue, attempts=2)
        (held,) = lease(gateway, queue)
        assert end(gateway, queue, held, "fail", {"reason": "no ink"}) == 204
        assert stored(gateway, queue, job_id)["state"] == "waiting"
        (held,) = lease(gateway, queue)
        assert end(gateway, queue, held, "fail", {"reason": "no paper"}) == 204
        done = stored(gateway, queue, job_id)
        assert (done["state"], done["failedReason"], done["attemptsMade"]) == ("failed", "no paper", 2)
        assert len(done["stacktrace"]) == 2

    def test_a_failure_can_be_final_or_set_the_retry_time(self, gateway: Gateway, queue: str) -> None:
        hopeless = gateway.add_one(queue, attempts=5)
        (held,) = lease(gateway, queue)
        assert end(gateway, queue, held, "fail", {"reason": "gone", "unrecoverable": True}) == 204
        assert stored(gateway, queue, hopeless)["state"] == "failed"
        later = gateway.add_one(queue, attempts=2)
        (held,) = lease(gateway, queue)
        assert end(gateway, queue, held, "fail", {"reason": "busy", "retry_in_ms": 60_000}) == 204
        assert stored(gateway, queue, later)["state"] == "delayed"

    def test_a_released_job_goes_to_the_head_and_spends_no_attempt(self, gateway: Gateway, queue: str) -> None:
        first = gateway.add_one(queue, attempts=1)
        gateway.add_one(queue)
        (held,) = lease(gateway, queue)
        assert end(gateway, queue, held, "release") == 204
        (again,) = lease(gateway, queue)
        assert (again["job"]["id"], again["job"]["attemptsMade"]) == (first, 0)

    def test_a_late_settle_is_409_and_changes_nothing(self, gateway: Gateway, queue: str, store: redis.Redis) -> None:
        job_id = gateway.add_one(queue)
        (held,) = lease(gateway, queue)
        assert end(gateway, queue, held, "complete", {"returnvalue": 1}) == 204
        before = store.hgetall(f"bull:{queue}:{job_id}")
        for action, body in (
            ("complete", {"returnvalue": 2}),
            ("fail", {"reason": "x"}),
            ("extend", {}),
            ("release", {}),
        ):
            status, problem = end(gateway, queue, held, action, body)
            assert (status, problem["code"], problem["state"]) == (409, "lease_lost", "completed")
        assert store.hgetall(f"bull:{queue}:{job_id}") == before

    def test_settling_with_another_token_is_401_and_changes_nothing(self, gateway: Gateway, queue: str) -> None:
        job_id = gateway.add_one(queue)
        (held,) = lease(gateway, queue)
        for token in ("wrong", TOKEN, held["token"] + "x"):
            for action, body in (("complete", {}), ("fail", {"reason": "x"}), ("extend", {}), ("release", {})):
                status, problem = end(gateway, queue, held, action, body, token=token)
                assert (status, problem["code"]) == (401, "wrong_lock_token")
        assert stored(gateway, queue, job_id)["state"] == "active"
        assert end(gateway, queue, held, "complete") == 204

    def test_settling_a_removed_job_is_409(self, gateway: Gateway, queue: str, store: redis.Redis) -> None:
        job_id = gateway.add_one(queue)
        (held,) = lease(gateway, queue)
        store.delete(f"bull:{queue}:{job_id}:lock")
        gateway.http.post(f"/queues/{queue}/obliterate", content=b'{"force":true}')
        status, problem = end(gateway, queue, held, "complete")
        assert (status, problem["code"], problem["state"]) == (409, "lease_lost", "unknown")

    @pytest.mark.parametrize("action", ["complete", "fail", "extend", "release", "progress", "logs"])
    def test_settling_without_the_lease_reveals_nothing_about_the_job(
        self, gateway: Gateway, new_queue: Any, action: str
    ) -> None:
        """Jobs in every state, a job and a queue that are not there, by tokens of any kind: all the same."""
        queue, elsewhere, missing = new_queue(), new_queue(), new_queue()
        body = {"reason": "x"} if action == "fail" else {}
        gateway.add(queue, *(job() for _ in range(3)))
        done, active = lease(gateway, queue, count=2)
        end(gateway, queue, done, "complete")
        delayed = gateway.add_one(queue, delay=60_000)
        gateway.add_one(elsewhere)
        (foreign,) = lease(gateway, elsewhere)

        def answers(name: str, job_id: str) -> set[tuple[int, str]]:
            found = set()
            for token in ("x", TOKEN, foreign["token"], done["token"] + "x"):
                headers = {"authorization": f"Bearer {token}"}
                url = f"{gateway.url}/queues/{name}/jobs/{job_id}/{action}"
                answer = httpx.post(url, json=body, headers=headers, trust_env=False, timeout=20)
                found.add((answer.status_code, answer.text))
            return found

        free = [(queue, done["job"]["id"]), (queue, delayed), (queue, "404"), (missing, "1")]
        (answer,) = set.union(*(answers(*one) for one in free))
        if action in ("progress", "logs"):
            assert answer[0] == 401
            assert answers(queue, active["job"]["id"]) == {answer}
        else:
            problem = json.loads(answer[1])
            assert (answer[0], problem["code"], problem["state"]) == (409, "lease_lost", "unknown")
            ((status, text),) = answers(queue, active["job"]["id"])
            assert (status, json.loads(text)["code"]) == (401, "wrong_lock_token")

    def test_a_parent_whose_children_are_not_done_cannot_complete(self, gateway: Gateway, new_queue: Any) -> None:
        parents, children = new_queue(), new_queue()
        flow = {"name": "p", "queueName": parents, "children": [{"name": "c", "queueName": children}]}
        root = gateway.http.post("/flows", content=json.dumps(flow)).json()
        assert lease(gateway, parents) == []
        (child,) = lease(gateway, children)
        assert end(gateway, children, child, "complete", {"returnvalue": 7}) == 204
        (parent,) = lease(gateway, parents, wait_ms=5000)
        assert parent["job"]["id"] == root["job"]["id"]
        assert end(gateway, parents, parent, "complete") == 204

    def test_a_job_of_a_scheduler_brings_the_next_one(self, gateway: Gateway, queue: str) -> None:
        gateway.http.put(f"/queues/{queue}/schedulers/tick", content=b'{"every":300}')
        for iteration in range(1, 4):
            (held,) = lease(gateway, queue, wait_ms=10_000)
            assert held["job"]["repeatJobKey"] == "tick"
            assert held["job"]["opts"]["repeat"]["count"] == iteration
            assert end(gateway, queue, held, "complete") == 204

    def test_a_pushed_job_can_be_settled_by_its_token_too(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        job_id = gateway.add_one(queue)
        with socket_to(toril.url, f"/ws/queues/{queue}/process/1?payload=job") as worker:
            (message,) = worker.jobs(1)
            assert end(gateway, queue, message["data"]["payload"], "complete", {"returnvalue": "by hand"}) == 204
            assert stored(gateway, queue, job_id)["returnvalue"] == "by hand"

    @pytest.mark.parametrize(
        ("action", "body", "field"),
        [
            ("fail", {}, "reason"),
            ("fail", {"reason": 1}, "reason"),
            ("fail", {"reason": "x", "retry_in_ms": -1}, "retry_in_ms"),
            ("extend", {"lock_ms": 1}, "lock_ms"),
            ("complete", {"result": 1}, "result"),
            ("release", {"x": 1}, "x"),
        ],
    )
    def test_bad_bodies_are_refused(self, gateway: Gateway, queue: str, action: str, body: Any, field: str) -> None:
        job_id = gateway.add_one(queue)
        (held,) = lease(gateway, queue)
        status, problem = end(gateway, queue, held, action, body)
        assert (status, problem["code"], problem.get("field")) == (400, "invalid_request", field)
        assert stored(gateway, queue, job_id)["state"] == "active"


class TestBatch:
    """`POST /queues/{queue}/settle`"""

    def test_one_bad_item_does_not_fail_the_others(self, gateway: Gateway, queue: str) -> None:
        gateway.add(queue, *(job(number, attempts=2) for number in range(5)))
        held = {one["job"]["data"]: one for one in lease(gateway, queue, count=5)}
        ids = {number: one["job"]["id"] for number, one in held.items()}
        items: list[Any] = [
            {"id": ids[0], "token": held[0]["token"], "action": "complete", "returnvalue": {"n": 0}},
            {"id": ids[1], "token": "wrong", "action": "complete"},
            {"id": ids[2], "token": held[2]["token"], "action": "fail", "reason": "no", "unrecoverable": True},
            {"id": ids[3], "token": held[3]["token"], "action": "explode"},
            7,
            {"id": ids[4], "token": held[4]["token"], "action": "release"},
        ]
        answer = gateway.http.post(f"/queues/{queue}/settle", content=json.dumps({"jobs": items}))
        assert answer.status_code == 200
        results = answer.json()["results"]
        assert [(result["id"], result["status"], result.get("code")) for result in results] == [
            (ids[0], 204, None),
            (ids[1], 401, "wrong_lock_token"),
            (ids[2], 204, None),
            (ids[3], 400, "invalid_request"),
            (None, 400, "invalid_request"),
            (ids[4], 204, None),
        ]
        states = [stored(gateway, queue, ids[number])["state"] for number in range(5)]
        assert states == ["completed", "active", "failed", "active", "waiting"]

    @pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"jobs":1}', b"\xff"])
    def test_an_invalid_batch_is_refused(self, gateway: Gateway, queue: str, body: bytes) -> None:
        assert gateway.http.post(f"/queues/{queue}/settle", content=body).status_code == 400


class TestLapsing:
    """Leases that run out."""

    def test_a_lapsed_lease_is_back_within_four_seconds_and_counts_as_a_stall(
        self, gateway: Gateway, queue: str
    ) -> None:
        job_id = gateway.add_one(queue)
        lease(gateway, queue, lock_ms=1000)
        lapsed_at = time.monotonic() + 1.0
        (again,) = lease(gateway, queue, wait_ms=20_000, lock_ms=1000)
        assert time.monotonic() - lapsed_at < 12  # 4 and what a busy machine adds; 30 without a sweep
        assert (again["job"]["id"], again["job"]["stalledCounter"]) == (job_id, 1)
        # A second stall fails it, as in BullMQ, when a worker would take it.
        eventually(
            lambda: lease(gateway, queue, wait_ms=2000) == [] and stored(gateway, queue, job_id).get("finishedOn")
        )
        done = gateway.finished(queue, job_id)
        assert done["failedReason"] == "job stalled more than allowable limit"

    def test_an_extended_lease_lasts(self, gateway: Gateway, queue: str) -> None:
        job_id = gateway.add_one(queue)
        (held,) = lease(gateway, queue, lock_ms=2500)
        assert end(gateway, queue, held, "extend", {"lock_ms": 20_000}) == 204
        assert lease(gateway, queue, wait_ms=6000) == []
        assert end(gateway, queue, held, "complete") == 204
        assert stored(gateway, queue, job_id)["stalledCounter"] == 0

    @pytest.mark.parametrize("batch", [False, True])
    @pytest.mark.parametrize("lock_ms", [5_000, 30_000, 600_000])
    def test_a_lease_extended_without_a_length_is_extended_by_its_own_length(
        self, gateway: Gateway, store: redis.Redis, queue: str, lock_ms: int, batch: bool
    ) -> None:
        def extend(held: dict[str, Any], body: dict[str, Any]) -> None:
            item = {"id": held["job"]["id"], "token": held["token"], "action": "extend", **body}
            if batch:
                answer = gateway.http.post(f"/queues/{queue}/settle", json={"jobs": [item]})
                assert answer.json()["results"] == [{"id": item["id"], "status": 204}]
            else:
                assert end(gateway, queue, held, "extend", body) == 204

        job_id = gateway.add_one(queue)
        lock = f"bull:{queue}:{job_id}:lock"
        (held,) = lease(gateway, queue, lock_ms=lock_ms)
        for change in (
            {"lock_ms": 2_000},
            {"lock_ms": 86_400_000},
        ):  # what was asked for once is no length of the lease
            extend(held, change)
            extend(held, {})
            assert lock_ms - 2_000 < store.pttl(lock) <= lock_ms
        assert end(gateway, queue, held, "release") == 204
        (again,) = lease(gateway, queue)
        extend(again, {})
        assert 28_000 < store.pttl(lock) <= 30_000

    def test_another_instance_brings_a_lapsed_lease_back(
        self, start_valkey: Callable[..., ValkeyProcess], start_toril: Callable[..., TorilProcess]
    ) -> None:
        store = start_valkey()
        first, second = start_toril(store), start_toril(store)
        job_id = first.gateway.add_one("orders")
        (held,) = lease(first.gateway, "orders", lock_ms=1000)
        first.kill()
        (again,) = lease(second.gateway, "orders", wait_ms=15_000)
        assert again["job"]["id"] == held["job"]["id"] == job_id

    def test_a_shutdown_ends_waiting_pulls(
        self, start_valkey: Callable[..., ValkeyProcess], start_toril: Callable[..., TorilProcess]
    ) -> None:
        toril = start_toril(start_valkey())
        found: list[Any] = []
        waiting = threading.Thread(target=lambda: found.append(lease(toril.gateway, "orders", wait_ms=60_000)))
        waiting.start()
        time.sleep(0.5)  # let it wait; were it late, it would be refused, and the thread's assertion fail
        assert toril.terminate().took_s < 15
        waiting.join(10)
        assert found == [[]]
