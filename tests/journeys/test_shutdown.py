"""SIGTERM: `/ready` first; then stop accepting, stop leasing, finish what is in flight, give back the rest, exit 0."""

import json
import signal
import time
from functools import partial

import httpx
import pytest

from tests.support.endpoint import Answer, Call, Endpoint, StartEndpoint, hang, reply_json
from tests.support.gateway import TOKEN, job
from tests.support.sockets import socket_to
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import StartValkey
from tests.support.waiting import eventually

PROCESSES = pytest.mark.parametrize("args", [(), ("--processes", "2")], ids=["one process", "two processes"])


@PROCESSES
def test_a_job_in_flight_is_finished_and_no_other_is_started(
    start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint, args: tuple[str, ...]
) -> None:
    valkey = start_valkey()
    toril = start_toril(valkey, args=args)
    endpoint = start_endpoint(lambda _: reply_json("finished").after(1))
    toril.gateway.register("last", endpoint.url, timeout=20_000, concurrency=2)
    toril.gateway.add("last", *(job() for _ in range(5)))
    endpoint.wait_for_calls(2)
    ended = toril.terminate()
    assert ended.code == 0
    assert ended.took_s <= 15, "not the whole grace period"
    assert len(endpoint.calls) == 2
    reader = start_toril(valkey, env={"WORKER_METADATA_KEY": "nobody", "WORKER_METADATA_STREAM": "nobody:s"})
    counts = reader.gateway.counts("last")
    assert (counts["completed"], counts["waiting"], counts["active"], counts["failed"]) == (2, 3, 0, 0)
    done = reader.gateway.jobs("last", statuses="completed")["jobs"]
    assert {one["returnvalue"] for one in done} == {"finished"}


@PROCESSES
def test_a_job_beyond_the_grace_is_given_back_unharmed(
    start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint, args: tuple[str, ...]
) -> None:
    valkey = start_valkey()
    store = valkey.client()
    toril = start_toril(valkey, args=args, env={"TORIL_GRACE": "1s"})
    endpoint = start_endpoint(lambda call: hang() if call.number < 2 else reply_json("second time"))
    toril.gateway.register("long", endpoint.url, timeout=60_000, concurrency=2)
    toril.gateway.add("long", job({"n": 1}, attempts=1), job({"n": 2}, attempts=1))
    endpoint.wait_for_calls(2)
    ended = toril.terminate()
    assert ended.code == 0
    assert 0.9 <= ended.took_s <= 15
    assert sorted(store.lrange("bull:long:wait", 0, -1)) == ["1", "2"]
    assert store.llen("bull:long:active") == 0
    assert store.keys("bull:long:*:lock") == []
    for job_id in ("1", "2"):
        left = store.hgetall(f"bull:long:{job_id}")
        assert "failedReason" not in left
        assert left.get("atm", "0") == "0"
    eventually(lambda: endpoint.open_calls == 0, what="the outbound requests to be closed")

    again = start_toril(valkey)
    for job_id in ("1", "2"):
        done = again.gateway.finished("long", job_id)
        assert done["returnvalue"] == "second time"
        assert done["attemptsMade"] == 1
        assert done["stalledCounter"] == 0


def test_a_job_given_back_is_taken_at_once_by_another_instance(
    start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint
) -> None:
    valkey = start_valkey()
    ending = start_toril(valkey, env={"TORIL_GRACE": "300ms"})
    endpoint = start_endpoint(lambda call: hang() if call.number == 0 else reply_json("elsewhere"))
    ending.gateway.register("handed", endpoint.url, timeout=60_000)
    ending.gateway.add_one("handed")
    endpoint.wait_for_calls(1)
    other = start_toril(valkey)
    ending.send(signal.SIGTERM)
    assert other.gateway.finished("handed", "1")["returnvalue"] == "elsewhere"
    assert ending.wait().code == 0


@PROCESSES
def test_a_second_signal_ends_the_server_at_once(
    start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint, args: tuple[str, ...]
) -> None:
    toril = start_toril(start_valkey(), args=args, env={"TORIL_GRACE": "60s"})
    endpoint = start_endpoint(lambda _: hang())
    toril.gateway.register("stuck", endpoint.url, timeout=60_000)
    toril.gateway.add_one("stuck")
    endpoint.wait_for_calls(1)
    toril.send(signal.SIGTERM)
    eventually(lambda: toril.status("/ready") != 200, what="it to stop accepting")
    assert toril.running
    assert toril.terminate().took_s <= 15, "not the whole grace period"
    eventually(lambda: endpoint.open_calls == 0, what="the children to be gone as well")


@PROCESSES
def test_a_draining_server_takes_no_work_but_accepts_reports_on_running_jobs(
    start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint, args: tuple[str, ...]
) -> None:
    valkey = start_valkey()
    toril = start_toril(valkey, args=args)
    gate = endpoint.gate()

    async def behave(_: Call) -> Answer:
        await gate.passed()
        return reply_json("finished")

    endpoint.behaviour = behave
    toril.gateway.register("slow", endpoint.url, timeout=60_000)
    toril.gateway.add_one("slow")
    (call,) = endpoint.wait_for_calls(1)
    toril.send(signal.SIGTERM)
    eventually(lambda: toril.status("/ready") != 200, what="it to stop accepting")
    assert toril.running
    refused = _ask(toril, "/queues/slow/jobs", [job()], TOKEN)
    assert refused.status_code == 503
    assert refused.headers["retry-after"].isdigit()
    assert _ask(toril, "/queues/slow/jobs/1/progress", 99, call.token).text == "OK"
    assert _ask(toril, "/queues/slow/jobs/1/logs", "almost", call.token).text == "OK"
    gate.open()
    assert toril.wait().code == 0
    store = valkey.client()
    assert store.hget("bull:slow:1", "progress") == "99"
    assert store.lrange("bull:slow:1:logs", 0, -1) == ["almost"]
    assert store.llen("bull:slow:wait") == 0


def _ask(toril: TorilProcess, path: str, body: object, token: str) -> httpx.Response:
    """A POST on a separate connection, tried again if that one was closed by a process just ending."""

    def ask() -> httpx.Response | None:
        try:
            return httpx.post(toril.url + path, json=body, headers={"authorization": f"Bearer {token}"})
        except (httpx.RemoteProtocolError, httpx.ReadError):
            return None

    answer = eventually(ask)
    assert answer is not None
    return answer


@PROCESSES
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_at_once(
    start_valkey: StartValkey,
    start_toril: StartToril,
    endpoint: Endpoint,
    args: tuple[str, ...],
    number: signal.Signals,
) -> None:
    toril = start_toril(start_valkey(), args=args)
    toril.gateway.register("idle", endpoint.url)
    toril.gateway.finished("idle", toril.gateway.add_one("idle"))
    toril.send(number)
    ended = toril.wait()
    assert ended.code == 0
    assert ended.took_s <= 10, "not the whole grace period"
    assert "shutdown.cut" not in toril.log(), "no connection is waited for"


@pytest.mark.parametrize("busy", [False, True])
def test_children_do_not_outlive_a_parent_that_is_killed(
    start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint, busy: bool
) -> None:
    valkey = start_valkey()
    toril = start_toril(valkey, args=("--processes", "2"), env={"TORIL_GRACE": "1s"})
    endpoint.behaviour = lambda _: hang()
    toril.gateway.register("orphans", endpoint.url, timeout=60_000, concurrency=2)
    if busy:
        toril.gateway.add("orphans", job(), job())
        endpoint.wait_for_calls(2)
    toril.send(signal.SIGKILL)
    toril.wait()
    eventually(lambda: toril.survivors() == [], timeout_s=30, what="the children to end")
    assert toril.status("/health") == 0
    # Whoever watches over toril starts it again: on the same port, with the same workers.
    again = start_toril(valkey, args=("--processes", "2"), port=toril.port)
    if busy:
        assert endpoint.wait_for_calls(4)
    assert again.running


def test_a_shutdown_ends_in_time_when_redis_is_gone(
    start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint
) -> None:
    valkey = start_valkey()
    toril = start_toril(valkey, env={"TORIL_GRACE": "2s", "TORIL_REDIS_COMMAND_TIMEOUT": None})
    toril.gateway.register("orphan", endpoint.url)
    toril.gateway.finished("orphan", toril.gateway.add_one("orphan"))
    valkey.kill()
    assert toril.terminate().took_s <= 15


def test_under_load_no_job_is_lost_or_done_twice(
    start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint
) -> None:
    valkey = start_valkey()
    first, second = start_toril(valkey), start_toril(valkey)
    endpoint = start_endpoint(lambda call: reply_json(call.job["data"]["n"]).after(0.01))
    first.gateway.register("load", endpoint.url, concurrency=10)
    first.gateway.add("load", *(job({"n": n}) for n in range(1000)))
    endpoint.wait_for_calls(200)
    assert first.terminate().code == 0
    second.gateway.wait_for_counts("load", completed=1000, timeout_s=40)
    assert len(endpoint.calls) == 1000
    assert sorted(call.job["data"]["n"] for call in endpoint.calls) == list(range(1000))


def test_every_job_acknowledged_during_the_shutdown_is_stored(
    start_valkey: StartValkey, start_toril: StartToril
) -> None:
    valkey = start_valkey()
    toril = start_toril(valkey)
    answers = _add_until_it_hangs_up(toril)
    assert set(answers) <= {200, 503}
    stored = valkey.client().llen("bull:burst:wait")
    # The last request may have been stored without the answer getting through.
    assert stored in {answers.count(200), answers.count(200) + 1}


@PROCESSES
def test_during_the_shutdown_delay_only_readiness_changes(
    start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint, args: tuple[str, ...]
) -> None:
    """All else is served as before, new sockets, long polls and pushed jobs too; each answer ends its connection."""
    toril = start_toril(start_valkey(), args=args, env={"TORIL_SHUTDOWN_DELAY": "60s"})
    endpoint = start_endpoint(lambda _: reply_json("as before"))
    toril.gateway.register("served", endpoint.url)
    toril.gateway.finished("served", toril.gateway.add_one("served"))
    commands = partial(socket_to, toril.url, "/ws/queues/served")
    with commands() as old, toril.client.stream("GET", "/queues/served/events") as events:
        toril.send(signal.SIGTERM)
        for _ in range(len(args) + 1):
            eventually(lambda: toril.status("/ready") == 503, what="readiness to say so")
        assert httpx.get(toril.url + "/ready").json() == {"status": "not ready", "reasons": ["shutting down"]}
        answer = toril.client.post("/queues/served/jobs", json=[job()])
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        result = toril.client.get("/queues/served/jobs/2/result?wait=20", timeout=30)
        assert (result.status_code, result.json()) == (200, "as before")
        assert next(line for line in events.iter_lines() if line.startswith("event:"))
        assert old.command("getJobCounts")["ok"]["completed"] == 2
        with commands() as new:
            assert new.command("getJobCounts")["ok"]["completed"] == 2
        assert toril.status("/health") == 200
    assert toril.terminate().took_s <= 15, "a second signal does not wait for the delay"


def test_after_the_shutdown_delay_requests_are_refused(
    start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint
) -> None:
    toril = start_toril(start_valkey(), env={"TORIL_SHUTDOWN_DELAY": "300ms", "TORIL_GRACE": "60s"})
    endpoint = start_endpoint(lambda _: hang())
    toril.gateway.register("refused", endpoint.url, timeout=60_000)
    toril.gateway.add_one("refused")
    endpoint.wait_for_calls(1)
    toril.send(signal.SIGTERM)
    eventually(lambda: _ask(toril, "/queues/refused/jobs", [job()], TOKEN).status_code == 503, what="a refusal")
    events = [json.loads(line)["event"] for line in toril.log().splitlines() if '"shutdown.' in line]
    assert events == ["shutdown.began", "shutdown.refusing"]
    toril.terminate()


def test_a_worker_and_a_server_stopped_by_ctrl_c_do_not_wait_for_balancers(
    start_valkey: StartValkey, start_toril: StartToril
) -> None:
    valkey, env = start_valkey(), {"TORIL_SHUTDOWN_DELAY": "60s"}
    assert start_toril(valkey, env=env, args=("--role", "worker")).terminate().code == 0
    assert start_toril(valkey, env=env).interrupt().code == 0


def _add_until_it_hangs_up(toril: TorilProcess) -> list[int]:
    """Add jobs over a kept connection, send SIGTERM after 50, and go on to the end; the statuses."""
    answers: list[int] = []
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            answers.append(toril.client.post("/queues/burst/jobs", json=[job()]).status_code)
        except httpx.TransportError:
            assert len(answers) >= 50
            assert toril.wait().code == 0
            return answers
        if len(answers) == 50:
            toril.send(signal.SIGTERM)
    raise AssertionError("it never stopped accepting")
