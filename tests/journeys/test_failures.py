"""What a failing, slow or broken endpoint does to a job: retries, timeouts, and what is written down."""

import re
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from tests.support.endpoint import (
    Answer,
    Call,
    Endpoint,
    StartEndpoint,
    cut,
    drop,
    garbage,
    hang,
    hang_in_body,
    huge,
    no_reason,
    reply_json,
    reply_text,
    respond,
)
from tests.support.gateway import Gateway, job
from tests.support.ports import free_port
from tests.support.waiting import eventually

ABORTED = "The operation was aborted."


def gaps_ms(calls: list[Call]) -> list[float]:
    """The times between calls, in milliseconds."""
    return [(later.at - earlier.at) * 1000 for earlier, later in pairwise(calls)]


def failing_first(count: int) -> Callable[[Call], Answer]:
    """Answers 503 to the first ``count`` calls and 200 from then on."""
    return lambda call: respond(503, "Not Yet") if call.number < count else reply_json("at last")


class TestRetries:
    """``attempts`` and ``backoff``."""

    def test_a_job_fails_for_good_after_one_attempt_by_default(
        self, gateway: Gateway, endpoint: Endpoint, queue: str, canary: Callable[[], None]
    ) -> None:
        endpoint.behaviour = lambda _: respond(500, "Internal Server Error")
        gateway.register(queue, endpoint.url)
        done = gateway.finished(queue, gateway.add_one(queue))
        assert done["failedReason"] == "Internal Server Error"
        assert (done["attemptsMade"], done["attemptsStarted"]) == (1, 1)
        assert len(done["stacktrace"]) == 1
        canary()
        assert len(endpoint.calls) == 1

    def test_a_failed_attempt_is_retried_at_once_without_a_backoff(
        self, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        endpoint.behaviour = failing_first(2)
        gateway.register(queue, endpoint.url)
        done = gateway.finished(queue, gateway.add_one(queue, attempts=3))
        assert done["returnvalue"] == "at last"
        assert (done["attemptsMade"], done["attemptsStarted"]) == (3, 3)
        assert [(call.job["attemptsMade"], call.job["attemptsStarted"]) for call in endpoint.calls] == [
            (0, 1),
            (1, 2),
            (2, 3),
        ]
        assert [len(call.job["stacktrace"]) for call in endpoint.calls] == [0, 1, 2]

    def test_attempts_run_out(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        endpoint.behaviour = lambda call: respond(500 + call.number, f"Reason {call.number}")
        gateway.register(queue, endpoint.url)
        done = gateway.finished(queue, gateway.add_one(queue, attempts=3))
        assert done["failedReason"] == "Reason 2"
        assert done["attemptsMade"] == 3
        assert len(done["stacktrace"]) == 3
        for number, entry in enumerate(done["stacktrace"]):
            assert str(500 + number) in entry
        assert gateway.counts(queue) == {
            "waiting": 0,
            "paused": 0,
            "active": 0,
            "completed": 0,
            "failed": 1,
            "delayed": 0,
        }

    @pytest.mark.parametrize("backoff", [{"type": "fixed", "delay": 300}, 300])
    def test_a_fixed_backoff_waits_the_same_each_time(
        self, gateway: Gateway, endpoint: Endpoint, queue: str, backoff: Any
    ) -> None:
        endpoint.behaviour = failing_first(2)
        gateway.register(queue, endpoint.url)
        done = gateway.finished(queue, gateway.add_one(queue, attempts=3, backoff=backoff))
        assert done["returnvalue"] == "at last"
        assert [call.job["attemptsMade"] for call in endpoint.calls] == [0, 1, 2]
        for gap in gaps_ms(endpoint.calls):
            assert 295 <= gap <= 600

    def test_an_exponential_backoff_doubles(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        endpoint.behaviour = failing_first(3)
        gateway.register(queue, endpoint.url)
        backoff = {"type": "exponential", "delay": 150}
        done = gateway.finished(queue, gateway.add_one(queue, attempts=4, backoff=backoff))
        assert done["attemptsMade"] == 4
        for gap, expected in zip(gaps_ms(endpoint.calls), (150, 300, 600), strict=True):
            assert expected - 5 <= gap <= expected + 250

    def test_a_job_that_waits_for_its_retry_is_delayed(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        endpoint.behaviour = lambda _: respond(503, "Later")
        gateway.register(queue, endpoint.url)
        job_id = gateway.add_one(queue, attempts=2, backoff=60_000)
        gateway.wait_for_counts(queue, delayed=1, active=0)
        waiting = gateway.job(queue, job_id)
        assert (waiting["attemptsMade"], waiting["delay"]) == (1, 60_000)
        assert waiting["failedReason"] == "Later"
        assert "finishedOn" not in waiting

    def test_a_retry_does_not_hold_its_slot(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        endpoint.behaviour = lambda call: respond(503, "No") if call.job["name"] == "bad" else reply_json(1)
        gateway.register(queue, endpoint.url)
        gateway.add(queue, job(name="bad", attempts=2, backoff=60_000), *(job(name="good") for _ in range(5)))
        gateway.wait_for_counts(queue, completed=5, delayed=1)


class TestReasons:
    """``failedReason`` and ``stacktrace``."""

    @pytest.mark.parametrize("reason", ["Service Unavailable", 'Kaputt:  100% "sure"', "not found", "x" * 300])
    def test_the_reason_phrase_is_the_failed_reason_verbatim(
        self, gateway: Gateway, endpoint: Endpoint, queue: str, reason: str
    ) -> None:
        endpoint.behaviour = lambda _: respond(503, reason)
        gateway.register(queue, endpoint.url)
        assert gateway.finished(queue, gateway.add_one(queue))["failedReason"] == reason

    @pytest.mark.parametrize("space", [True, False])
    def test_no_reason_phrase_is_no_failed_reason(
        self, gateway: Gateway, endpoint: Endpoint, queue: str, space: bool
    ) -> None:
        endpoint.behaviour = lambda _: no_reason(503, space=space)
        gateway.register(queue, endpoint.url)
        done = gateway.finished(queue, gateway.add_one(queue))
        assert "failedReason" not in done
        assert gateway.counts(queue)["failed"] == 1
        assert "503" in done["stacktrace"][0]

    @pytest.mark.parametrize("status", [300, 304, 400, 404, 409, 418, 429, 500, 599])
    def test_anything_but_2xx_fails(self, gateway: Gateway, endpoint: Endpoint, queue: str, status: int) -> None:
        endpoint.behaviour = lambda _: respond(status, "Because")
        gateway.register(queue, endpoint.url)
        assert gateway.finished(queue, gateway.add_one(queue))["failedReason"] == "Because"

    def test_a_redirect_is_not_followed(
        self, gateway: Gateway, endpoint: Endpoint, start_endpoint: StartEndpoint, queue: str
    ) -> None:
        elsewhere = start_endpoint()
        endpoint.behaviour = lambda _: respond(302, "Found", [("location", elsewhere.url)])
        gateway.register(queue, endpoint.url)
        assert gateway.finished(queue, gateway.add_one(queue))["failedReason"] == "Found"
        assert elsewhere.calls == []

    def test_the_stacktrace_tells_the_whole_story(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        body = "the database said no; " * 2000
        endpoint.behaviour = lambda _: reply_text(body, 503, "Service Unavailable").after(0.12)
        url = endpoint.at("/orders?id=7")
        gateway.register(queue, url, method="PUT")
        (entry,) = gateway.finished(queue, gateway.add_one(queue))["stacktrace"]
        for part in ("503", "PUT", url, "the database said no"):
            assert part in entry
        durations = [float(ms) for ms in re.findall(r"(\d+(?:\.\d+)?) ?ms\b", entry)]
        durations += [float(s) * 1000 for s in re.findall(r"(\d+(?:\.\d+)?) ?s\b", entry)]
        assert any(110 <= duration <= 10_000 for duration in durations), entry
        assert len(entry) < 10_000, "only the first part of the body belongs there"

    def test_the_stacktrace_holds_no_registered_header(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        endpoint.behaviour = lambda _: reply_text("no", 500, "No")
        gateway.register(queue, endpoint.url, headers={"authorization": "Bearer s3cr3t"})
        done = gateway.finished(queue, gateway.add_one(queue))
        assert "s3cr3t" not in str(done)

    def test_an_unreachable_endpoint_says_so(self, gateway: Gateway, queue: str) -> None:
        url = f"http://127.0.0.1:{free_port()}/nobody"
        gateway.register(queue, url)
        done = gateway.finished(queue, gateway.add_one(queue))
        assert done["failedReason"].startswith("ECONNREFUSED: Unable to connect.")
        (entry,) = done["stacktrace"]
        assert "ECONNREFUSED" in entry
        assert url in entry

    def test_an_unknown_host_fails_the_job(self, gateway: Gateway, queue: str) -> None:
        gateway.register(queue, "http://no-such-host.invalid/hook", timeout=5000)
        done = gateway.finished(queue, gateway.add_one(queue), timeout_s=40)
        assert done["failedReason"]
        assert "no-such-host.invalid" in done["stacktrace"][0]

    @pytest.mark.parametrize("answer", [drop(), cut(), garbage(), garbage(b"HTTP/1.1 abc OK\r\n\r\n")])
    def test_a_broken_answer_fails_the_job_with_a_reason(
        self, gateway: Gateway, endpoint: Endpoint, queue: str, answer: Answer
    ) -> None:
        endpoint.behaviour = lambda _: answer
        gateway.register(queue, endpoint.url)
        done = gateway.finished(queue, gateway.add_one(queue))
        assert done["failedReason"]
        assert done["returnvalue"] is None
        assert endpoint.url in done["stacktrace"][0]

    @pytest.mark.parametrize("body", [b"{oops", b" ", b"\xff\xfe", b"NaN", b'{"a": 1} trailing'])
    def test_malformed_json_fails_the_job_with_the_parser_s_words(
        self, gateway: Gateway, endpoint: Endpoint, queue: str, body: bytes
    ) -> None:
        endpoint.behaviour = lambda _: respond(headers=[("content-type", "application/json")], body=body)
        gateway.register(queue, endpoint.url)
        done = gateway.finished(queue, gateway.add_one(queue))
        assert done["failedReason"]
        assert done["returnvalue"] is None
        assert gateway.counts(queue)["failed"] == 1

    def test_a_broken_connection_is_retried_like_any_failure(
        self, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        endpoint.behaviour = lambda call: drop() if call.job["attemptsMade"] < 2 else reply_json("ok")
        gateway.register(queue, endpoint.url)
        done = gateway.finished(queue, gateway.add_one(queue, attempts=3))
        assert done["returnvalue"] == "ok"
        assert done["attemptsMade"] == 3

    def test_one_attempt_is_one_request_however_many_connections_are_kept(
        self, gateway: Gateway, endpoint: Endpoint, queue: str, canary: Callable[[], None]
    ) -> None:
        def answer(call: Call) -> Answer:
            return drop() if call.job["name"] == "dropped" else reply_json("ok").after(0.3)

        endpoint.behaviour = answer
        gateway.register(queue, endpoint.url, concurrency=10)
        for job_id in [gateway.add_one(queue) for _ in range(10)]:  # as many connections as there were at once
            assert gateway.finished(queue, job_id)["returnvalue"] == "ok"
        done = gateway.finished(queue, gateway.add_one(queue, name="dropped"))
        assert done["failedReason"] == "ECONNRESET: The connection was closed before an answer came"
        assert done["attemptsMade"] == 1
        canary()
        assert len([call for call in endpoint.calls if call.job["name"] == "dropped"]) == 1

    def test_a_kept_connection_that_was_closed_meanwhile_costs_no_attempt(
        self, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        gateway.register(queue, endpoint.url)
        for _ in range(5):
            gateway.finished(queue, gateway.add_one(queue))
            for connection in list(endpoint._connections):
                endpoint._loop.call_soon_threadsafe(connection.abort)
            eventually(lambda: not endpoint._connections)
        assert gateway.counts(queue)["completed"] == 5
        assert len(endpoint.calls) == 5

    def test_an_endless_body_is_not_swallowed_whole(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        endpoint.behaviour = lambda _: huge(256 * 1024 * 1024)
        gateway.register(queue, endpoint.url, timeout=60_000)
        done = gateway.finished(queue, gateway.add_one(queue), timeout_s=60)
        assert done["failedReason"]
        assert done["returnvalue"] is None


class TestTimeouts:
    """``endpoint.timeout``, in milliseconds."""

    @pytest.mark.parametrize("answer", [hang(), hang_in_body(), reply_json(1).after(20)])
    def test_a_late_answer_is_aborted(self, gateway: Gateway, endpoint: Endpoint, queue: str, answer: Answer) -> None:
        endpoint.behaviour = lambda _: answer
        gateway.register(queue, endpoint.url, timeout=400)
        done = gateway.finished(queue, gateway.add_one(queue))
        assert done["failedReason"] == ABORTED
        assert 390 <= done["finishedOn"] - done["processedOn"] <= 2900, "not the default of three seconds"
        assert endpoint.url in done["stacktrace"][0]
        eventually(lambda: endpoint.gone(endpoint.calls[0]), what="the connection to be closed")

    def test_three_seconds_are_the_default(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        endpoint.behaviour = lambda _: hang()
        gateway.register(queue, endpoint.url)
        done = gateway.finished(queue, gateway.add_one(queue))
        assert done["failedReason"] == ABORTED
        assert 2950 <= done["finishedOn"] - done["processedOn"] <= 9000

    def test_the_timeout_is_for_each_request(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        endpoint.behaviour = lambda call: hang() if call.number == 0 else reply_json("second")
        gateway.register(queue, endpoint.url, timeout=300)
        job_id = gateway.add_one(queue, attempts=2)
        assert gateway.finished(queue, job_id)["returnvalue"] == "second"
        _, first = gateway.http.get(f"/queues/{queue}/jobs/{job_id}/attempts").json()["attempts"]
        assert 295 <= first["durationMs"] <= 2900, "not the default of three seconds"

    def test_an_answer_in_time_is_not_aborted(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        endpoint.behaviour = lambda _: reply_json("in time").after(3.5)
        gateway.register(queue, endpoint.url, timeout=6000)
        began = time.monotonic()
        assert gateway.finished(queue, gateway.add_one(queue))["returnvalue"] == "in time"
        assert time.monotonic() - began >= 3.4


def test_a_hung_endpoint_does_not_hold_up_another_queue(
    gateway: Gateway, start_endpoint: StartEndpoint, new_queue: Callable[[], str]
) -> None:
    hung, fine = new_queue(), new_queue()
    black_hole, quick = start_endpoint(lambda _: hang()), start_endpoint()
    gateway.register(hung, black_hole.url, timeout=60_000, concurrency=50)
    gateway.register(fine, quick.url, concurrency=5)
    gateway.add(hung, *(job() for _ in range(60)))
    black_hole.wait_for_calls(50)
    began = time.monotonic()
    gateway.add(fine, *(job() for _ in range(200)))
    gateway.wait_for_counts(fine, 30, completed=200)
    assert time.monotonic() - began < 30, "and not when the others time out"
    assert black_hole.open_calls == 50
    gateway.unregister(hung)
