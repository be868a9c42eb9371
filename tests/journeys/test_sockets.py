"""The queue socket and the work socket, on a real toril and a real Valkey."""

import base64
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.gateway import TOKEN, Gateway
from tests.support.sockets import SocketClient, socket_to
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually, in_time


def work_path(queue: str, concurrency: int = 1, query: str = "") -> str:
    return f"/ws/queues/{queue}/process/{concurrency}{query}"


class TestLettingIn:
    """Every socket is authenticated before it is accepted."""

    @pytest.mark.parametrize("path", ["/ws/queues/orders", "/ws/queues/orders/process/1"])
    @pytest.mark.parametrize("token", [None, "wrong"])
    def test_a_socket_without_the_token_is_refused(self, toril: TorilProcess, path: str, token: str | None) -> None:
        with pytest.raises(InvalidStatus) as caught, socket_to(toril.url, path, token):
            pass
        assert caught.value.response.status_code == 401
        assert caught.value.response.body == b"Unauthorized"

    @pytest.mark.parametrize("path", ["/ws", "/ws/queues", "/ws/queues/orders/nothing", "/queues/orders/jobs"])
    def test_a_path_that_is_no_socket_is_404(self, toril: TorilProcess, path: str) -> None:
        with pytest.raises(InvalidStatus) as caught, socket_to(toril.url, path):
            pass
        assert caught.value.response.status_code == 404

    @pytest.mark.parametrize(
        ("path", "text"),
        [
            ("/ws/queues/ab", "at least 3 characters"),
            ("/ws/queues/a%3Ab", "must not contain :"),
            ("/ws/queues/a%zzb", "percent-encoding"),
            ("/ws/queues/orders/process/0", "Invalid concurrency 0"),
            ("/ws/queues/orders/process/-1", "Invalid concurrency -1"),
            ("/ws/queues/orders/process/many", "Invalid concurrency many"),
            ("/ws/queues/orders/process/10001", "from 1 to 10000"),
            ("/ws/queues/orders/process/1?payload=all", "Invalid payload all"),
            ("/ws/queues/orders/process/1?timeout=0", "Invalid timeout 0"),
            ("/ws/queues/orders/process/1?maxStalledCount=-1", "Invalid maxStalledCount -1"),
            ("/ws/queues/orders/process/1?maxStalledCount=many", "from 0 to 1000000"),
        ],
    )
    def test_bad_input_is_named_before_the_handshake(self, toril: TorilProcess, path: str, text: str) -> None:
        with pytest.raises(InvalidStatus) as caught, socket_to(toril.url, path):
            pass
        assert caught.value.response.status_code == 400
        assert text in caught.value.response.body.decode()

    def test_the_token_may_stand_in_the_url(self, toril: TorilProcess, queue: str) -> None:
        with socket_to(toril.url, f"/ws/queues/{queue}?token={TOKEN}", None) as socket:
            assert socket.command("getJobCounts")["ok"]["waiting"] == 0

    def test_browsers_bring_the_token_in_a_subprotocol(self, toril: TorilProcess, queue: str) -> None:
        hidden = base64.urlsafe_b64encode(TOKEN.encode()).decode().rstrip("=")
        offered = ["toril", f"toril.bearer.{hidden}"]
        with socket_to(toril.url, f"/ws/queues/{queue}", None, subprotocols=offered) as socket:
            assert socket.connection.subprotocol == "toril", "the token is not sent back"
            assert "ok" in socket.command("getJobCounts")
        for wrong in ("toril.bearer.d3Jvbmc", "toril.bearer.%", "toril.bearer.", "toril"):
            with (
                pytest.raises(InvalidStatus) as caught,
                socket_to(toril.url, f"/ws/queues/{queue}", None, subprotocols=[wrong]),
            ):
                pass
            assert caught.value.response.status_code == 401


class TestCommands:
    """`/ws/queues/{queue}`"""

    def test_add_answers_the_job_as_rest_does(self, toril: TorilProcess, gateway: Gateway, queue: str) -> None:
        with socket_to(toril.url, f"/ws/queues/{queue}") as socket:
            for options in ({"attempts": 3, "delay": 60_000}, None):
                job = socket.command("add", "charge", {"amount": 42}, options)["ok"]
                assert job["name"] == "charge"
                assert gateway.job(queue, job["id"])["data"] == {"amount": 42}
            assert socket.command("add", "charge", 1)["ok"]["id"]

    def test_any_id_comes_back_as_it_was(self, toril: TorilProcess, queue: str) -> None:
        with socket_to(toril.url, f"/ws/queues/{queue}") as socket:
            for number in (1, "x", None, 1.5, [1, {"a": "ü"}], {"b": False}):
                socket.send({"id": number, "data": {"fn": "getJobCounts", "args": []}})
                assert socket.receive()["id"] == number
            socket.send(json.dumps({"id": 7, "data": {"fn": "getJobCounts", "args": ["failed"]}}).encode())
            assert socket.receive() == {"id": 7, "data": {"ok": {"failed": 0}}}

    def test_commands_can_be_sent_without_waiting(self, toril: TorilProcess, gateway: Gateway, queue: str) -> None:
        with socket_to(toril.url, f"/ws/queues/{queue}") as socket:
            for number in range(1000):
                socket.send({"id": number, "data": {"fn": "add", "args": ["n", number, None]}})
            ids = {(answer := socket.receive())["id"]: answer["data"]["ok"]["data"] for _ in range(1000)}
            assert ids == {number: number for number in range(1000)}
        assert gateway.counts(queue)["waiting"] == 1000

    def test_pause_and_resume_answer_an_empty_object(self, toril: TorilProcess, gateway: Gateway, queue: str) -> None:
        with socket_to(toril.url, f"/ws/queues/{queue}") as socket, socket_to(toril.url, work_path(queue)) as worker:
            assert socket.command("pause") == {}
            socket.command("add", "n", 1, None)
            assert worker.is_quiet()
            assert socket.command("resume") == {}
            worker.finish(worker.jobs(1)[0])
            gateway.wait_for_counts(queue, completed=1)

    def test_jobs_are_listed_by_state_in_both_orders(self, toril: TorilProcess, queue: str) -> None:
        with socket_to(toril.url, f"/ws/queues/{queue}") as socket:
            ids = [socket.command("add", "n", number, None)["ok"]["id"] for number in range(5)]
            socket.command("add", "later", 1, {"delay": 60_000})
            socket.command("add", "dear", 1, {"priority": 3})
            listed = [job["id"] for job in socket.command("getJobs", "waiting", 0, 2, True)["ok"]]
            assert listed == ids[:3]
            listed = [job["id"] for job in socket.command("getJobs", "waiting", 1, 2, False)["ok"]]
            assert listed == [ids[3], ids[2]]
            assert [job["name"] for job in socket.command("getJobs", "delayed", 0, -1, True)["ok"]] == ["later"]
            assert [job["name"] for job in socket.command("getJobs", ["prioritized"], 0, 9, True)["ok"]] == ["dear"]
            assert len(socket.command("getJobs", "wait", 0, -1, True)["ok"]) == 5
            counts = socket.command("getJobCounts")["ok"]
            assert counts == {
                "waiting": 5, "paused": 0, "active": 0, "completed": 0, "failed": 0, "delayed": 1, "prioritized": 1,
                "waiting-children": 0,
            }  # fmt: skip

    def test_the_log_and_the_workers_can_be_asked_for(self, toril: TorilProcess, gateway: Gateway, queue: str) -> None:
        with (
            socket_to(toril.url, f"/ws/queues/{queue}") as socket,
            socket_to(toril.url, work_path(queue, 1, "?payload=job")) as worker,
        ):
            job_id = socket.command("add", "n", 1, None)["ok"]["id"]
            (message,) = worker.jobs(1)
            for line in ("one", "two", "three"):
                worker.send({"id": message["id"], "data": {"log": line}})
            worker.finish(message)
            gateway.finished(queue, job_id)
            assert socket.command("getJobLogs", job_id, 0, -1)["ok"] == {"logs": ["one", "two", "three"], "count": 3}
            assert socket.command("getJobLogs", job_id, 1, 1)["ok"] == {"logs": ["two"], "count": 3}
            workers = eventually(lambda: socket.command("getWorkers")["ok"])
            assert workers[0]["name"] == queue

    @pytest.mark.parametrize(
        "message",
        [
            {"id": 9, "data": {"fn": "close", "args": []}},
            {"id": 9, "data": {"fn": "__init__", "args": []}},
            {"id": 9, "data": {"fn": "add", "args": []}},
            {"id": 9, "data": {"fn": "add", "args": ["n"]}},
            {"id": 9, "data": {"fn": "add", "args": ["n", 1, None, 4]}},
            {"id": 9, "data": {"fn": "add"}},
            {"id": 9, "data": {"fn": "pause", "args": [1]}},
            {"id": 9, "data": {"fn": "getJobs", "args": ["waiting", "0", 1, True]}},
            {"id": 9, "data": {"fn": "getJobLogs", "args": []}},
            {"id": 9, "data": {}},
            {"id": 9, "data": None},
            {"id": 9},
        ],
        ids=str,
    )
    def test_a_message_that_is_no_command_is_repeated_in_an_error_with_its_id(
        self, toril: TorilProcess, queue: str, message: Any
    ) -> None:
        with socket_to(toril.url, f"/ws/queues/{queue}") as socket:
            socket.send(message)
            answer = socket.receive()
            assert set(answer) == {"id", "err", "data"}
            assert answer["data"] == {"err": answer["err"]}, "where BullMQ Proxy's own clients look"
            assert answer["err"]["message"] == f"Invalid message {json.dumps(message)}"
            assert answer["err"]["stack"] == ""
            assert answer["err"]["code"] == "invalid_request"
            assert answer["id"] == 9
            assert "ok" in socket.command("getJobCounts"), "the socket lives on"

    @pytest.mark.parametrize(
        ("args", "text"),
        [
            (["", 1, None], "name is required"),
            (["n", 1, {"attempts": -1}], "Invalid attempts -1"),
            (["n", 1, {"nonsense": 1}], "Unexpected field: opts.nonsense"),
            (["n", 1, {"jobId": "123"}], "Custom Id cannot be integers"),
            (["n", 1, {"jobId": "0:2026:42"}], "Invalid jobId 0:2026:42, BullMQ drops jobs whose id begins with 0:"),
        ],
    )
    def test_a_bad_job_is_refused_in_the_words_of_rest(
        self, toril: TorilProcess, gateway: Gateway, queue: str, args: Any, text: str
    ) -> None:
        with socket_to(toril.url, f"/ws/queues/{queue}") as socket:
            assert socket.command("add", *args)["message"] == text
        assert sum(gateway.counts(queue).values()) == 0

    def test_a_message_over_the_limit_closes_the_socket_with_1009(self, toril: TorilProcess, queue: str) -> None:
        with socket_to(toril.url, f"/ws/queues/{queue}") as socket:
            assert socket.command("add", "n", "x" * 9_000_000, None)["ok"]["id"]
            with suppress(ConnectionClosed):  # it may be closed before all of it is sent
                socket.send("x" * (10 * 1024 * 1024 + 1))
            assert socket.closed() == 1009

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.one_of(
            st.binary(max_size=200),
            st.text(max_size=200),
            st.integers(1, 100_000).map(lambda depth: "[" * depth),
            st.integers(1, 100_000).map(lambda depth: '{"id":1,"data":' * depth),
            st.recursive(
                st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
                lambda inner: (
                    st.lists(inner, max_size=4)
                    | st.dictionaries(st.sampled_from(["id", "data", "fn", "args", "add"]), inner, max_size=4)
                ),
            ).map(json.dumps),
        )
    )
    def test_no_message_breaks_anything(self, toril: TorilProcess, message: str | bytes) -> None:
        with socket_to(toril.url, "/ws/queues/fuzzed") as socket:
            socket.send(message.encode(errors="replace").decode() if isinstance(message, str) else message)
            assert "err" in socket.receive()
            assert "ok" in socket.command("getJobCounts")


class TestWorking:
    """`/ws/queues/{queue}/process/{concurrency}`"""

    def test_a_worker_gets_the_data_and_its_result_completes_the_job(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        with socket_to(toril.url, work_path(queue)) as worker:
            for number, result in enumerate(({"sum": 3}, None, [1, "ü"], 0, "")):
                job_id = gateway.add_one(queue, {"n": number})
                message = worker.receive()
                assert message == {"id": number, "data": {"type": "process", "payload": {"n": number}}}
                worker.finish(message, result)
                done = gateway.finished(queue, job_id)
                assert done["returnvalue"] == result
                assert "failedReason" not in done

    @pytest.mark.parametrize(
        ("reply", "reason"),
        [
            ({"err": {"message": "no money", "stack": "at till"}}, "no money"),
            ({"err": "no money"}, "no money"),
            ({"data": {"err": {"message": "no money"}}}, "no money"),
            ({"data": {"message": "no money", "stack": "at till"}}, "no money"),
            ({"data": {}}, "The worker sent neither a result nor an error"),
            ({}, "The worker sent neither a result nor an error"),
            ({"data": [1]}, "The worker sent neither a result nor an error"),
            ({"err": {"message": 5}}, "The worker sent neither a result nor an error"),
        ],
        ids=str,
    )
    def test_an_error_fails_the_job(
        self, toril: TorilProcess, gateway: Gateway, queue: str, reply: Any, reason: str
    ) -> None:
        with socket_to(toril.url, work_path(queue)) as worker:
            job_id = gateway.add_one(queue)
            worker.send({"id": worker.receive()["id"]} | reply)
            assert gateway.finished(queue, job_id)["failedReason"] == reason

    def test_a_socket_worker_goes_on_when_the_registered_worker_is_removed(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        with socket_to(toril.url, work_path(queue)) as worker:
            gateway.register(queue, "http://127.0.0.1:4/nobody")
            gateway.unregister(queue)
            assert worker.is_quiet(0.5)
            for number in range(3):
                job_id = gateway.add_one(queue, number)
                worker.finish(worker.receive())
                gateway.finished(queue, job_id)

    def test_concurrency_is_the_sockets_own(self, toril: TorilProcess, gateway: Gateway, queue: str) -> None:
        with socket_to(toril.url, work_path(queue, 3)) as worker, socket_to(toril.url, work_path(queue, 2)) as other:
            gateway.add(queue, *({"name": "n", "data": number} for number in range(10)))
            mine, theirs = worker.jobs(3), other.jobs(2)
            assert worker.is_quiet()
            assert other.is_quiet()
            for socket, messages in ((worker, mine), (other, theirs)):
                for message in messages:
                    socket.finish(message)
            for message in worker.jobs(3):
                worker.finish(message)
            for message in other.jobs(2):
                other.finish(message)
            gateway.wait_for_counts(queue, completed=10)

    def test_a_job_may_take_long_and_a_timeout_is_the_workers_choice(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        with socket_to(toril.url, work_path(queue, 1, "?timeout=200")) as worker:
            job_id = gateway.add_one(queue)
            (message,) = worker.jobs(1)
            done = gateway.finished(queue, job_id)
            assert done["failedReason"] == "Timeout"
            worker.finish(message)  # too late, and harms nothing
            again = gateway.add_one(queue)
            worker.finish(worker.jobs(1)[0])
            assert gateway.finished(queue, again)["returnvalue"] == "done"

    def test_whole_jobs_come_with_their_token_and_can_be_reported_on(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        with socket_to(toril.url, work_path(queue, 1, "?payload=job")) as worker:
            job_id = gateway.add_one(queue, {"n": 1}, attempts=2)
            (message,) = worker.jobs(1)
            payload = message["data"]["payload"]
            assert payload["job"]["id"] == job_id
            assert payload["job"]["data"] == {"n": 1}
            worker.send({"id": message["id"], "data": {"progress": {"percent": 50}}})
            worker.send({"id": message["id"], "data": {"log": "half"}})
            assert eventually(lambda: gateway.job(queue, job_id)["progress"]) == {"percent": 50}
            answer = gateway.http.post(
                f"/queues/{queue}/jobs/{job_id}/progress",
                json=75,
                headers={"authorization": f"Bearer {payload['token']}"},
            )
            assert answer.text == "OK"
            worker.send({"id": message["id"], "data": {"progress": 99}})
            worker.finish(message)
            done = gateway.finished(queue, job_id)
            assert done["progress"] == 99, "what was reported before the end is written before it"
            assert gateway.logs(queue, job_id)["logs"] == ["half"]

    def test_a_worker_may_say_whether_and_when_to_try_again(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        with socket_to(toril.url, work_path(queue, 1, "?payload=job")) as worker:
            hopeless = gateway.add_one(queue, attempts=5)
            (message,) = worker.jobs(1)
            worker.send({"id": message["id"], "err": {"message": "bad card", "unrecoverable": True}})
            assert gateway.finished(queue, hopeless)["attemptsMade"] == 1
            later = gateway.add_one(queue, attempts=2, backoff={"type": "fixed", "delay": 60_000})
            (message,) = worker.jobs(1)
            worker.send({"id": message["id"], "err": {"message": "busy", "retryIn": 50}})
            (message,) = worker.jobs(1)
            worker.send({"id": message["id"], "err": {"message": "still busy", "retryIn": 50}})
            done = gateway.finished(queue, later)
            assert (done["failedReason"], done["attemptsMade"]) == ("still busy", 2), "it grants no attempt"

    def test_a_worker_that_stops_finishes_what_it_has(self, toril: TorilProcess, gateway: Gateway, queue: str) -> None:
        with socket_to(toril.url, work_path(queue, 1, "?payload=job")) as worker:
            gateway.add(queue, {"name": "n", "data": 1}, {"name": "n", "data": 2})
            (message,) = worker.jobs(1)
            worker.send({"data": {"type": "stop"}})
            assert worker.is_quiet()
            worker.finish(message)
            assert worker.closed() == 1000
        gateway.wait_for_counts(queue, completed=1, waiting=1, active=0)

    def test_a_ping_is_answered(self, toril: TorilProcess, queue: str) -> None:
        with socket_to(toril.url, work_path(queue, 1, "?payload=job")) as worker:
            worker.send({"data": {"type": "ping"}})
            assert worker.receive() == {"data": {"type": "pong"}}

    def test_a_result_that_holds_the_word_stop_is_a_result(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        with socket_to(toril.url, work_path(queue, 1, "?payload=job")) as worker:
            for result in ("stop", {"type": "stop"}):
                job_id = gateway.add_one(queue)
                worker.finish(worker.jobs(1)[0], result)
                assert gateway.finished(queue, job_id)["returnvalue"] == result

    def test_a_reply_to_a_job_not_held_is_refused_and_harms_nothing(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        with socket_to(toril.url, work_path(queue, 1, "?payload=job")) as worker:
            for message in ({"id": 77, "data": {"result": 1}}, {"id": "x", "data": {"result": 1}}, "[", "{}", b"\xff"):
                worker.send(message)
                assert worker.receive()["err"]["message"]
            job_id = gateway.add_one(queue)
            worker.finish(worker.jobs(1)[0])
            assert gateway.finished(queue, job_id)["returnvalue"] == "done"

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.binary(max_size=200)
        | st.text(max_size=200).map(lambda text: text.encode(errors="replace").decode())
        | st.integers(1, 100_000).map(lambda depth: '{"data":' * depth)
        | st.dictionaries(
            st.sampled_from(["id", "data", "err"]), st.integers(5) | st.text() | st.lists(st.none()), max_size=3
        ).map(json.dumps)
    )
    def test_no_frame_harms_a_job(self, toril: TorilProcess, gateway: Gateway, message: str | bytes) -> None:
        with socket_to(toril.url, work_path("fuzzed-work")) as worker:
            job_id = gateway.add_one("fuzzed-work")
            (held,) = worker.jobs(1)
            worker.send(message)
            worker.finish(held)
            assert gateway.finished("fuzzed-work", job_id)["returnvalue"] == "done"


HOLDER = """
import sys
from websockets.sync.client import connect
with connect(sys.argv[1], proxy=None) as socket:
    for _ in range(20):
        socket.recv()
    print("holding 20", flush=True)
    socket.recv()
"""


class TestDropping:
    """A socket that is gone gives its jobs back at once."""

    @pytest.mark.parametrize("how", ["close", "drop"])
    def test_jobs_of_a_dropped_socket_go_to_another_worker_without_a_failed_attempt(
        self, toril: TorilProcess, gateway: Gateway, queue: str, how: str
    ) -> None:
        gateway.add(queue, *({"name": "n", "data": number} for number in range(20)))
        with ExitStack() as stack:
            first = stack.enter_context(socket_to(toril.url, work_path(queue, 20)))
            held = {message["data"]["payload"] for message in first.jobs(20)}
            second = stack.enter_context(socket_to(toril.url, work_path(queue, 20)))
            assert second.is_quiet()
            if how == "close":
                first.connection.close()
            else:
                first.drop()
            messages = second.jobs(20)
            assert {message["data"]["payload"] for message in messages} == held
            for message in messages:
                second.finish(message)
            gateway.wait_for_counts(queue, completed=20, failed=0)
        page = gateway.jobs(queue, statuses="completed", length=20)
        stalls = 1 if how == "drop" else 0
        assert {(job["attemptsMade"], job["stalledCounter"]) for job in page["jobs"]} == {(1, stalls)}

    @pytest.mark.parametrize(("query", "deaths"), [("", 2), ("?maxStalledCount=0", 1), ("?maxStalledCount=3", 4)])
    def test_a_job_that_kills_its_workers_fails_and_the_next_one_is_served(
        self, toril: TorilProcess, gateway: Gateway, queue: str, query: str, deaths: int
    ) -> None:
        poison = gateway.add_one(queue, "poison", attempts=50)
        behind = gateway.add_one(queue, "behind")
        for _ in range(deaths):
            with socket_to(toril.url, work_path(queue, 1, query)) as worker:
                assert worker.receive()["data"]["payload"] == "poison"
                worker.drop()
            gateway.wait_for_counts(queue, active=0)  # else the next worker may come before the job is back
        with socket_to(toril.url, work_path(queue, 1, query)) as worker:
            message = worker.receive()
            assert message["data"]["payload"] == "behind"
            worker.finish(message)
            gateway.finished(queue, behind)
        job = gateway.job(queue, poison)
        assert job["failedReason"] == "job stalled more than allowable limit"
        assert (job["attemptsStarted"], job["stalledCounter"]) == (deaths, deaths)
        gateway.wait_for_counts(queue, failed=1, completed=1, waiting=0, active=0)

    def test_a_job_whose_result_is_too_large_fails_in_the_end(
        self, start_valkey: Callable[..., ValkeyProcess], start_toril: Callable[..., TorilProcess]
    ) -> None:
        toril = start_toril(start_valkey(), env={"TORIL_MAX_BODY_BYTES": "10000"})
        job_id = toril.gateway.add_one("orders", "large")
        for _ in range(2):
            with socket_to(toril.url, work_path("orders")) as worker:
                worker.finish(worker.receive(), "x" * 20_000)
                assert worker.closed() == 1009
        job = toril.gateway.finished("orders", job_id)
        assert job["failedReason"] == "job stalled more than allowable limit"

    @pytest.mark.parametrize("code", [1000, 1001, 4321, None])
    def test_a_worker_that_closes_its_socket_as_often_as_it_likes_stalls_no_job(
        self, toril: TorilProcess, gateway: Gateway, queue: str, code: int | None
    ) -> None:
        job_id = gateway.add_one(queue, "moved on")
        for _ in range(3):
            with socket_to(toril.url, work_path(queue)) as worker:
                worker.receive()
                if code is None:  # a close frame without a code, as a browser's `close()` sends it
                    worker.connection.socket.sendall(bytes([0x88, 0x80, 0, 0, 0, 0]))
                    worker.closed()
                else:
                    worker.connection.close(code)
        with socket_to(toril.url, work_path(queue)) as worker:
            worker.finish(worker.receive())
            job = gateway.finished(queue, job_id)
        assert (job["attemptsStarted"], job["stalledCounter"], job["returnvalue"]) == (4, 0, "done")

    @pytest.mark.parametrize("code", [1002, 1007, 1011])
    def test_a_worker_that_closes_its_socket_because_of_a_fault_counts_as_stalled(
        self, toril: TorilProcess, gateway: Gateway, queue: str, code: int
    ) -> None:
        job_id = gateway.add_one(queue)
        with socket_to(toril.url, work_path(queue)) as worker:
            worker.receive()
            worker.connection.close(code)
        with socket_to(toril.url, work_path(queue)) as worker:
            worker.finish(worker.receive())
            assert gateway.finished(queue, job_id)["stalledCounter"] == 1

    def test_replies_sent_before_a_socket_closes_count(self, toril: TorilProcess, gateway: Gateway, queue: str) -> None:
        for number in range(30):
            job_id = gateway.add_one(queue, number)
            with socket_to(toril.url, work_path(queue, 1, "?payload=job")) as worker:
                (message,) = worker.jobs(1)
                worker.send({"id": message["id"], "data": {"progress": number}})
                worker.finish(message, number)
            done = gateway.finished(queue, job_id)
            assert (done["returnvalue"], done["progress"], done["attemptsStarted"]) == (number, number, 1)

    def test_a_killed_consumers_jobs_finish_elsewhere_within_two_seconds(
        self, toril: TorilProcess, gateway: Gateway, new_queue: Callable[[], str]
    ) -> None:
        def killed() -> float:
            queue = new_queue()
            gateway.add(queue, *({"name": "n", "data": number} for number in range(20)))
            url = toril.url.replace("http://", "ws://") + work_path(queue, 20, f"?token={TOKEN}")
            with subprocess.Popen([sys.executable, "-c", HOLDER, url], stdout=subprocess.PIPE, text=True) as holder:
                try:
                    assert holder.stdout is not None
                    assert holder.stdout.readline() == "holding 20\n"
                    with socket_to(toril.url, work_path(queue, 20)) as other:
                        assert other.is_quiet(0.1)
                        holder.kill()
                        began = time.monotonic()
                        for message in other.jobs(20):
                            other.finish(message)
                        gateway.wait_for_counts(queue, completed=20, failed=0, active=0, waiting=0)
                        took_s = time.monotonic() - began
                finally:
                    holder.kill()
            jobs = gateway.jobs(queue, statuses="completed", length=20)["jobs"]
            assert {(job["attemptsMade"], job["stalledCounter"]) for job in jobs} == {(1, 1)}
            return took_s

        in_time(2.0, killed)

    def test_a_delayed_job_is_on_time_when_the_worker_that_awaited_it_is_gone(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        with socket_to(toril.url, work_path(queue)) as first:
            gateway.add_one(queue, "later", delay=1000)
            assert first.is_quiet(0.2)
        with socket_to(toril.url, work_path(queue)) as second:
            worker_got = second.receive(9)
            assert worker_got["data"]["payload"] == "later"
            second.finish(worker_got)
            gateway.wait_for_counts(queue, completed=1)


class TestShutdown:
    """SIGTERM: no more jobs, a notice, the last answers, 1012."""

    def test_at_a_shutdown_a_socket_worker_finishes_and_its_socket_is_closed(
        self, start_valkey: Callable[..., ValkeyProcess], start_toril: Callable[..., TorilProcess]
    ) -> None:
        store = start_valkey()
        toril = start_toril(store)
        job_id = toril.gateway.add_one("orders")
        with (
            socket_to(toril.url, work_path("orders", 2, "?payload=job")) as worker,
            socket_to(toril.url, work_path("orders")) as plain,
            socket_to(toril.url, "/ws/queues/orders") as commands,
        ):
            (message,) = _first(worker, plain)
            toril.send(signal.SIGTERM)
            assert commands.closed() == 1012
            holder = worker if "job" in str(message["data"]["payload"]) else plain
            if holder is worker:
                assert worker.receive() == {"data": {"type": "drain"}}
                assert plain.closed() == 1012
            holder.finish(message)
            assert holder.closed() == 1012
        assert toril.wait().code == 0
        again = start_toril(store)
        assert again.gateway.job("orders", job_id)["returnvalue"] == "done"

    @pytest.mark.parametrize("payload", ["data", "job"])
    def test_a_worker_that_vanishes_meanwhile_counts_as_stalled(
        self, start_valkey: Callable[..., ValkeyProcess], start_toril: Callable[..., TorilProcess], payload: str
    ) -> None:
        store = start_valkey()
        toril = start_toril(store)
        job_id = toril.gateway.add_one("orders")
        with (
            socket_to(toril.url, work_path("orders", 1, f"?payload={payload}")) as worker,
            socket_to(toril.url, "/ws/queues/orders") as commands,
        ):
            worker.jobs(1)
            toril.send(signal.SIGTERM)
            assert commands.closed() == 1012, "draining has begun"
            worker.drop()
        assert toril.wait().code == 0
        left = store.client().hgetall(f"bull:orders:{job_id}")
        assert (left["stc"], left.get("atm", "0")) == ("1", "0")

    def test_jobs_not_answered_before_the_shutdown_ends_go_back_to_waiting(
        self, start_valkey: Callable[..., ValkeyProcess], start_toril: Callable[..., TorilProcess]
    ) -> None:
        store = start_valkey()
        toril = start_toril(store, env={"TORIL_GRACE": "300ms"})
        job_id = toril.gateway.add_one("orders")
        with socket_to(toril.url, work_path("orders")) as worker:
            worker.jobs(1)
            toril.send(signal.SIGTERM)
            assert worker.closed() == 1012
        assert toril.wait().code == 0
        again = start_toril(store)
        assert again.gateway.counts("orders") == {
            "waiting": 1, "paused": 0, "active": 0, "completed": 0, "failed": 0, "delayed": 0
        }  # fmt: skip
        assert again.gateway.job("orders", job_id)["attemptsMade"] == 0


def _first(*workers: SocketClient) -> list[Any]:
    """The message of whichever worker got the only job."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for worker in workers:
            try:
                return [worker.receive(0.05)]
            except TimeoutError:
                continue
    raise AssertionError("no worker got the job")
