"""A cron schedule whose iterations each add a flow of three levels, worked on by push, socket and pull workers."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.support.endpoint import Answer, Call, StartEndpoint, reply_json
from tests.support.gateway import TOKEN, Gateway
from tests.support.sockets import socket_to
from tests.support.toril import TorilProcess

AUTH = {"authorization": f"Bearer {TOKEN}"}


def printing(gateway: Gateway, queue: str, over: threading.Event, printed: list[int]) -> None:
    """A pull worker: doubles what it gets, until it is over."""
    with httpx.Client(base_url=gateway.url, headers=AUTH, timeout=30, trust_env=False) as http:
        while not over.is_set():
            jobs = http.post(f"/queues/{queue}/lease", json={"count": 10, "wait_ms": 500}).json()["jobs"]
            items = [
                {"id": held["job"]["id"], "token": held["token"], "action": "complete",
                 "returnvalue": 2 * held["job"]["data"]["n"]}
                for held in jobs
            ]  # fmt: skip
            if items:
                results = http.post(f"/queues/{queue}/settle", json={"jobs": items}).json()["results"]
                printed += [held["job"]["data"]["n"] for held in jobs]
                assert [result["status"] for result in results] == [204] * len(items), results


@contextmanager
def pull_worker(gateway: Gateway, queue: str) -> Iterator[list[int]]:
    """A pull worker in a separate thread; the numbers that it has doubled so far."""
    over, printed = threading.Event(), []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            printing(gateway, queue, over, printed)
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield printed
    finally:
        over.set()
        thread.join(30)
    assert failures == []


async def values_of_children(gateway: Gateway, call: Call, queue: str) -> dict[str, Any]:
    """What the children of a pushed job have returned."""
    async with httpx.AsyncClient(base_url=gateway.url, headers=AUTH, timeout=20, trust_env=False) as http:
        answer = await http.get(f"/queues/{queue}/jobs/{call.job['id']}?expand=dependencies")
        values: dict[str, Any] = answer.json()["dependencies"]["processed"]
        return values


def test_a_schedule_and_its_flows_run_end_to_end(
    toril: TorilProcess, gateway: Gateway, start_endpoint: StartEndpoint, new_queue: Callable[[], str]
) -> None:
    ticks, reports, pages, prints = (new_queue() for _ in range(4))

    async def tick(call: Call) -> Answer:
        """Each iteration adds a flow: a report of two pages, each of two prints."""
        first = int(call.job["opts"]["repeat"]["count"]) * 10
        leaves = [
            [{"name": "print", "queueName": prints, "data": {"n": first + page * 2 + n}} for n in range(2)]
            for page in range(2)
        ]
        middle = [{"name": "page", "queueName": pages, "data": {"page": n}, "children": leaves[n]} for n in range(2)]
        tree = {"name": "report", "queueName": reports, "data": {"first": first}, "children": middle}
        async with httpx.AsyncClient(base_url=gateway.url, headers=AUTH, timeout=20, trust_env=False) as http:
            added = await http.post("/flows", json=tree)
        assert added.status_code == 200, added.text
        return reply_json({"flow": added.json()["job"]["id"]})

    async def report(call: Call) -> Answer:
        values = await values_of_children(gateway, call, reports)
        return reply_json({"first": call.job["data"]["first"], "sum": sum(values.values())})

    ticking, reporting = start_endpoint(tick), start_endpoint(report)
    gateway.register(ticks, ticking.url, timeout=20_000)
    gateway.register(reports, reporting.url, timeout=20_000)

    def page(payload: Any) -> int:
        """A socket worker adds up what the prints of a page have returned."""
        job_id = payload["job"]["id"]
        found = gateway.http.get(f"/queues/{pages}/jobs/{job_id}?expand=dependencies").json()
        return int(sum(found["dependencies"]["processed"].values()))

    def done() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = gateway.jobs(reports, statuses="completed", length=100)["jobs"]
        return found

    with (
        pull_worker(gateway, prints) as printed,
        socket_to(toril.url, f"/ws/queues/{pages}/process/4?payload=job") as socket,
    ):
        every_second = {"pattern": "* * * * * *", "tz": "Europe/Paris", "template": {"name": "tick", "data": {}}}
        assert gateway.http.put(f"/queues/{ticks}/schedulers/pulse", json=every_second).status_code == 200
        socket.work(page, until=lambda: len(done()) >= 3)
        assert gateway.http.delete(f"/queues/{ticks}/schedulers/pulse").status_code == 204
        # What was begun before ends as well.
        socket.work(page, until=lambda: gateway.counts(ticks)["active"] == 0 and len(done()) == len(ticking.calls))
    for one in done():
        first = one["data"]["first"]
        assert one["returnvalue"] == {"first": first, "sum": 2 * sum(range(first, first + 4))}
    iterations = [call.job["opts"]["repeat"]["count"] for call in ticking.calls]
    assert iterations == list(range(1, len(iterations) + 1))
    assert sorted(printed) == sorted(iteration * 10 + n for iteration in iterations for n in range(4))
    # Each is due at another second, by which BullMQ names it.
    due = [int(call.job["id"].rpartition(":")[2]) for call in ticking.calls]
    assert len(set(due)) == len(due)
    assert all(at % 1000 == 0 for at in due), due
    for queue in (ticks, reports, pages, prints):
        counts = gateway.counts(queue)
        assert (counts["failed"], counts["active"], counts["waiting"], counts["delayed"]) == (0, 0, 0, 0)
