"""Groups beside Node's BullMQ: what it sees of held jobs, and what becomes of those that it adds or promotes."""

import pytest

from tests.compat.nodejs import LiveNode, Node
from tests.support.endpoint import Endpoint
from tests.support.gateway import Gateway, job

pytestmark = pytest.mark.node


def test_node_lists_held_jobs_and_those_that_it_promotes_run(gateway: Gateway, queue: str, node: Node) -> None:
    path = f"/queues/{queue}/groups/a"
    gateway.http.post(f"{path}/pause").raise_for_status()
    added = gateway.add(queue, *(job(group={"id": "a"}) for _ in range(3)))
    listed = node.call(queue, "getDelayed")
    assert sorted(each["id"] for each in listed) == sorted(each["id"] for each in added)
    with Endpoint() as endpoint:
        gateway.register(queue, endpoint.url)
        assert gateway.http.get(path).json()["waiting"] == 3
        node.call(queue, "promoteJobs")
        gateway.wait_for_counts(queue, completed=3)
        assert gateway.http.get(path).json()["paused"], "promoted jobs pass a pause"
    gateway.unregister(queue)


def test_what_node_adds_with_a_group_obeys_the_limits_of_the_group(gateway: Gateway, queue: str, node: Node) -> None:
    gateway.http.put(f"/queues/{queue}/groups/a", json={"concurrency": 1}).raise_for_status()
    for number in range(4):
        node.call(queue, "add", "work", {"n": number}, {"group": {"id": "a"}})
    with Endpoint() as endpoint:
        gateway.register(queue, endpoint.url, concurrency=5)
        gateway.wait_for_counts(queue, completed=4)
        assert endpoint.max_concurrent == 1
        assert [call.job["data"]["n"] for call in endpoint.calls] == [0, 1, 2, 3]
    gateway.unregister(queue)


def test_a_dashboard_lists_held_jobs_as_delayed_and_promotes_one_by_hand(
    gateway: Gateway, queue: str, live: LiveNode
) -> None:
    # bull-board asks for counts and pages of a state, and promotes a job: the same calls.
    gateway.http.post(f"/queues/{queue}/groups/a/pause").raise_for_status()
    added = [each["id"] for each in gateway.add(queue, *(job(group={"id": "a"}) for _ in range(3)))]
    assert live.queue(queue, "getJobCounts", "delayed", "waiting")["delayed"] == 3
    page = live.queue(queue, "getJobs", ["delayed"], 0, 9)
    assert sorted(each["id"] for each in page) == sorted(added)
    assert live.job(queue, added[1], "getState") == "delayed"
    with Endpoint() as endpoint:
        gateway.register(queue, endpoint.url)
        live.job(queue, added[1], "promote")
        gateway.wait_for_counts(queue, completed=1)
        assert [call.job["id"] for call in endpoint.calls] == [added[1]]
        live.job(queue, added[0], "remove")
        gateway.http.post(f"/queues/{queue}/groups/a/resume").raise_for_status()
        gateway.wait_for_counts(queue, completed=2)
    gateway.unregister(queue)
