"""Redis goes away, hangs, and comes back: callers get 503 quickly, and everything heals by itself."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.endpoint import Answer, Call, Endpoint, StartEndpoint, reply_json
from tests.support.gateway import job, worker
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import StartValkey
from tests.support.waiting import eventually

REQUESTS = [
    ("POST", "/queues/down/jobs", [job()]),
    ("GET", "/queues/down/jobs/1", None),
    ("GET", "/queues/down/jobs", None),
    ("GET", "/queues/down/jobs/1/logs", None),
    ("GET", "/workers", None),
    ("POST", "/workers", worker("down", "http://127.0.0.1:4/")),
    ("DELETE", "/workers/down", None),
    ("POST", "/queues/down/jobs/1/progress", 50),
    ("POST", "/queues/down/jobs/1/logs", "line"),
]

# As long as toril waits for Redis by itself.
DEFAULT = {"TORIL_REDIS_COMMAND_TIMEOUT": None}


def assert_unavailable(toril: TorilProcess, *requests: tuple[str, str, object]) -> None:
    """Each of these, all at the same time, gets 503 with a Retry-After when a command has taken too long (1.5 s).

    The rest of the limit is for a busy machine: it is less than Redis may be silent for (6 s).
    """

    def ask(request: tuple[str, str, object]) -> None:
        method, path, body = request
        began = time.monotonic()
        answer = toril.client.request(method, path, json=body)
        took = time.monotonic() - began
        assert answer.status_code == 503, f"{method} {path}: {answer.status_code} {answer.text}"
        assert answer.headers["retry-after"].isdigit()
        assert took <= 5.0, f"{method} {path} took {took:.2f} s"
        assert "Traceback" not in answer.text

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(ask, requests))


def assert_working(toril: TorilProcess, queue: str, timeout_s: float = 15) -> None:
    """A job of the queue goes all the way through, as soon as adding one works again."""

    def added() -> str | None:
        answer = toril.client.post(f"/queues/{queue}/jobs", json=[job()])
        return answer.json()[0]["id"] if answer.status_code == 200 else None

    job_id = eventually(added, timeout_s=timeout_s, what="adding to work again")
    assert job_id is not None
    toril.gateway.finished(queue, job_id, timeout_s=timeout_s)


def test_a_dead_redis_is_503_at_once_and_heals_with_consumers_and_listener(
    start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint
) -> None:
    valkey = start_valkey(aof=True)
    toril = start_toril(valkey, env=DEFAULT)
    toril.gateway.register("down", endpoint.url)
    toril.gateway.register("idle", endpoint.url)
    toril.gateway.finished("down", toril.gateway.add_one("down"))
    valkey.kill()
    assert_unavailable(toril, *REQUESTS)
    valkey.start()
    assert_working(toril, "down")
    assert_working(toril, "idle")
    toril.gateway.register("new", endpoint.url)
    assert_working(toril, "new")
    store = valkey.client()
    store.hset("bmqp:w:meta", "other", json.dumps(worker("other", endpoint.url)))
    store.xadd("bmpq:w:stream", {"worker": "other"})
    assert_working(toril, "other")
    eventually(lambda: toril.status("/ready") == 200)


def test_a_hanging_redis_is_503_within_two_seconds_and_heals(
    start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint
) -> None:
    valkey = start_valkey()
    toril = start_toril(valkey, env=DEFAULT)
    toril.gateway.register("down", endpoint.url)
    toril.gateway.finished("down", toril.gateway.add_one("down"))
    valkey.pause()
    # What was sent may still be done when it wakes, so nothing here takes the worker away.
    assert_unavailable(toril, *(one for one in REQUESTS if "/workers" not in one[1] or one[0] == "GET"))
    valkey.resume()
    eventually(lambda: toril.status("/ready") == 200, timeout_s=30)
    assert_working(toril, "down")


def test_many_requests_during_an_outage_are_all_answered_in_time(
    start_valkey: StartValkey, start_toril: StartToril
) -> None:
    valkey = start_valkey()
    toril = start_toril(valkey, env=DEFAULT)
    valkey.kill()
    assert_unavailable(toril, *REQUESTS * 10)
    assert_unavailable(toril, *REQUESTS)
    valkey.start()
    eventually(lambda: toril.client.post("/queues/down/jobs", json=[job()]).status_code == 200, timeout_s=30)


def test_invalid_requests_are_still_refused_as_such_without_redis(
    start_valkey: StartValkey, start_toril: StartToril
) -> None:
    valkey = start_valkey()
    toril = start_toril(valkey, env=DEFAULT)
    valkey.kill()
    assert httpx.post(toril.url + "/queues/down/jobs", json=[]).status_code == 401
    assert toril.client.post("/queues/down/jobs", content=b"{").status_code == 400
    assert toril.client.get("/nowhere").status_code == 404


def test_dropped_connections_are_soon_replaced(
    start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint
) -> None:
    valkey = start_valkey()
    toril = start_toril(valkey, env=DEFAULT)
    toril.gateway.register("cut", endpoint.url)
    store = valkey.client()
    for _ in range(3):
        store.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert_working(toril, "cut")
    eventually(lambda: toril.status("/ready") == 200)


def test_forgotten_scripts_are_loaded_again(
    start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint
) -> None:
    valkey = start_valkey()
    toril = start_toril(valkey, env=DEFAULT)
    toril.gateway.register("flushed", endpoint.url)
    toril.gateway.finished("flushed", toril.gateway.add_one("flushed"))
    for _ in range(3):
        valkey.client().script_flush()
        added = toril.gateway.add("flushed", job(), job(delay=1), job(priority=1))
        for one in added:
            toril.gateway.finished("flushed", one["id"])
    assert len(endpoint.calls) == 10


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_job_in_flight_during_a_restart_ends_exactly_once(
    start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint, how: str
) -> None:
    valkey = start_valkey(aof=True)
    toril = start_toril(valkey, env={"TORIL_LOCK": "2s", "TORIL_STALLED_INTERVAL": "1s"})
    endpoint = start_endpoint(lambda _: reply_json("survived").after(1.5))
    toril.gateway.register("flight", endpoint.url, timeout=20_000)
    toril.gateway.add_one("flight")
    endpoint.wait_for_calls(1)
    if how == "stop":
        valkey.stop()
    else:
        valkey.kill()
    valkey.start()
    eventually(lambda: toril.status("/ready") == 200, timeout_s=30)
    done = toril.gateway.finished("flight", "1", timeout_s=40)
    assert done["returnvalue"] == "survived"
    events = [fields for _, fields in valkey.client().xrange("bull:flight:events")]
    assert [event["event"] for event in events].count("completed") == 1
    print(f"{len(endpoint.calls) - 1} extra calls")


@pytest.mark.parametrize(("how", "stalled_interval"), [("kill", "500ms"), ("pause", "20s")])
def test_what_was_answered_while_redis_was_away_for_longer_than_a_lock_is_not_asked_again(
    start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint, how: str, stalled_interval: str
) -> None:
    valkey, endpoint = start_valkey(aof=True), start_endpoint()
    gate = endpoint.gate()

    async def answer(_: Call) -> Answer:
        await gate.passed()
        return reply_json("done")

    endpoint.behaviour = answer
    # Either of the two would take over the jobs of the other one.
    one, _ = (
        start_toril(valkey, env=DEFAULT | {"TORIL_LOCK": "2s", "TORIL_STALLED_INTERVAL": stalled_interval})
        for _ in range(2)
    )
    one.gateway.register("away", endpoint.url, timeout=20_000, concurrency=10)
    ids = [one.gateway.add_one("away") for _ in range(16)]
    endpoint.wait_for_calls(16)
    if how == "kill":
        valkey.kill()
    else:
        valkey.pause()
    away_since = time.monotonic()
    gate.open()
    eventually(lambda: time.monotonic() - away_since > 2.5, what="all locks to lapse")
    if how == "kill":
        valkey.start()
    else:
        valkey.resume()
    for job_id in ids:
        assert one.gateway.finished("away", job_id, timeout_s=40)["returnvalue"] == "done"
    assert len(endpoint.calls) == 16


def test_no_request_hangs_when_connections_break_under_it(start_valkey: StartValkey, start_toril: StartToril) -> None:
    valkey = start_valkey()
    toril = start_toril(valkey, env=DEFAULT)
    store = valkey.client()
    stop = threading.Event()

    def add_until_stopped(_: int) -> list[int]:
        """The statuses of one caller after the other; an answer that never comes is a ReadTimeout."""
        statuses = []
        with httpx.Client(base_url=toril.url, headers=dict(toril.client.headers), timeout=20) as http:
            while not stop.is_set():
                statuses.append(http.post("/queues/broken/jobs", json=[job()]).status_code)
        return statuses

    with ThreadPoolExecutor(12) as pool:
        callers = [pool.submit(add_until_stopped, number) for number in range(12)]
        try:
            for _ in range(40):
                store.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                before = store.llen("bull:broken:wait")
                eventually(lambda before=before: store.llen("bull:broken:wait") > before + 10, what="adding to go on")
        finally:
            stop.set()
        statuses = [status for caller in callers for status in caller.result()]
    assert set(statuses) <= {200, 503}
    # A 503 says that it is not known whether the job was added.
    assert statuses.count(200) <= store.llen("bull:broken:wait") <= len(statuses)


@pytest.mark.slow
def test_no_job_hangs_when_connections_break_under_it(
    start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint
) -> None:
    valkey = start_valkey()
    toril = start_toril(valkey, env={"TORIL_LOCK": "2s", "TORIL_STALLED_INTERVAL": "1s"})
    toril.gateway.register("broken", endpoint.url, concurrency=20)
    store = valkey.client()
    toril.gateway.add("broken", *(job() for _ in range(3000)))
    for number in range(1, 26):
        endpoint.wait_for_calls(number * 100, timeout_s=40)
        store.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    eventually(lambda: store.zcard("bull:broken:completed") == 3000, timeout_s=30, what="all jobs to complete")
    assert store.llen("bull:broken:active") == 0
    assert store.zcard("bull:broken:failed") == 0
    print(f"{len(endpoint.calls) - 3000} extra calls")
