"""Every option of a job, given to toril at each of its doors and to Node's BullMQ: Redis holds the same of both."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.compat.nodejs import LiveNode, NodeError
from tests.compat.parity import Both
from tests.support.endpoint import Endpoint
from tests.support.gateway import Gateway, job

pytestmark = pytest.mark.node

DATA = {"text": "grüße", "n": [1, None]}
OPTIONS: list[dict[str, Any]] = [
    {"timestamp": 1_700_000_000_123},
    {"timestamp": 1_700_000_000_123, "delay": 5_000_000_000_000},
    {"keepLogs": 7, "stackTraceLimit": 0, "sizeLimit": 1000},
    {"backoff": {"type": "exponential", "delay": 200, "jitter": 0.5}, "attempts": 3},
    {"backoff": {"type": "fixed", "delay": 200, "jitter": 1}, "priority": 4},
    {"telemetry": {"metadata": '{"traceparent":"00-4bf92f3577b34da6-00f067aa0ba902b7-01"}'}},
    {"telemetry": {"metadata": "context", "omitContext": True}},
    {"telemetry": {"omitContext": False}, "removeOnComplete": {"age": 60, "count": 5, "limit": 2}},
    {"failParentOnFailure": True, "lifo": True},
    {"continueParentOnFailure": True, "removeDependencyOnFailure": False},
    {"ignoreDependencyOnFailure": True},
    {"removeDependencyOnFailure": True},
]
DEDUPLICATIONS: list[dict[str, Any]] = [
    {"ttl": 60_000, "extend": True},
    {"ttl": 60_000, "extend": True, "replace": True},
    {"replace": True},
    {"keepLastIfActive": True},
    {"keepLastIfActive": True, "ttl": 60_000},
]


@pytest.fixture
def both(live: LiveNode, gateway: Gateway, store: redis.Redis, new_queue: Callable[[], str]) -> Both:
    return Both(live, gateway, store, new_queue)


def stored(both: Both, queue: str, job_id: str, *without: str) -> dict[str, Any]:
    """A job's hash, its options read and without some; the timestamp is there only where the options say it."""
    fields: dict[str, Any] = both.store.hgetall(f"bull:{queue}:{job_id}")
    fields["opts"] = {name: value for name, value in json.loads(fields["opts"]).items() if name not in without}
    fields["data"] = json.loads(fields["data"])
    if "timestamp" not in fields["opts"]:
        assert fields.pop("timestamp").isdigit()
    return fields


def added_by_toril(both: Both, opts: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """The queue and the id of a job with these options, by the door through which it was added."""
    new, queue = {"name": "mail", "data": DATA, "opts": opts}, both.queue
    single, bulk = both.gateway.add(queue, new)[0], both.gateway.add(both.new_queue(), new, job())[0]
    sent = both.command("add", "mail", DATA, opts)
    other = both.new_queue()
    in_flow = both.ask("POST", "/flows", new | {"queueName": other})["job"]
    for answer in (single, bulk, sent, in_flow):
        assert {name: value for name, value in answer["opts"].items() if name in opts} == opts
        assert "timestamp" not in opts or answer["timestamp"] == opts["timestamp"]
    bulk_queue = bulk["queueQualifiedName"].removeprefix("bull:")
    return {
        "REST": (queue, single["id"]), "bulk": (bulk_queue, bulk["id"]), "socket": (queue, sent["id"]),
        "flow": (other, in_flow["id"]),
    }  # fmt: skip


@pytest.mark.parametrize("opts", OPTIONS, ids=[" ".join(opts) for opts in OPTIONS])
def test_an_option_is_stored_as_node_stores_it(both: Both, opts: dict[str, Any]) -> None:
    theirs = both.new_queue()
    wanted = stored(both, theirs, both.node.queue(theirs, "add", "mail", DATA, opts)["id"])
    for door, (queue, job_id) in added_by_toril(both, opts).items():
        # A job of a flow always has an id of its own.
        without = ("jobId",) if door == "flow" else ()
        assert stored(both, queue, job_id, *without) == wanted, door
        assert both.node.job(queue, job_id, "opts") == both.ask("GET", f"/queues/{queue}/jobs/{job_id}")["opts"], door


@pytest.mark.parametrize("opts", OPTIONS, ids=[" ".join(opts) for opts in OPTIONS])
def test_an_option_in_a_flow_is_stored_as_nodes_flowproducer_stores_it(both: Both, opts: dict[str, Any]) -> None:
    def tree(queue: str) -> dict[str, Any]:
        child = {"name": "child", "queueName": queue, "data": DATA, "opts": {"jobId": "child", **opts}}
        return {"name": "p", "queueName": queue, "data": DATA, "opts": {"jobId": "p", **opts}, "children": [child]}

    theirs, ours = both.new_queue(), both.new_queue()
    both.node.ask("FlowProducer", theirs, "add", tree(theirs))
    both.ask("POST", "/flows", tree(ours))
    for job_id in ("p", "child"):
        wanted = json.loads(json.dumps(stored(both, theirs, job_id)).replace(theirs, ours))
        assert stored(both, ours, job_id) == wanted


@pytest.mark.parametrize("opts", OPTIONS[1:], ids=[" ".join(opts) for opts in OPTIONS[1:]])
def test_an_option_in_a_template_is_stored_as_node_stores_it(both: Both, opts: dict[str, Any]) -> None:
    template = {"name": "tick", "data": DATA, "opts": {name: opts[name] for name in opts if name != "delay"}}
    theirs, ours = both.new_queue(), both.new_queue()
    both.node.queue(theirs, "upsertJobScheduler", "beat", {"every": 3_600_000}, template)
    both.ask("PUT", f"/queues/{ours}/schedulers/beat", {"every": 3_600_000, "template": template})
    of_clock = ("timestamp", "delay", "prevMillis", "jobId", "repeat")
    for queue in (theirs, ours):
        of_template = json.loads(both.store.hget(f"bull:{queue}:repeat:beat", "opts") or "{}")
        assert {"attempts": 0, **of_template} == {"attempts": 0, **shortened(template["opts"])}, queue
        (next_job,) = [key for key in both.store.keys(f"bull:{queue}:repeat:beat:*") if not key.endswith(":logs")]
        options = stored(both, queue, next_job.removeprefix(f"bull:{queue}:"))["opts"]
        wanted = {"attempts": 0, "repeatJobKey": "beat", **shortened(template["opts"])}
        assert {"attempts": 0, "repeatJobKey": "beat"} | without(options, of_clock) == without(wanted, of_clock), queue


def without(options: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}


def shortened(opts: dict[str, Any]) -> dict[str, Any]:
    """These options by the names under which BullMQ stores them."""
    names = {
        "keepLogs": "kl", "failParentOnFailure": "fpof", "continueParentOnFailure": "cpof",
        "ignoreDependencyOnFailure": "idof", "removeDependencyOnFailure": "rdof",
    }  # fmt: skip
    found = {names.get(name, name): value for name, value in opts.items() if name != "telemetry"}
    telemetry = {"metadata": "tm", "omitContext": "omc"}
    return found | {telemetry[name]: value for name, value in opts.get("telemetry", {}).items()}


@pytest.mark.parametrize("flags", DEDUPLICATIONS, ids=[" ".join(flags) for flags in DEDUPLICATIONS])
def test_deduplication_does_what_it_does_in_node(both: Both, flags: dict[str, Any]) -> None:
    """A delayed job, another one with its deduplication id, and one more while what is there is active."""
    theirs, ours = both.new_queue(), both.new_queue()
    for queue, add in (
        (theirs, lambda n, opts: both.node.queue(theirs, "add", "n", {"n": n}, opts)["id"]),
        (ours, lambda n, opts: both.gateway.add_one(ours, {"n": n}, "n", **opts)),
    ):
        opts = {"deduplication": {"id": "once", **flags}}
        ids = [add(1, opts | {"delay": 600_000}), add(2, opts | {"delay": 700_000})]
        both.ask("POST", f"/queues/{queue}/promote")
        (held,) = both.ask("POST", f"/queues/{queue}/lease")["jobs"]
        ids += [add(3, opts), add(4, opts)]
        both.ask("POST", f"/queues/{queue}/jobs/{held['job']['id']}/complete", {}, held["token"])
        later = both.ask("POST", f"/queues/{queue}/lease")["jobs"]
        seen = (ids, held["job"]["data"]["n"], [one["job"]["data"]["n"] for one in later])
        if queue == theirs:
            wanted = seen
    assert seen == wanted
    assert seen[2] == ([4] if "keepLastIfActive" in flags else [])
    assert seen[1] == (2 if "replace" in flags else 1)
    hashes = [stored(both, queue, ids[-1]) for queue in (theirs, ours)]
    assert hashes[0]["opts"]["de"] == hashes[1]["opts"]["de"] == {"id": "once", **flags}


def test_a_size_limit_is_enforced_in_nodes_words(both: Both) -> None:
    opts = {"sizeLimit": 40}
    add = both.gateway.http.post
    for size, fits in ((38, True), (39, False)):
        theirs = None
        try:
            both.of_queue("add", "mail", "x" * size, opts)
        except NodeError as exc:
            theirs = str(exc)
        single = add(f"/queues/{both.queue}/jobs", json=[{"name": "mail", "data": "x" * size, "opts": opts}])
        flow = add("/flows", json={"name": "mail", "queueName": both.queue, "data": "x" * size, "opts": opts})
        if fits:
            assert (theirs, single.status_code, flow.status_code) == (None, 200, 200)
        else:
            assert theirs == single.text == flow.json()["detail"] == "The size of job mail exceeds the limit 40 bytes"
            assert (single.status_code, flow.status_code) == (400, 400)


def test_log_lines_traces_and_telemetry_are_kept_as_asked(both: Both, endpoint: Endpoint) -> None:
    opts = {"keepLogs": 2, "stackTraceLimit": 1, "attempts": 3, "telemetry": {"metadata": "00-1"}}
    job_id = both.gateway.add_one(both.queue, **opts)
    for number in range(3):
        (held,) = both.ask("POST", "lease", {"wait_ms": 5000})["jobs"]
        assert held["job"]["opts"]["telemetry"] == {"metadata": "00-1"}
        both.ask("POST", f"jobs/{job_id}/logs", f"line {number}", held["token"])
        both.ask("POST", f"jobs/{job_id}/fail", {"reason": f"no {number}"}, held["token"])
    assert both.of_queue("getJobLogs", job_id) == {"logs": ["line 1", "line 2"], "count": 2}
    (trace,) = both.of_job(job_id, "stacktrace")
    assert "no 2" in trace


def test_zero_keeps_all_log_lines_as_in_node(both: Both) -> None:
    (job_id,) = both.add(job(keepLogs=0))
    _, token = both.lease()
    for line in ("one", "two"):
        both.ask("POST", f"jobs/{job_id}/logs", line, token)
    assert both.of_job(job_id, "log", "three") == 3
    assert both.ask("GET", f"jobs/{job_id}/logs")["logs"] == ["one", "two", "three"]


class TestFlowsWithTakenIds:
    """A flow of which some jobs are there already."""

    def test_a_taken_deduplication_id_answers_the_job_that_is_there(self, both: Both) -> None:
        once = {"deduplication": {"id": "once"}}
        first = both.of_queue("add", "first", {"n": 1}, once)["id"]
        root = {"name": "root", "queueName": both.queue, "data": {"n": 2}, "opts": once}
        other = {"name": "other", "queueName": both.queue, "data": {"n": 3}}
        theirs = both.node.ask("FlowProducer", both.queue, "add", root)
        ours = both.ask("POST", "/flows", root)
        assert ours["job"]["id"] == theirs["job"]["id"] == first
        both_roots = both.ask("POST", "/flows", [other, root])
        in_bulk = both.node.ask("FlowProducer", both.queue, "addBulk", [other, root])
        assert both_roots[1]["job"]["id"] == in_bulk[1]["job"]["id"] == first
        for tree in [ours, *both_roots]:
            assert both.gateway.exists(both.queue, tree["job"]["id"])
        assert both.gateway.counts(both.queue)["waiting"] == 3

    def test_children_go_to_the_parent_that_has_the_id(self, both: Both) -> None:
        child = {"name": "child", "queueName": both.queue}
        tree = {"name": "p", "queueName": both.queue, "opts": {"jobId": "p"}, "children": [child]}
        for _ in range(2):
            added = both.ask("POST", "/flows", tree)
            assert added["job"]["id"] == "p"
            assert added["children"][0]["job"]["parentKey"] == f"bull:{both.queue}:p"
        both.node.ask("FlowProducer", both.queue, "add", tree)
        assert len(both.of_queue("getDependencies", "p", "pending", 0, -1)["items"]) == 3

    def test_a_child_that_is_done_does_not_let_its_parent_go_before_the_others(self, both: Both) -> None:
        """BullMQ 5 lets it go, and BullMQ 6 does not any longer."""
        children = both.new_queue()
        both.gateway.add_one(children, jobId="done")
        (held,) = both.ask("POST", f"/queues/{children}/lease")["jobs"]
        both.ask("POST", f"/queues/{children}/jobs/done/complete", {"returnvalue": 1}, held["token"])
        done = {"name": "c", "queueName": children, "opts": {"jobId": "done"}}
        new = {"name": "c", "queueName": children}
        parent = {"name": "p", "queueName": both.queue, "opts": {"jobId": "waits"}, "children": [done, new]}
        both.ask("POST", "/flows", parent)
        assert both.state("waits") == "waiting-children"
        waits = both.ask("GET", "jobs/waits?expand=dependencies")["dependencies"]
        assert (waits["processed"], len(waits["unprocessed"])) == ({f"bull:{children}:done": 1}, 1)
        (held,) = both.ask("POST", f"/queues/{children}/lease")["jobs"]
        both.ask("POST", f"/queues/{children}/jobs/{held['job']['id']}/complete", {}, held["token"])
        assert both.state("waits") == "waiting"
        if both.node.version == "6":
            both.node.ask("FlowProducer", both.queue, "add", parent | {"opts": {"jobId": "theirs"}})
            assert both.state("theirs") == "waiting-children"

    def test_a_parent_whose_children_are_all_done_waits_no_longer(self, both: Both) -> None:
        children = both.new_queue()
        both.gateway.add_one(children, jobId="done")
        (held,) = both.ask("POST", f"/queues/{children}/lease")["jobs"]
        both.ask("POST", f"/queues/{children}/jobs/done/complete", {"returnvalue": 1}, held["token"])
        done = {"name": "c", "queueName": children, "opts": {"jobId": "done"}}
        tree = {"name": "p", "queueName": both.queue, "opts": {"jobId": "p"}, "children": [done]}
        both.ask("POST", "/flows", tree)
        assert both.lease()[0] == "p"

    def test_the_child_of_another_parent_is_refused_and_nothing_is_written(self, both: Both) -> None:
        """In BullMQ the new parent would wait for ever."""
        child = {"name": "c", "queueName": both.queue, "opts": {"jobId": "child"}}
        tree = {"name": "p", "queueName": both.queue, "opts": {"jobId": "first"}, "children": [child]}
        both.ask("POST", "/flows", tree)
        before = sorted(both.store.keys(f"bull:{both.queue}:*"))
        other = tree | {"opts": {"jobId": "second"}, "children": [{"name": "c", "queueName": both.queue}, child]}
        answer = both.gateway.http.post("/flows", json=[other])
        assert (answer.status_code, answer.json()["code"]) == (409, "wrong_state")
        assert "The job child of the queue" in answer.json()["detail"]
        assert sorted(both.store.keys(f"bull:{both.queue}:*")) == before
        both.store.delete(f"bull:{both.queue}:first")  # a parent that was removed is in no one's way
        both.ask("POST", "/flows", other)
        assert both.state("second") == "waiting-children"
