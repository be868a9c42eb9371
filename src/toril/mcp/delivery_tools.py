"""The tools for deliveries and their targets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from toril.mcp.inner_requests import InnerRequests
from toril.mcp.queue_tools import Count, Cursor, given
from toril.mcp.tool import Answer, NoArguments, Tool

TargetName = Annotated[str, Meta(description="The name of the target, as list_targets shows it", min_length=1)]
Moment = Annotated[str, Meta(description="A time as RFC 3339: 2026-07-28T12:00:00Z")]
Group = Annotated[str, Meta(description="Its group, such as a tenant", min_length=1, max_length=256)]
Labels = Annotated[dict[str, str], Meta(description="Only deliveries with all these labels")]
Status = Literal["queued", "dispatching", "retrying", "delivered", "dead_lettered", "cancelled"]

_TARGETS, _JOBS, _JOB = "GET /targets", "GET /jobs", "GET /jobs/{job}"
_REPLAY, _ENQUEUE = "POST /targets/{target}/dead-letters/replay", "POST /enqueue"
_DRY = "Nothing was sent: this was a dry run. Call again with dry_run false to replay them."


class FindDeliveries(Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of `find_deliveries`."""

    target: TargetName | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    reason: Annotated[str, Meta(description="Of dead letters: attempts, refused, deadline …")] | UnsetType = UNSET
    error_contains: Annotated[str, Meta(description="A text in their last error")] | UnsetType = UNSET
    since: Moment | UnsetType = UNSET
    until: Moment | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    cursor: Cursor | UnsetType = UNSET


class OneDelivery(Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of `explain_delivery`."""

    job_id: Annotated[str, Meta(description="The job_id of the delivery", min_length=1)]


class ReplayDeadLetters(Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of `replay_dead_letters`."""

    target: TargetName
    job_ids: Annotated[list[str], Meta(min_length=1, max_length=10_000)] | UnsetType = UNSET
    reason: Annotated[str, Meta(description="Of these only: attempts, refused, deadline …")] | UnsetType = UNSET
    error_contains: Annotated[str, Meta(description="A text in their last error")] | UnsetType = UNSET
    since: Moment | UnsetType = UNSET
    until: Moment | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=10_000)] | UnsetType = UNSET
    all: Annotated[bool, Meta(description="True takes all dead letters of the target")] = False
    dry_run: Annotated[
        bool, Meta(description="True, the default, sends nothing and lists what would be replayed. Call with false.")
    ] = True


class SendDelivery(Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of `send_delivery`."""

    target: TargetName
    body: Annotated[Any, Meta(description="Any JSON value, which the target gets as its body")] = None
    method: Annotated[str, Meta(description="The HTTP method")] = "POST"
    path: Annotated[str, Meta(description="Appended to the target's URL; begins with / or ?")] | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    delay_ms: Annotated[Count, Meta(description="How long to wait before the first attempt")] = 0
    labels: dict[str, str] | UnsetType = UNSET
    group: Group | UnsetType = UNSET


async def _list_targets(api: InnerRequests, asked: NoArguments) -> Answer:
    return dict(await api.ask(_TARGETS))


async def _find_deliveries(api: InnerRequests, asked: FindDeliveries) -> Answer:
    named = ("target", "status", "reason", "error_contains", "since", "until", "limit", "cursor")
    query = {name: given(getattr(asked, name)) for name in named}
    query |= {f"label.{name}": value for name, value in (given(asked.labels) or {}).items()}
    return dict(await api.ask(_JOBS, query=query))


async def _explain_delivery(api: InnerRequests, asked: OneDelivery) -> Answer:
    one = await api.ask(_JOB, job=asked.job_id)
    made, most = one["attempts_made"], one["max_attempts"]
    parts = [f"The delivery to {one['target']} is {one['status']} after {made} of {most} attempts."]
    if one["reason"]:
        parts.append(f"The reason: {one['reason']}.")
    if one["last_error"]:
        parts.append(f"The last error: {one['last_error']}.")
    if one["next_attempt_at"]:
        parts.append(f"The next attempt is at {one['next_attempt_at']}.")
    return {"explanation": " ".join(parts), "delivery": one}


async def _replay_dead_letters(api: InnerRequests, asked: ReplayDeadLetters) -> Answer:
    named = ("job_ids", "reason", "error_contains", "since", "until", "labels", "limit")
    chosen = {name: value for name in named if (value := getattr(asked, name)) is not UNSET}
    body = chosen | {"all": asked.all, "dry_run": asked.dry_run}
    done = await api.ask(_REPLAY, target=asked.target, body=body)
    return {**done, "dry_run": asked.dry_run, **({"next": _DRY} if asked.dry_run else {})}


async def _send_delivery(api: InnerRequests, asked: SendDelivery) -> Answer:
    envelope: dict[str, object] = {"target": asked.target, "method": asked.method}
    if asked.body is not None:
        envelope["body"] = asked.body
    if asked.delay_ms:
        envelope["delay_ms"] = asked.delay_ms
    for name in ("path", "headers", "labels"):
        if (value := getattr(asked, name)) is not UNSET:
            envelope[name] = value
    if asked.group is not UNSET:
        envelope["group"] = {"id": asked.group}
    return dict(await api.ask(_ENQUEUE, body=envelope))


DELIVERY_TOOLS = (
    Tool(
        "list_targets",
        "List delivery targets",
        "List the targets of deliveries: circuit breaker, pause, deliveries by state, dead letters, and how many of "
        "the last attempts failed.",
        NoArguments,
        (_TARGETS,),
        _list_targets,
    ),
    Tool(
        "find_deliveries",
        "Find deliveries",
        "List deliveries, the newest first, by target, status, error, time or label. Dead letters have the status "
        "dead_lettered.",
        FindDeliveries,
        (_JOBS,),
        _find_deliveries,
    ),
    Tool(
        "explain_delivery",
        "Explain a delivery",
        "Say in words how a delivery stands and why it failed, and show its attempts and transitions.",
        OneDelivery,
        (_JOB,),
        _explain_delivery,
    ),
    Tool(
        "send_delivery",
        "Send a delivery",
        "Hand a request to toril, which sends it to a target, again and again until that takes it or attempts run out.",
        SendDelivery,
        (_ENQUEUE,),
        _send_delivery,
    ),
    Tool(
        "replay_dead_letters",
        "Replay dead letters",
        "Send dead letters of a target again: these ids, those that filters choose, or all. Without dry_run false it "
        "only lists them.",
        ReplayDeadLetters,
        (_REPLAY,),
        _replay_dead_letters,
    ),
)
"""In the order in which they are listed."""
