"""What Node's `Job` does, done through toril and seen from Node."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.compat.parity import Both, Checks
from tests.support.gateway import job

jobs = Checks("Job")


@jobs.of("create", "createBulk", "fromId")
def creating(both: Both) -> None:
    data = {"text": "grüße 🐂", "deep": [{"a": [None, 1.5]}]}
    ids = both.add(job(data, name="mail", attempts=2, priority=4), job(delay=600_000, jobId="mine"))
    assert ids[1] == "mine"
    for job_id in ids:
        theirs, ours = both.of_queue("getJob", job_id), both.ask("GET", f"jobs/{job_id}")
        for field in ("id", "name", "timestamp", "attemptsMade"):
            assert theirs[field] == ours[field]
        assert json.loads(theirs["data"]) == ours["data"]
        assert (both.of_job(job_id, "delay"), both.of_job(job_id, "priority")) == (ours["delay"], ours["priority"])


@jobs.of("log", "addJobLog", "clearLogs")
def logs(both: Both) -> None:
    both.add()
    job_id, token = both.lease()
    for number in range(5):
        both.ask("POST", f"jobs/{job_id}/logs", f"line {number}", token)
    assert both.of_job(job_id, "log", "from node") == 6
    assert both.ask("GET", f"jobs/{job_id}/logs")["logs"][-1] == "from node"
    both.ask("DELETE", f"jobs/{job_id}/logs?keep=2")
    assert both.of_queue("getJobLogs", job_id) == {"logs": ["line 4", "from node"], "count": 2}
    both.ask("DELETE", f"jobs/{job_id}/logs")
    assert both.of_queue("getJobLogs", job_id)["count"] == 0
    assert both.refused("DELETE", f"jobs/{job_id}/logs?keep=-1").json()["field"] == "keep"
    assert both.refused("DELETE", "jobs/nobody/logs").status_code == 404


@jobs.of("updateProgress")
def progress(both: Both) -> None:
    both.add()
    job_id, token = both.lease()
    for value in (50, {"half": True}):
        both.ask("POST", f"jobs/{job_id}/progress", value, token)
        assert both.of_job(job_id, "progress") == value
    both.of_job(job_id, "updateProgress", 99)
    assert both.ask("GET", f"jobs/{job_id}")["progress"] == 99


@jobs.of("changeDelay")
def delay(both: Both) -> None:
    (job_id,) = both.add(job(delay=600_000))
    both.ask("PUT", f"jobs/{job_id}/delay", {"delay": 300_000})
    assert both.of_job(job_id, "delay") == 300_000
    assert both.of_queue("getDelayedCount") == 1
    both.ask("PUT", f"jobs/{job_id}/delay", {"delay": 1})
    assert both.lease()[0] == job_id
    assert both.refused("PUT", f"jobs/{job_id}/delay", {"delay": 1}).json()["state"] == "active"


@jobs.of("changePriority")
def priority(both: Both) -> None:
    first, second = both.add(job(priority=5), job(priority=5))
    both.ask("PUT", f"jobs/{second}/priority", {"priority": 1})
    assert both.of_job(second, "priority") == 1
    assert [one["id"] for one in both.of_queue("getPrioritized")] == [second, first]
    both.ask("PUT", f"jobs/{first}/priority", {"priority": 0})
    assert both.state(first) == "waiting"


@jobs.of("updateData")
def data(both: Both) -> None:
    (job_id,) = both.add(job({"old": 1}))
    both.ask("PUT", f"jobs/{job_id}/data", {"new": [1.5, "ü"]})
    assert both.of_job(job_id, "data") == {"new": [1.5, "ü"]}
    assert both.refused("PUT", "jobs/nobody/data", {}).status_code == 404


@jobs.of("discard")
def discarding(both: Both) -> None:
    both.add(job(attempts=5))
    assert both.state(both.end("fail", {"reason": "hopeless", "unrecoverable": True})) == "failed"


@jobs.of("extendLock")
def extending(both: Both) -> None:
    both.add()
    job_id, token = both.lease()
    both.ask("POST", f"jobs/{job_id}/extend", {"lock_ms": 3_600_000}, token)
    assert both.store.pttl(f"bull:{both.queue}:{job_id}:lock") > 3_000_000
    assert both.of_job(job_id, "extendLock", token, 20_000) == 1
    assert both.store.pttl(f"bull:{both.queue}:{job_id}:lock") <= 20_000


def family(both: Both, *children: dict[str, Any]) -> tuple[str, str, list[str]]:
    """A parent in this queue with these children in another; its id, that queue, and their ids."""
    other = both.new_queue()
    tree = {"name": "parent", "queueName": both.queue}
    tree["children"] = [{"name": f"child-{n}", "queueName": other, "opts": opts} for n, opts in enumerate(children)]
    made = both.ask("POST", "/flows", tree)
    return made["job"]["id"], other, [child["job"]["id"] for child in made["children"]]


def end_child(both: Both, queue: str, action: str, body: Any) -> str:
    (held,) = both.ask("POST", f"/queues/{queue}/lease")["jobs"]
    both.ask("POST", f"/queues/{queue}/jobs/{held['job']['id']}/{action}", body, held["token"])
    return str(held["job"]["id"])


@jobs.of("getChildrenValues", "getDependencies", "getDependenciesCount")
def children(both: Both) -> None:
    parent, other, ids = family(both, {}, {})
    done = end_child(both, other, "complete", {"returnvalue": {"pages": 3}})
    (open_,) = set(ids) - {done}
    ours = both.ask("GET", f"jobs/{parent}?expand=dependencies")["dependencies"]
    assert ours["processed"] == {f"bull:{other}:{done}": {"pages": 3}} == both.of_job(parent, "getChildrenValues")
    theirs = both.of_job(parent, "getDependencies")
    assert ours["unprocessed"] == theirs["unprocessed"] == [f"bull:{other}:{open_}"]
    number = both.of_job(parent, "getDependenciesCount", {"processed": True, "unprocessed": True})
    assert number == {"processed": len(ours["processed"]), "unprocessed": len(ours["unprocessed"])}


@jobs.of("getFailedChildrenValues", "getIgnoredChildrenFailures")
def failed_children(both: Both) -> None:
    parent, other, _ = family(both, {"ignoreDependencyOnFailure": True})
    child = end_child(both, other, "fail", {"reason": "no ink"})
    ours = both.ask("GET", f"jobs/{parent}?expand=dependencies")["dependencies"]
    theirs = both.of_job(parent, "getIgnoredChildrenFailures")
    assert ours["ignored"] == theirs == {f"bull:{other}:{child}": "no ink"}
    assert both.of_job(parent, "getFailedChildrenValues") == theirs


@jobs.each("getState", "isActive", "isCompleted", "isDelayed", "isFailed", "isWaiting", "isWaitingChildren")
def states(both: Both, method: str) -> None:
    wanted = method.removeprefix("is").replace("Children", "-children").lower()
    for state, job_id in both.one_in_each_state().items():
        assert both.ask("GET", f"jobs/{job_id}?state")["state"] == state
        assert both.of_job(job_id, method) == (state if method == "getState" else state == wanted)


@jobs.of("moveToCompleted")
def completing(both: Both) -> None:
    both.add()
    job_id = both.end("complete", {"returnvalue": {"ok": [1, None]}})
    assert both.of_job(job_id, "returnvalue") == {"ok": [1, None]}
    assert both.of_job(job_id, "isCompleted") is True


@jobs.of("moveToFailed")
def failing(both: Both) -> None:
    both.add()
    job_id = both.end("fail", {"reason": "no ink"})
    assert both.of_job(job_id, "failedReason") == "no ink"
    assert both.of_job(job_id, "isFailed") is True


@jobs.of("moveToDelayed")
def delaying(both: Both) -> None:
    both.add(job(attempts=2))
    job_id = both.end("fail", {"reason": "later", "retry_in_ms": 600_000})
    assert both.of_job(job_id, "isDelayed") is True
    assert both.of_job(job_id, "attemptsMade") == 1


@jobs.of("moveToWait")
def releasing(both: Both) -> None:
    first, _ = both.add(job(attempts=1), job())
    assert both.end("release") == first
    assert (both.state(first), both.of_job(first, "attemptsMade")) == ("waiting", 0)
    assert both.lease()[0] == first


@jobs.of("promote")
def promoting(both: Both) -> None:
    (job_id,) = both.add(job(delay=600_000))
    both.ask("POST", f"jobs/{job_id}/promote")
    assert both.state(job_id) == "waiting"
    assert both.refused("POST", f"jobs/{job_id}/promote").json()["state"] == "waiting"


@jobs.of("remove")
def removing(both: Both) -> None:
    parent, other, (child,) = family(both, {})
    both.ask("DELETE", f"jobs/{parent}?children=keep")
    assert (both.state(parent), both.node.queue(other, "getJobState", child)) == ("unknown", "waiting")
    parent, other, (child,) = family(both, {})
    both.ask("DELETE", f"jobs/{parent}")
    assert (both.state(parent), both.node.queue(other, "getJobState", child)) == ("unknown", "unknown")
    both.add()
    active, _ = both.lease()
    assert both.refused("DELETE", f"jobs/{active}").json()["state"] == "active"


@jobs.of("removeChildDependency")
def detaching(both: Both) -> None:
    parent, other, (child,) = family(both, {})
    assert both.ask("POST", f"/queues/{other}/jobs/{child}/detach") == {"detached": True}
    assert both.state(parent) == "waiting"
    assert both.node.job(other, child, "parentKey") is None
    assert both.ask("POST", f"/queues/{other}/jobs/{child}/detach") == {"detached": False}
    assert both.refused("POST", "jobs/nobody/detach").status_code == 404


@jobs.of("removeUnprocessedChildren")
def childless(both: Both) -> None:
    parent, other, ids = family(both, {}, {})
    done = end_child(both, other, "complete", {})
    both.ask("DELETE", f"jobs/{parent}/children")
    left = {job_id: both.node.queue(other, "getJobState", job_id) for job_id in ids}
    assert left == {job_id: "completed" if job_id == done else "unknown" for job_id in ids}
    assert both.of_job(parent, "getDependencies")["processed"] != {}
    assert both.refused("DELETE", "jobs/nobody/children").status_code == 404


@jobs.of("removeDeduplicationKey")
def deduplication(both: Both) -> None:
    (job_id,) = both.add(job(deduplication={"id": "key"}))
    assert both.of_job(job_id, "deduplicationId") == "key"
    both.ask("DELETE", "deduplication/key")
    assert both.of_job(job_id, "removeDeduplicationKey") is False
    assert both.of_queue("getDeduplicationJobId", "key") is None


@jobs.of("retry")
def retrying(both: Both) -> None:
    both.add()
    job_id = both.end("fail", {"reason": "no ink"})
    both.ask("POST", f"jobs/{job_id}/retry")
    assert both.state(job_id) == "waiting"
    both.end("complete", {})
    assert both.refused("POST", f"jobs/{job_id}/retry").json()["state"] == "completed"
    both.ask("POST", f"jobs/{job_id}/retry", {"state": "completed"})
    assert both.state(job_id) == "waiting"
    made, started = (both.of_job(job_id, name) for name in ("attemptsMade", "attemptsStarted"))
    assert (made, started) == (2, 2)
    for reset, left in (({}, (3, 3)), ({"resetAttemptsMade": True}, (0, 4)), ({"resetAttemptsStarted": True}, (1, 0))):
        both.end("fail", {"reason": "no ink"})
        both.ask("POST", f"jobs/{job_id}/retry", reset)
        assert (both.of_job(job_id, "attemptsMade"), both.of_job(job_id, "attemptsStarted")) == left
        ours = both.ask("GET", f"jobs/{job_id}")
        assert (ours["attemptsMade"], ours["attemptsStarted"]) == left
    both.end("fail", {"reason": "no ink"})
    both.of_job(job_id, "retry", "failed", {"resetAttemptsMade": True, "resetAttemptsStarted": True})
    assert both.of_job(job_id, "attemptsMade") == both.of_job(job_id, "attemptsStarted") == 0
    assert both.refused("POST", f"jobs/{job_id}/retry", {"resetAttemptsMade": 1}).json()["field"] == "resetAttemptsMade"


@jobs.of("waitUntilFinished")
def waiting(both: Both) -> None:
    (job_id,) = both.add()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(both.ask, "GET", f"jobs/{job_id}/result?wait=30")
        held = both.of_queue("getJob", job_id)
        assert held["id"] == job_id
        both.end("complete", {"returnvalue": {"pages": 3}})
        assert waiting.result(30) == {"pages": 3}
