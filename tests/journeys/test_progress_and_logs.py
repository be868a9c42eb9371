"""The endpoint reports progress and logs, with the lock token of the job it is working on."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.support.endpoint import Answer, Call, Endpoint, reply_json
from tests.support.gateway import TOKEN, Gateway
from tests.support.toril import TorilProcess


def bearer(token: str) -> dict[str, str]:
    """The header that carries a token."""
    return {"authorization": f"Bearer {token}"}


@pytest.fixture
def held(gateway: Gateway, endpoint: Endpoint, queue: str) -> Call:
    """A job that the endpoint is working on until the test ends."""
    gate = endpoint.gate()

    async def behave(_: Call) -> Answer:
        await gate.passed()
        return reply_json("done")

    endpoint.behaviour = behave
    gateway.register(queue, endpoint.url, timeout=60_000, concurrency=2)
    gateway.add_one(queue)
    return endpoint.wait_for_calls(1)[0]


def report(gateway: Gateway, queue: str, call: Call, kind: str, body: Any, token: str | None = None) -> httpx.Response:
    """Post progress or a log line the way an endpoint does."""
    path = f"/queues/{queue}/jobs/{call.job['id']}/{kind}"
    headers = bearer(call.token if token is None else token)
    return gateway.http.post(path, content=json.dumps(body), headers=headers)


def test_an_endpoint_reports_while_it_works(
    toril: TorilProcess, gateway: Gateway, endpoint: Endpoint, queue: str
) -> None:
    async def behave(call: Call) -> Answer:
        path = f"{toril.url}/queues/{queue}/jobs/{call.job['id']}"
        async with httpx.AsyncClient(headers=bearer(call.token)) as http:
            answers = [
                await http.post(f"{path}/progress", json=50),
                await http.post(f"{path}/logs", json="half way"),
                await http.post(f"{path}/logs", json="nearly"),
                await http.post(f"{path}/progress", json={"step": 3, "of": 4}),
            ]
        return reply_json([(answer.status_code, answer.text) for answer in answers])

    endpoint.behaviour = behave
    gateway.register(queue, endpoint.url)
    done = gateway.finished(queue, gateway.add_one(queue))
    assert done["returnvalue"] == [[200, "OK"]] * 4
    assert done["progress"] == {"step": 3, "of": 4}
    assert gateway.logs(queue, done["id"]) == {"logs": ["half way", "nearly"], "count": 2}


@pytest.mark.parametrize("progress", [50, 0, 12.5, "half", True, None, [1], {"progress": 50}, {}])
def test_the_whole_body_is_the_progress(gateway: Gateway, queue: str, held: Call, progress: Any) -> None:
    answer = report(gateway, queue, held, "progress", progress)
    assert (answer.status_code, answer.text) == (200, "OK")
    assert gateway.job(queue, held.job["id"])["progress"] == progress


def test_progress_is_an_event(gateway: Gateway, queue: str, held: Call, store: Any) -> None:
    report(gateway, queue, held, "progress", {"percent": 7})
    events = [fields for _, fields in store.xrange(f"bull:{queue}:events")]
    (event,) = [fields for fields in events if fields["event"] == "progress"]
    assert (event["jobId"], json.loads(event["data"])) == (held.job["id"], {"percent": 7})


def test_a_log_line_is_a_json_string_or_an_object_with_one(gateway: Gateway, queue: str, held: Call) -> None:
    for body in ("first", {"log": "second"}, "grüße \n 3"):
        answer = report(gateway, queue, held, "logs", body)
        assert (answer.status_code, answer.text) == (200, "OK")
    page = gateway.logs(queue, held.job["id"])
    assert page == {"logs": ["first", "second", "grüße \n 3"], "count": 3}


def test_logs_are_read_in_pages_oldest_first(gateway: Gateway, queue: str, held: Call) -> None:
    for n in range(12):
        report(gateway, queue, held, "logs", f"line {n}")
    job_id = held.job["id"]
    lines = [f"line {n}" for n in range(12)]
    assert gateway.logs(queue, job_id) == {"logs": lines[:10], "count": 12}
    assert gateway.logs(queue, job_id, start=10) == {"logs": lines[10:], "count": 12}
    assert gateway.logs(queue, job_id, start=3, length=4) == {"logs": lines[3:7], "count": 12}
    assert gateway.logs(queue, job_id, start=0, end=-1) == {"logs": lines, "count": 12}
    assert gateway.logs(queue, job_id, start=2, end=4) == {"logs": lines[2:5], "count": 12}
    assert gateway.logs(queue, job_id, length=0)["logs"] == []


def test_an_unknown_job_has_an_empty_log(gateway: Gateway, queue: str) -> None:
    assert gateway.logs(queue, "nobody") == {"logs": [], "count": 0}


@pytest.mark.parametrize("kind", ["progress", "logs"])
@pytest.mark.parametrize("token", ["wrong", TOKEN, "*"])
def test_only_the_lock_token_may_report(
    gateway: Gateway, queue: str, held: Call, store: Any, kind: str, token: str
) -> None:
    before = store.hgetall(f"bull:{queue}:{held.job['id']}")
    answer = report(gateway, queue, held, kind, "x", token)
    assert (answer.status_code, answer.text) == (401, "Unauthorized")
    assert store.hgetall(f"bull:{queue}:{held.job['id']}") == before
    assert gateway.logs(queue, held.job["id"])["count"] == 0


@pytest.mark.parametrize("kind", ["progress", "logs"])
def test_the_lock_token_of_another_job_is_refused(
    gateway: Gateway, endpoint: Endpoint, queue: str, held: Call, kind: str
) -> None:
    gateway.add_one(queue)
    other = endpoint.wait_for_calls(2)[1]
    assert other.token != held.token
    assert report(gateway, queue, held, kind, "x", other.token).status_code == 401
    assert report(gateway, queue, other, kind, "x", held.token).status_code == 401
    assert report(gateway, queue, held, kind, "x").status_code == 200


@pytest.mark.parametrize("kind", ["progress", "logs"])
def test_no_token_at_all_and_an_unknown_job_are_unauthorized(
    toril: TorilProcess, gateway: Gateway, queue: str, held: Call, kind: str
) -> None:
    path = f"{toril.url}/queues/{queue}/jobs"
    assert httpx.post(f"{path}/{held.job['id']}/{kind}", json=1).status_code == 401
    assert gateway.http.post(f"{path}/4711/{kind}", json=1, headers=bearer(held.token)).status_code == 401
    in_query = httpx.post(f"{path}/{held.job['id']}/{kind}", params={"token": held.token}, json=1)
    assert in_query.status_code == 401


def test_a_lock_token_opens_no_other_route(toril: TorilProcess, queue: str, held: Call) -> None:
    with httpx.Client(base_url=toril.url, headers=bearer(held.token)) as http:
        assert http.get(f"/queues/{queue}/jobs").status_code == 401
        assert http.get(f"/queues/{queue}/jobs/{held.job['id']}/logs").status_code == 401
        assert http.get("/workers").status_code == 401


@pytest.mark.parametrize("kind", ["progress", "logs"])
def test_a_finished_job_takes_no_reports(gateway: Gateway, endpoint: Endpoint, queue: str, kind: str) -> None:
    gateway.register(queue, endpoint.url)
    done = gateway.finished(queue, gateway.add_one(queue))
    (call,) = endpoint.calls
    assert report(gateway, queue, call, kind, "late").status_code == 401
    assert gateway.job(queue, done["id"]) == done
    assert gateway.logs(queue, done["id"])["count"] == 0


@pytest.mark.parametrize("kind", ["progress", "logs"])
@pytest.mark.parametrize("body", [b"{oops", b"", b"\xff\xfe", b"NaN"])
def test_a_malformed_report_is_refused_and_changes_nothing(
    gateway: Gateway, queue: str, held: Call, store: Any, kind: str, body: bytes
) -> None:
    before = store.hgetall(f"bull:{queue}:{held.job['id']}")
    path = f"/queues/{queue}/jobs/{held.job['id']}/{kind}"
    answer = gateway.http.post(path, content=body, headers=bearer(held.token))
    assert answer.status_code == 400
    assert "Traceback" not in answer.text
    assert store.hgetall(f"bull:{queue}:{held.job['id']}") == before
    assert gateway.logs(queue, held.job["id"])["count"] == 0


@pytest.mark.parametrize(
    "query", ["start=x", "length=x", "start=-1", "length=-1", "length=101", "end=x", f"end={2**64}", f"end=-{2**64}"]
)
def test_log_pages_are_checked_like_job_pages(gateway: Gateway, queue: str, query: str) -> None:
    texts = {
        "start=x": "Invalid start or length",
        "length=x": "Invalid start or length",
        "start=-1": "Start and length must be positive",
        "length=-1": "Start and length must be positive",
        "length=101": "Length must be less than or equal to 100",
    }
    expected = texts.get(query, "Invalid start or end")
    answer = gateway.http.get(f"/queues/{queue}/jobs/1/logs?{query}")
    assert (answer.status_code, answer.text) == (400, expected)


def test_many_reports_at_once_all_arrive(toril: TorilProcess, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
    async def behave(call: Call) -> Answer:
        path = f"{toril.url}/queues/{queue}/jobs/{call.job['id']}/logs"
        async with httpx.AsyncClient(headers=bearer(call.token)) as http, asyncio.TaskGroup() as tasks:
            for n in range(40):
                tasks.create_task(http.post(path, json=f"line {n}"))
        return reply_json("done")

    endpoint.behaviour = behave
    gateway.register(queue, endpoint.url, timeout=20_000)
    done = gateway.finished(queue, gateway.add_one(queue))
    page = gateway.logs(queue, done["id"], start=0, end=-1)
    assert sorted(page["logs"]) == sorted(f"line {n}" for n in range(40))
