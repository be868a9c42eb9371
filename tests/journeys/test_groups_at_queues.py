"""Groups of a queue's jobs, however they are added and settled, and what limits of a group count."""

from typing import Any

from tests.journeys.test_groups import at, group_of, of, put, state
from tests.journeys.test_pull_workers import end, lease
from tests.support.endpoint import Answer, Call, Endpoint, reply_json, respond
from tests.support.gateway import Gateway
from tests.support.sockets import socket_to
from tests.support.toril import TorilProcess
from tests.support.waiting import eventually


def test_the_priority_of_a_job_does_not_count_within_a_group(gateway: Gateway, queue: str) -> None:
    gateway.add(
        queue,
        of("a", priority=9) | {"name": "first"},
        of("a", priority=1) | {"name": "second"},
        of("a", priority=1, group_priority=7) | {"name": "fourth"},
        of("a", priority=9, group_priority=3) | {"name": "third"},
    )
    with Endpoint() as endpoint:
        gateway.register(queue, endpoint.url)
        gateway.wait_for_counts(queue, completed=4)
        assert [call.job["name"] for call in endpoint.calls] == ["first", "second", "third", "fourth"]
    gateway.unregister(queue)


def test_jobs_added_over_a_socket_and_in_a_flow_are_of_their_group(
    toril: TorilProcess, gateway: Gateway, queue: str
) -> None:
    gateway.http.post(at(gateway, queue, "a", "/pause")).raise_for_status()
    with socket_to(toril.url, f"/ws/queues/{queue}") as socket:
        assert "ok" in socket.command("add", "over-a-socket", {}, {"group": {"id": "a"}})
        assert "ok" not in socket.command("add", "refused", {}, {"group": {"id": ".."}})
    grouped = {"group": {"id": "a"}}
    child = {"name": "child", "queueName": queue, "opts": grouped}
    flow = {"name": "parent", "queueName": queue, "opts": grouped, "children": [child]}
    assert gateway.http.post("/flows", json=flow).status_code == 200
    assert state(gateway, queue, "a")["waiting"] == 2, "the parent waits for its child first"
    with Endpoint() as endpoint:
        gateway.register(queue, endpoint.url)
        put(gateway, queue, "a", concurrency=1, paused=False)
        gateway.wait_for_counts(queue, completed=3)
        assert [call.job["name"] for call in endpoint.calls] == ["over-a-socket", "child", "parent"]
        assert endpoint.max_concurrent == 1
    gateway.unregister(queue)


def test_a_parent_is_held_in_its_group_once_its_children_are_done(gateway: Gateway, queue: str) -> None:
    gateway.http.post(at(gateway, queue, "a", "/pause")).raise_for_status()
    flow = {"name": "parent", "queueName": queue, "opts": {"group": {"id": "a"}}}
    flow["children"] = [{"name": "child", "queueName": queue, "opts": {"group": {"id": "b"}}}]
    assert gateway.http.post("/flows", json=flow).status_code == 200
    with Endpoint() as endpoint:
        gateway.register(queue, endpoint.url)
        eventually(lambda: state(gateway, queue, "a")["waiting"] == 1, what="the parent is held")
        assert [call.job["name"] for call in endpoint.calls] == ["child"]
        put(gateway, queue, "a", paused=False)
        gateway.wait_for_counts(queue, completed=2)
    gateway.unregister(queue)


def test_limits_are_replaced_and_a_pause_changes_only_where_it_is_named(gateway: Gateway, queue: str) -> None:
    nothing: dict[str, Any] = {"concurrency": None, "limit": None, "weight": None, "max_waiting": None}
    empty = state(gateway, queue, "a")
    assert (empty["waiting"], empty["active"], empty["paused"], empty["held_until"]) == (0, 0, False, None)
    assert (empty["limits"], empty["effective"]) == (nothing, nothing | {"weight": 1})
    assert put(gateway, queue, "a", concurrency=2, weight=3, paused=True)["paused"]
    shown = put(gateway, queue, "a", limit={"max": 5, "duration": 1000})
    assert (shown["limits"], shown["paused"]) == (nothing | {"limit": {"max": 5, "duration": 1000}}, True)
    assert not put(gateway, queue, "a", concurrency=2, paused=False)["paused"]
    put(gateway, queue, "a", paused=True)
    assert gateway.http.delete(at(gateway, queue, "a")).status_code == 204
    assert state(gateway, queue, "a") == empty


def test_limits_and_pauses_of_a_tenant_do_not_cover_the_ids_below_it(gateway: Gateway, queue: str) -> None:
    put(gateway, queue, "t", concurrency=1, max_waiting=1, paused=True)
    gateway.add(queue, *(of("t/1") for _ in range(3)), of("t"))
    with Endpoint() as endpoint:
        gateway.register(queue, endpoint.url, concurrency=5)
        gateway.wait_for_counts(queue, completed=3)
        assert {group_of(call) for call in endpoint.calls} == {"t/1"}
    gateway.unregister(queue)


def test_a_retry_does_not_count_among_what_may_wait(gateway: Gateway, queue: str) -> None:
    put(gateway, queue, "a", max_waiting=1)
    gateway.add(queue, of("a", attempts=2))
    (held,) = lease(gateway, queue)
    assert end(gateway, queue, held, "fail", {"reason": "no"}) == 204
    eventually(lambda: state(gateway, queue, "a")["waiting"] == 1, what="the retry waits")
    gateway.add(queue, of("a"))
    refused = gateway.http.post(f"/queues/{queue}/jobs", json=[of("a")])
    assert (refused.status_code, refused.headers["toril-code"]) == (429, "group_full")


def test_a_group_whose_only_job_runs_is_listed(gateway: Gateway, queue: str) -> None:
    gateway.add(queue, of("a"))
    (held,) = lease(gateway, queue)
    listed = gateway.http.get(f"/queues/{queue}/groups").json()["groups"]
    assert [(group["id"], group["waiting"], group["active"]) for group in listed] == [("a", 0, 1)]
    assert end(gateway, queue, held, "complete", {"returnvalue": 1}) == 204
    assert gateway.http.get(f"/queues/{queue}/groups").json()["groups"] == []


def test_a_job_that_is_settled_later_holds_the_slot_of_its_group(gateway: Gateway, queue: str) -> None:
    def behave(call: Call) -> Answer:
        if call.job["name"] == "long":
            return respond(202, "Accepted", [("toril-settle", "later"), ("toril-lease-ms", "600000")])
        return reply_json("done")

    with Endpoint(behave) as endpoint:
        gateway.add(queue, of("a") | {"name": "long"}, of("a"), of("b"))
        gateway.register(queue, endpoint.url, concurrency=5, group={"concurrency": 1})
        gateway.wait_for_counts(queue, completed=1)
        long = next(call for call in endpoint.calls if call.job["name"] == "long")
        shown = state(gateway, queue, "a")
        assert (shown["waiting"], shown["active"], len(endpoint.calls)) == (1, 1, 2)
        held = {"job": long.job, "token": long.token}
        assert end(gateway, queue, held, "complete", {"returnvalue": 1}) == 204
        gateway.wait_for_counts(queue, completed=3)
    gateway.unregister(queue)
