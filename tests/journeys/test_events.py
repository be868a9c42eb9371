"""Events over WebSocket and Server-Sent Events, and waiting for a result, on a real toril and a real Valkey."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import httpx
import pytest
import redis
from websockets.exceptions import InvalidStatus

from tests.support.endpoint import Endpoint, StartEndpoint, reply_json
from tests.support.gateway import PLAIN, TOKEN, Gateway
from tests.support.sockets import SocketClient, socket_to
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually


class Listener:
    """A reader of Server-Sent Events."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.began_at = ""
        self._lines = response.iter_lines()

    def next(self) -> dict[str, Any]:
        """The next event, as `id`, `event` and decoded `data`."""
        found: dict[str, Any] = {}
        for line in self._lines:
            if not line:
                if "event" in found:
                    return found
                continue
            name, _, value = line.partition(": ")
            found[name] = json.loads(value) if name == "data" else value
        raise AssertionError("the stream has ended")

    def until(self, name: str) -> list[dict[str, Any]]:
        """The events up to one of this name."""
        seen = [self.next()]
        while seen[-1]["event"] != name:
            seen.append(self.next())
        return seen


def listening(toril: TorilProcess, queue: str, query: str = "", **headers: str) -> AbstractContextManager[Listener]:
    """Listen to a queue for the length of a block; it has begun when the block begins."""
    return listening_at(toril, f"/queues/{queue}/events{query}", **headers)


@contextmanager
def listening_at(toril: TorilProcess, path: str, **headers: str) -> Iterator[Listener]:
    """The same with the whole path."""
    headers = {"authorization": f"Bearer {TOKEN}"} | headers
    with (
        httpx.Client(trust_env=False, timeout=20, verify=PLAIN) as client,
        client.stream("GET", f"{toril.url}{path}", headers=headers) as response,
    ):
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"] == "text/event-stream;charset=utf-8"
        listener = Listener(response)
        assert next(listener._lines) == "retry: 1000"
        name, _, listener.began_at = next(listener._lines).partition(": ")
        assert (name, next(listener._lines)) == ("id", "")
        yield listener


def event_path(queue: str, query: str = "") -> str:
    return f"/ws/queues/{queue}/events{query}"


class TestServerSentEvents:
    """`GET /queues/{queue}/events`"""

    def test_a_jobs_life_is_told_in_order(
        self, toril: TorilProcess, gateway: Gateway, queue: str, endpoint: Endpoint
    ) -> None:
        gateway.register(queue, endpoint.url)
        with listening(toril, queue) as listener:
            job_id = gateway.add_one(queue)
            seen = listener.until("completed")
            assert [event["event"] for event in seen if event["data"].get("jobId") == job_id] == [
                "added",
                "waiting",
                "active",
                "completed",
            ]
            assert seen[-1]["data"] == {"jobId": job_id, "returnvalue": {"done": True}, "prev": "active"}
            ids = [event["id"] for event in seen]
            assert ids == sorted(ids, key=lambda text: tuple(map(int, text.split("-"))))

    def test_progress_is_json(self, toril: TorilProcess, gateway: Gateway, queue: str) -> None:
        with (
            socket_to(toril.url, f"/ws/queues/{queue}/process/1?payload=job") as worker,
            listening(toril, queue) as listener,
        ):
            gateway.add_one(queue)
            (message,) = worker.jobs(1)
            worker.send({"id": message["id"], "data": {"progress": {"percent": 5}}})
            assert listener.until("progress")[-1]["data"]["data"] == {"percent": 5}

    @pytest.mark.parametrize("by", ["header", "query"])
    def test_a_listener_resumes_where_it_was(self, toril: TorilProcess, gateway: Gateway, queue: str, by: str) -> None:
        with listening(toril, queue) as listener:
            gateway.add_one(queue, 0)
            seen = listener.until("waiting")
        missed = [gateway.add_one(queue, number) for number in range(50)]
        last = seen[-1]["id"]
        how = {"last-event-id": last} if by == "header" else {}
        with listening(toril, queue, f"?since={last}" if by == "query" else "?since=0", **how) as listener:
            added = []
            while len(added) < 50:
                event = listener.next()
                if event["event"] == "added":
                    added.append(event["data"]["jobId"])
            assert added == missed
            added.append(gateway.add_one(queue, "live"))
            assert listener.until("added")[-1]["data"]["jobId"] == added[-1]

    def test_the_stream_gives_its_start_position_before_the_first_event(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        gateway.add_one(queue)
        with listening(toril, queue) as listener:
            began_at = listener.began_at
        job_id = gateway.add_one(queue)
        with listening(toril, queue, **{"last-event-id": began_at}) as listener:
            event = listener.next()
            assert (event["event"], event["data"]["jobId"]) == ("added", job_id)
        with listening_at(toril, f"/events?queues={queue}", **{"last-event-id": began_at}) as listener:
            assert listener.next()["data"]["jobId"] == job_id

    def test_the_whole_stream_can_be_read(self, toril: TorilProcess, gateway: Gateway, queue: str) -> None:
        ids = [job["id"] for job in gateway.add(queue, *({"name": "n", "data": number} for number in range(1200)))]
        with listening(toril, queue, "?since=0") as listener:
            added: list[str] = []
            while len(added) < 1200:
                event = listener.next()
                assert event["event"] != "gap"
                if event["event"] == "added":
                    added.append(event["data"]["jobId"])
        assert added == ids

    def test_events_that_were_trimmed_are_announced_as_a_gap(
        self, toril: TorilProcess, gateway: Gateway, queue: str, store: redis.Redis
    ) -> None:
        with listening(toril, queue) as listener:
            gateway.add_one(queue)
            last = listener.until("waiting")[-1]["id"]
        gateway.add(queue, *({"name": "n", "data": number} for number in range(10)))
        store.xtrim(f"bull:{queue}:events", maxlen=3, approximate=False)
        with listening(toril, queue, f"?since={last}") as listener:
            event = listener.next()
            assert (event["event"], event["data"]) == ("gap", {"since": last})
            assert len([listener.next() for _ in range(3)]) == 3

    @pytest.mark.parametrize("since", ["x", "1-2-3", "-1", "1-", "9" * 30])
    def test_a_malformed_id_is_refused(self, toril: TorilProcess, gateway: Gateway, queue: str, since: str) -> None:
        answer = gateway.http.get(f"/queues/{queue}/events", params={"since": since})
        assert (answer.status_code, answer.json()["detail"]) == (400, f"Invalid event id {since}")

    def test_the_token_may_stand_in_the_url_here_and_not_on_other_routes(self, toril: TorilProcess, queue: str) -> None:
        with httpx.stream("GET", f"{toril.url}/queues/{queue}/events?token={TOKEN}", trust_env=False) as response:
            assert response.status_code == 200
        assert httpx.get(f"{toril.url}/queues/{queue}/events?token=wrong", trust_env=False).status_code == 401
        assert httpx.get(f"{toril.url}/queues/{queue}/events", trust_env=False).status_code == 401
        assert httpx.get(f"{toril.url}/queues/{queue}/jobs?token={TOKEN}", trust_env=False).status_code == 401


class TestEventsOfSeveralQueues:
    """`GET /events?queues=`"""

    def test_each_event_says_its_queue_and_each_queue_is_in_order(
        self, toril: TorilProcess, gateway: Gateway, new_queue: Callable[[], str]
    ) -> None:
        queues = [new_queue() for _ in range(3)]
        with listening_at(toril, f"/events?queues={','.join(queues)}") as listener:
            wanted = [(queue, gateway.add_one(queue, number)) for number in range(20) for queue in queues]
            seen = []
            while len(seen) < 60:
                event = listener.next()
                if event["event"] == "added":
                    seen.append((event["data"]["queue"], event["data"]["jobId"]))
            for queue in queues:
                assert [pair for pair in seen if pair[0] == queue] == [pair for pair in wanted if pair[0] == queue]

    @pytest.mark.parametrize("by", ["header", "query"])
    def test_the_id_of_any_event_resumes_all_queues(
        self, toril: TorilProcess, gateway: Gateway, new_queue: Callable[[], str], by: str
    ) -> None:
        queues = [new_queue() for _ in range(3)]
        path = f"/events?queues={','.join(queues)}"
        told: list[tuple[str, str]] = []

        def hear(listener: Listener, most: int) -> str:
            """Listen to so many events; the id of the last."""
            for _ in range(most):
                event = listener.next()
                assert event["event"] != "gap"
                if event["event"] == "added":
                    told.append((event["data"]["queue"], event["data"]["jobId"]))
            return str(event["id"])

        with listening_at(toril, path) as listener:
            wanted = [(queue, gateway.add_one(queue)) for queue in queues for _ in range(10)]
            last = hear(listener, 25)
        wanted += [(queue, gateway.add_one(queue)) for queue in queues for _ in range(10)]
        headers = {"last-event-id": last} if by == "header" else {}
        with listening_at(toril, path + (f"&since={last}" if by == "query" else ""), **headers) as listener:
            hear(listener, 2 * 60 - 25)
        assert sorted(told) == sorted(wanted)
        assert len(told) == 60

    def test_several_queues_can_be_read_from_the_beginning_and_report_gaps(
        self, toril: TorilProcess, gateway: Gateway, new_queue: Callable[[], str], store: redis.Redis
    ) -> None:
        first, second = new_queue(), new_queue()
        for queue in (first, second):
            gateway.add(queue, *({"name": "n", "data": number} for number in range(5)))
        store.xtrim(f"bull:{second}:events", maxlen=2, approximate=False)
        with listening_at(toril, f"/events?queues={first},{second}&since=0") as listener:
            seen = [listener.next() for _ in range(13)]
        assert [event["event"] for event in seen if event["data"]["queue"] == first] == ["added", "waiting"] * 5
        ours = [event for event in seen if event["data"]["queue"] == second]
        assert [event["event"] for event in ours] == ["gap", "added", "waiting"]

    @pytest.mark.parametrize(
        ("query", "text"),
        [
            ("", "queues must name from 1 to 50 queues, with commas"),
            ("queues=,,", "queues must name from 1 to 50 queues, with commas"),
            (
                "queues=" + ",".join(f"queue-{n}" for n in range(51)),
                "queues must name from 1 to 50 queues, with commas",
            ),
            ("queues=orders,ab", "queue name must be at least 3 characters long"),
            ("queues=orders&since=x!", "Invalid event id x!"),
        ],
    )
    def test_a_malformed_list_of_queues_is_refused(self, gateway: Gateway, query: str, text: str) -> None:
        answer = gateway.http.get(f"/events?{query}")
        assert (answer.status_code, answer.json()["detail"]) == (400, text)

    def test_the_token_may_stand_in_the_url(self, toril: TorilProcess, queue: str) -> None:
        assert httpx.get(f"{toril.url}/events?queues={queue}", trust_env=False).status_code == 401
        with httpx.stream("GET", f"{toril.url}/events?queues={queue}&token={TOKEN}", trust_env=False) as response:
            assert response.status_code == 200


class TestEventSockets:
    """`/ws/queues/{queue}/events`"""

    def test_the_events_named_in_the_url_come_as_bullmq_shows_them(
        self, toril: TorilProcess, gateway: Gateway, queue: str, endpoint: Endpoint
    ) -> None:
        gateway.register(queue, endpoint.url)
        with socket_to(toril.url, event_path(queue, "?events=completed,drained")) as socket:
            job_id = gateway.add_one(queue)
            first, second = socket.receive(), socket.receive()
            assert [first["id"], second["id"]] == [0, 1]
            assert first["data"]["event"] == "completed"
            fields, stream_id = first["data"]["args"]
            assert fields == {"jobId": job_id, "returnvalue": {"done": True}, "prev": "active"}
            assert stream_id.count("-") == 1
            assert second["data"]["event"] == "drained"
            assert len(second["data"]["args"]) == 1

    def test_subscriptions_change_while_the_socket_is_open(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        with socket_to(toril.url, event_path(queue)) as socket:
            gateway.add_one(queue)
            assert socket.is_quiet()
            assert socket.command("on", "added", "waiting") == {"ok": ["added", "waiting"]}
            job_id = gateway.add_one(queue)
            assert socket.receive()["data"]["args"][0]["jobId"] == job_id
            assert socket.receive()["data"]["event"] == "waiting"
            assert socket.command("off", "added", "unheard") == {"ok": ["waiting"]}
            gateway.add_one(queue)
            assert socket.receive()["data"]["event"] == "waiting"
            assert socket.is_quiet()

    @pytest.mark.parametrize(
        "message", ["x", "[]", '{"id": 1}', '{"data": {"fn": "emit", "args": []}}', '{"data": {"fn": "on"}}', b"\xff"]
    )
    def test_a_malformed_subscription_is_refused(
        self, toril: TorilProcess, gateway: Gateway, queue: str, message: str | bytes
    ) -> None:
        with socket_to(toril.url, event_path(queue, "?events=added")) as socket:
            socket.send(message)
            assert socket.receive()["err"]["message"].startswith("Invalid message ")
            gateway.add_one(queue)
            assert socket.receive()["data"]["event"] == "added"

    def test_an_event_socket_can_be_resumed(self, toril: TorilProcess, gateway: Gateway, queue: str) -> None:
        with socket_to(toril.url, event_path(queue, "?events=added")) as socket:
            gateway.add_one(queue)
            last = socket.receive()["data"]["args"][1]
        ids = [gateway.add_one(queue) for _ in range(5)]
        with socket_to(toril.url, event_path(queue, f"?events=added&since={last}")) as socket:
            assert [socket.receive()["data"]["args"][0]["jobId"] for _ in range(5)] == ids
        with pytest.raises(InvalidStatus) as caught, socket_to(toril.url, event_path(queue, "?since=nonsense")):
            pass
        assert caught.value.response.status_code == 400

    def test_many_listeners_share_one_reader(
        self, start_valkey: Callable[..., ValkeyProcess], start_toril: Callable[..., TorilProcess]
    ) -> None:
        valkey = start_valkey()
        toril = start_toril(valkey)
        queues = [f"queue-{number}" for number in range(10)]
        with ExitStack() as stack:
            sockets: list[tuple[str, SocketClient]] = [
                (queue, stack.enter_context(socket_to(toril.url, event_path(queue, "?events=added"))))
                for queue in queues
                for _ in range(5)
            ]
            ids = {queue: toril.gateway.add_one(queue) for queue in queues}
            for queue, socket in sockets:
                assert socket.receive()["data"]["args"][0]["jobId"] == ids[queue]
            readers = [client for client in valkey.client().client_list() if client["name"] == "toril:events"]
            assert len(readers) == 1

    def test_a_redis_restart_loses_no_event(
        self, start_valkey: Callable[..., ValkeyProcess], start_toril: Callable[..., TorilProcess]
    ) -> None:
        store = start_valkey(aof=True)
        toril = start_toril(store)
        with socket_to(toril.url, event_path("orders", "?events=added")) as socket:
            first = toril.gateway.add_one("orders")
            assert socket.receive()["data"]["args"][0]["jobId"] == first
            store.kill()
            store.start()
            eventually(lambda: toril.status("/ready") == 200)
            second = eventually(lambda: _added(toril.gateway))
            assert socket.receive()["data"]["args"][0]["jobId"] == second


def _added(gateway: Gateway) -> str | None:
    answer = gateway.http.post("/queues/orders/jobs", json=[{"name": "n", "data": 1}])
    return answer.json()[0]["id"] if answer.status_code == 200 else None


class TestResult:
    """`GET /queues/{queue}/jobs/{id}/result`"""

    def _waited(
        self, gateway: Gateway, queue: str, job_id: str, wait: str = "20"
    ) -> tuple[threading.Thread, list[Any]]:
        answers: list[Any] = []

        def ask() -> None:
            with httpx.Client(
                base_url=gateway.url, headers=gateway.http.headers, timeout=30, trust_env=False, verify=PLAIN
            ) as http:
                answers.append(http.get(f"/queues/{queue}/jobs/{job_id}/result", params={"wait": wait}))

        thread = threading.Thread(target=ask)
        thread.start()
        return thread, answers

    def test_a_finished_jobs_result_comes_at_once(
        self, gateway: Gateway, queue: str, start_endpoint: StartEndpoint
    ) -> None:
        endpoint = start_endpoint(lambda _: reply_json({"n": 1}))
        gateway.register(queue, endpoint.url)
        job_id = gateway.add_one(queue)
        gateway.finished(queue, job_id)
        answer = gateway.http.get(f"/queues/{queue}/jobs/{job_id}/result")
        assert (answer.status_code, answer.json()) == (200, {"n": 1})

    def test_a_waiting_job_is_202_with_its_state(self, gateway: Gateway, queue: str) -> None:
        job_id = gateway.add_one(queue)
        delayed = gateway.add_one(queue, delay=60_000)
        for job, state, query in ((job_id, "waiting", ""), (delayed, "delayed", "?wait=0.2")):
            answer = gateway.http.get(f"/queues/{queue}/jobs/{job}/result{query}")
            assert (answer.status_code, answer.json()) == (202, {"state": state})

    @pytest.mark.parametrize("removed", [False, True])
    def test_a_waiting_caller_gets_the_result_at_once(
        self, toril: TorilProcess, gateway: Gateway, queue: str, removed: bool
    ) -> None:
        with socket_to(toril.url, f"/ws/queues/{queue}/process/1") as worker:
            for pause_s in (0.3, 1.5, 6.0):
                job_id = gateway.add_one(queue, removeOnComplete=removed)
                (message,) = worker.jobs(1)
                waiting = [self._waited(gateway, queue, job_id) for _ in range(3)]
                # They are waiting by now; if not, they find the result there, or on a busy machine no job.
                time.sleep(pause_s)
                worker.finish(message, {"sum": 3})
                for thread, _ in waiting:
                    thread.join(20)
                came = [(answers[0].status_code, answers[0].json()) for _, answers in waiting]
                if 404 not in {status for status, _ in came}:
                    break
            assert came == [(200, {"sum": 3})] * 3

    def test_a_failed_job_says_why(self, toril: TorilProcess, gateway: Gateway, queue: str) -> None:
        job_id = gateway.add_one(queue)
        with socket_to(toril.url, f"/ws/queues/{queue}/process/1") as worker:
            (message,) = worker.jobs(1)
            thread, answers = self._waited(gateway, queue, job_id)
            time.sleep(0.3)
            worker.send({"id": message["id"], "err": {"message": "no money"}})
            thread.join(10)
        later = gateway.http.get(f"/queues/{queue}/jobs/{job_id}/result")
        for answer in (answers[0], later):
            assert answer.status_code == 422
            assert answer.headers["content-type"] == "application/problem+json"
            assert (answer.json()["code"], answer.json()["failedReason"]) == ("job_failed", "no money")

    def test_an_unknown_job_is_404_at_once(self, gateway: Gateway, queue: str) -> None:
        for job_id in ("404", "meta", "id"):
            answer = gateway.http.get(f"/queues/{queue}/jobs/{job_id}/result?wait=20")
            assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")

    @pytest.mark.parametrize("wait", ["-1", "61", "soon", "nan", "inf", ""])
    def test_a_bad_wait_is_refused(self, gateway: Gateway, queue: str, wait: str) -> None:
        answer = gateway.http.get(f"/queues/{queue}/jobs/1/result", params={"wait": wait})
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith("Invalid wait")
        assert answer.json()["field"] == "wait"

    def test_a_shutdown_ends_waits_and_streams(
        self, start_valkey: Callable[..., ValkeyProcess], start_toril: Callable[..., TorilProcess]
    ) -> None:
        toril = start_toril(start_valkey())
        job_id = toril.gateway.add_one("orders")
        with (
            socket_to(toril.url, event_path("orders", "?events=added")) as socket,
            listening(toril, "orders") as listener,
        ):
            thread, answers = self._waited(toril.gateway, "orders", job_id)
            time.sleep(0.3)
            ended = toril.terminate()
            assert socket.closed() == 1012
            with pytest.raises(AssertionError, match="the stream has ended"):
                listener.next()
            thread.join(10)
        assert (answers[0].status_code, answers[0].json()) == (202, {"state": "waiting"})
        assert ended.code == 0
        assert ended.took_s < 15
        assert "shutdown.cut" not in toril.log(), "they are ended, not cut off"
