"""A job goes in by REST, is pushed to the registered endpoint, and its result is read back."""

import gzip
import json
import re
import time
import zlib
from typing import Any

import httpx
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import raw
from tests.support.endpoint import (
    Answer,
    Endpoint,
    in_chunks,
    no_content,
    reply_json,
    reply_text,
    respond,
)
from tests.support.gateway import TOKEN, Gateway, job
from tests.support.toril import TorilProcess
from tests.support.waiting import eventually

JSON = [("content-type", "application/json")]
GZIP = ("content-encoding", "gzip")
# What every job JSON has, whatever happened to the job (wire: "Job JSON").
ALWAYS = {
    "attemptsMade",
    "attemptsStarted",
    "data",
    "delay",
    "id",
    "name",
    "opts",
    "priority",
    "progress",
    "queueQualifiedName",
    "returnvalue",
    "stacktrace",
    "stalledCounter",
    "timestamp",
}


def test_a_plain_job_is_answered_with_exactly_its_json(gateway: Gateway, queue: str) -> None:
    before = int(time.time() * 1000)
    (added,) = gateway.add(queue, job({"to": "you"}, name="mail"))
    timestamp = added.pop("timestamp")
    assert before - 1000 <= timestamp <= time.time() * 1000 + 1000
    assert added == {
        "name": "mail",
        "data": {"to": "you"},
        "opts": {"attempts": 0},
        "id": "1",
        "progress": 0,
        "returnvalue": None,
        "stacktrace": None,
        "delay": 0,
        "priority": 0,
        "attemptsStarted": 0,
        "attemptsMade": 0,
        "stalledCounter": 0,
        "queueQualifiedName": f"bull:{queue}",
    }


def test_a_waiting_job_reads_back_like_it_was_answered(gateway: Gateway, queue: str) -> None:
    (added,) = gateway.add(queue, job({"n": [1, None, "ü"]}, name="mail", attempts=3, removeOnComplete=True))
    read = gateway.job(queue, added["id"])
    assert read == added | {"stacktrace": []}
    assert read["opts"] == {"attempts": 3, "removeOnComplete": True}


def test_an_id_without_a_job_is_never_pushed(
    gateway: Gateway, endpoint: Endpoint, queue: str, store: redis.Redis
) -> None:
    ghosts = [f"ghost-{number}" for number in range(3)]
    first = gateway.add_one(queue, jobId="first")
    store.lpush(f"bull:{queue}:wait", *ghosts)
    last = gateway.add_one(queue, jobId="last")
    gateway.register(queue, endpoint.url)
    for job_id in (first, last):
        gateway.finished(queue, job_id)
    assert [call.job["id"] for call in endpoint.calls] == ["first", "last"]
    assert store.lrange(f"bull:{queue}:active", 0, -1) == []
    assert not any(store.exists(f"bull:{queue}:{ghost}", f"bull:{queue}:{ghost}:lock") for ghost in ghosts)
    gateway.add_one(queue, {"n": 1}, jobId=ghosts[0])
    assert gateway.finished(queue, ghosts[0])["data"] == {"n": 1}


def test_options_show_where_clients_look_for_them(gateway: Gateway, queue: str) -> None:
    added = gateway.add(
        queue,
        job(delay=60_000),
        job(priority=7),
        job(jobId="order-77"),
        job(deduplication={"id": "once"}),
    )
    assert added[0]["delay"] == 60_000
    assert added[1]["priority"] == 7
    assert added[2]["id"] == "order-77"
    assert added[3]["deduplicationId"] == "once"
    for one in added:
        read = gateway.job(queue, one["id"])
        for field in ("delay", "priority", "id"):
            assert read[field] == one[field]
        assert read["opts"] == one["opts"]
    assert gateway.job(queue, added[3]["id"])["deduplicationId"] == "once"


def test_ids_count_from_one_in_request_order_and_no_jobs_are_no_jobs(gateway: Gateway, queue: str) -> None:
    added = gateway.add(queue, *(job({"n": n}, name=f"job-{n}") for n in range(5)))
    assert [one["id"] for one in added] == ["1", "2", "3", "4", "5"]
    assert [one["data"]["n"] for one in added] == [0, 1, 2, 3, 4]
    assert gateway.add(queue) == []


def test_the_endpoint_is_pushed_the_job_and_a_token(
    gateway: Gateway, endpoint: Endpoint, queue: str, store: Any
) -> None:
    seen_lock: list[str | None] = []

    def behave(call: Any) -> Answer:
        seen_lock.append(store.get(f"bull:{queue}:{call.job['id']}:lock"))
        return reply_json({"done": True})

    endpoint.behaviour = behave
    gateway.register(queue, endpoint.url)
    (added,) = gateway.add(queue, job({"to": "you"}, name="mail"))
    (call,) = endpoint.wait_for_calls(1)
    assert set(call.json) == {"job", "token"}
    assert call.json["job"].keys() >= ALWAYS | {"processedOn"}
    assert call.json["job"]["token"] == call.token
    assert {field: call.job[field] for field in ("id", "name", "data", "timestamp", "opts")} == {
        field: added[field] for field in ("id", "name", "data", "timestamp", "opts")
    }
    assert (call.job["attemptsMade"], call.job["attemptsStarted"]) == (0, 1)
    assert (call.job["progress"], call.job["returnvalue"], call.job["stacktrace"]) == (0, None, [])
    assert call.job["queueQualifiedName"] == f"bull:{queue}"
    eventually(lambda: seen_lock)
    assert seen_lock == [call.token]
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}:\d+", call.token)


def test_a_finished_job_shows_its_time_and_result(gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
    gateway.register(queue, endpoint.url)
    before = time.time() * 1000
    done = gateway.finished(queue, gateway.add_one(queue))
    assert done.keys() >= ALWAYS | {"processedOn", "finishedOn"}
    assert before - 1000 <= done["timestamp"] <= done["processedOn"] <= done["finishedOn"] <= time.time() * 1000 + 1000
    assert (done["attemptsMade"], done["attemptsStarted"]) == (1, 1)
    assert "failedReason" not in done


@pytest.mark.parametrize(
    ("answer", "returnvalue"),
    [
        pytest.param(reply_json({"sum": 3, "list": [1, None]}), {"sum": 3, "list": [1, None]}, id="a JSON object"),
        pytest.param(reply_json(None), None, id="a JSON null"),
        pytest.param(reply_json("text"), "text", id="a JSON string"),
        pytest.param(reply_json(17, status=201, reason="Created"), 17, id="any 2xx"),
        pytest.param(
            respond(headers=[("Content-Type", "application/json; charset=utf-8")], body='["ü"]'.encode()),
            ["ü"],
            id="JSON with parameters",
        ),
        pytest.param(in_chunks([b'{"par', b'ts": ', b"3}"]), {"parts": 3}, id="JSON in chunks"),
        pytest.param(reply_text("all fine, grüße"), "all fine, grüße", id="text"),
        pytest.param(reply_text('{"not": "parsed"}'), '{"not": "parsed"}', id="text that looks like JSON"),
        pytest.param(respond(body=b"untyped"), "untyped", id="no content type"),
        pytest.param(respond(), "", id="an empty body"),
        pytest.param(respond(headers=JSON), None, id="JSON without a body"),
        pytest.param(in_chunks([]), None, id="JSON without any chunk"),
        pytest.param(respond(headers=[*JSON, GZIP], body=gzip.compress(b'{"a": 1}')), {"a": 1}, id="compressed JSON"),
        pytest.param(respond(headers=[GZIP], body=gzip.compress(b"text")), "text", id="compressed text"),
        pytest.param(
            respond(headers=[("content-encoding", "deflate")], body=zlib.compress(b"text")), "text", id="deflated text"
        ),
        pytest.param(no_content(), "", id="an empty 204"),
    ],
)
def test_the_answer_becomes_the_return_value(
    gateway: Gateway, endpoint: Endpoint, queue: str, answer: Answer, returnvalue: Any
) -> None:
    endpoint.behaviour = lambda _: answer
    gateway.register(queue, endpoint.url)
    done = gateway.finished(queue, gateway.add_one(queue))
    assert "failedReason" not in done
    assert done["returnvalue"] == returnvalue


@pytest.mark.parametrize(
    ("header", "body", "reason"),
    [
        (GZIP, b"text", "ERR_ENCODING: The answer says that it is gzip, and is not"),
        (("content-encoding", "br"), b"x", "ERR_ENCODING: The answer is compressed with br, which toril does not read"),
        (
            GZIP,
            gzip.compress(b"0" * 11 * 1024 * 1024),
            "ERR_BODY_TOO_LARGE: The answer's body is larger than 10485760 bytes",
        ),
    ],
    ids=["not gzip", "another coding", "larger than a body may be"],
)
def test_a_compressed_answer_that_cannot_be_unpacked_fails_the_job(
    gateway: Gateway, endpoint: Endpoint, queue: str, header: tuple[str, str], body: bytes, reason: str
) -> None:
    endpoint.behaviour = lambda _: respond(headers=[header], body=body)
    gateway.register(queue, endpoint.url)
    assert gateway.finished(queue, gateway.add_one(queue))["failedReason"] == reason


def test_no_compression_is_asked_for_unless_it_is_registered(
    gateway: Gateway, endpoint: Endpoint, queue: str, new_queue: Any
) -> None:
    other = new_queue()
    endpoint.behaviour = lambda _: respond(headers=[*JSON, GZIP], body=gzip.compress(b"5"))
    gateway.register(queue, endpoint.url)
    gateway.register(other, endpoint.url, headers={"Accept-Encoding": "gzip"})
    gateway.finished(queue, gateway.add_one(queue))
    assert gateway.finished(other, gateway.add_one(other))["returnvalue"] == 5
    assert [call.header("accept-encoding") for call in endpoint.calls] == ["identity", "gzip"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "post", "Put"])
def test_the_registered_method_url_and_headers_are_used(
    gateway: Gateway, endpoint: Endpoint, queue: str, method: str
) -> None:
    url = endpoint.at("/a%20b/hook?key=1%2F2&x")
    gateway.register(queue, url, method=method, headers={"X-Secret": "s3cr3t", "accept": "text/plain"})
    gateway.add_one(queue)
    (call,) = endpoint.wait_for_calls(1)
    assert (call.method, call.target) == (method.upper(), "/a%20b/hook?key=1%2F2&x")
    assert call.header("x-secret") == "s3cr3t"
    assert [value for name, value in call.headers if name.lower() == "accept"] == ["text/plain"]
    assert call.header("host") == f"127.0.0.1:{endpoint.port}"


def test_a_content_type_is_sent_only_if_registered(
    gateway: Gateway, endpoint: Endpoint, queue: str, new_queue: Any
) -> None:
    other = new_queue()
    gateway.register(queue, endpoint.url)
    gateway.register(other, endpoint.url, headers={"content-type": "application/json"})
    gateway.add_one(queue)
    endpoint.wait_for_calls(1)
    gateway.add_one(other)
    first, second = endpoint.wait_for_calls(2)
    assert first.header("content-type") is None
    assert second.header("content-type") == "application/json"


@pytest.mark.parametrize(
    "text",
    [
        "12345678901234567890",
        "123456789012345678901234567890123456789",
        "-9223372036854775809",
        "18446744073709551616",
        "9007199254740993",
        "0.1",
        "1.5e300",
    ],
)
def test_a_number_survives_digit_by_digit(
    toril: TorilProcess, gateway: Gateway, endpoint: Endpoint, queue: str, text: str
) -> None:
    body = f'[{{"name": "n", "data": {{"n": {text}, "list": [{text}]}}}}]'.encode()
    added = gateway.http.post(f"/queues/{queue}/jobs", content=body)
    assert added.status_code == 200, added.text
    gateway.register(queue, endpoint.url)
    (call,) = endpoint.wait_for_calls(1)
    done = gateway.finished(queue, "1")
    assert done["data"]["n"] == json.loads(text)
    read = gateway.http.get(f"/queues/{queue}/jobs/1")
    listed = gateway.http.get(f"/queues/{queue}/jobs")
    number = re.compile(rf'"n":\s*{re.escape(text)}[,}}].*"list":\s*\[{re.escape(text)}\]')
    for where, seen in (
        ("answer", added.text),
        ("push", call.body.decode()),
        ("GET", read.text),
        ("list", listed.text),
    ):
        assert number.search(seen), where


@pytest.mark.parametrize("text", ["1e400", "-1e999", '"\\ud800"', "1" * 5000])
def test_extreme_json_values_survive_or_are_refused(gateway: Gateway, queue: str, store: Any, text: str) -> None:
    body = f'[{{"name": "n", "data": {text}}}]'.encode()
    answer = gateway.http.post(f"/queues/{queue}/jobs", content=body)
    if answer.status_code == 200:
        assert re.search(rf'"data":\s*{re.escape(text)}[,}}]', gateway.http.get(f"/queues/{queue}/jobs/1").text)
    else:
        assert 400 <= answer.status_code < 500
        assert store.keys(f"bull:{queue}:*") == []


@pytest.mark.parametrize("data", [0, False, "", None, [], {}, "text", 1.5, True])
def test_any_json_value_is_accepted_as_job_data(gateway: Gateway, endpoint: Endpoint, queue: str, data: Any) -> None:
    answer = gateway.http.post(f"/queues/{queue}/jobs", json=[{"name": "any", "data": data}])
    assert answer.status_code == 200, answer.text
    assert answer.json()[0]["data"] == data
    gateway.register(queue, endpoint.url)
    (call,) = endpoint.wait_for_calls(1)
    assert call.job["data"] == data
    assert type(call.job["data"]) is type(data)
    assert gateway.finished(queue, "1")["data"] == data


_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
_NAME = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters=":"), min_size=1, max_size=20)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=_NAME, data=_JSON)
def test_every_json_value_reads_back_as_it_was_added(gateway: Gateway, queue: str, name: str, data: Any) -> None:
    (added,) = gateway.add(queue, {"name": name, "data": data})
    read = gateway.job(queue, added["id"])
    assert (read["name"], read["data"]) == (name, data)
    assert (added["name"], added["data"]) == (name, data)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("%7Btag%7Dq", "{tag}q"),
        ("with%20space", "with space"),
        ("gr%C3%BC%C3%9Fe-%F0%9F%90%82", "grüße-🐂"),
        ("team%2Fjobs", "team/jobs"),
        ("100%25-sure", "100%-sure"),
        ("%2541bc", "%41bc"),
        ("plus+sign", "plus+sign"),
        ("..%2Fup", "../up"),
    ],
)
def test_a_queue_name_is_percent_decoded_once(toril: TorilProcess, store: Any, path: str, name: str) -> None:
    auth = (("authorization", f"Bearer {TOKEN}"),)
    added = raw.request(toril.port, "POST", f"/queues/{path}/jobs", headers=auth, body=b'[{"name": "a", "data": 1}]')
    assert added.status == 200, added.text
    (one,) = json.loads(added.body)
    assert one["queueQualifiedName"] == f"bull:{name}"
    assert store.exists(f"bull:{name}:{one['id']}") == 1
    read = raw.request(toril.port, "GET", f"/queues/{path}/jobs/{one['id']}", headers=auth)
    assert (read.status, json.loads(read.body)["data"]) == (200, 1)


def test_a_job_of_a_queue_with_an_odd_name_is_pushed_too(
    toril: TorilProcess, gateway: Gateway, endpoint: Endpoint
) -> None:
    name = "odd {queue}/ü"
    gateway.register(name, endpoint.url)
    quoted = "odd%20%7Bqueue%7D%2F%C3%BC"
    auth = (("authorization", f"Bearer {TOKEN}"),)
    raw.request(toril.port, "POST", f"/queues/{quoted}/jobs", headers=auth, body=b'[{"name": "a", "data": 1}]')
    endpoint.wait_for_calls(1)
    assert raw.request(toril.port, "DELETE", f"/workers/{quoted}", headers=auth).status == 200


def test_the_request_s_content_type_is_ignored(gateway: Gateway, queue: str) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/xml"):
        answer = gateway.http.post(
            f"/queues/{queue}/jobs",
            content=b'[{"name": "a", "data": 1}]',
            headers={"content-type": content_type},
        )
        assert answer.status_code == 200


def test_an_unknown_job_is_not_found(gateway: Gateway, queue: str) -> None:
    answer = gateway.http.get(f"/queues/{queue}/jobs/17")
    assert (answer.status_code, answer.text) == (404, "Job not found")


def test_the_root_shows_the_banner_without_a_token(toril: TorilProcess) -> None:
    answer = httpx.get(toril.url + "/")
    assert answer.status_code == 200
    assert re.search(r"BullMQ Proxy .*v1\.5\.3", answer.text)


class TestListing:
    """``GET /queues/:q/jobs``."""

    def test_an_empty_queue_has_counts_and_no_jobs(self, gateway: Gateway, queue: str) -> None:
        assert gateway.jobs(queue) == {
            "counts": {"waiting": 0, "paused": 0, "active": 0, "completed": 0, "failed": 0},
            "jobs": [],
            "start": 0,
            "length": 10,
        }

    def test_waiting_jobs_come_newest_first_ten_at_a_time(self, gateway: Gateway, queue: str) -> None:
        gateway.add(queue, *(job({"n": n}) for n in range(12)))
        page = gateway.jobs(queue)
        assert [one["id"] for one in page["jobs"]] == [str(n) for n in range(12, 2, -1)]
        assert page["counts"]["waiting"] == 12
        rest = gateway.jobs(queue, start=10, length=10)
        assert [one["id"] for one in rest["jobs"]] == ["2", "1"]
        assert (rest["start"], rest["length"]) == (10, 10)

    def test_a_listed_job_is_the_job(self, gateway: Gateway, queue: str) -> None:
        gateway.add(queue, job({"a": 1}, attempts=2))
        assert gateway.jobs(queue)["jobs"] == [gateway.job(queue, "1")]

    def test_only_the_asked_states_are_counted_and_listed(
        self, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        endpoint.behaviour = lambda call: reply_json(1) if call.job["name"] == "good" else respond(500, "No")
        gateway.register(queue, endpoint.url)
        gateway.add(queue, job(name="good"), job(name="bad"), job(name="good"), job(name="later", delay=60_000))
        gateway.wait_for_counts(queue, completed=2, failed=1)
        delayed = gateway.jobs(queue, statuses="delayed")
        assert delayed["counts"] == {"delayed": 1}
        assert [one["name"] for one in delayed["jobs"]] == ["later"]
        completed = gateway.jobs(queue, statuses="completed")
        assert completed["counts"] == {"completed": 2}
        assert [one["id"] for one in completed["jobs"]] == ["3", "1"]
        both = gateway.jobs(queue, statuses="failed,completed")
        assert both["counts"] == {"failed": 1, "completed": 2}
        assert sorted(one["id"] for one in both["jobs"]) == ["1", "2", "3"]

    def test_the_window_holds_for_each_state_by_itself(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        gateway.register(queue, endpoint.url)
        gateway.add(queue, *(job() for _ in range(5)))
        gateway.wait_for_counts(queue, completed=5)
        gateway.add(queue, *(job(delay=60_000 + n) for n in range(5)))
        page = gateway.jobs(queue, statuses="completed,delayed", start=1, length=2)
        assert sorted(int(one["id"]) for one in page["jobs"]) == [3, 4, 8, 9]

    def test_a_page_of_length_zero_is_empty(self, gateway: Gateway, queue: str) -> None:
        gateway.add(queue, job(), job())
        page = gateway.jobs(queue, length=0)
        assert page["jobs"] == []
        assert page["counts"]["waiting"] == 2

    def test_a_page_of_a_hundred_jobs_is_allowed(self, gateway: Gateway, queue: str) -> None:
        gateway.add(queue, *(job() for _ in range(101)))
        assert len(gateway.jobs(queue, length=100)["jobs"]) == 100
