"""Every call of the REST side as data: what to send, whether it may be sent again, how to read the answer.

The sync and the async client send these and share everything else.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypedDict, TypeVar
from urllib.parse import quote

import httpx

from toril_client.endpoint import EndpointOptions
from toril_client.errors import JobFailed, RetryIn, TorilError, Unrecoverable
from toril_client.jobs import Event, Job, NewJob

T = TypeVar("T")
TRIES = 5
LONGEST_WAIT_S = 60.0
LEASE_S = 30.0
"""How long a job that is settled later is held, where nothing else is said."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request. It is sent again when the server cannot be reached or says 503, unless `once`."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    json: Any = None
    params: Mapping[str, str] | None = None
    headers: Mapping[str, str] | None = None
    once: bool = False
    timeout_s: float = 30.0


class Calling(Protocol):
    """Sends a call and returns what is read of its answer."""

    def __call__(self, call: Call[T]) -> T:
        """Send it."""


class AsyncCalling(Protocol):
    """The same, to be awaited."""

    def __call__(self, call: Call[T]) -> Awaitable[T]:
        """Send it."""


def pause_s(tried: int) -> float:
    """How long to wait before the next try: 0.1 s, doubling, with jitter."""
    return 0.1 * float(2**tried) * random.uniform(0.5, 1.0)


def worth_another(call: Call[Any], response: httpx.Response, tried: int) -> bool:
    """Whether a call whose answer this is should be sent again."""
    return response.status_code == 503 and not call.once and tried + 1 < TRIES


def checked(call: Call[T], response: httpx.Response) -> T:
    """The answer read, or an error that carries the server's code."""
    if response.status_code < 400:
        return call.read(response)
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        problem = response.json()
        kind = JobFailed if problem["code"] == "job_failed" else TorilError
        raise kind(problem.get("detail") or problem["title"], problem["code"], response.status_code)
    code = response.headers.get("toril-code", f"http_{response.status_code}")
    raise TorilError(response.text or response.reason_phrase, code, response.status_code)


def path(*parts: str) -> str:
    """A path of parts that may hold anything."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def add(queue: str, jobs: Iterable[NewJob]) -> Call[list[Job]]:
    """Add jobs, all or none. Safe to repeat unless a job has deduplication instead of an id."""
    body = [job.as_json() for job in jobs]
    return Call(
        "POST",
        path("queues", queue, "jobs"),
        lambda response: [Job.from_json(raw) for raw in response.json()],
        json=body,
        once=any("jobId" not in job["opts"] for job in body),
    )


def get(queue: str, job_id: str) -> Call[Job]:
    """One job."""
    return Call("GET", path("queues", queue, "jobs", job_id), lambda response: Job.from_json(response.json()))


def page(queue: str, states: Iterable[str], start: int, length: int) -> Call[tuple[dict[str, int], list[Job]]]:
    """Counts by state, and the newest jobs of each."""
    return Call(
        "GET",
        path("queues", queue, "jobs"),
        lambda response: (response.json()["counts"], [Job.from_json(raw) for raw in response.json()["jobs"]]),
        params={"statuses": ",".join(states), "start": str(start), "length": str(length)},
    )


def result(queue: str, job_id: str, wait_s: float) -> Call[tuple[bool, Any]]:
    """Whether the job is done, and its return value."""
    return Call(
        "GET",
        path("queues", queue, "jobs", job_id, "result"),
        lambda response: (response.status_code == 200, response.json()),
        params={"wait": f"{min(wait_s, LONGEST_WAIT_S):.3f}"},
        timeout_s=LONGEST_WAIT_S + 30,
    )


@dataclass(frozen=True)
class Found:
    """Some of the jobs that a search has found, and the cursor to continue with; None at the end."""

    jobs: list[Job]
    next_cursor: str | None


def search(queue: str, where: str, states: Iterable[str], order: str, cursor: str | None) -> Call[Found]:
    """Jobs by what is in them."""
    params = {"where": where, "states": ",".join(states), "order": order, "cursor": cursor or ""}
    return Call(
        "GET",
        path("queues", queue, "search"),
        lambda response: Found([Job.from_json(raw) for raw in response.json()["jobs"]], response.json()["next_cursor"]),
        params={name: value for name, value in params.items() if value},
    )


class BulkOptions(TypedDict, total=False):
    """Which jobs an action is for, and how.

    Attributes:
        ids: these, at most 10,000; or
        states: all in these states
        where: that match this search; one of the two may be left out.
        delay_ms: how long from now, for `delay`.
        dry_run: only count them.
    """

    ids: Iterable[str]
    states: Iterable[str]
    where: str
    delay_ms: int
    dry_run: bool


@dataclass(frozen=True)
class BulkResult:
    """How many jobs matched, were changed (would be, in a dry run) and refused; the first 100 of these, with codes."""

    matched: int
    done: int
    refused: int
    failed: list[dict[str, str]]


BulkAction = Literal["retry", "promote", "remove", "delay"]


def bulk(queue: str, action: BulkAction, options: BulkOptions) -> Call[BulkResult]:
    """One action on many jobs. Not repeated: the second answer would count other jobs than the first."""
    said: dict[str, Any] = {"action": action, **options}
    for name in ("ids", "states"):
        if name in said:
            said[name] = list(said[name])
    return Call(
        "POST",
        path("queues", queue, "bulk"),
        lambda response: BulkResult(**response.json()),
        json=said,
        once=True,
        timeout_s=600.0,
    )


JobAction = Literal["retry", "promote"]


def job_action(queue: str, job_id: str, action: JobAction) -> Call[None]:
    """Retry or promote one job. Not repeated: the second one finds it in another state."""
    return Call("POST", path("queues", queue, "jobs", job_id, action), lambda _: None, json={}, once=True)


def remove(queue: str, job_id: str) -> Call[None]:
    """Remove one job."""
    return Call("DELETE", path("queues", queue, "jobs", job_id), lambda _: None, once=True)


QueueAction = Literal["pause", "resume"]


def queue_action(queue: str, action: QueueAction) -> Call[None]:
    """Pause or resume a queue."""
    return Call("POST", path("queues", queue, action), lambda _: None)


def register(queue: str, url: str, options: EndpointOptions) -> Call[None]:
    """Register an endpoint as the queue's worker."""
    opts: dict[str, Any] = dict(options)
    endpoint = {"url": url, "method": opts.pop("method", "POST")}
    for name, wire in (("headers", "headers"), ("timeout_ms", "timeout")):
        if (value := opts.pop(name, None)) is not None:
            endpoint[wire] = value
    policy, secrets = opts.pop("policy", None), opts.pop("secrets", ())
    rules = {} if policy is None else policy.as_json()
    if secrets:
        rules["signing"] = {"secrets": list(secrets)}
    document = {"queue": queue, "endpoint": endpoint, "opts": opts} | ({"policy": rules} if rules else {})
    return Call("POST", "/workers", lambda _: None, json=document)


def unregister(queue: str) -> Call[None]:
    """Remove the queue's registered worker."""
    return Call("DELETE", path("workers", queue), lambda _: None, once=True)


def workers() -> Call[dict[str, str]]:
    """Every registered endpoint's URL, by queue."""
    return Call("GET", "/workers", lambda response: dict(response.json()))


def logs(queue: str, job_id: str, start: int, end: int) -> Call[list[str]]:
    """A job's log lines."""
    return Call(
        "GET",
        path("queues", queue, "jobs", job_id, "logs"),
        lambda response: list(response.json()["logs"]),
        params={"start": str(start), "end": str(end)},
    )


def progress(queue: str, job_id: str, value: Any) -> Call[None]:
    """Report progress, with the job's lock token."""
    return Call("POST", path("queues", queue, "jobs", job_id, "progress"), lambda _: None, json=value)


def log(queue: str, job_id: str, line: str) -> Call[None]:
    """Append a log line, with the job's lock token. Not repeated: the line could be there twice."""
    return Call("POST", path("queues", queue, "jobs", job_id, "logs"), lambda _: None, json=line, once=True)


def complete(queue: str, job_id: str, value: Any) -> Call[None]:
    """Complete a job, with its lock token."""
    return _end(queue, job_id, "complete", {"returnvalue": value})


def fail(queue: str, job_id: str, why: str | BaseException) -> Call[None]:
    """Fail a job's attempt, with its lock token."""
    said: dict[str, Any] = {"reason": str(why) or type(why).__name__}
    if isinstance(why, Unrecoverable):
        said["unrecoverable"] = True
    if isinstance(why, RetryIn):
        said["retry_in_ms"] = max(0, round(why.seconds * 1000))
    return _end(queue, job_id, "fail", said)


def extend(queue: str, job_id: str, lease_s: float) -> Call[None]:
    """Hold a job for longer, with its lock token."""
    return _end(queue, job_id, "extend", {"lock_ms": round(lease_s * 1000)})


def release(queue: str, job_id: str) -> Call[None]:
    """Give a job back, with its lock token."""
    return _end(queue, job_id, "release", {})


def _end(queue: str, job_id: str, action: str, said: Mapping[str, Any]) -> Call[None]:
    # Safe to repeat, as the second one finds the lock gone: what was done can be answered with `lease_lost`.
    return Call("POST", path("queues", queue, "jobs", job_id, action), lambda _: None, json=said)


def events_path(queue: str) -> str:
    """Where a queue's Server-Sent Events are."""
    return path("queues", queue, "events")


class EventLines:
    """Puts the lines of Server-Sent Events together; remembers where to resume."""

    def __init__(self, since: str | None) -> None:
        self.last = since
        self._fields: dict[str, str] = {}

    def headers(self) -> dict[str, str]:
        """What to ask with: from behind the last event that came."""
        return {"last-event-id": self.last} if self.last else {}

    def take(self, line: str, read: Callable[[str], Any]) -> Event | None:
        """One line; the event that it completes, if it does."""
        if line:
            name, _, value = line.partition(": ")
            self._fields[name] = value
            return None
        fields, self._fields = self._fields, {}
        # The id comes by itself first: a connection may break before there is an event.
        self.last = fields.get("id", self.last)
        if "event" not in fields:
            return None
        return Event(fields["id"], fields["event"], read(fields["data"]))
