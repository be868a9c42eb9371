"""What Node's `Queue` does, done through toril and seen from Node."""

import json
from typing import Any

from tests.compat.parity import Both, Checks
from tests.support.endpoint import Endpoint
from tests.support.gateway import job
from tests.support.waiting import eventually

queue = Checks("Queue")
# Far enough apart that the minute does not change between two looks at the clock but once in a long while.
PATTERNS = [
    ("30 2 * * *", "Europe/Berlin"),
    ("0 0 9 * * 1-5", "America/New_York"),
    ("15 10 1,15 * *", "UTC"),
    ("0 0 29 2 *", "Asia/Kathmandu"),
    ("0 12 * 3 0", "Australia/Lord_Howe"),
]


def ids_of(found: Any) -> set[str]:
    return {one["id"] for one in found}


@queue.of("add", "addBulk", "getJob")
def adding(both: Both) -> None:
    (job_id,) = both.add(job({"n": [1, None, "ü"]}, name="mail", attempts=3))
    seen = both.of_queue("getJob", job_id)
    assert (seen["id"], seen["name"], json.loads(seen["data"])) == (job_id, "mail", {"n": [1, None, "ü"]})
    ours = both.ask("GET", f"jobs/{job_id}")
    assert (ours["id"], ours["name"], ours["opts"]["attempts"]) == (job_id, "mail", 3)
    assert len(both.add(*(job(name=str(number)) for number in range(5)))) == 5
    assert both.of_queue("getWaitingCount") == 6


@queue.of("addJobLog", "getJobLogs")
def logging(both: Both) -> None:
    both.add()
    job_id, token = both.lease()
    for line in ("first", "second"):
        both.ask("POST", f"jobs/{job_id}/logs", line, token)
    assert both.of_queue("getJobLogs", job_id) == {"logs": ["first", "second"], "count": 2}
    assert both.ask("GET", f"jobs/{job_id}/logs") == {"logs": ["first", "second"], "count": 2}


@queue.of("updateJobProgress")
def progress(both: Both) -> None:
    both.add()
    job_id, token = both.lease()
    both.ask("POST", f"jobs/{job_id}/progress", {"half": True}, token)
    assert both.of_job(job_id, "progress") == {"half": True}


@queue.of("clean")
def cleaning(both: Both) -> None:
    ids = both.one_in_each_state()
    for state in ("completed", "failed", "delayed", "waiting", "prioritized"):
        assert both.ask("POST", "clean", {"state": state})["ids"] == [ids[state]]
        assert both.state(ids[state]) == "unknown"
    assert both.of_queue("getJobCounts", "active", "waiting-children") == {"active": 1, "waiting-children": 1}
    assert both.ask("POST", "clean", {"state": "waiting-children", "grace": 600_000})["ids"] == []
    children = both.ask("GET", f"jobs/{ids['waiting-children']}?expand=dependencies")["dependencies"]["unprocessed"]
    assert both.ask("POST", "clean", {"state": "waiting-children"})["ids"] == [ids["waiting-children"]]
    assert both.state(ids["waiting-children"]) == "unknown"
    assert both.store.keys(f"bull:{both.queue}:{ids['waiting-children']}*") == []
    # Its children stay, as with every parent that is cleaned; they end without one.
    (_, other, child) = children[0].split(":")
    (held,) = both.ask("POST", f"/queues/{other}/lease")["jobs"]
    both.ask("POST", f"/queues/{other}/jobs/{child}/complete", {}, held["token"])
    assert both.node.queue(other, "getJobState", child) == "completed"
    assert both.store.keys(f"bull:{both.queue}:{ids['waiting-children']}*") == []


@queue.of("drain")
def draining(both: Both) -> None:
    both.one_in_each_state()
    assert both.ask("POST", "drain") == {"removed": 2}
    assert both.of_queue("getJobCounts", "wait", "prioritized", "delayed", "active") == {
        "wait": 0, "prioritized": 0, "delayed": 1, "active": 1
    }  # fmt: skip
    assert both.ask("POST", "drain", {"delayed": True}) == {"removed": 1}
    assert both.of_queue("getDelayedCount") == 0


def counts(both: Both) -> dict[str, int]:
    found: dict[str, int] = both.ask("GET", "")["counts"]
    return found


@queue.of("count")
def count(both: Both) -> None:
    both.one_in_each_state()
    waiting = ("waiting", "paused", "delayed", "prioritized", "waiting-children")
    assert both.of_queue("count") == sum(counts(both)[state] for state in waiting) == 4


@queue.of("getJobCounts", "getJobCountByTypes", "exportPrometheusMetrics")
def all_counts(both: Both) -> None:
    both.one_in_each_state()
    ours = counts(both)
    assert both.command("getJobCounts") == ours
    theirs = both.of_queue("getJobCounts")
    assert {state: ours[state] for state in theirs} == theirs
    assert sum(theirs.values()) == both.of_queue("getJobCountByTypes", *theirs) == 7
    told = both.of_queue("exportPrometheusMetrics")
    for state, number in theirs.items():
        assert f'bullmq_job_count{{queue="{both.queue}", state="{state}"}} {number}' in told


@queue.each(
    *(f"get{state}Count" for state in ("Active", "Completed", "Delayed", "Failed", "Prioritized", "Waiting")),
    "getWaitingChildrenCount",
)
def one_count(both: Both, method: str) -> None:
    both.one_in_each_state()
    state = method.removeprefix("get").removesuffix("Count").replace("Children", "-children").lower()
    both.add(job(), job(delay=600_000), job(priority=1))
    assert both.of_queue(method) == counts(both)[state] >= 1


@queue.each(
    "getActive", "getCompleted", "getDelayed", "getFailed", "getPrioritized", "getWaiting", "getWaitingChildren"
)
def jobs_of_a_state(both: Both, method: str) -> None:
    ids = both.one_in_each_state()
    state = method.removeprefix("get").replace("Children", "-children").lower()
    assert ids_of(both.of_queue(method)) == {ids[state]}
    assert ids_of(both.command("getJobs", state)) == {ids[state]}
    if state != "prioritized":
        assert ids_of(both.ask("GET", f"jobs?statuses={state}")["jobs"]) == {ids[state]}


@queue.of("getJobs", "getRanges")
def pages(both: Both) -> None:
    ids = both.add(*(job(number) for number in range(6)))
    newest = [one["id"] for one in both.of_queue("getJobs", ["waiting"], 1, 3, False)]
    assert [one["id"] for one in both.ask("GET", "jobs?statuses=waiting&start=1&length=3")["jobs"]] == newest
    oldest = [one["id"] for one in both.command("getJobs", ["waiting"], 1, 3, True)]
    assert oldest == [one["id"] for one in both.of_queue("getJobs", ["waiting"], 1, 3, True)]
    assert both.of_queue("getRanges", ["wait"], 1, 3, True) == oldest == ids[1:4]


@queue.of("getCountsPerPriority")
def per_priority(both: Both) -> None:
    both.add(job(), job(), job(priority=1), job(priority=1), job(priority=1), job(priority=2_000_000))
    ours = both.ask("GET", "priorities?priorities=0,1,7,2000000")
    assert ours == both.of_queue("getCountsPerPriority", [0, 1, 7, 2_000_000]) == {"0": 2, "1": 3, "7": 0, "2000000": 1}
    assert both.refused("GET", "priorities?priorities=1,x").json()["field"] == "priorities"


@queue.each("getDeduplicationJobId", "getDebounceJobId", "removeDeduplicationKey", "removeDebounceKey")
def deduplication(both: Both, method: str) -> None:
    first, again = both.add(job(deduplication={"id": "a b"}), job(deduplication={"id": "a b"}))
    assert first == again
    getter = method if method.startswith("get") else "getDeduplicationJobId"
    assert both.of_queue(getter, "a b") == both.ask("GET", "deduplication/a%20b")["jobId"] == first
    both.ask("DELETE", "deduplication/a%20b")
    assert both.of_queue(getter, "a b") is None
    assert both.refused("GET", "deduplication/a%20b").status_code == 404
    assert both.refused("DELETE", "deduplication/a%20b").status_code == 404
    assert both.add(job(deduplication={"id": "a b"})) != [first]


@queue.of("getDependencies")
def dependencies(both: Both) -> None:
    children = both.new_queue()
    tree = {"name": "p", "queueName": both.queue, "children": [{"name": "c", "queueName": children}]}
    parent = both.ask("POST", "/flows", tree)["job"]["id"]
    theirs = both.of_queue("getDependencies", parent, "pending", 0, -1)
    ours = both.ask("GET", f"jobs/{parent}?expand=dependencies")["dependencies"]
    assert ours["unprocessed"] == [one["id"] for one in theirs["items"]]


@queue.of("getGlobalConcurrency", "setGlobalConcurrency", "removeGlobalConcurrency", "isMaxed")
def concurrency(both: Both) -> None:
    both.ask("PUT", "concurrency", {"concurrency": 1})
    assert both.of_queue("getGlobalConcurrency") == both.ask("GET", "concurrency")["concurrency"] == 1
    for active in (0, 1):
        seen = both.ask("GET", "")
        assert both.of_queue("isMaxed") is (seen["counts"]["active"] >= seen["concurrency"]) is (active == 1)
        if active == 0:
            both.add()
            both.lease()
    both.ask("DELETE", "concurrency")
    assert both.of_queue("getGlobalConcurrency") is both.ask("GET", "concurrency")["concurrency"] is None


@queue.of("getGlobalRateLimit", "setGlobalRateLimit", "removeGlobalRateLimit")
def rate_limit(both: Both) -> None:
    both.ask("PUT", "rate-limit", {"max": 3, "duration": 60_000})
    assert both.of_queue("getGlobalRateLimit") == {"max": 3, "duration": 60_000}
    both.of_queue("setGlobalRateLimit", 4, 1000)
    assert both.ask("GET", "rate-limit") == {"max": 4, "duration": 1000, "ttl": 0}
    both.ask("DELETE", "rate-limit")
    assert both.of_queue("getGlobalRateLimit") is None


@queue.of("rateLimit", "getRateLimitTtl", "removeRateLimitKey")
def hold(both: Both) -> None:
    both.add()
    both.ask("PUT", "rate-limit/hold", {"ms": 60_000})
    ours, theirs = both.ask("GET", "rate-limit")["ttl"], both.of_queue("getRateLimitTtl")
    assert 0 < theirs <= ours <= 60_000
    assert both.ask("POST", "lease")["jobs"] == []
    both.ask("DELETE", "rate-limit/hold")
    assert both.of_queue("getRateLimitTtl") <= 0
    assert len(both.ask("POST", "lease")["jobs"]) == 1
    both.add()
    both.of_queue("rateLimit", 60_000)
    assert both.ask("GET", "rate-limit")["ttl"] > 0


@queue.of("getJobState")
def states(both: Both) -> None:
    for state, job_id in both.one_in_each_state().items():
        assert both.state(job_id) == both.ask("GET", f"jobs/{job_id}?state")["state"] == state


@queue.of("getMeta", "isPaused", "pause", "resume")
def pausing(both: Both) -> None:
    both.ask("PUT", "rate-limit", {"max": 3, "duration": 60_000})
    both.ask("PUT", "concurrency", {"concurrency": 9})
    both.add()
    for paused in (True, False):
        both.ask("POST", "pause" if paused else "resume")
        meta, ours = both.of_queue("getMeta"), both.ask("GET", "")
        assert both.of_queue("isPaused") is ours["paused"] is meta.get("paused", False) is paused
        assert (meta["concurrency"], meta["max"], meta["duration"]) == (9, 3, 60_000)
        assert (ours["concurrency"], ours["rateLimit"]) == (9, {"max": 3, "duration": 60_000})
        assert len(both.ask("POST", "lease")["jobs"]) == (0 if paused else 1)


@queue.of("getMetrics")
def metrics(both: Both) -> None:
    both.add(job(), job(), job())
    for action, body in (("complete", {}), ("complete", {}), ("fail", {"reason": "x"})):
        both.end(action, body)
    ours = both.ask("GET", "metrics")
    for kind, total in (("completed", 2), ("failed", 1)):
        theirs = both.of_queue("getMetrics", kind)
        assert ours[kind]["meta"] == theirs["meta"]
        assert ours[kind]["data"] == theirs["data"]
        assert ours[kind]["meta"]["count"] == total


@queue.of("getWorkers", "getWorkersCount")
def workers(both: Both) -> None:
    with Endpoint() as endpoint:
        both.gateway.register(both.queue, endpoint.url)
        both.gateway.finished(both.queue, both.add()[0])
        theirs = eventually(lambda: both.of_queue("getWorkers"), what="a worker in getWorkers")
        assert both.of_queue("getWorkersCount") == len(theirs)
        ours = both.ask("GET", "")["workers"]
        assert {one["rawname"] for one in ours} == {one["rawname"] for one in theirs}
        assert {one["id"] for one in both.command("getWorkers")} == {one["id"] for one in theirs}
        both.gateway.unregister(both.queue)


@queue.of("getJobScheduler", "getJobSchedulers", "getJobSchedulersCount", "upsertJobScheduler", "removeJobScheduler")
def schedulers(both: Both) -> None:
    scheduler = {"pattern": "0 30 9 * * 1", "tz": "Europe/Paris", "template": {"name": "report", "data": {"n": 1}}}
    ours = both.ask("PUT", "schedulers/weekly", scheduler)
    theirs = both.of_queue("getJobScheduler", "weekly")
    assert (theirs["pattern"], theirs["tz"], theirs["next"]) == ("0 30 9 * * 1", "Europe/Paris", ours["next"])
    assert (theirs["name"], theirs["template"]["data"]) == ("report", {"n": 1})
    for number, (pattern, zone) in enumerate(PATTERNS):
        made = both.ask("PUT", f"schedulers/mine-{number}", {"pattern": pattern, "tz": zone})
        both.of_queue("upsertJobScheduler", f"node-{number}", {"pattern": pattern, "tz": zone})
        assert made["next"] == both.of_queue("getJobScheduler", f"node-{number}")["next"], (pattern, zone)
        for who in ("mine", "node"):
            both.ask("DELETE", f"schedulers/{who}-{number}")
    both.of_queue("upsertJobScheduler", "beat", {"every": 3_600_000}, {"name": "beat"})
    assert {one["key"] for one in both.of_queue("getJobSchedulers")} == {"weekly", "beat"}
    listed = both.ask("GET", "schedulers")
    assert ({one["id"] for one in listed["schedulers"]}, listed["count"]) == ({"weekly", "beat"}, 2)
    assert both.of_queue("getJobSchedulersCount") == 2
    both.ask("DELETE", "schedulers/weekly")
    assert both.of_queue("getJobScheduler", "weekly") is None
    assert both.of_queue("getJobSchedulersCount") == 1


@queue.of("obliterate")
def obliterating(both: Both) -> None:
    both.add(job(), job(delay=600_000))
    both.lease()
    assert both.refused("POST", "obliterate").json()["code"] == "wrong_state"
    assert both.of_queue("isPaused") is False
    assert both.ask("POST", "obliterate", {"force": True}) == {"removed": 2}
    assert sum(both.of_queue("getJobCounts").values()) == 0


@queue.of("promoteJobs")
def promoting(both: Both) -> None:
    both.add(*(job(delay=600_000) for _ in range(3)))
    assert both.ask("POST", "promote", {"count": 2}) == {"moved": 2}
    assert both.of_queue("getJobCounts", "wait", "delayed") == {"wait": 2, "delayed": 1}


@queue.of("retryJobs")
def retrying(both: Both) -> None:
    both.add(job(), job(), job())
    for action, body in (("fail", {"reason": "x"}), ("fail", {"reason": "x"}), ("complete", {})):
        both.end(action, body)
    assert both.ask("POST", "retry", {"count": 1}) == {"moved": 1}
    assert both.of_queue("getJobCounts", "wait", "failed") == {"wait": 1, "failed": 1}
    assert both.ask("POST", "retry", {"state": "completed"}) == {"moved": 1}
    assert both.of_queue("getJobCounts", "wait", "completed") == {"wait": 2, "completed": 0}


@queue.of("remove")
def removing(both: Both) -> None:
    kept, removed = both.add(job(), job())
    both.ask("DELETE", f"jobs/{removed}")
    assert both.of_queue("getJob", removed) is None
    assert both.state(kept) == "waiting"
    assert both.refused("DELETE", f"jobs/{removed}").status_code == 404


@queue.of("removeOrphanedJobs")
def orphans(both: Both) -> None:
    waiting, orphan, delayed = both.add(job(), job("orphan"), job(delay=600_000))
    both.store.lrem(f"bull:{both.queue}:wait", 1, orphan)
    assert both.state(orphan) == "unknown"
    assert both.ask("POST", "remove-orphans", {"restore": True}) == {"removed": 0, "restored": 1}
    assert both.state(orphan) == "waiting"
    both.store.lrem(f"bull:{both.queue}:wait", 1, orphan)
    assert both.ask("POST", "remove-orphans") == {"removed": 1}
    assert both.of_queue("getJob", orphan) is None
    assert (both.state(waiting), both.state(delayed)) == ("waiting", "delayed")
    assert both.of_queue("removeOrphanedJobs") == 0


@queue.of("trimEvents")
def trimming(both: Both) -> None:
    both.add(*(job() for _ in range(20)))
    removed = both.ask("POST", "trim-events", {"maxLength": 3})["removed"]
    assert removed >= 17
    assert both.ask("POST", "trim-events", {"maxLength": 3}) == {"removed": 0}
    assert both.of_queue("trimEvents", 3) == 0
