"""What the dashboard asks of the API beside what others ask: on a real server and a real Valkey."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.gateway import Gateway, job
from tests.support.tokens import ask, token, write
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    """A queue of the test's own."""
    return "seen-" + "".join(letter for letter in request.node.name if letter.isalnum())[:60].lower()


def ids(answer: dict[str, Any]) -> list[str]:
    """The ids of the jobs in an answer."""
    return [one["id"] for one in answer["jobs"]]


class TestLists:
    """`order` and `fields` of a list of jobs."""

    def test_the_oldest_jobs_can_come_first(self, gateway: Gateway, queue: str) -> None:
        added = [gateway.add_one(queue, {"n": n}) for n in range(5)]
        later = [gateway.add_one(queue, {"n": n}, delay=60_000 + n) for n in range(3)]
        assert ids(gateway.jobs(queue, order="oldest", statuses="waiting")) == added
        assert ids(gateway.jobs(queue, order="oldest", statuses="waiting", start=3, length=1)) == added[3:4]
        assert ids(gateway.jobs(queue, order="newest", statuses="waiting")) == added[::-1]
        assert ids(gateway.jobs(queue, order="oldest", statuses="delayed")) == later
        assert gateway.jobs(queue, order="newest") == gateway.jobs(queue)

    def test_prioritized_jobs_are_listed_where_an_order_is_asked_for(self, gateway: Gateway, queue: str) -> None:
        added = [gateway.add_one(queue, priority=priority) for priority in (7, 3)]
        page = gateway.jobs(queue, order="oldest", statuses="prioritized")
        assert (ids(page), page["counts"]) == (added[::-1], {"prioritized": 2})

    def test_a_list_can_leave_out_large_fields(self, gateway: Gateway, queue: str) -> None:
        gateway.add(queue, job({"large": "x" * 1000}, name="first", delay=5), job({}, name="second"))
        shown = gateway.jobs(queue, fields="name,attemptsMade,timestamp", statuses="waiting,delayed")["jobs"]
        assert [set(one) for one in shown] == [{"id", "name", "attemptsMade", "timestamp"}] * 2
        assert {one["name"] for one in shown} == {"first", "second"}
        assert gateway.jobs(queue, fields="data", statuses="delayed")["jobs"][0]["data"] == {"large": "x" * 1000}

    @pytest.mark.parametrize(
        ("query", "field"),
        [("order=first", "order first"), ("fields=name,dta", "field dta"), ("order=oldest&statuses=x", "")],
    )
    def test_an_unknown_order_field_or_status_is_refused(
        self, gateway: Gateway, queue: str, query: str, field: str
    ) -> None:
        answer = gateway.http.get(f"/queues/{queue}/jobs?{query}")
        assert answer.status_code == 400
        assert field in answer.text


class TestSearch:
    """`GET /queues/{queue}/search`."""

    def search(self, gateway: Gateway, queue: str, where: str, **query: Any) -> dict[str, Any]:
        """One call, which must be answered."""
        answer = gateway.http.get(f"/queues/{queue}/search", params={"where": where, **query})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def all(self, gateway: Gateway, queue: str, where: str, **query: Any) -> list[str]:
        """The ids of all that match, of as many calls as it takes."""
        page = self.search(gateway, queue, where, **query)
        found = ids(page)
        while page["next_cursor"]:
            page = self.search(gateway, queue, where, cursor=page["next_cursor"], **query)
            found += ids(page)
        return found

    def test_jobs_are_found_by_what_is_in_them(self, gateway: Gateway, queue: str) -> None:
        gateway.add(queue, *(job({"customer": {"id": n}}) for n in range(100)))
        wanted = gateway.add_one(queue, {"customer": {"id": 4242}}, name="special", delay=60_000)
        page = self.search(gateway, queue, "data.customer.id = 4242 and name = special")
        assert (page["scanned"], page["total"], page["next_cursor"]) == (101, 101, None)
        assert page["jobs"] == [gateway.job(queue, wanted)]
        assert self.search(gateway, queue, "data.customer.id = 4242", states="waiting")["jobs"] == []
        assert len(self.all(gateway, queue, "data.customer.id < 10")) == 10
        assert self.all(gateway, queue, f"id = {wanted}") == [wanted]

    @pytest.mark.parametrize("order", ["newest", "oldest"])
    @pytest.mark.parametrize("delay", [0, 60_000])
    def test_a_search_continues_where_it_stopped(self, gateway: Gateway, queue: str, order: str, delay: int) -> None:
        queue = f"{queue}-{order}-{delay}"
        opts = {"delay": delay} if delay else {}
        added = [one["id"] for one in gateway.add(queue, *(job({"n": n}, **opts) for n in range(600)))]
        wanted = added if order == "oldest" else added[::-1]
        page = self.search(gateway, queue, "data.n >= 0", order=order)
        found = ids(page)
        assert found == wanted[: len(found)]
        assert 25 <= len(found) <= 100
        # What comes and goes meanwhile neither hides a job from the search nor shows one twice.
        gateway.add(queue, *(job({"n": n}, **opts) for n in range(1000, 1150)))
        gone = {*found[:20], wanted[-1]}
        for job_id in gone:
            assert gateway.http.delete(f"/queues/{queue}/jobs/{job_id}").status_code == 204
        while page["next_cursor"]:
            page = self.search(gateway, queue, "data.n < 1000", order=order, cursor=page["next_cursor"])
            found += ids(page)
        assert found == [job_id for job_id in wanted if job_id not in gone or job_id in found[:20]]

    def test_an_unreadable_search_says_at_which_character(self, gateway: Gateway, queue: str) -> None:
        answer = gateway.http.get(f"/queues/{queue}/search", params={"where": "data.a = 1 nd data.b = 2"})
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
        problem = answer.json()
        assert (problem["code"], problem["field"], problem["at"]) == ("invalid_where", "where", 12)
        assert "character 12" in problem["detail"]

    @pytest.mark.parametrize(
        ("field", "value"),
        [("states", "waitin"), ("order", "x"), ("cursor", "x!"), ("cursor", "kgEB"), ("budget_ms", "2001")],
    )
    def test_an_invalid_request_is_refused(self, gateway: Gateway, queue: str, field: str, value: str) -> None:
        answer = gateway.http.get(f"/queues/{queue}/search", params={"where": "id = 1", field: value})
        assert (answer.status_code, answer.json()["field"]) == (400, field)

    def test_an_answer_is_bounded_however_large_the_jobs(self, gateway: Gateway, queue: str) -> None:
        added = [gateway.add_one(queue, {"text": "x" * 400_000, "n": n}) for n in range(7)]
        page = self.search(gateway, queue, "data.n >= 0", order="oldest")
        assert 1 <= len(page["jobs"]) <= 4
        assert self.all(gateway, queue, "data.n >= 0", order="oldest") == added
        assert self.all(gateway, queue, "data.n = 6") == added[-1:]


class TestBulk:
    """`POST /queues/{queue}/bulk`."""

    def act(self, gateway: Gateway, queue: str, action: str, **more: Any) -> dict[str, Any]:
        """One action, which must be answered."""
        answer = gateway.http.post(f"/queues/{queue}/bulk", json={"action": action, **more})
        assert answer.status_code == 200, answer.text
        done: dict[str, Any] = answer.json()
        return done

    def failed(self, store: redis.Redis, gateway: Gateway, queue: str, count: int) -> list[str]:
        """Jobs that have failed."""
        added = [one["id"] for one in gateway.add(queue, *(job({"n": n}) for n in range(count)))]
        for at, job_id in enumerate(added):
            store.lrem(f"bull:{queue}:wait", 0, job_id)
            store.zadd(f"bull:{queue}:failed", {job_id: 1000 + at // 10})
            store.hset(f"bull:{queue}:{job_id}", mapping={"failedReason": f"timeout {at}", "finishedOn": 1000})
        return added

    def test_all_that_match_are_retried_and_the_others_stay(
        self, gateway: Gateway, store: redis.Redis, queue: str
    ) -> None:
        added = self.failed(store, gateway, queue, 700)
        asked = {"where": "data.n < 600 and failedReason ~ TIMEOUT", "states": ["failed", "waiting"]}
        would = self.act(gateway, queue, "retry", **asked, dry_run=True)
        assert would == {"matched": 600, "done": 600, "refused": 0, "failed": []}
        assert gateway.counts(queue)["failed"] == 700
        done = self.act(gateway, queue, "retry", where=asked["where"], states=["failed"])
        assert done == {"matched": 600, "done": 600, "refused": 0, "failed": []}
        assert (gateway.counts(queue)["failed"], gateway.counts(queue)["waiting"]) == (100, 600)
        assert set(ids(gateway.jobs(queue, statuses="failed", length=100))) == set(added[600:])

    def test_ids_that_cannot_be_acted_on_are_named_with_the_reason(self, gateway: Gateway, queue: str) -> None:
        late, soon = gateway.add_one(queue, delay=60_000), gateway.add_one(queue)
        for dry_run in (True, False):
            done = self.act(gateway, queue, "promote", ids=[late, soon, "none"], dry_run=dry_run)
            assert (done["matched"], done["done"], done["refused"]) == (3, 1, 2)
            assert done["failed"] == [{"id": soon, "code": "wrong_state"}, {"id": "none", "code": "job_not_found"}]
        assert gateway.counts(queue)["waiting"] == 2

    def test_whole_states_can_be_delayed_and_removed(self, gateway: Gateway, queue: str) -> None:
        gateway.add(queue, *(job({"n": n}, delay=60_000 + n) for n in range(300)), *(job() for _ in range(300)))
        would = self.act(gateway, queue, "delay", where="", states=["delayed"], delay_ms=5_000, dry_run=True)
        assert would == {"matched": 300, "done": 300, "refused": 0, "failed": []}
        done = self.act(gateway, queue, "delay", where="", states=["delayed"], delay_ms=5_000)
        assert (done["matched"], done["done"]) == (300, 300)
        assert max(one["delay"] for one in gateway.jobs(queue, statuses="delayed", length=100)["jobs"]) <= 5_000
        assert self.act(gateway, queue, "remove", states=["delayed", "waiting"])["done"] == 600
        assert set(gateway.counts(queue).values()) == {0}

    def test_a_bulk_stream_reports_its_progress_and_hanging_up_stops_it(
        self, gateway: Gateway, store: redis.Redis, queue: str
    ) -> None:
        with store.pipeline(transaction=False) as commands:
            for number in range(20_000):
                commands.hset(f"bull:{queue}:j{number}", mapping={"name": "n", "data": "{}", "timestamp": 1})
                commands.zadd(f"bull:{queue}:failed", {f"j{number}": number})
            commands.execute()
        body = {"action": "remove", "states": ["failed"]}
        accept = {"accept": "text/event-stream"}
        with gateway.http.stream("POST", f"/queues/{queue}/bulk", json=body, headers=accept) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            first = next(stream.iter_text())
        assert "event: progress" in first
        counts = [gateway.counts(queue)["failed"]]
        eventually(lambda: counts.append(gateway.counts(queue)["failed"]) or counts[-1] == counts[-2], what="a stop")
        assert 0 < counts[-1] < 20_000
        rest = gateway.http.post(f"/queues/{queue}/bulk", json=body, headers=accept).text
        name, data = rest.rstrip().split("\n\n")[-1].split("\n")
        assert name == "event: done"
        assert json.loads(data.removeprefix("data: "))["done"] == counts[-1]

    def test_the_audit_log_has_one_line_with_the_counts(
        self, gateway: Gateway, toril: TorilProcess, queue: str
    ) -> None:
        added = gateway.add_one(queue)
        self.act(gateway, queue, "remove", ids=[added, "gone"])
        lines = [json.loads(line) for line in toril.log().splitlines() if '"audit"' in line and queue in line]
        assert [(one["action"], one["status"], one["matched"], one["done"], one["refused"]) for one in lines] == [
            ("POST /queues/{queue}/bulk", 200, 2, 1, 1)
        ]

    @pytest.mark.parametrize(
        ("body", "code", "field"),
        [
            ({"action": "burn", "ids": []}, "invalid_request", "action"),
            ({"action": "retry"}, "invalid_request", "ids"),
            ({"action": "retry", "ids": ["1"], "where": "id = 1"}, "invalid_request", "ids"),
            ({"action": "retry", "ids": ["wait"]}, "invalid_request", "ids"),
            ({"action": "delay", "ids": ["1"]}, "invalid_request", "delay_ms"),
            ({"action": "retry", "ids": ["1"], "delay_ms": 1}, "invalid_request", "delay_ms"),
            ({"action": "retry", "where": "data.a ="}, "invalid_where", "where"),
        ],
    )
    def test_an_invalid_request_is_refused(
        self, gateway: Gateway, queue: str, body: dict[str, Any], code: str, field: str
    ) -> None:
        answer = gateway.http.post(f"/queues/{queue}/bulk", json=body)
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (400, code, field)


class TestCopies:
    """`POST /queues/{queue}/jobs/{id}/copy`."""

    def test_a_copy_has_what_the_job_has_but_for_what_is_changed(
        self, gateway: Gateway, store: redis.Redis, queue: str
    ) -> None:
        data = '{"big":12345678901234567890,"pi":3.10}'
        opts = '{"attempts":3,"jobId":"mine","timestamp":5,"keepLogs":7}'
        body = f'[{{"name":"mail","data":{data},"opts":{opts}}}]'
        assert gateway.http.post(f"/queues/{queue}/jobs", content=body).status_code == 200
        store.hset(
            f"bull:{queue}:mine", "opts", '{"attempts":3,"jobId":"mine","timestamp":5,"kl":7,"repeat":{"every":1}}'
        )
        copy = gateway.http.post(f"/queues/{queue}/jobs/mine/copy").json()
        assert (copy["name"], copy["opts"]) == ("mail", {"attempts": 3, "keepLogs": 7})
        assert copy["id"] != "mine"
        assert copy["timestamp"] > 5
        assert store.hget(f"bull:{queue}:{copy['id']}", "data") == data
        changed = gateway.http.post(
            f"/queues/{queue}/jobs/mine/copy", json={"name": "sms", "data": [1], "opts": {"delay": 60_000}}
        ).json()
        assert gateway.job(queue, changed["id"])["data"] == [1]
        assert (changed["name"], changed["opts"]) == ("sms", {"attempts": 0, "delay": 60_000})

    @pytest.mark.parametrize(
        ("job_id", "body", "status"),
        [("none", {}, 404), ("wait", {}, 404), ("1", {"nam": "x"}, 400), ("1", {"opts": {"tries": 1}}, 400)],
    )
    def test_an_invalid_request_is_refused(
        self, gateway: Gateway, queue: str, job_id: str, body: dict[str, Any], status: int
    ) -> None:
        gateway.add_one(queue)
        answer = gateway.http.post(f"/queues/{queue}/jobs/{job_id}/copy", json=body)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


class TestAudit:
    """`GET /audit`."""

    def test_audited_actions_are_listed_newest_first(self, gateway: Gateway, queue: str) -> None:
        gateway.add_one(queue)
        for action in ("pause", "resume", "drain"):
            gateway.http.post(f"/queues/{queue}/{action}")
        gateway.http.post(f"/queues/{queue}/bulk", json={"action": "remove", "ids": ["7"]})
        gateway.http.get(f"/queues/{queue}")
        lines = [line for line in gateway.http.get("/audit").json()["lines"] if line.get("queue") == queue]
        assert [line["action"].rpartition("/")[2] for line in lines] == ["bulk", "drain", "resume", "pause"]
        assert {line["caller"] for line in lines} == {"AUTH_TOKENS"}
        assert (lines[0]["matched"], lines[0]["refused"], lines[0]["status"]) == (1, 1, 200)
        assert [line["at"] for line in lines] == sorted((line["at"] for line in lines), reverse=True)

    def test_the_list_is_bounded(self, gateway: Gateway, store: redis.Redis, queue: str) -> None:
        gateway.http.post(f"/queues/{queue}/pause")
        old = {"at": "2001", "caller": "shop", "status": 204}
        store.rpush("toril:audit:bull", *(json.dumps(old | {"action": f"old {n}"}) for n in range(1200)))
        lines = gateway.http.get("/audit").json()["lines"]
        assert len(lines) == 1000
        assert lines[0]["queue"] == queue
        gateway.http.post(f"/queues/{queue}/resume")
        gateway.http.get("/audit")
        assert store.llen("toril:audit:bull") == 1000
        store.delete("toril:audit:bull")

    def test_a_token_sees_the_lines_of_its_queues(
        self, valkey: ValkeyProcess, start_toril: StartToril, tmp_path: Path, queue: str
    ) -> None:
        file = write(tmp_path / "toril.yaml", token("mine", ["*"], [queue]), token("reader", ["*:read"]))
        toril = start_toril(valkey, args=["--config", str(file)])
        for name in (queue, "others"):
            toril.client.post(f"/queues/{name}/pause")
        assert ask(toril.url, "mine-secret", "POST", "/queues/others/pause").status_code == 403
        seen = ask(toril.url, "mine-secret", "GET", "/audit").json()["lines"]
        assert {line["queue"] for line in seen} == {queue}
        shown = ask(toril.url, "reader-secret", "GET", "/audit").json()["lines"]
        assert [(line["caller"], line["queue"], line["status"]) for line in shown[:2]] == [
            ("mine", "others", 403),
            ("AUTH_TOKENS", "others", 204),
        ]


class TestSchedulers:
    """`GET /schedulers`, and the next times of one."""

    def put(self, gateway: Gateway, queue: str, name: str, **spec: Any) -> None:
        """Set a scheduler."""
        answer = gateway.http.put(f"/queues/{queue}/schedulers/{name}", json=spec)
        assert answer.status_code == 200, answer.text

    def test_schedulers_of_all_visible_queues_are_listed_the_next_first(
        self, valkey: ValkeyProcess, start_toril: StartToril, tmp_path: Path, queue: str, store: redis.Redis
    ) -> None:
        tokens = token("mine", ["*"], [f"{queue}-*"]), token("adder", ["jobs:*"])
        toril = start_toril(valkey, args=["--config", str(write(tmp_path / "toril.yaml", *tokens))])
        for number in range(4):
            self.put(toril.gateway, f"{queue}-{number}", "late", every=3_600_000 * (9 - number))
            self.put(toril.gateway, f"{queue}-{number}", "soon", pattern=f"0 0 {number + 1} 1 *")
        self.put(toril.gateway, f"{queue}x", "others", every=3_600_000)
        store.set(f"bull:{queue}-broken:repeat", "no set")
        store.zadd("toril:queues:bull", {f"{queue}-broken": 0})
        found = ask(toril.url, "mine-secret", "GET", "/schedulers?length=100").json()
        assert found["count"] == 8
        assert [one["next"] for one in found["schedulers"]] == sorted(one["next"] for one in found["schedulers"])
        assert {one["queue"] for one in found["schedulers"]} == {f"{queue}-{number}" for number in range(4)}
        page = ask(toril.url, "mine-secret", "GET", "/schedulers?start=3&length=2").json()
        assert page == {"schedulers": found["schedulers"][3:5], "count": 8}
        one = ask(toril.url, "mine-secret", "GET", f"/schedulers?queue={queue}-0").json()
        assert {each["id"] for each in one["schedulers"]} == {"late", "soon"}
        assert ask(toril.url, "mine-secret", "GET", f"/schedulers?queue={queue}x").status_code == 403
        assert ask(toril.url, "adder-secret", "GET", "/schedulers").status_code == 403

    def test_the_next_times_go_by_the_pattern_in_its_zone_and_end_with_the_scheduler(
        self, gateway: Gateway, queue: str
    ) -> None:
        def times(name: str, count: int = 5) -> list[int]:
            found = gateway.http.get(f"/queues/{queue}/schedulers/{name}?next={count}").json()
            assert found["nextTimes"][0] == found["next"]
            listed: list[int] = found["nextTimes"]
            return listed

        self.put(gateway, queue, "daily", pattern="30 9 * * *", tz="Asia/Tokyo")
        daily = times("daily")
        assert [later - sooner for sooner, later in pairwise(daily)] == [86_400_000] * 4
        assert daily[0] % 86_400_000 == 30 * 60_000
        self.put(gateway, queue, "often", every=5_000)
        assert [later - sooner for sooner, later in pairwise(times("often", 3))] == [5_000] * 2
        self.put(gateway, queue, "thrice", pattern="0 0 * * *", limit=3)
        assert len(times("thrice")) == 3
        assert "nextTimes" not in gateway.http.get(f"/queues/{queue}/schedulers/often").json()
        answer = gateway.http.get(f"/queues/{queue}/schedulers/often?next=101")
        assert (answer.status_code, answer.json()["field"]) == (400, "next")


def test_redacted_fields_are_hidden_and_cannot_be_found_by_searching(
    valkey: ValkeyProcess, start_toril: StartToril, tmp_path: Path, queue: str
) -> None:
    file = write(tmp_path / "toril.yaml", token("blind", ["jobs:*", "queues:*"]), token("sighted", ["*"]))
    file.write_text(file.read_text() + "redact: [data.card.*, headers.x-key]\n")
    toril = start_toril(valkey, args=["--config", str(file)])
    request = {"target": "/", "headers": {"X-Key": "s3cr3t"}, "card": {"number": 42, "of": ["s3cr3t"]}}
    added = ask(toril.url, "blind-secret", "POST", f"/queues/{queue}/jobs", [job(request)])
    job_id = added.json()[0]["id"]
    base = f"/queues/{queue}"
    for path in (
        f"{base}/jobs/{job_id}",
        f"{base}/jobs",
        f"{base}/search?where=id={job_id}",
        f"{base}/jobs?fields=data",
    ):
        hidden, whole = (ask(toril.url, f"{who}-secret", "GET", path) for who in ("blind", "sighted"))
        assert (hidden.status_code, whole.status_code) == (200, 200)
        assert "s3cr3t" not in hidden.text
        assert '"number":42' not in hidden.text
        assert whole.text.count("s3cr3t") == 2
    assert "s3cr3t" not in added.text
    for where in ("data.card.number = 42", "data ~ s3cr3t", "data.headers.X-Key = s3cr3t"):
        found = {
            who: ask(toril.url, f"{who}-secret", "GET", f"{base}/search?where={where}").json()
            for who in ("blind", "sighted")
        }
        assert (len(found["blind"]["jobs"]), len(found["sighted"]["jobs"])) == (0, 1)
    body = {"action": "remove", "where": "data.card.number = 42", "dry_run": True}
    assert ask(toril.url, "blind-secret", "POST", f"{base}/bulk", body).json()["matched"] == 0
