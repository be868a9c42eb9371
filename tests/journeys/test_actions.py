"""Actions on queues, jobs, flows and schedulers over REST: what they answer, refuse, and leave alone.

That they do what Node BullMQ does is tested against Node (tests/compat/test_parity.py).
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.support.gateway import Gateway, job
from tests.support.waiting import eventually

KNOWN_ONLY = [
    ("GET", ""),
    ("GET", "/metrics"),
    ("GET", "/priorities?priorities=0"),
    ("POST", "/drain"),
    ("POST", "/clean"),
    ("POST", "/obliterate"),
    ("POST", "/retry"),
    ("POST", "/promote"),
    ("POST", "/remove-orphans"),
]
BAD_BODIES = [
    ("POST", "/pause", {"x": 1}, "x"),
    ("POST", "/drain", {"delayed": 1}, "delayed"),
    ("POST", "/clean", {"state": "waiting-parents"}, "state"),
    ("POST", "/clean", {"limit": -1}, "limit"),
    ("POST", "/obliterate", {"force": "yes"}, "force"),
    ("POST", "/retry", {"count": 0}, "count"),
    ("POST", "/retry", {"state": "delayed"}, "state"),
    ("POST", "/promote", {"count": 1.5}, "count"),
    ("POST", "/trim-events", {}, "maxLength"),
    ("PUT", "/concurrency", {"concurrency": 0}, "concurrency"),
    ("PUT", "/rate-limit", {"max": 1}, "duration"),
    ("PUT", "/rate-limit/hold", {"ms": 0}, "ms"),
    ("PUT", "/jobs/1/priority", {"priority": 2_097_152}, "priority"),
    ("PUT", "/jobs/1/delay", {"delay": -1}, "delay"),
    ("POST", "/jobs/1/retry", {"state": "active"}, "state"),
    ("PUT", "/schedulers/x", {"pattern": "nonsense"}, "pattern"),
    ("PUT", "/schedulers/x", {"pattern": ""}, "pattern"),
    ("PUT", "/schedulers/x", {"pattern": "0 0 * * L5"}, "pattern"),
    ("PUT", "/schedulers/x", {"pattern": "0 0 30 2 *"}, "pattern"),
    ("PUT", "/schedulers/x", {"pattern": "* * * * *", "tz": ""}, "tz"),
    ("PUT", "/schedulers/x", {"pattern": "* * * * *", "startDate": 9_000_000_000_000_000}, "startDate"),
    ("PUT", "/schedulers/x", {"pattern": "* * * * *", "every": 1000}, "pattern"),
    ("PUT", "/schedulers/x", {"pattern": "* * * * *", "tz": "Mars/Olympus"}, "tz"),
    ("PUT", "/schedulers/x", {"every": 1000, "endDate": "2001-01-01T00:00:00Z"}, "endDate"),
    ("PUT", "/schedulers/x", {"every": 1000, "template": {"opts": {"jobId": "mine"}}}, "template.opts.jobId"),
]


def problem(answer: Any) -> tuple[int, str, str | None]:
    """What a refusal says."""
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    return answer.status_code, found["code"], found.get("field")


class TestListing:
    """`GET /queues`"""

    def test_queues_are_listed_by_name_page_by_page(self, gateway: Gateway, queue: str) -> None:
        names = [f"{queue}-{letter}" for letter in "abcde"]
        for name in reversed(names):
            gateway.add(name, job())
        gateway.http.post(f"/queues/{names[0]}/pause")
        seen: list[dict[str, Any]] = []
        cursor: str | None = ""
        while cursor is not None:
            query = {"match": f"{queue}-*", "limit": 2, "cursor": cursor}
            page = gateway.http.get("/queues", params=query).json()
            assert len(page["queues"]) <= 2
            seen += page["queues"]
            cursor = page["next_cursor"]
        assert [one["name"] for one in seen] == names
        assert [one["paused"] for one in seen] == [True, False, False, False, False]
        assert all(one["counts"]["waiting"] == 1 for one in seen)

    def test_a_queue_made_by_any_client_is_listed_until_it_is_removed(
        self, gateway: Gateway, queue: str, store: redis.Redis
    ) -> None:
        def listed() -> list[str]:
            page = gateway.http.get("/queues", params={"match": f"{queue}*", "limit": 1000}).json()
            assert page["next_cursor"] is None
            return [one["name"] for one in page["queues"]]

        http = gateway.http
        http.post(f"/queues/{queue}-1/pause")
        http.put(f"/queues/{queue}-2/concurrency", json={"concurrency": 1})
        http.put(f"/queues/{queue}-3/rate-limit", json={"max": 1, "duration": 1})
        http.put(f"/queues/{queue}-4/schedulers/x", json={"every": 3_600_000})
        http.post("/flows", json={"name": "a", "queueName": f"{queue}-5"})
        gateway.add(f"{queue}-6", job())
        names = [f"{queue}-{number}" for number in range(1, 7)]
        assert listed() == names
        store.delete(f"bull:{names[0]}:meta")  # as when another program obliterates it
        http.post(f"/queues/{names[5]}/obliterate", json={"force": True})
        assert listed() == names[1:5]
        gateway.add(names[5], job())
        assert listed() == names[1:]
        store.hset(f"bull:{queue}-by-others:meta", "version", "bullmq:6.7.0")
        eventually(lambda: listed() == [*names[1:], f"{queue}-by-others"], timeout_s=30, what="it to show")

    def test_keys_that_are_not_bullmqs_spoil_no_list(self, gateway: Gateway, queue: str, store: redis.Redis) -> None:
        gateway.http.post(f"/queues/{queue}-a/pause")
        gateway.http.post(f"/queues/{queue}-b/pause")
        for key in ("a:meta", "b:completed"):
            store.delete(f"bull:{queue}-{key}")
            store.set(f"bull:{queue}-{key}", "another program's")
        gateway.add(f"{queue}-c", job())
        page = gateway.http.get("/queues", params={"match": f"{queue}-*"}).json()
        assert [one["name"] for one in page["queues"]] == [f"{queue}-c"]

    @pytest.mark.parametrize(
        ("query", "field"),
        [({"limit": 0}, "limit"), ({"limit": 1001}, "limit"), ({"limit": "x"}, "limit"), ({"cursor": "?"}, "cursor")],
    )
    def test_an_invalid_page_is_refused(self, gateway: Gateway, query: dict[str, Any], field: str) -> None:
        assert problem(gateway.http.get("/queues", params=query)) == (400, "invalid_request", field)

    def test_a_queue_says_how_old_its_oldest_waiting_job_is(
        self, gateway: Gateway, queue: str, store: redis.Redis
    ) -> None:
        first, _ = gateway.add(queue, job(), job())
        store.hset(f"bull:{queue}:{first['id']}", "timestamp", first["timestamp"] - 60_000)
        found = gateway.http.get(f"/queues/{queue}").json()
        assert 60_000 <= found["oldestWaitingAge"] < 120_000
        assert (found["concurrency"], found["rateLimit"], found["workers"]) == (None, None, [])
        gateway.http.post(f"/queues/{queue}/drain")
        assert gateway.http.get(f"/queues/{queue}").json()["oldestWaitingAge"] is None


class TestQueuesThatAreNotThere:
    @pytest.mark.parametrize(("method", "path"), KNOWN_ONLY)
    def test_reading_or_removing_an_unknown_queue_is_404_and_writes_nothing(
        self, gateway: Gateway, queue: str, store: redis.Redis, method: str, path: str
    ) -> None:
        assert problem(gateway.http.request(method, f"/queues/{queue}{path}")) == (404, "queue_not_found", None)
        assert store.keys(f"bull:{queue}:*") == []

    def test_settings_of_a_queue_can_be_changed_before_its_first_job(self, gateway: Gateway, queue: str) -> None:
        for method, path, body in (
            ("POST", "pause", None),
            ("POST", "resume", None),
            ("PUT", "concurrency", {"concurrency": 3}),
            ("GET", "concurrency", None),
            ("PUT", "rate-limit", {"max": 5, "duration": 1000}),
            ("DELETE", "rate-limit", None),
            ("PUT", "rate-limit/hold", {"ms": 100}),
            ("DELETE", "rate-limit/hold", None),
            ("POST", "lease", {}),
            ("GET", "schedulers", None),
        ):
            answer = gateway.http.request(method, f"/queues/{queue}/{path}", json=body)
            assert answer.status_code in {200, 204}, (path, answer.text)

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("DELETE", ""),
            ("POST", "/retry"),
            ("POST", "/promote"),
            ("PUT", "/priority"),
            ("GET", "/flow"),
            ("GET", "/result?wait=20"),
            ("DELETE", "/logs"),
            ("POST", "/detach"),
        ],
    )
    def test_a_job_that_is_not_there_is_404_at_once(self, gateway: Gateway, queue: str, method: str, path: str) -> None:
        assert problem(gateway.http.request(method, f"/queues/{queue}/jobs/7{path}"))[:2] == (404, "job_not_found")

    @pytest.mark.parametrize("method", ["GET", "DELETE"])
    def test_a_scheduler_that_is_not_there_is_404(self, gateway: Gateway, queue: str, method: str) -> None:
        answer = gateway.http.request(method, f"/queues/{queue}/schedulers/x")
        assert problem(answer) == (404, "scheduler_not_found", None)


@pytest.mark.parametrize(("method", "path", "body", "field"), BAD_BODIES)
def test_bad_bodies_name_the_field(
    gateway: Gateway, queue: str, method: str, path: str, body: dict[str, Any], field: str
) -> None:
    gateway.add(queue, job())
    answer = gateway.http.request(method, f"/queues/{queue}{path}", json=body)
    assert problem(answer) == (400, "invalid_request", field)


@pytest.mark.parametrize("path", ["/queues/{}/jobs", "/flows"])
def test_a_key_without_effect_is_refused(gateway: Gateway, queue: str, path: str) -> None:
    body: dict[str, Any] = {"name": "a", "queueName": queue} if path == "/flows" else [{"name": "a", "data": {}}]
    for keys in (["one"], [""], ["one", "two"]):
        headers = [("Idempotency-Key", key) for key in keys]
        answer = gateway.http.post(path.format(queue), json=body, headers=headers)
        assert answer.status_code == 400
        assert "Idempotency-Key has no effect here: " in answer.text
        assert "opts.jobId" in answer.text
    assert gateway.http.get(f"/queues/{queue}").status_code == 404


class TestSchedulers:
    def test_no_time_zone_is_utc_and_a_moment_may_be_text(self, gateway: Gateway, queue: str) -> None:
        body = {"pattern": "0 9 * * *", "startDate": "2090-03-04T00:00:00+02:00", "limit": 3}
        made = gateway.http.put(f"/queues/{queue}/schedulers/daily", json=body).json()
        assert (made["tz"], made["limit"], made["startDate"]) == ("UTC", 3, 3_792_261_600_000)
        assert made["next"] == 3_792_301_200_000  # 2090-03-04T09:00Z
        assert gateway.http.get(f"/queues/{queue}/schedulers/daily").json() == made

    def test_the_template_keeps_its_bytes(self, gateway: Gateway, queue: str) -> None:
        data = b'{ "a": 1.0, "b":1e3, "c": 12345678901234567890 }'
        body = b'{"pattern":"@yearly","template":{"data":%b}}' % data
        made = gateway.http.put(f"/queues/{queue}/schedulers/tick", content=body)
        assert made.status_code == 200
        assert data in made.content
        job_id = f"repeat:tick:{made.json()['next']}"
        assert data in gateway.http.get(f"/queues/{queue}/jobs/{job_id}").content

    @pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"1" + b"0" * 400, b"123456789e301"])
    def test_a_number_that_becomes_infinite_is_refused(self, gateway: Gateway, queue: str, number: bytes) -> None:
        body = b'{"every":1000,"template":{"data":{"deep":[%b]}}}' % number
        answer = gateway.http.put(f"/queues/{queue}/schedulers/tick", content=body)
        assert problem(answer) == (400, "invalid_request", "template.data")
        assert gateway.http.get(f"/queues/{queue}/schedulers").json()["count"] == 0

    def test_a_pattern_that_is_refused_is_named_with_the_reason(self, gateway: Gateway, queue: str) -> None:
        answer = gateway.http.put(f"/queues/{queue}/schedulers/tick", json={"pattern": "0 25 * * *"})
        assert answer.json()["detail"] == "Invalid pattern 0 25 * * *: hour: '25' is not from 0 to 23"

    def test_a_scheduler_that_cannot_continue_keeps_its_job_and_says_why(
        self, gateway: Gateway, queue: str, store: redis.Redis
    ) -> None:
        path = f"/queues/{queue}/schedulers/tick"
        every_second = {"pattern": "* * * * * *", "template": {"name": "beat"}}
        made = gateway.http.put(path, json=every_second).json()
        job_id = f"repeat:tick:{made['next']}"
        opts = store.hget(f"bull:{queue}:{job_id}", "opts")
        store.hset(f"bull:{queue}:{job_id}", "opts", opts.replace("* * * * * *", "at full moon"))
        assert "'ful' is no month" in gateway.http.get(path).json()["error"]
        assert gateway.http.post(f"/queues/{queue}/lease", json={"wait_ms": 1500}).json()["jobs"] == []
        assert gateway.http.get(f"/queues/{queue}/jobs/{job_id}").json()["name"] == "beat"
        assert "error" not in gateway.http.put(path, json=every_second).json()
        (held,) = gateway.http.post(f"/queues/{queue}/lease", json={"wait_ms": 5000}).json()["jobs"]
        assert held["job"]["name"] == "beat"

    def test_the_scheduler_with_the_next_job_is_listed_first(self, gateway: Gateway, queue: str) -> None:
        for name, year in (("later", 2092), ("sooner", 2091)):
            body = {"pattern": "0 0 * * *", "startDate": f"{year}-01-01T00:00:00Z"}
            assert gateway.http.put(f"/queues/{queue}/schedulers/{name}", json=body).status_code == 200
        listed = gateway.http.get(f"/queues/{queue}/schedulers").json()
        assert [one["id"] for one in listed["schedulers"]] == ["sooner", "later"]

    @pytest.mark.parametrize("newest", [True, False])
    def test_a_drain_leaves_a_schedulers_job_that_waits(
        self, gateway: Gateway, queue: str, store: redis.Redis, newest: bool
    ) -> None:
        jobs = [job({"n": number}) for number in range(3)]
        if not newest:
            gateway.add(queue, *jobs)
        template = {"name": "tick", "data": {"of": "hourly"}}
        gateway.http.put(f"/queues/{queue}/schedulers/hourly", json={"pattern": "0 * * * *", "template": template})
        (tick,) = store.zrange(f"bull:{queue}:delayed", 0, -1)
        assert gateway.http.post(f"/queues/{queue}/jobs/{tick}/promote").status_code == 204
        if newest:
            gateway.add(queue, *jobs)
            # What was added last stands first in the list.
            store.lrem(f"bull:{queue}:wait", 1, tick)
            store.lpush(f"bull:{queue}:wait", tick)
        assert gateway.http.post(f"/queues/{queue}/drain").json() == {"removed": 3}
        leased = gateway.http.post(f"/queues/{queue}/lease", json={"count": 4}).json()["jobs"]
        assert [(one["job"]["id"], one["job"]["data"]) for one in leased] == [(tick, template["data"])]
        assert len(store.zrange(f"bull:{queue}:delayed", 0, -1)) == 1


class TestFlows:
    """`POST /flows`, all of them or none."""

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"prefix": "other"}, "prefix"),
            ({"children": [{"name": "c", "queueName": "q-x", "opts": {"attempts": "x"}}]}, None),
            ({"children": [{"name": "c"}]}, None),
            ({"opts": {"unknown": 1}}, None),
            ({"opts": {"jobId": "a:b:c"}}, "jobId"),
            ({"children": [{"name": "c", "queueName": "q-x", "opts": {"jobId": "0:2026:42"}}]}, "jobId"),
            ({"opts": {"deduplication": {"id": "x"}}}, "deduplication"),
        ],
    )
    def test_a_malformed_flow_adds_no_job(
        self, gateway: Gateway, queue: str, store: redis.Redis, change: dict[str, Any], field: str | None
    ) -> None:
        good = {"name": "good", "queueName": queue, "children": [{"name": "c", "queueName": queue}]}
        answer = gateway.http.post("/flows", json=[good, good | change])
        status, code, named = problem(answer)
        assert (status, code) == (400, "invalid_request")
        assert field is None or (named or "").endswith(field)
        assert store.keys(f"bull:{queue}:*") == []

    def test_a_tree_is_read_as_deep_and_as_wide_as_asked_for(
        self, gateway: Gateway, new_queue: Callable[[], str]
    ) -> None:
        queue = new_queue()
        leaf = {"name": "leaf", "queueName": queue}
        middle = {"name": "middle", "queueName": queue, "children": [leaf] * 5}
        made = gateway.http.post("/flows", json={"name": "root", "queueName": queue, "children": [middle]}).json()
        path = f"/queues/{queue}/jobs/{made['job']['id']}/flow"

        def shape(tree: dict[str, Any]) -> Any:
            return [tree["job"]["name"], *(shape(child) for child in tree["children"])]

        assert shape(gateway.http.get(path).json()) == ["root", ["middle", *[["leaf"]] * 5]]
        assert shape(gateway.http.get(f"{path}?depth=2").json()) == ["root", ["middle"]]
        assert shape(gateway.http.get(f"{path}?maxChildren=2").json()) == ["root", ["middle", *[["leaf"]] * 2]]

    def test_data_is_kept_byte_for_byte(self, gateway: Gateway, queue: str, store: redis.Redis) -> None:
        data = '{ "n": 1.10, "text": "\\u00fc" }'
        body = f'{{"name":"root","queueName":{json.dumps(queue)},"data":{data}}}'
        made = gateway.http.post("/flows", content=body).json()
        assert store.hget(f"bull:{queue}:{made['job']['id']}", "data") == data


class TestKeysOfAnotherType:
    """What another program has put where BullMQ keeps something else."""

    def test_the_jobs_beside_a_broken_one_are_listed(self, gateway: Gateway, queue: str, store: redis.Redis) -> None:
        sound, broken = (gateway.add(queue, job())[0]["id"] for _ in range(2))
        store.delete(f"bull:{queue}:{broken}")
        store.set(f"bull:{queue}:{broken}", "a text")
        page = gateway.http.get(f"/queues/{queue}/jobs")
        assert page.status_code == 200
        shown = {one["id"]: one.get("failedReason") for one in page.json()["jobs"]}
        assert shown == {sound: None, broken: "The job's key in Redis holds a string, not a hash"}
        refused = gateway.http.get(f"/queues/{queue}/jobs/{broken}")
        assert (refused.status_code, refused.headers["toril-code"]) == (409, "wrong_key_type")

    def test_the_schedulers_beside_a_broken_one_are_listed(
        self, gateway: Gateway, queue: str, store: redis.Redis
    ) -> None:
        path = f"/queues/{queue}/schedulers"
        for name in ("sound", "broken"):
            assert gateway.http.put(f"{path}/{name}", json={"pattern": "0 0 1 1 *"}).status_code == 200
        store.delete(f"bull:{queue}:repeat:broken")
        store.set(f"bull:{queue}:repeat:broken", "a text")
        shown = {one["id"]: one.get("error") for one in gateway.http.get(path).json()["schedulers"]}
        why = "a Redis key of the scheduler holds another type of value than BullMQ keeps there"
        assert shown == {"sound": None, "broken": why}
        assert gateway.http.get(f"{path}/broken").json()["error"] == why
        refused = gateway.http.put(f"{path}/broken", json={"every": 1000})
        assert problem(refused)[:2] == (409, "wrong_key_type")
        assert f"bull:{queue}:repeat:broken is a string" in refused.json()["detail"]
        assert gateway.http.delete(f"{path}/broken").status_code == 204
        assert gateway.http.put(f"{path}/broken", json={"pattern": "0 0 1 1 *"}).status_code == 200
