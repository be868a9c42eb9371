"""Node BullMQ, both living majors, and toril on the same queues at the same time."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import redis

from tests.compat.nodejs import Node
from tests.support.endpoint import Answer, Call, Endpoint, StartEndpoint, reply_json, respond
from tests.support.gateway import Gateway, job
from tests.support.toril import TorilProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.node

DATA = {"text": "grüße 🐂 \n", "float": 0.1, "int": 9007199254740991, "deep": [{"a": [None, True]}], "": ""}


class TestNodeWorker:
    """Node's Worker takes jobs that were added over REST."""

    def test_a_node_worker_gets_the_data_as_it_was_added(self, node: Node, gateway: Gateway, queue: str) -> None:
        worker = node.start("worker.mjs", queue)
        (added,) = gateway.add(queue, job(DATA, name="mail", attempts=3, removeOnComplete=False))
        (seen,) = worker.wait_for(1, "process")
        assert (seen["process"], seen["name"], seen["data"]) == (added["id"], "mail", DATA)
        assert (seen["attemptsMade"], seen["timestamp"]) == (0, added["timestamp"])
        assert (seen["opts"]["attempts"], seen["opts"]["removeOnComplete"]) == (3, False)
        done = gateway.finished(queue, added["id"])
        assert done["returnvalue"] == DATA
        assert done["attemptsMade"] == 1

    def test_a_node_worker_retries_with_the_backoff_that_was_asked_for(
        self, node: Node, gateway: Gateway, queue: str
    ) -> None:
        worker = node.start("worker.mjs", queue, failFirst=2)
        backoff = {"type": "exponential", "delay": 200}
        job_id = gateway.add_one(queue, {"n": 4}, attempts=3, backoff=backoff)
        done = gateway.finished(queue, job_id)
        assert done["returnvalue"] == {"doubled": 8}
        assert done["attemptsMade"] == 3
        assert len(done["stacktrace"]) == 2
        seen = worker.facts("process")
        assert [fact["attemptsMade"] for fact in seen] == [0, 1, 2]
        assert seen[1]["at"] - seen[0]["at"] >= 195
        assert seen[2]["at"] - seen[1]["at"] >= 395

    def test_a_job_that_a_node_worker_fails_is_shown_as_failed(self, node: Node, gateway: Gateway, queue: str) -> None:
        node.start("worker.mjs", queue, failFirst=99)
        done = gateway.finished(queue, gateway.add_one(queue, attempts=1))
        assert done["failedReason"] == "attempt 0 fails"
        assert "attempt 0 fails" in done["stacktrace"][0]

    def test_a_node_worker_gets_a_delayed_job_when_it_is_due(self, node: Node, gateway: Gateway, queue: str) -> None:
        worker = node.start("worker.mjs", queue)
        (added,) = gateway.add(queue, job(delay=500))
        (seen,) = worker.wait_for(1, "process")
        assert -2 <= seen["at"] - (added["timestamp"] + 500) <= 500

    def test_a_node_worker_gets_prioritized_and_lifo_jobs_in_order(
        self, node: Node, gateway: Gateway, queue: str
    ) -> None:
        gateway.add(
            queue,
            job(name="three", priority=3),
            job(name="one", priority=1),
            job(name="plain"),
            job(name="lifo", lifo=True),
            job(name="two", priority=2),
        )
        worker = node.start("worker.mjs", queue)
        seen = worker.wait_for(5, "process")
        assert [fact["name"] for fact in seen] == ["lifo", "plain", "one", "two", "three"]

    def test_a_node_worker_shares_a_queue_with_a_registered_worker(
        self, node: Node, gateway: Gateway, start_endpoint: StartEndpoint, queue: str
    ) -> None:
        endpoint = start_endpoint(lambda _: reply_json("toril").after(0.02))
        worker = node.start("worker.mjs", queue, workMs=20)
        gateway.register(queue, endpoint.url)
        gateway.finished(queue, gateway.add_one(queue))
        gateway.add(queue, *(job() for _ in range(100)))
        gateway.wait_for_counts(queue, completed=101)
        theirs = [fact["process"] for fact in worker.facts("process")]
        ours = endpoint.job_ids()
        assert len(theirs) >= 10
        assert len(ours) >= 10
        assert sorted(theirs + ours, key=int) == [str(n) for n in range(1, 102)]


class TestNodeQueue:
    """Jobs of Node's Queue reach a worker registered here."""

    def test_a_job_added_in_node_is_pushed_and_its_caller_gets_the_result(
        self, node: Node, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        endpoint.behaviour = lambda call: reply_json({"echo": call.job["data"]})
        gateway.register(queue, endpoint.url)
        facts = node.run("add.mjs", queue, wait=True, jobs=[{"name": "mail", "data": DATA}])
        assert facts == [{"added": "1"}, {"id": "1", "returnvalue": {"echo": DATA}}]
        (call,) = endpoint.calls
        assert (call.job["name"], call.job["data"]) == ("mail", DATA)

    @pytest.mark.parametrize("text", ["plain text", ""])
    def test_a_text_result_reaches_its_caller_too(
        self, node: Node, gateway: Gateway, endpoint: Endpoint, queue: str, text: str
    ) -> None:
        endpoint.behaviour = lambda _: respond(body=text.encode())
        gateway.register(queue, endpoint.url)
        facts = node.run("add.mjs", queue, wait=True, jobs=[{"name": "mail", "data": {}}])
        assert facts[-1] == {"id": "1", "returnvalue": text}

    def test_a_node_caller_is_told_why_its_job_failed(
        self, node: Node, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        endpoint.behaviour = lambda _: respond(502, "Bad Gateway")
        gateway.register(queue, endpoint.url)
        facts = node.run("add.mjs", queue, wait=True, jobs=[{"name": "mail", "data": {}, "opts": {"attempts": 2}}])
        assert facts[-1] == {"id": "1", "failedReason": "Bad Gateway"}
        assert len(endpoint.calls) == 2

    def test_bulks_delays_and_priorities_of_a_node_queue_are_respected(
        self, node: Node, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        jobs = [
            {"name": "late", "data": {}, "opts": {"delay": 400}},
            {"name": "two", "data": {}, "opts": {"priority": 2}},
            {"name": "one", "data": {}, "opts": {"priority": 1}},
            {"name": "plain", "data": {}},
        ]
        node.run("add.mjs", queue, bulk=True, jobs=jobs)
        gateway.register(queue, endpoint.url)
        endpoint.wait_for_calls(4)
        names = [call.job["name"] for call in endpoint.calls]
        assert [name for name in names if name != "late"] == ["plain", "one", "two"]
        late = next(call for call in endpoint.calls if call.job["name"] == "late")
        assert late.at * 1000 >= late.job["timestamp"] + 398

    def test_a_jittered_backoff_stays_within_its_bounds(
        self, node: Node, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        endpoint.behaviour = lambda call: reply_json(1) if call.job["attemptsMade"] == 2 else respond(503, "No")
        gateway.register(queue, endpoint.url, concurrency=20)
        backoff = {"type": "exponential", "delay": 200, "jitter": 0.5}
        opts = {"attempts": 3, "backoff": backoff}
        node.run("add.mjs", queue, bulk=True, jobs=[{"name": "n", "data": {}, "opts": opts} for _ in range(10)])
        gateway.wait_for_counts(queue, completed=10)
        gaps: dict[int, list[float]] = {1: [], 2: []}
        for job_id in map(str, range(1, 11)):
            times = [call.at * 1000 for call in endpoint.calls if call.job["id"] == job_id]
            assert len(times) == 3
            gaps[1].append(times[1] - times[0])
            gaps[2].append(times[2] - times[1])
        # From below it is exact; from above, a busy machine adds to it.
        assert min(gaps[1]) >= 98
        assert min(gaps[1]) <= 1200
        assert min(gaps[2]) >= 196
        assert min(gaps[2]) <= 1400
        assert max(gaps[1]) - min(gaps[1]) >= 5, "jitter spreads them"

    def test_the_retention_options_of_a_node_job_are_obeyed(
        self, node: Node, gateway: Gateway, endpoint: Endpoint, queue: str, store: redis.Redis
    ) -> None:
        endpoint.behaviour = lambda call: respond(500, "No") if call.job["name"] == "bad" else reply_json(1)
        gateway.register(queue, endpoint.url)
        opts = {
            "removeOnComplete": True,
            "removeOnFail": {"count": 1},
            "keepLogs": 2,
            "stackTraceLimit": 1,
            "attempts": 3,
        }
        jobs = [{"name": name, "data": {}, "opts": opts} for name in ("good", "bad", "bad")]
        node.run("add.mjs", queue, jobs=jobs)
        endpoint.wait_for_calls(7)
        gateway.wait_for_counts(queue, completed=0, failed=1, active=0, waiting=0)
        (left,) = gateway.jobs(queue, statuses="failed")["jobs"]
        assert len(left["stacktrace"]) == 1
        assert store.exists(f"bull:{queue}:1") == 0


class TestQueueEvents:
    """Node's QueueEvents sees what we do."""

    def test_queue_events_reports_the_life_of_a_job(
        self, toril: TorilProcess, node: Node, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        async def behave(call: Call) -> Answer:
            if call.job["name"] == "bad":
                return respond(500, "Internal Server Error")
            path = f"{toril.url}/queues/{queue}/jobs/{call.job['id']}/progress"
            async with httpx.AsyncClient(headers={"authorization": f"Bearer {call.token}"}, trust_env=False) as http:
                await http.post(path, json={"percent": 50})
            return reply_json({"ok": True})

        endpoint.behaviour = behave
        events = node.start("events.mjs", queue)
        gateway.register(queue, endpoint.url)
        gateway.add(queue, job(name="good"), job(name="bad"), job(name="late", delay=300))
        eventually(lambda: len(events.events("completed")) == 2, what="two completed events")
        assert [fact["jobId"] for fact in events.events("waiting")] == ["1", "2", "3"]
        assert [fact["jobId"] for fact in events.events("active")] == ["1", "2", "3"]
        assert [fact["jobId"] for fact in events.events("delayed")] == ["3"]
        assert [(fact["jobId"], fact["returnvalue"]) for fact in events.events("completed")] == [
            ("1", {"ok": True}),
            ("3", {"ok": True}),
        ]
        assert [(fact["jobId"], fact["failedReason"]) for fact in events.events("failed")] == [
            ("2", "Internal Server Error")
        ]
        assert [(fact["jobId"], fact["data"]) for fact in events.events("progress")] == [
            ("1", {"percent": 50}),
            ("3", {"percent": 50}),
        ]
        assert events.events("active")[0]["prev"] == "waiting"
        assert events.events("completed")[0]["prev"] == "active"


class TestFlows:
    """FlowProducer's parents wait for children that we process."""

    def flow(self, parent: str, child: str, **child_opts: Any) -> dict[str, Any]:
        """A parent with two children in another queue."""
        children = [{"name": f"child-{n}", "queueName": child, "data": {"n": n}, "opts": child_opts} for n in (1, 2)]
        return {"name": "parent", "queueName": parent, "data": {"whole": True}, "children": children}

    def test_a_parent_that_node_processes_gets_our_children_s_results(
        self, node: Node, gateway: Gateway, endpoint: Endpoint, new_queue: Callable[[], str]
    ) -> None:
        parent, child = new_queue(), new_queue()
        endpoint.behaviour = lambda call: reply_json({"tripled": call.job["data"]["n"] * 3})
        worker = node.start("worker.mjs", parent)
        (tree,) = node.run("flow.mjs", parent, flow=self.flow(parent, child))
        assert worker.facts("process") == []
        gateway.register(child, endpoint.url)
        (seen,) = worker.wait_for(1, "process")
        values = {f"bull:{child}:{leaf['id']}": {"tripled": 3 * n} for n, leaf in enumerate(tree["children"], 1)}
        assert seen["children"] == values
        assert gateway.finished(parent, tree["id"])["returnvalue"] == values
        for call in endpoint.calls:
            assert call.job["parent"] == {"id": tree["id"], "queueKey": f"bull:{parent}"}
            assert call.job["parentKey"] == f"bull:{parent}:{tree['id']}"

    def test_a_parent_that_we_process_waits_for_its_children(
        self, node: Node, gateway: Gateway, start_endpoint: StartEndpoint, new_queue: Callable[[], str]
    ) -> None:
        parent, child = new_queue(), new_queue()
        parents, children = start_endpoint(), start_endpoint(lambda _: reply_json("child done").after(0.1))
        gateway.register(parent, parents.url)
        (tree,) = node.run("flow.mjs", parent, flow=self.flow(parent, child))
        gateway.register(child, children.url)
        done = gateway.finished(parent, tree["id"])
        assert done["returnvalue"] == {"done": True}
        assert len(children.calls) == 2
        (call,) = parents.calls
        assert call.job["data"] == {"whole": True}
        assert call.at >= max(one.at for one in children.calls) + 0.1

    def test_a_parent_that_we_process_waits_for_children_that_node_processes(
        self, node: Node, gateway: Gateway, endpoint: Endpoint, new_queue: Callable[[], str]
    ) -> None:
        parent, child = new_queue(), new_queue()
        gateway.register(parent, endpoint.url)
        (tree,) = node.run("flow.mjs", parent, flow=self.flow(parent, child))
        worker = node.start("worker.mjs", child)
        gateway.finished(parent, tree["id"])
        assert len(worker.facts("process")) == 2
        assert len(endpoint.calls) == 1

    @pytest.mark.parametrize("parent_worker", ["node", "toril"])
    def test_a_child_that_fails_here_fails_its_parent(
        self,
        node: Node,
        gateway: Gateway,
        start_endpoint: StartEndpoint,
        new_queue: Callable[[], str],
        parent_worker: str,
    ) -> None:
        parent, child = new_queue(), new_queue()
        parents, children = start_endpoint(), start_endpoint(lambda _: respond(500, "Broken Child"))
        if parent_worker == "node":
            node.start("worker.mjs", parent)
        else:
            gateway.register(parent, parents.url)
        (tree,) = node.run("flow.mjs", parent, flow=self.flow(parent, child, failParentOnFailure=True))
        gateway.register(child, children.url)
        failed = gateway.finished(parent, tree["id"])
        ids = {leaf["id"] for leaf in tree["children"]}
        assert failed["failedReason"] in {f"child bull:{child}:{child_id} failed" for child_id in ids}
        assert parents.calls == [], "a parent whose child failed is not worked on"
        assert node.call(parent, "getJobCounts", "failed") == {"failed": 1}

    def test_a_child_whose_failure_is_ignored_lets_its_parent_go_on(
        self, node: Node, gateway: Gateway, start_endpoint: StartEndpoint, new_queue: Callable[[], str]
    ) -> None:
        parent, child = new_queue(), new_queue()
        parents, children = start_endpoint(), start_endpoint(lambda _: respond(500, "Broken Child"))
        gateway.register(parent, parents.url)
        gateway.register(child, children.url)
        (tree,) = node.run("flow.mjs", parent, flow=self.flow(parent, child, ignoreDependencyOnFailure=True))
        assert gateway.finished(parent, tree["id"])["returnvalue"] == {"done": True}
        assert len(children.calls) == 2


class TestOperators:
    """What an operator does from Node holds here."""

    def test_get_workers_lists_torils_worker_while_its_queue_is_active(
        self, node: Node, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        gateway.register(queue, endpoint.url)
        gateway.finished(queue, gateway.add_one(queue))
        workers = eventually(lambda: node.call(queue, "getWorkers"), what="a worker in getWorkers")
        name = f"bull:{base64.b64encode(queue.encode()).decode()}"
        assert any(worker["rawname"].startswith(name) for worker in workers)
        assert node.call(queue, "getWorkersCount") >= 1
        gateway.unregister(queue)
        eventually(lambda: node.call(queue, "getWorkers") == [], what="it to be gone")

    def test_a_pause_in_node_stops_torils_worker_and_a_resume_restarts_it(
        self, node: Node, gateway: Gateway, endpoint: Endpoint, queue: str, canary: Callable[[], None]
    ) -> None:
        gateway.register(queue, endpoint.url)
        gateway.finished(queue, gateway.add_one(queue))
        node.call(queue, "pause")
        node.run("add.mjs", queue, jobs=[{"name": f"job-{n}", "data": {}} for n in range(5)])
        canary()
        assert len(endpoint.calls) == 1
        counts = gateway.counts(queue)
        assert counts["waiting"] + counts["paused"] == 5
        node.call(queue, "resume")
        endpoint.wait_for_calls(6)
        gateway.wait_for_counts(queue, completed=6)

    def test_jobs_that_waited_before_the_pause_are_kept(
        self, node: Node, gateway: Gateway, endpoint: Endpoint, queue: str, canary: Callable[[], None]
    ) -> None:
        gateway.add(queue, *(job() for _ in range(5)))
        node.call(queue, "pause")
        gateway.register(queue, endpoint.url)
        canary()
        assert endpoint.calls == []
        node.call(queue, "resume")
        gateway.wait_for_counts(queue, completed=5)

    def test_global_concurrency_is_respected(
        self, node: Node, gateway: Gateway, start_endpoint: StartEndpoint, queue: str
    ) -> None:
        endpoint = start_endpoint(lambda _: reply_json(1).after(0.05))
        node.call(queue, "setGlobalConcurrency", 2)
        gateway.register(queue, endpoint.url, concurrency=10)
        gateway.add(queue, *(job() for _ in range(20)))
        gateway.wait_for_counts(queue, completed=20)
        assert endpoint.max_concurrent == 2

    def test_a_global_rate_limit_is_respected(
        self, node: Node, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        node.call(queue, "setGlobalRateLimit", 3, 600)
        gateway.register(queue, endpoint.url, concurrency=10)
        gateway.add(queue, *(job() for _ in range(9)))
        gateway.wait_for_counts(queue, completed=9)
        times = sorted(call.at for call in endpoint.calls)
        assert times[3] - times[0] >= 0.4
        assert times[6] - times[3] >= 0.4

    def test_a_job_scheduler_s_iterations_keep_coming(
        self, node: Node, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        gateway.register(queue, endpoint.url)
        template = {"name": "beat", "data": {"tick": True}}
        node.call(queue, "upsertJobScheduler", "heart", {"every": 200}, template)
        calls = endpoint.wait_for_calls(7)
        assert {(call.job["name"], call.job["data"]["tick"]) for call in calls} == {("beat", True)}
        assert len({call.job["id"] for call in calls}) == len(calls)
        took = calls[6].at - calls[1].at
        assert 0.85 <= took <= 9, "and they do not wait for a poll"
        schedulers = node.call(queue, "getJobSchedulers")
        assert [(one["key"], one["every"]) for one in schedulers] == [("heart", 200)]
        node.call(queue, "removeJobScheduler", "heart")

    @pytest.mark.parametrize("node", ["6"], indirect=True)
    @pytest.mark.parametrize("pattern", ["@secondly", "* * * * * 0,1-5,6L,6", "*/1 H(0-59)/1 * * * *"])
    def test_a_pattern_that_bullmq_6_reads_keeps_coming(
        self, node: Node, gateway: Gateway, endpoint: Endpoint, queue: str, pattern: str
    ) -> None:
        gateway.register(queue, endpoint.url)
        node.call(queue, "upsertJobScheduler", "heart", {"pattern": pattern}, {"name": "beat", "data": {}})
        calls = endpoint.wait_for_calls(3)
        assert len({call.job["id"] for call in calls}) == len(calls)
        node.call(queue, "removeJobScheduler", "heart")

    def test_node_reads_what_h_stands_for_from_a_scheduler_made_here(
        self, node: Node, gateway: Gateway, queue: str
    ) -> None:
        made = gateway.http.put(f"/queues/{queue}/schedulers/nightly", json={"pattern": "H H(0-3) * * *"}).json()
        (job,) = node.call(queue, "getDelayed")
        assert job["opts"]["repeat"]["hashSeed"] == "nightly"
        assert node.call(queue, "getJobScheduler", "nightly")["next"] == made["next"]

    def test_a_failing_iteration_does_not_end_the_scheduler(
        self, node: Node, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        endpoint.behaviour = lambda _: respond(500, "No")
        gateway.register(queue, endpoint.url)
        node.call(queue, "upsertJobScheduler", "heart", {"every": 150}, {"name": "beat", "data": {}})
        endpoint.wait_for_calls(4)
        node.call(queue, "removeJobScheduler", "heart")

    def test_a_retried_job_is_worked_on_again(
        self, node: Node, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        endpoint.behaviour = lambda call: respond(500, "No") if call.number == 0 else reply_json("fine now")
        gateway.register(queue, endpoint.url)
        job_id = gateway.add_one(queue)
        assert gateway.finished(queue, job_id)["failedReason"] == "No"
        node.call(queue, "retryJobs")
        eventually(lambda: gateway.job(queue, job_id).get("returnvalue") == "fine now")

    def test_a_promoted_job_starts_at_once(self, node: Node, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        gateway.register(queue, endpoint.url)
        job_id = gateway.add_one(queue, delay=60_000)
        began = time.monotonic()
        node.call(queue, "promoteJobs")
        gateway.finished(queue, job_id)
        assert time.monotonic() - began < 9, "and it does not wait for a poll"

    def test_a_job_added_here_looks_to_node_like_its_own(self, node: Node, gateway: Gateway, queue: str) -> None:
        added = gateway.add(
            queue,
            job(DATA, name="mail", attempts=3, backoff={"type": "fixed", "delay": 5}),
            job(delay=60_000),
            job(priority=5),
            job(jobId="mine", deduplication={"id": "key"}),
        )
        calls = [["getJob", one["id"]] for one in added]
        calls += [["getJobCounts", "wait", "delayed", "prioritized"], ["getDeduplicationJobId", "key"]]
        *seen, counts, deduplicated = [fact["result"] for fact in node.run("queue.mjs", queue, calls=calls)]
        for ours, theirs in zip(added, seen, strict=True):
            assert {field: theirs[field] for field in ("id", "name", "timestamp")} == {
                field: ours[field] for field in ("id", "name", "timestamp")
            }
            assert json.loads(theirs["data"]) == ours["data"]
        assert counts == {"wait": 2, "delayed": 1, "prioritized": 1}
        assert deduplicated == "mine"
