"""The tools for queues and their jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from toril.core.integers import MAX_SAFE_INTEGER
from toril.mcp.inner_requests import InnerRequests, RequestRefused
from toril.mcp.rules.explaining import explained
from toril.mcp.tool import Answer, Tool

State = Literal["waiting", "paused", "active", "completed", "failed", "delayed", "prioritized", "waiting-children"]
QueueName = Annotated[str, Meta(description="The name of the queue, as list_queues shows it", min_length=1)]
JobId = Annotated[str, Meta(description="The id of the job", min_length=1)]
Cursor = Annotated[str, Meta(description="The next_cursor of the answer before, for the next page")]
Where = Annotated[
    str,
    Meta(
        description="A condition on the contents of jobs. Fields are name, failedReason, attemptsMade, timestamp, "
        "data.… and returnvalue.…; = != < <= > >= compare, ~ asks whether a text holds another one; join with and, or, "
        'not, parentheses. Examples: failedReason ~ "timeout"; data.customer.id = 42 and name = "charge"'
    ),
]
States = Annotated[list[State], Meta(description="Only jobs in these states; all states by default")]
DryRun = Annotated[
    bool,
    Meta(description="True, the default, changes nothing and says how many jobs match. Call with false to do it."),
]
Count = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]

_STATS = "GET /stats"
_QUEUES, _QUEUE, _WORKER = "GET /queues", "GET /queues/{queue}", "GET /workers/{queue}"
_JOBS, _SEARCH = "GET /queues/{queue}/jobs", "GET /queues/{queue}/search"
_JOB = "GET /queues/{queue}/jobs/{id}"
_ATTEMPTS, _LOGS = f"{_JOB}/attempts", f"{_JOB}/logs"
_ADD, _BULK = "POST /queues/{queue}/jobs", "POST /queues/{queue}/bulk"
_PAUSE, _RESUME = "POST /queues/{queue}/pause", "POST /queues/{queue}/resume"
_SCHEDULERS = "GET /schedulers"

_BRIEF = ("id", "name", "data", "failedReason", "attemptsMade", "timestamp", "processedOn", "finishedOn")
_LAST_LINES = 30
_WAITING = frozenset({"waiting", "prioritized", "delayed"})
_DRY = "Nothing was changed: this was a dry run. Call again with dry_run false to do it."
_COUNTED = ("accepted", "started", "finished", "failed", "attempts", "attempts_failed")


class NeedsAttention(Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of `what_needs_attention`."""

    window: Annotated[Literal["1h", "24h", "7d"], Meta(description="The period of the counts")] = "1h"


class ListQueues(Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of `list_queues`."""

    match: Annotated[str, Meta(description="A glob that the names must match, such as orders-*")] | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=100)] = 50
    cursor: Cursor | UnsetType = UNSET


class OneQueue(Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of a tool about one queue."""

    queue: QueueName


class FindJobs(Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of `find_jobs`."""

    queue: QueueName
    where: Where | UnsetType = UNSET
    states: States | UnsetType = UNSET
    order: Literal["newest", "oldest"] = "newest"
    limit: Annotated[int, Meta(ge=1, le=50, description="How many jobs of each state; a search finds up to 50")] = 20
    cursor: Cursor | UnsetType = UNSET


class OneJob(Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of a tool about one job."""

    queue: QueueName
    id: JobId


class AddJob(Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of `add_job`."""

    queue: QueueName
    name: Annotated[str, Meta(description="What kind of job it is, for its worker", min_length=1)]
    data: Annotated[Any, Meta(description="Any JSON value, for the worker")] = None
    delay_ms: Annotated[Count, Meta(description="How long to wait before the first attempt")] = 0
    attempts: Annotated[int, Meta(ge=1, le=1000, description="How many attempts are made at most")] = 1
    backoff_ms: Annotated[Count, Meta(description="The first wait between two attempts; it doubles each time")] = 0
    priority: Annotated[int, Meta(ge=0, lt=2**21, description="0 is none, and comes first; then 1")] = 0
    job_id: (
        Annotated[str, Meta(description="An id of your own: adding it twice adds one job", min_length=1)] | UnsetType
    ) = UNSET


class ManyJobs(Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of a tool that acts on many jobs."""

    queue: QueueName
    ids: Annotated[list[str], Meta(description="The ids of the jobs", min_length=1, max_length=10_000)] | UnsetType = (
        UNSET
    )
    where: Where | UnsetType = UNSET
    states: States | UnsetType = UNSET
    dry_run: DryRun = True


class SetPaused(Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of `set_queue_paused`."""

    queue: QueueName
    paused: Annotated[bool, Meta(description="True pauses the queue for all its workers, false resumes it")]


class ListSchedulers(Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of `list_schedulers`."""

    queue: QueueName | UnsetType = UNSET
    start: Annotated[int, Meta(ge=0, le=1000, description="The first one of the page, counted from 0")] = 0
    length: Annotated[int, Meta(ge=1, le=100)] = 20


async def _what_needs_attention(api: InnerRequests, asked: NeedsAttention) -> Answer:
    stats = await api.ask(_STATS, query={"window": asked.window})
    doors = {
        name: {field: sum(value) if field in _COUNTED else value for field, value in door.items()}
        for name, door in stats.get("doors", {}).items()
    }
    waiting = [
        {name: value for name, value in queue.items() if name != "finished"} for queue in stats.get("most_waiting", ())
    ]
    kept = {name: stats[name] for name in ("window", "attention", "paused", "reasons", "left_out") if name in stats}
    return kept | {"doors": doors, "most_waiting": waiting}


async def _list_queues(api: InnerRequests, asked: ListQueues) -> Answer:
    query = {"match": given(asked.match), "limit": asked.limit, "cursor": given(asked.cursor)}
    return dict(await api.ask(_QUEUES, query=query))


async def _show_queue(api: InnerRequests, asked: OneQueue) -> Answer:
    queue = await api.ask(_QUEUE, queue=asked.queue)
    worker = None
    if api.may(_WORKER):
        try:
            worker = await api.ask(_WORKER, queue=asked.queue)
        except RequestRefused as exc:
            if exc.status not in {403, 404}:
                raise
    return {"queue": queue, "registered_worker": worker}


async def _find_jobs(api: InnerRequests, asked: FindJobs) -> Answer:
    states = ",".join(asked.states or ())
    if asked.where:
        query = {"where": asked.where, "states": states, "order": asked.order, "cursor": given(asked.cursor)}
        found = await api.ask(_SEARCH, queue=asked.queue, query=query)
        return {**found, "jobs": [_brief(job) for job in found["jobs"]]}
    start = given(asked.cursor) or "0"
    query = {"start": start, "length": str(asked.limit), "order": asked.order}
    query["statuses"] = states or "active,waiting,prioritized,delayed,failed,completed"
    page = await api.ask(_JOBS, queue=asked.queue, query=query)
    end = page["start"] + page["length"]
    more = any(count > end for count in page["counts"].values())
    jobs = [_brief(job) for job in page["jobs"]]
    return {"jobs": jobs, "counts": page["counts"], "next_cursor": str(end) if more else None}


async def _explain_job(api: InnerRequests, asked: OneJob) -> Answer:
    job = await api.ask(_JOB, queue=asked.queue, id=asked.id, query={"expand": "state"})
    attempts = (await api.ask(_ATTEMPTS, queue=asked.queue, id=asked.id))["attempts"]
    lines = await api.ask(_LOGS, queue=asked.queue, id=asked.id, query={"length": 0})
    if lines["count"]:
        start = max(lines["count"] - _LAST_LINES, 0)
        lines = await api.ask(_LOGS, queue=asked.queue, id=asked.id, query={"start": start, "length": _LAST_LINES})
    paused = job.get("state") in _WAITING and api.may(_QUEUE) and (await api.ask(_QUEUE, queue=asked.queue))["paused"]
    text = explained(job, attempts) + (" Its queue is paused." if paused else "")
    return {"explanation": text, "job": job, "attempts": attempts, "last_log_lines": lines["logs"]}


async def _add_job(api: InnerRequests, asked: AddJob) -> Answer:
    opts: dict[str, object] = {"attempts": asked.attempts}
    if asked.backoff_ms:
        opts["backoff"] = {"type": "exponential", "delay": asked.backoff_ms}
    given_options = {"delay": asked.delay_ms, "priority": asked.priority, "jobId": given(asked.job_id)}
    opts |= {name: value for name, value in given_options.items() if value}
    (added,) = await api.ask(_ADD, queue=asked.queue, body=[{"name": asked.name, "data": asked.data, "opts": opts}])
    return {"id": added["id"], "queue": asked.queue, "name": added["name"]}


async def _retry_jobs(api: InnerRequests, asked: ManyJobs) -> Answer:
    return await _in_bulk(api, asked, "retry")


async def _remove_jobs(api: InnerRequests, asked: ManyJobs) -> Answer:
    return await _in_bulk(api, asked, "remove")


async def _in_bulk(api: InnerRequests, asked: ManyJobs, action: str) -> Answer:
    chosen = {"ids": given(asked.ids), "where": given(asked.where), "states": given(asked.states)}
    body = {name: value for name, value in chosen.items() if value is not None}
    counts = await api.ask(_BULK, queue=asked.queue, body=body | {"action": action, "dry_run": asked.dry_run})
    return {**counts, "dry_run": asked.dry_run, **({"next": _DRY} if asked.dry_run else {})}


async def _set_queue_paused(api: InnerRequests, asked: SetPaused) -> Answer:
    await api.ask(_PAUSE if asked.paused else _RESUME, queue=asked.queue, body={})
    return {"queue": asked.queue, "paused": asked.paused}


async def _list_schedulers(api: InnerRequests, asked: ListSchedulers) -> Answer:
    query = {"queue": given(asked.queue), "start": asked.start, "length": asked.length}
    return dict(await api.ask(_SCHEDULERS, query=query))


def given(value: Any) -> Any:
    """Return an argument; None if it was left out."""
    return None if value is UNSET else value


def _brief(job: Mapping[str, Any]) -> dict[str, Any]:
    return {name: job[name] for name in _BRIEF if name in job}


QUEUE_TOOLS = (
    Tool(
        "what_needs_attention",
        "What needs attention",
        "Say what is wrong now: failing workers and targets, queues without a worker, late queues, open circuit "
        "breakers, stalled jobs; with the most frequent reasons of failures and what each door did. Begin here.",
        NeedsAttention,
        (_STATS,),
        _what_needs_attention,
    ),
    Tool(
        "list_queues",
        "List queues",
        "List queues by name, with the number of jobs in each state and whether they are paused.",
        ListQueues,
        (_QUEUES,),
        _list_queues,
    ),
    Tool(
        "show_queue",
        "Show a queue",
        "Show a queue: the number of jobs in each state, pause, limits, connected workers, the age of its oldest job, "
        "and the HTTP endpoint that is registered as its worker.",
        OneQueue,
        (_QUEUE,),
        _show_queue,
        also=(_WORKER,),
    ),
    Tool(
        "find_jobs",
        "Find jobs",
        "Find jobs of a queue by their contents (where), or list the newest or oldest of some states. A search that "
        "takes long ends early with a next_cursor, even without a job found.",
        FindJobs,
        (_JOBS, _SEARCH),
        _find_jobs,
    ),
    Tool(
        "explain_job",
        "Explain a job",
        "Say in words what a job's state means and why it failed, and show the job, its last attempts and the end of "
        "its log.",
        OneJob,
        (_JOB, _ATTEMPTS, _LOGS),
        _explain_job,
        also=(_QUEUE,),
    ),
    Tool(
        "add_job",
        "Add a job",
        "Add a job to a queue. A worker of that queue will work on it.",
        AddJob,
        (_ADD,),
        _add_job,
    ),
    Tool(
        "retry_jobs",
        "Retry jobs",
        "Put failed (or completed) jobs back to waiting: these ids, or those that a condition and states choose. "
        "Their work is done again. Without dry_run false it only counts them.",
        ManyJobs,
        (_BULK,),
        _retry_jobs,
    ),
    Tool(
        "remove_jobs",
        "Remove jobs",
        "Remove jobs for good: these ids, or those that a condition and states choose. Their children go with them. "
        "Active jobs stay. Without dry_run false it only counts them.",
        ManyJobs,
        (_BULK,),
        _remove_jobs,
    ),
    Tool(
        "set_queue_paused",
        "Pause or resume a queue",
        "Pause a queue for all its workers, or resume it. Jobs can be added meanwhile; active jobs go on.",
        SetPaused,
        (_PAUSE, _RESUME),
        _set_queue_paused,
    ),
    Tool(
        "list_schedulers",
        "List job schedulers",
        "List job schedulers (cron patterns and intervals) of one queue or all, the next to make a job first.",
        ListSchedulers,
        (_SCHEDULERS,),
        _list_schedulers,
    ),
)
"""In the order in which they are listed."""
