"""The table in docs/reference/bullmq-parity.md, the type declarations of Node's BullMQ, and who checks what."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import redis

from tests.compat.nodejs import LiveNode
from tests.support.gateway import Gateway, job
from tests.support.sockets import socket_to

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "bullmq-parity.md"
# The class, and the declarations that its own methods are in.
CLASSES = {
    "Every class": (("queue-base", "QueueBase"),),
    "Queue": (("queue", "Queue"), ("queue-getters", "QueueGetters")),
    "Job": (("job", "Job"),),
    "FlowProducer": (("flow-producer", "FlowProducer"),),
    "JobScheduler": (("job-scheduler", "JobScheduler"),),
    "QueueEvents": (("queue-events", "QueueEvents"),),
}
NONE = "\N{EN DASH}"
_METHOD = re.compile(r"^    (?!private |protected |readonly )(?:static |async |get |set )*(\w+)\??(?:<[^(]*>)?\(")


def declared(node_modules: Path, version: str) -> set[tuple[str, str]]:
    """Every public method by its class; those of every class only there."""
    classes = node_modules / "node_modules" / f"bullmq{version}" / "dist" / "esm" / "classes"
    found = {name: {method for part in parts for method in _methods(classes, *part)} for name, parts in CLASSES.items()}
    common = found["Every class"]
    return {
        (name, method)
        for name, methods in found.items()
        for method in methods
        if name == "Every class" or method not in common
    }


def _methods(classes: Path, file: str, name: str) -> set[str]:
    text = re.sub(r"/\*.*?\*/", "", (classes / f"{file}.d.ts").read_text(), flags=re.DOTALL)
    body = re.search(rf"class {name}\b.*?^}}", text, re.DOTALL | re.MULTILINE)
    assert body, f"{file}.d.ts declares no class {name}"
    return {found[1] for line in body[0].splitlines() if (found := _METHOD.match(line))} - {"constructor"}


def documented() -> dict[tuple[str, str], bool]:
    """Every method of the table by its class, and whether toril has it."""
    found: dict[tuple[str, str], bool] = {}
    for section in DOCUMENT.read_text().split("\n## ")[1:]:
        name = section.partition("\n")[0]
        for line in section.splitlines():
            if line.startswith("| `"):
                methods, route, why_not = (cell.strip() for cell in line.strip("|").split("|"))
                assert (route == NONE) == bool(why_not), f"either a route or a reason: {line}"
                for method in re.findall(r"`(\w+)`", methods):
                    assert (name, method) not in found, f"{name}.{method} is there twice"
                    found[name, method] = route != NONE
    return found


class Both:
    """A queue, seen by Node and through toril."""

    def __init__(self, node: LiveNode, gateway: Gateway, store: redis.Redis, new_queue: Callable[[], str]) -> None:
        self.node = node
        self.gateway = gateway
        self.store = store
        self.new_queue = new_queue
        self.queue = new_queue()

    def ask(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        """A request below this queue that must succeed; the JSON of its answer."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        url = path if path.startswith("/") else f"/queues/{self.queue}" + (f"/{path}" if path else "")
        answer = self.gateway.http.request(method, url, json=body, headers=headers)
        assert answer.status_code in {200, 204}, (method, url, answer.text)
        return answer.json() if answer.headers.get("content-type") == "application/json" else None

    def refused(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """A request below this queue that must not succeed."""
        answer = self.gateway.http.request(method, f"/queues/{self.queue}/{path}", json=body)
        assert answer.status_code >= 400, (method, path, answer.text)
        return answer

    def command(self, fn: str, *args: Any) -> Any:
        """A command over a WebSocket."""
        with socket_to(self.gateway.url, f"/ws/queues/{self.queue}") as socket:
            answer = socket.command(fn, *args)
        assert "ok" in answer, answer
        return answer["ok"]

    def add(self, *jobs: dict[str, Any]) -> list[str]:
        """Add jobs through toril; their ids."""
        return [one["id"] for one in self.gateway.add(self.queue, *(jobs or (job(),)))]

    def lease(self) -> tuple[str, str]:
        """Lease a job through toril; its id and its token."""
        (held,) = self.ask("POST", "lease", {"wait_ms": 5000})["jobs"]
        return held["job"]["id"], held["token"]

    def end(self, action: str, body: Any = None) -> str:
        """Lease a job and end it; its id."""
        job_id, token = self.lease()
        self.ask("POST", f"jobs/{job_id}/{action}", body or {}, token)
        return job_id

    def one_in_each_state(self) -> dict[str, str]:
        """A job in every state but paused, by Node's name of the state."""
        self.add(job("completed"))
        done = self.end("complete", {"returnvalue": 7})
        self.add(job("failed"))
        failed = self.end("fail", {"reason": "no ink"})
        self.add(job("active"))
        active, _ = self.lease()
        delayed, prioritized, waiting = self.add(job(delay=600_000), job(priority=5), job("waiting"))
        tree = {"name": "parent", "queueName": self.queue}
        tree["children"] = [{"name": "child", "queueName": self.new_queue()}]
        parent = self.ask("POST", "/flows", tree)["job"]["id"]
        return {
            "completed": done, "failed": failed, "active": active, "delayed": delayed, "prioritized": prioritized,
            "waiting": waiting, "waiting-children": parent,
        }  # fmt: skip

    def state(self, job_id: str) -> Any:
        """The state of a job, as Node sees it."""
        return self.node.queue(self.queue, "getJobState", job_id)

    def of_queue(self, method: str, *args: Any) -> Any:
        """Call a method of Node's Queue."""
        return self.node.queue(self.queue, method, *args)

    def of_job(self, job_id: str, method: str, *args: Any) -> Any:
        """Call a method of Node's Job."""
        return self.node.job(self.queue, job_id, method, *args)


Check = Callable[[Both], None]
CheckOfOne = Callable[[Both, str], None]


class Checks:
    """Which check is made of which methods of a class."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.by_methods: dict[tuple[str, ...], Check] = {}

    def of(self, *methods: str) -> Callable[[Check], Check]:
        """This check is made of these methods together."""

        def remember(check: Check) -> Check:
            self.by_methods[methods] = check
            return check

        return remember

    def each(self, *methods: str) -> Callable[[CheckOfOne], CheckOfOne]:
        """This check is made of each of these methods by itself."""

        def remember(check: CheckOfOne) -> CheckOfOne:
            for method in methods:
                self.by_methods[method,] = partial(check, method=method)
            return check

        return remember
