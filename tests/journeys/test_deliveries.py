"""Deliveries accepted, followed, listed, cancelled, replayed, over HTTP on real servers (wire/delivery.md).

What is to be looked at stands still: it is delayed by an hour. Attempts, where one is needed, are written to the
ledger by the test itself; that toril makes them is shown in `test_targets`.
"""

import base64
import json
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.deliveries import LATER, Door, configuration, dead_letter, settle
from tests.support.tokens import ask, token
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually
from toril.delivery.rules.changes import Delivered, RetryAt
from toril.delivery.rules.delivery import queue_of

NOWHERE = "http://127.0.0.1:9/"
MAX_BODY = 20_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deliveries")


@pytest.fixture(scope="module")
def ledger(folder: Path) -> Path:
    return folder / "ledger.sqlite3"


@pytest.fixture(scope="module")
def toril(folder: Path, ledger: Path, valkey: ValkeyProcess) -> Iterator[TorilProcess]:
    file = configuration(
        folder / "toril.yaml",
        {
            "billing": NOWHERE,
            "email": NOWHERE,
        },
        ledger={"url": f"sqlite:///{ledger}"},
        max_body=MAX_BODY,
        tokens=[
            token("biller", ["deliveries:*"], ["bill*"]),
            token("reader", ["deliveries:read"]),
            token("nobody", ["jobs:*"]),
        ],
    )
    env = {"QUEUE_PREFIX": "test-deliveries"}  # other suites have another ledger on this Valkey
    with TorilProcess(valkey.url, folder / "toril.log", args=["--config", str(file)], env=env) as server:
        yield server
    assert server.complaints() == []


@pytest.fixture
def door(toril: TorilProcess) -> Door:
    return Door(toril.gateway)


@pytest.fixture
def label() -> dict[str, str]:
    """A label no other test uses."""
    return {"test": uuid.uuid4().hex}


def code(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == answer.headers["toril-code"]
    return answer.status_code, answer.json()["code"]


# accepting


def test_an_envelope_is_accepted_and_its_job_is_in_the_targets_queue(door: Door, toril: TorilProcess) -> None:
    answer = door.post({"target": "billing", "body": {"a": 1}} | LATER)
    job_id = answer.json()["job_id"]
    assert (answer.status_code, answer.headers["location"]) == (202, f"/jobs/{job_id}")
    assert answer.json() == {"job_id": job_id, "target": "billing", "status": "queued"}
    assert toril.gateway.job(queue_of("billing"), job_id)["data"]["target"] == "billing"
    job = door.job(job_id)
    assert [(step["seq"], step["from"], step["to"]) for step in job["transitions"]] == [(1, None, "queued")]
    due = datetime.fromisoformat(job["next_attempt_at"]) - datetime.fromisoformat(job["created_at"])
    assert due == timedelta(hours=1)
    assert (job["attempts"], job["response"], job["max_attempts"], job["attempts_made"]) == ([], None, 16, 0)


def test_the_same_key_and_envelope_are_the_same_job(door: Door) -> None:
    key = uuid.uuid4().hex
    job_id = door.enqueue("billing", key, body={"a": 1, "b": 2}, headers={"X-A": "1"}, **LATER)
    again = door.post({"headers": {"x-a": ["1"]}, "body": {"b": 2, "a": 1}, "target": "billing"} | LATER, key)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    assert again.json() == {"job_id": job_id, "target": "billing", "status": "queued"}
    assert code(door.post({"target": "billing", "body": {"a": 1}} | LATER, key)) == (422, "idempotency_mismatch")
    assert door.enqueue("email", key, **LATER) != job_id


def test_of_many_concurrent_envelopes_with_one_key_one_is_accepted(door: Door, label: dict[str, str]) -> None:
    key, answers = uuid.uuid4().hex, []

    def post() -> None:
        answers.append(door.post({"target": "billing", "labels": label} | LATER, key))

    threads = [threading.Thread(target=post) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [200] * 11 + [202]
    assert {answer.json()["job_id"] for answer in answers} == set(door.jobs(**{"label.test": label["test"]}))


@pytest.mark.parametrize(
    ("field", "value"),
    [("path", "/" + "a" * 2**20), ("method", "M" * 2**20), ("headers", {f"x-{n}": "v" * 1000 for n in range(80)})],
    ids=["path", "method", "headers"],
)
def test_an_envelope_that_would_hold_its_target_up_is_refused_by_its_field(door: Door, field: str, value: Any) -> None:
    answer = door.post({"target": "billing", field: value} | LATER)
    assert code(answer) == (400, "invalid_envelope")
    assert answer.json()["field"] == field
    assert len(answer.content) < 1000


def test_a_refused_envelope_takes_no_key(door: Door) -> None:
    key = uuid.uuid4().hex
    assert code(door.post({"target": "billing", "path": "x"}, key)) == (400, "invalid_envelope")
    assert code(door.post({"target": "nowhere"}, key)) == (404, "unknown_target")
    door.enqueue("billing", key, **LATER)


@pytest.mark.parametrize(
    ("envelope", "field"),
    [
        ({}, "target"),
        ({"target": "billing", "tarket": 1}, "tarket"),
        ({"target": "billing", "path": "/../x"}, "path"),
        ({"target": "billing", "headers": {"Host": "x"}}, "headers"),
        ({"target": "billing", "idempotency_key": "x"}, "idempotency_key"),
    ],
)
def test_a_bad_envelope_is_refused_and_the_field_named(door: Door, envelope: dict[str, Any], field: str) -> None:
    answer = door.post(envelope)
    assert code(answer) == (400, "invalid_envelope")
    assert answer.json()["field"] == field


@pytest.mark.parametrize("key", ["", "a b", "a" * 256, "\u00e9".encode().decode("latin-1")])
def test_a_bad_key_is_refused(door: Door, key: str) -> None:
    answer = door.http.post("/enqueue", json={"target": "billing"}, headers={"idempotency-key": key.encode("latin-1")})
    assert code(answer) == (400, "invalid_envelope")
    assert answer.json()["field"] == "idempotency-key"


def test_a_large_body_is_refused_by_its_decoded_length(door: Door) -> None:
    door.enqueue("billing", body_base64=base64.b64encode(bytes(MAX_BODY)).decode(), **LATER)
    over = base64.b64encode(bytes(MAX_BODY + 1)).decode()
    assert code(door.post({"target": "billing", "body_base64": over})) == (413, "envelope_too_large")
    huge = door.http.post("/enqueue", content=b" " * (3 * 2**20))
    assert code(huge) == (413, "envelope_too_large")


def test_a_batch_is_accepted_one_by_one(door: Door) -> None:
    key = uuid.uuid4().hex
    batch = [
        {"target": "billing", "idempotency_key": key} | LATER,
        {"target": "billing", "path": "?"} | LATER,
        {"target": "billing", "idempotency_key": key} | LATER,
        {"target": "nowhere"},
        {"target": "billing", "idempotency_key": key, "priority": 1} | LATER,
        {"target": "billing", "method": "A B"},
        7,
    ]
    answer = door.http.post("/enqueue/batch", json=batch)
    assert answer.status_code == 207
    items = answer.json()
    assert [item["index"] for item in items] == [*range(7)]
    assert [item["status_code"] for item in items] == [202, 202, 200, 404, 422, 400, 400]
    assert items[0]["job_id"] == items[2]["job_id"]
    assert items[5]["error"]["field"] == "method"
    assert items[3]["error"]["code"] == "unknown_target"
    assert door.job(items[1]["job_id"])["status"] == "queued"


@pytest.mark.parametrize("keys", [["one"], [""], ["one", "two"]])
def test_a_batch_refuses_a_key_in_its_head(door: Door, label: dict[str, str], keys: list[str]) -> None:
    headers = [("Idempotency-Key", key) for key in keys]
    answer = door.http.post("/enqueue/batch", json=[{"target": "email", "labels": label}], headers=headers)
    assert code(answer) == (400, "invalid_request")
    assert (answer.json()["field"], "its own idempotency_key" in answer.json()["detail"]) == ("idempotency-key", True)
    assert door.http.get("/jobs", params={f"label.{key}": value for key, value in label.items()}).json()["jobs"] == []


def test_a_batch_of_more_than_a_thousand_is_refused_whole(door: Door, label: dict[str, str]) -> None:
    one = {"target": "billing", "labels": label} | LATER
    assert code(door.http.post("/enqueue/batch", json=[one] * 1001)) == (400, "invalid_envelope")
    assert door.jobs(**{"label.test": label["test"]}) == []
    answer = door.http.post("/enqueue/batch", json=[one] * 1000, timeout=60)
    assert {item["status_code"] for item in answer.json()} == {202}
    assert len(door.jobs(**{"label.test": label["test"], "limit": 500})) == 1000


# following


def test_a_wait_ends_when_the_delivery_is_finished(door: Door, ledger: Path) -> None:
    job_id = door.enqueue("billing", **LATER)
    seen: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: seen.append(door.job(job_id, wait=60)))
    waiting.start()
    settle(ledger, job_id, RetryAt(time.time() + 3600))
    settle(ledger, job_id, Delivered())
    waiting.join(60)
    assert [one["status"] for one in seen] == ["delivered"]
    assert [attempt["number"] for attempt in seen[0]["attempts"]] == [1, 2]


def test_a_wait_with_after_ends_with_any_later_transition(door: Door, ledger: Path) -> None:
    job_id = door.enqueue("billing", **LATER)
    assert door.job(job_id, wait=60, after=0)["transitions"][-1]["seq"] == 1
    seen: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: seen.append(door.job(job_id, wait=60, after=1)))
    waiting.start()
    settle(ledger, job_id, RetryAt(time.time() + 3600))
    waiting.join(60)
    assert seen[0]["transitions"][-1]["seq"] > 1


def test_an_outcome_that_a_newer_version_has_written_is_shown_as_it_is(door: Door, ledger: Path) -> None:
    job_id = door.enqueue("billing", **LATER)
    settle(ledger, job_id, Delivered(), outcome="by_pigeon")
    assert [attempt["outcome"] for attempt in door.job(job_id)["attempts"]] == ["by_pigeon"]
    assert job_id in door.jobs(target="billing", status="delivered")


def test_a_wait_that_times_out_answers_with_the_delivery(door: Door) -> None:
    job_id = door.enqueue("billing", **LATER)
    assert door.job(job_id, wait=0.1)["status"] == "queued"
    for query in ({"wait": "x"}, {"wait": "61"}, {"wait": "1", "after": "-1"}):
        assert code(door.http.get(f"/jobs/{job_id}", params=query)) == (400, "invalid_request")


def test_an_unknown_delivery_is_not_found(door: Door) -> None:
    for path in (str(uuid.uuid4()), "x", "%00"):
        for method, suffix in (("GET", ""), ("GET", "/response"), ("DELETE", "")):
            assert code(door.http.request(method, f"/jobs/{path}{suffix}")) == (404, "job_not_found")


def test_the_last_answer_is_replayed_without_headers_that_must_not_pass(door: Door, ledger: Path) -> None:
    job_id = door.enqueue("billing", **LATER)
    assert code(door.http.get(f"/jobs/{job_id}/response")) == (409, "no_response")
    dead_letter(ledger, job_id)
    answer = door.http.get(f"/jobs/{job_id}/response")
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (500, b"<b>no</b>", "text/html")
    assert answer.headers.get_list("x-a") == ["1", "2"]
    assert "set-cookie" not in answer.headers
    assert answer.headers["toril-job-id"] == job_id
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("sandbox")
    shown = door.job(job_id)["response"]
    assert (shown["status"], shown["body_bytes"], shown["truncated"]) == (500, 9, False)


def test_the_envelope_and_the_answer_of_a_delivery_can_be_read(
    door: Door, toril: TorilProcess, ledger: Path, label: dict[str, str]
) -> None:
    given = {"method": "PUT", "path": "/invoices?n=1", "headers": {"X-A": ["1", "2"], "cookie": "c=secret"}}
    job_id = door.enqueue("billing", body={"n": "é"}, labels=label, **given, **LATER)
    body = b'{"n":"\xc3\xa9"}'

    def read(path: str, who: str | None = None) -> httpx.Response:
        if who is None:
            return door.http.get(f"/jobs/{job_id}{path}")
        return ask(toril.url, f"{who}-secret", "GET", f"/jobs/{job_id}{path}")

    shown = {**given, "headers": {"X-A": ["1", "2"], "cookie": "c=secret", "content-type": "application/json"}}
    assert read("/envelope").json() == {**shown, "body_bytes": len(body)}
    hidden = read("/envelope", "reader").json()["headers"]
    assert hidden == {"X-A": ["1", "2"], "cookie": "(hidden)", "content-type": "application/json"}
    whole = read("/envelope/body")
    assert (whole.content, whole.headers["content-type"]) == (body, "application/octet-stream")
    assert (whole.headers["content-disposition"], whole.headers["x-content-type-options"]) == ("attachment", "nosniff")
    assert read("/envelope/body?offset=2&length=3").content == body[2:5]
    assert code(read("/response/body")) == (409, "no_response")
    dead_letter(ledger, job_id)
    assert read("/response/body").content == b"<b>no</b>"
    assert read("/response/body?offset=3").content == b"no</b>"
    for path in ("/envelope/body", "/response/body"):
        assert code(read(path, "reader")) == (403, "forbidden")
    bare = door.enqueue("billing", method="GET", **LATER)
    assert door.http.get(f"/jobs/{bare}/envelope").json()["body_bytes"] is None
    assert door.http.get(f"/jobs/{bare}/envelope/body").content == b""
    for path in ("envelope", "envelope/body", "response/body"):
        assert code(door.http.get(f"/jobs/{uuid.uuid4()}/{path}")) == (404, "job_not_found")


def test_jobs_are_found_by_target_status_labels_and_time(door: Door, ledger: Path, label: dict[str, str]) -> None:
    mine = {"label.test": label["test"]}
    a = door.enqueue("billing", labels=label | {"n": "1"}, **LATER)
    time.sleep(0.02)
    b = door.enqueue("email", labels=label | {"n": "2"}, **LATER)
    between = door.job(b)["created_at"]  # not this machine's time: the store's may be a few milliseconds ahead
    c = door.enqueue("billing", labels=label | {"n": "2"}, **LATER)
    settle(ledger, c, Delivered(), error=None)
    assert door.jobs(**mine) == [c, b, a]
    assert door.jobs(**mine, limit=1) == [c, b, a]
    assert door.jobs(**mine, target="billing") == [c, a]
    assert door.jobs(**mine, status="queued") == [b, a]
    assert door.jobs(**mine, status="delivered,cancelled") == [c]
    assert door.jobs(**mine, **{"label.n": "2"}) == [c, b]
    assert door.jobs(**mine, since=between) == [c, b]
    assert door.jobs(**mine, until=between) == [a]


@pytest.mark.parametrize(
    "query",
    [
        {"status": "done"}, {"since": "yesterday"}, {"until": "2027-01-01"}, {"limit": "0"}, {"limit": "501"},
        {"limit": "x"}, {"cursor": "?"}, {"cursor": "aGk"}, {"labels": "x"}, {"label.": "x"}, {"x": "1"},
        {"label.a": "\x00"},
    ],
)  # fmt: skip
def test_a_bad_filter_is_refused(door: Door, query: dict[str, str]) -> None:
    assert code(door.http.get("/jobs", params=query)) == (400, "invalid_request")


# cancelling


def test_a_cancelled_job_leaves_its_queue_and_is_over(door: Door, toril: TorilProcess) -> None:
    job_id = door.enqueue("billing", **LATER)
    answer = door.http.delete(f"/jobs/{job_id}")
    assert (answer.status_code, answer.json()) == (
        200,
        {"job_id": job_id, "target": "billing", "status": "cancelled"},
    )
    assert code(door.http.delete(f"/jobs/{job_id}")) == (409, "wrong_state")
    assert toril.client.get(f"/queues/{queue_of('billing')}/jobs/{job_id}").status_code == 404
    assert [step["by"] for step in door.job(job_id)["transitions"]][-1] == "AUTH_TOKENS"


# dead letters


def test_dead_letters_are_listed_replayed_and_purged(door: Door, toril: TorilProcess, ledger: Path) -> None:
    place = "/targets/billing/dead-letters"
    ids = [door.enqueue("billing", labels={"n": str(n)}, **LATER) for n in range(4)]
    since = door.job(ids[0])["created_at"]  # not this machine's time: the store's may be a few milliseconds ahead
    other = door.enqueue("email", **LATER)
    for job_id in ids:
        dead_letter(ledger, job_id, "HTTP 410" if job_id == ids[3] else "HTTP 500")
    dead_letter(ledger, other)
    listed = door.http.get(place, params={"since": since}).json()
    assert [one["job_id"] for one in listed["jobs"]] == ids[::-1]
    assert {one["reason"] for one in listed["jobs"]} == {"HTTP 410", "HTTP 500"}

    def found(**query: Any) -> list[str]:
        return [one["job_id"] for one in door.http.get(place, params={"since": since, **query}).json()["jobs"]]

    assert found(reason="HTTP 410") == [ids[3]]
    assert found(reason="HTTP 4") == []
    assert found(error_contains="50") == ids[2::-1]
    assert found(reason="HTTP 500", error_contains="410") == []
    assert door.jobs(reason="HTTP 410", since=since) == [ids[3]]

    def replay(**ask: Any) -> Any:
        return door.http.post(f"{place}/replay", json=ask)

    dry = replay(reason="HTTP 500", since=since, dry_run=True).json()
    assert dry == {"matched": 3, "replayed": 0, "job_ids": ids[2::-1]}

    dry = replay(error_contains="410", since=since, dry_run=True).json()
    assert dry == {"matched": 1, "replayed": 0, "job_ids": [ids[3]]}
    done = replay(error_contains="410", since=since).json()
    assert done == {"matched": 1, "replayed": 1, "job_ids": [ids[3]]}
    history = eventually(lambda: door.job(ids[3]))
    assert [step["to"] for step in history["transitions"]][:4] == ["queued", "dispatching", "dead_lettered", "queued"]
    assert replay(labels={"n": "0"}, since=since).json()["job_ids"] == [ids[0]]
    assert replay(job_ids=[ids[1], other, "x"]).json() == {"matched": 1, "replayed": 1, "job_ids": [ids[1]]}
    assert door.http.delete(f"{place}/{other}").status_code == 404
    assert door.http.delete(f"{place}/{ids[2]}").status_code == 204
    assert code(door.http.get(f"/jobs/{ids[2]}")) == (404, "job_not_found")
    assert door.http.delete(f"/targets/email/dead-letters/{other}").status_code == 204
    assert toril.running


@pytest.mark.parametrize(
    "ask_",
    [
        {}, {"dry_run": True}, {"job_ids": []}, {"job_ids": ["x"], "limit": 1}, {"since": "x"}, {"limit": 0}, {"al": 1},
        {"all": True, "since": "2027-01-01T00:00:00Z"}, {"all": True, "job_ids": ["x"]}, 7,
    ],
)  # fmt: skip
def test_an_invalid_replay_request_is_refused(door: Door, ask_: Any) -> None:
    assert code(door.http.post("/targets/billing/dead-letters/replay", json=ask_)) == (400, "invalid_request")


def test_an_unknown_target_has_no_dead_letters(door: Door) -> None:
    assert code(door.http.get("/targets/nowhere/dead-letters")) == (404, "unknown_target")


# rights


def test_a_token_reaches_only_the_targets_that_its_globs_match(door: Door, toril: TorilProcess) -> None:
    mine, other = door.enqueue("billing", **LATER), door.enqueue("email", **LATER)

    def status(who: str, method: str, path: str, body: Any = None) -> int:
        return ask(toril.url, f"{who}-secret", method, path, body).status_code

    assert status("biller", "POST", "/enqueue", {"target": "billing"} | LATER) == 202
    for target in ("email", "nowhere"):
        assert status("biller", "POST", "/enqueue", {"target": target}) == 403
        assert status("biller", "GET", f"/targets/{target}/dead-letters") == 403
        assert status("biller", "GET", f"/jobs?target={target}") == 403
    batch = ask(
        toril.url, "biller-secret", "POST", "/enqueue/batch", [{"target": "email"}, {"target": "billing"} | LATER]
    )
    assert [item["status_code"] for item in json.loads(batch.content)] == [403, 202]
    assert status("biller", "GET", f"/jobs/{mine}") == 200
    answers = [ask(toril.url, "biller-secret", "GET", f"/jobs/{job}") for job in (other, uuid.uuid4())]
    assert [answer.status_code for answer in answers] == [403, 403]
    assert answers[0].content == answers[1].content
    listed = json.loads(ask(toril.url, "biller-secret", "GET", "/jobs?limit=500").content)["jobs"]
    assert {one["target"] for one in listed} == {"billing"}
    assert status("reader", "GET", f"/jobs/{other}") == 200
    assert status("reader", "DELETE", f"/jobs/{other}") == 403
    assert status("reader", "POST", "/enqueue", {"target": "email"}) == 403
    assert status("nobody", "GET", f"/jobs/{mine}") == 403
    assert door.http.get("/jobs", headers={"authorization": "Bearer x"}).status_code == 401
