"""Groups of jobs on a whole server: fair turns, limits, pauses, and what other programs see and do."""

from collections import Counter
from typing import Any
from urllib.parse import quote

import pytest
import redis

from tests.journeys.test_pull_workers import end, lease
from tests.support.endpoint import Answer, Call, Endpoint, Gate, reply_json
from tests.support.gateway import Gateway, job
from tests.support.waiting import eventually


def of(group: str | int, data: Any = None, **opts: Any) -> dict[str, Any]:
    """A job of a group."""
    priority = opts.pop("group_priority", None)
    named = {"id": group} | ({} if priority is None else {"priority": priority})
    return job({"group": str(group)} if data is None else data, group=named, **opts)


def group_of(call: Call) -> str:
    """The group of the job that a call carries."""
    return str(call.job["opts"].get("group", {}).get("id", "-"))


def at(gateway: Gateway, queue: str, group: str, path: str = "") -> str:
    """The path of a group."""
    return f"/queues/{queue}/groups/{quote(group, safe='')}{path}"


def state(gateway: Gateway, queue: str, group: str) -> dict[str, Any]:
    """A group as the API shows it."""
    answer = gateway.http.get(at(gateway, queue, group))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def put(gateway: Gateway, queue: str, group: str, **limits: Any) -> dict[str, Any]:
    """Set the limits of a group."""
    answer = gateway.http.put(at(gateway, queue, group), json=limits)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def _when(gate: Gate, call: Call) -> Answer:
    await gate.passed()
    return reply_json("done")


def keys_of_groups(store: redis.Redis, queue: str) -> list[bytes]:
    """The keys that groups have left in Redis."""
    return sorted(store.scan_iter(f"bull:{queue}:toril:groups*", count=1000))


def test_groups_take_turns_and_each_runs_one_job_at_a_time(gateway: Gateway, queue: str, store: redis.Redis) -> None:
    with Endpoint() as endpoint:
        gate = endpoint.gate()
        endpoint.behaviour = lambda call: _when(gate, call)
        gateway.add(queue, *(of("a") for _ in range(5)), *(of("b") for _ in range(5)))
        gateway.register(queue, endpoint.url, concurrency=10, group={"concurrency": 1})
        assert sorted(group_of(call) for call in endpoint.wait_for_calls(2)) == ["a", "b"]
        for group in "ab":
            shown = state(gateway, queue, group)
            assert (shown["waiting"], shown["active"]) == (4, 1)
            assert shown["effective"]["concurrency"] == 1
        assert gateway.counts(queue)["delayed"] == 8, "what is held shows as delayed"
        gate.open()
        gateway.wait_for_counts(queue, completed=10)
        assert endpoint.max_concurrent == 2, "one of each"
    eventually(lambda: keys_of_groups(store, queue) == [], what="no key of a group is left")
    gateway.unregister(queue)


def test_a_job_of_another_group_is_among_the_next_two(gateway: Gateway, queue: str) -> None:
    with Endpoint() as endpoint:
        gate = endpoint.gate()
        endpoint.behaviour = lambda call: _when(gate, call)
        gateway.add(queue, *(of("a") for _ in range(50)))
        gateway.register(queue, endpoint.url)
        endpoint.wait_for_calls(1)
        gateway.add(queue, of("b"))
        gate.open()
        gateway.wait_for_counts(queue, completed=51)
        assert "b" in [group_of(call) for call in endpoint.calls[1:3]]
    gateway.unregister(queue)


def test_groups_start_by_their_weights_and_a_tenant_with_many_ids_gains_nothing(gateway: Gateway, queue: str) -> None:
    weights = {"w1": 1, "w2": 2, "t": 4}
    for name, weight in weights.items():
        put(gateway, queue, name, weight=weight)
    gateway.add(queue, *(of(name) for number in range(70) for name in ("w1", "w2", f"t/{number % 10}")))
    with Endpoint() as endpoint:
        gateway.register(queue, endpoint.url)
        calls = endpoint.wait_for_calls(70)[:70]
    gateway.unregister(queue)
    found = Counter(group_of(call).partition("/")[0] for call in calls)
    assert all(abs(found[name] - weight * 10) <= 1 for name, weight in weights.items()), found
    ids = Counter(group_of(call) for call in calls if group_of(call).startswith("t/"))
    assert len(ids) == 10
    assert max(ids.values()) - min(ids.values()) <= 1, ids


def test_jobs_without_a_group_are_one_group_among_the_others(gateway: Gateway, queue: str) -> None:
    with Endpoint() as endpoint:
        gateway.add(queue, *(job({"group": "-"}) for _ in range(30)), *(of("a") for _ in range(30)))
        gateway.register(queue, endpoint.url)
        gateway.wait_for_counts(queue, completed=60)
        first = Counter(group_of(call) for call in endpoint.calls[:20])
        assert abs(first["a"] - first["-"]) <= 2, first
    gateway.unregister(queue)


def test_a_retry_goes_before_new_work_and_priority_before_age(gateway: Gateway, queue: str) -> None:
    failed: list[str] = []

    def behave(call: Call) -> Any:
        if call.job["name"] == "again" and not failed:
            failed.append(call.job["id"])
            return reply_json("no", status=500)
        return reply_json("done")

    with Endpoint(behave) as endpoint:
        gateway.add(
            queue,
            of("a", "again", attempts=2) | {"name": "again"},
            of("a", "late", group_priority=5) | {"name": "late"},
            of("a", "soon", group_priority=1) | {"name": "soon"},
        )
        gateway.register(queue, endpoint.url)
        gateway.wait_for_counts(queue, completed=3)
        assert [call.job["name"] for call in endpoint.calls] == ["again", "again", "soon", "late"]
    gateway.unregister(queue)


def test_a_paused_group_waits_and_a_promoted_job_of_it_runs(gateway: Gateway, queue: str) -> None:
    with Endpoint() as endpoint:
        gateway.register(queue, endpoint.url)
        assert gateway.http.post(at(gateway, queue, "a", "/pause")).status_code == 204
        held, other = gateway.add(queue, of("a"), of("a"))
        gateway.add(queue, of("b"))
        gateway.wait_for_counts(queue, completed=1)
        assert state(gateway, queue, "a")["paused"]
        assert state(gateway, queue, "a")["waiting"] == 2
        assert gateway.http.post(f"/queues/{queue}/jobs/{other['id']}/promote").status_code == 204
        gateway.finished(queue, other["id"])
        assert state(gateway, queue, "a")["waiting"] == 1
        assert gateway.http.post(at(gateway, queue, "a", "/resume")).status_code == 204
        gateway.finished(queue, held["id"])
    gateway.unregister(queue)


def test_limits_of_a_group_count_at_once_for_what_waits(gateway: Gateway, queue: str) -> None:
    with Endpoint() as endpoint:
        gate = endpoint.gate()
        endpoint.behaviour = lambda call: _when(gate, call)
        shown = put(gateway, queue, "a", concurrency=1, weight=3)
        assert shown["limits"] == {"concurrency": 1, "limit": None, "weight": 3, "max_waiting": None}
        gateway.add(queue, *(of("a") for _ in range(4)))
        gateway.register(queue, endpoint.url, concurrency=10)
        endpoint.wait_for_calls(1)
        assert state(gateway, queue, "a")["active"] == 1
        put(gateway, queue, "a", concurrency=3)
        endpoint.wait_for_calls(3)
        assert gateway.http.delete(at(gateway, queue, "a")).status_code == 204
        endpoint.wait_for_calls(4)
        gate.open()
        gateway.wait_for_counts(queue, completed=4)
    gateway.unregister(queue)


def test_a_rate_holds_until_a_time_that_is_told(gateway: Gateway, queue: str) -> None:
    with Endpoint() as endpoint:
        gateway.register(queue, endpoint.url)
        put(gateway, queue, "a", limit={"max": 2, "duration": 3_600_000})
        gateway.add(queue, *(of("a") for _ in range(3)), of("b"))
        gateway.wait_for_counts(queue, completed=3)
        shown = state(gateway, queue, "a")
        assert (shown["waiting"], shown["active"]) == (1, 0)
        assert shown["held_until"].endswith("Z")
        put(gateway, queue, "a", limit={"max": 1, "duration": 1000})
        gateway.wait_for_counts(queue, completed=4)
    gateway.unregister(queue)


def test_a_group_that_is_full_refuses_jobs_and_a_bulk_as_a_whole(gateway: Gateway, queue: str) -> None:
    put(gateway, queue, "a", max_waiting=2)
    gateway.add(queue, of("a"))
    refused = gateway.http.post(f"/queues/{queue}/jobs", json=[of("b"), of("a"), of("a")])
    assert (refused.status_code, refused.headers["toril-code"]) == (429, "group_full")
    assert int(refused.headers["retry-after"]) >= 1
    assert state(gateway, queue, "b")["waiting"] == 0
    gateway.add(queue, of("a"), of("b"), of("a", delay=60_000))
    one = gateway.http.post(f"/queues/{queue}/jobs", json=[of("a")])
    assert (one.status_code, one.headers["toril-code"]) == (429, "group_full")
    assert gateway.http.post(at(gateway, queue, "a", "/drain")).json() == {"removed": 2}
    gateway.add(queue, of("a"))


def test_groups_are_listed_in_pages(gateway: Gateway, queue: str) -> None:
    put(gateway, queue, "z/limits", concurrency=1)
    gateway.add(queue, *(of(f"t/{number}") for number in range(5)), of(7))
    path = f"/queues/{queue}/groups"
    first = gateway.http.get(path, params={"limit": 4}).json()
    rest = gateway.http.get(path, params={"limit": 4, "cursor": first["next_cursor"]}).json()
    assert [group["id"] for group in first["groups"] + rest["groups"]] == [
        "7",
        *(f"t/{n}" for n in range(5)),
        "z/limits",
    ]
    assert rest["next_cursor"] is None
    matching = gateway.http.get(path, params={"match": "t/*"}).json()
    assert [group["waiting"] for group in matching["groups"]] == [1] * 5


@pytest.mark.parametrize(
    ("group", "field"),
    [
        ("x", "group"),
        ({}, "group.id"),
        ({"id": ""}, "group.id"),
        ({"id": 1.5}, "group.id"),
        ({"id": True}, "group.id"),
        ({"id": "x" * 257}, "group.id"),
        ({"id": "a\n"}, "group.id"),
        ({"id": ".."}, "group.id"),
        ({"id": "a", "priority": -1}, "group.priority"),
        ({"id": "a", "priority": 2_097_153}, "group.priority"),
        ({"id": "a", "name": "b"}, "group"),
    ],
    ids=str,
)
def test_a_wrong_group_is_refused_by_name(gateway: Gateway, queue: str, group: Any, field: str) -> None:
    answer = gateway.http.post(f"/queues/{queue}/jobs", json=[job(group=group)])
    assert answer.status_code == 400
    assert "group" in answer.text
    assert gateway.http.get(f"/queues/{queue}").status_code == 404, field


ODD_IDS = ["a/b", "%", "a%2Fb", " a b ", "👩\u200d👩\u200d👧", "é" * 256, "...", "./x", "?a=1#b", "+", "\\", "other"]


def test_every_id_that_can_be_added_can_be_named_in_a_path(gateway: Gateway, queue: str) -> None:
    gateway.add(queue, *(of(group) for group in ODD_IDS), of("7"), of(7))
    listed = gateway.http.get(f"/queues/{queue}/groups").json()["groups"]
    assert {group["id"]: group["waiting"] for group in listed} == dict.fromkeys(ODD_IDS, 1) | {"7": 2}
    for group in (*ODD_IDS, "7"):
        assert put(gateway, queue, group, concurrency=3)["id"] == group
        assert gateway.http.post(at(gateway, queue, group, "/pause")).status_code == 204
        assert (state(gateway, queue, group)["paused"], state(gateway, queue, group)["limits"]["concurrency"]) == (
            True,
            3,
        )
        assert gateway.http.post(at(gateway, queue, group, "/resume")).status_code == 204
        assert gateway.http.post(at(gateway, queue, group, "/drain")).json() == {"removed": 2 if group == "7" else 1}
        assert gateway.http.delete(at(gateway, queue, group)).status_code == 204
    assert gateway.http.get(f"/queues/{queue}/groups").json()["groups"] == []


@pytest.mark.parametrize(
    "limits",
    [{"concurrency": 0}, {"weight": 1001}, {"limit": {"max": 1}}, {"limit": 5}, {"max_waiting": -1}, {"rate": 5}],
    ids=str,
)
def test_wrong_limits_are_refused(gateway: Gateway, queue: str, limits: dict[str, Any]) -> None:
    assert gateway.http.put(at(gateway, queue, "a"), json=limits).status_code == 400
    wrong = {"queue": queue, "endpoint": {"url": "http://x", "method": "POST"}, "opts": {"group": {"concurrency": 0}}}
    assert gateway.http.post("/workers", json=wrong).status_code == 400


def test_a_default_goes_with_its_worker(gateway: Gateway, queue: str) -> None:
    with Endpoint() as endpoint:
        gateway.register(queue, endpoint.url, group={"concurrency": 2, "limit": {"max": 9, "duration": 1000}})
        effective = state(gateway, queue, "a")["effective"]
        assert (effective["concurrency"], effective["limit"]) == (2, {"max": 9, "duration": 1000})
        gateway.unregister(queue)
        assert state(gateway, queue, "a")["effective"]["concurrency"] is None


def test_leases_over_http_share_the_slots(gateway: Gateway, queue: str) -> None:
    put(gateway, queue, "a", concurrency=1)
    gateway.add(queue, of("a"), of("a"), of("b"))
    leased = lease(gateway, queue, count=5)
    assert sorted(each["job"]["opts"]["group"]["id"] for each in leased) == ["a", "b"]
    first = next(each for each in leased if each["job"]["opts"]["group"]["id"] == "a")
    assert end(gateway, queue, first, "complete", {"returnvalue": 1}) == 204
    assert [each["job"]["opts"]["group"]["id"] for each in lease(gateway, queue, count=5)] == ["a"]


def test_a_change_of_a_group_is_in_the_audit_trail_with_its_name(gateway: Gateway, queue: str) -> None:
    put(gateway, queue, "acme/1", concurrency=1)

    def noted() -> bool:
        lines = gateway.http.get("/audit").json()["lines"]
        return any(line.get("queue") == queue and line.get("group") == "acme/1" for line in lines)

    eventually(noted, what="the line of the change")
