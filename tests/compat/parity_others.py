"""What Node's `FlowProducer`, `JobScheduler` and `QueueEvents` do, done through toril and seen from Node."""

import json
from typing import Any

from tests.compat.parity import Both, Checks

flows = Checks("FlowProducer")
schedulers = Checks("JobScheduler")
events = Checks("QueueEvents")


def names(tree: dict[str, Any]) -> Any:
    """A tree of jobs by their names."""
    return tree["job"]["name"], sorted((names(child) for child in tree["children"]), key=str)


def of_three_levels(both: Both, name: str) -> dict[str, Any]:
    leaves, middle = both.new_queue(), both.new_queue()
    leaf = {"name": "leaf", "queueName": leaves, "data": {"n": 1}}
    return {
        "name": name, "queueName": both.queue, "data": {"whole": True},
        "children": [{"name": "middle", "queueName": middle, "children": [leaf, leaf]}],
    }  # fmt: skip


@flows.of("add", "addBulk", "getFlow")
def trees(both: Both) -> None:
    made = [both.ask("POST", "/flows", of_three_levels(both, "one"))]
    made += both.ask("POST", "/flows", [of_three_levels(both, "two"), of_three_levels(both, "three")])
    for tree, name in zip(made, ("one", "two", "three"), strict=True):
        wanted = (name, [("middle", [("leaf", []), ("leaf", [])])])
        asked = {"id": tree["job"]["id"], "queueName": both.queue}
        theirs = both.node.ask("FlowProducer", both.queue, "getFlow", asked)
        ours = both.ask("GET", f"jobs/{tree['job']['id']}/flow")
        assert names(tree) == names(theirs) == names(ours) == wanted
        assert json.loads(theirs["job"]["data"]) == {"whole": True}
        assert both.state(tree["job"]["id"]) == "waiting-children"
    added = both.node.ask("FlowProducer", both.queue, "add", of_three_levels(both, "theirs"))
    assert names(both.ask("GET", f"jobs/{added['job']['id']}/flow"))[0] == "theirs"


def failing_child(both: Both, option: str) -> tuple[str, str]:
    """A flow whose child has failed under this option; the parent's id, and its child's key."""
    other = both.new_queue()
    child = {"name": "child", "queueName": other, "opts": {option: True}}
    tree = both.ask("POST", "/flows", {"name": "parent", "queueName": both.queue, "children": [child]})
    (held,) = both.ask("POST", f"/queues/{other}/lease")["jobs"]
    both.ask("POST", f"/queues/{other}/jobs/{held['job']['id']}/fail", {"reason": "no ink"}, held["token"])
    return tree["job"]["id"], f"bull:{other}:{held['job']['id']}"


def what_a_failed_child_does_to_its_parent(both: Both) -> None:
    """Each of BullMQ's four options, on flows added here."""
    parent, child = failing_child(both, "failParentOnFailure")
    assert both.ask("POST", "lease")["jobs"] == []  # a worker that would take it fails it
    assert both.of_job(parent, "failedReason") == f"child {child} failed"
    parent, child = failing_child(both, "continueParentOnFailure")
    assert (both.state(parent), both.of_job(parent, "getFailedChildrenValues")) == ("waiting", {child: "no ink"})
    both.end("complete")
    parent, child = failing_child(both, "ignoreDependencyOnFailure")
    assert (both.state(parent), both.of_job(parent, "getIgnoredChildrenFailures")) == ("waiting", {child: "no ink"})
    both.end("complete")
    parent, _ = failing_child(both, "removeDependencyOnFailure")
    assert both.state(parent) == "waiting"


def scheduler(both: Both, method: str, *args: Any) -> Any:
    return both.node.ask("JobScheduler", both.queue, method, *args)


@schedulers.of("upsertJobScheduler", "getScheduler", "isJobScheduler", "getJobSchedulers", "getSchedulersCount")
def scheduling(both: Both) -> None:
    both.ask("PUT", "schedulers/beat", {"every": 3_600_000, "template": {"name": "tick", "data": {"n": 1}}})
    ours, theirs = both.ask("GET", "schedulers/beat"), scheduler(both, "getScheduler", "beat")
    assert (theirs["key"], theirs["every"], theirs["next"]) == ("beat", ours["every"], ours["next"])
    assert theirs["template"]["data"] == ours["template"]["data"] == {"n": 1}
    assert scheduler(both, "isJobScheduler", "beat") is True
    assert scheduler(both, "isJobScheduler", "nobody") is False
    assert both.refused("GET", "schedulers/nobody").json()["code"] == "scheduler_not_found"
    both.ask("PUT", "schedulers/beat", {"every": 7_200_000})
    assert [one["every"] for one in scheduler(both, "getJobSchedulers", 0, -1, True)] == [7_200_000]
    assert scheduler(both, "getSchedulersCount") == both.ask("GET", "schedulers")["count"] == 1


@schedulers.of("removeJobScheduler")
def removing(both: Both) -> None:
    both.ask("PUT", "schedulers/beat", {"pattern": "0 0 1 1 *"})
    assert (both.of_queue("getDelayedCount"), scheduler(both, "getSchedulersCount")) == (1, 1)
    both.ask("DELETE", "schedulers/beat")
    assert (both.of_queue("getDelayedCount"), scheduler(both, "getSchedulersCount")) == (0, 0)
    assert both.refused("DELETE", "schedulers/beat").status_code == 404


@events.of("on", "once", "off")
def streaming(both: Both) -> None:
    both.add()  # so that the queue and its stream are there
    path = f"/queues/{both.queue}/events"
    with both.gateway.http.stream("GET", path, timeout=20) as answer:
        lines = answer.iter_lines()
        assert next(line for line in lines if line.startswith("id:"))
        added = both.of_queue("add", "from-node", {"n": 1})
        kinds = []
        for line in lines:
            if line.startswith("event:"):
                kinds.append(line.removeprefix("event:").strip())
            elif line.startswith("data:") and f'"{added["id"]}"' in line and kinds[-1] == "waiting":
                break
        assert kinds[-1] == "waiting"
