"""Deliveries, dead letters and targets: what they are, and every call about them as data."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from toril_client.calls import LONGEST_WAIT_S, Call, path
from toril_client.groups import GroupOption

ENDED = ("delivered", "dead_lettered", "cancelled")
"""The statuses of deliveries that have ended; the others are `queued`, `dispatching` and `retrying`."""


class EnvelopeOptions(TypedDict, total=False):
    """What an envelope may have beside its target and its body.

    Attributes:
        method: POST unless given.
        path: what follows the target's URL.
        headers: sent to the target.
        body_base64: a body of bytes, in place of `body`.
        delay_ms: not before so long from now.
        not_before: not before this time (RFC 3339).
        deadline: given up after this time (RFC 3339).
        priority: the lower the earlier.
        labels: to find the delivery by.
        group: shares the target fairly with other groups, and has limits; see `Queue.groups`.
    """

    method: str
    path: str
    headers: Mapping[str, str | list[str]]
    body_base64: str
    delay_ms: int
    not_before: str
    deadline: str
    priority: int
    labels: Mapping[str, str]
    group: GroupOption


class DeliveryFilter(TypedDict, total=False):
    """Which deliveries: those that meet all of these.

    Attributes:
        since: from this time on (RFC 3339).
        until: before this time.
        reason: dead letters with this reason: `refused`, `attempts`, `deadline` …
        error_contains: with this text in their last error.
        labels: with these labels.
    """

    since: str
    until: str
    reason: str
    error_contains: str
    labels: Mapping[str, str]


class ReplayOptions(DeliveryFilter, total=False):
    """Which dead letters to replay, and how.

    Attributes:
        job_ids: these, in place of a filter.
        all: every one, where there is no filter.
        limit: at most so many: 1,000 unless given, 10,000 at most.
        dry_run: only say which they would be.
        replay_key: `new` sends another idempotency key from now on.
    """

    job_ids: Iterable[str]
    all: bool
    limit: int
    dry_run: bool
    replay_key: Literal["keep", "new"]


@dataclass(frozen=True)
class Delivery:
    """A delivery as the server tells of it; `raw` has every field as it came, with transitions and attempts."""

    id: str
    target: str
    status: str
    attempts_made: int
    last_error: str | None
    reason: str | None
    labels: Mapping[str, str]
    raw: Mapping[str, Any]

    @property
    def ended(self) -> bool:
        """True once it is delivered, dead-lettered or cancelled."""
        return self.status in ENDED

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Delivery:
        """Read delivery JSON; an acceptance has fewer fields."""
        return cls(
            id=raw["job_id"],
            target=raw["target"],
            status=raw["status"],
            attempts_made=raw.get("attempts_made", 0),
            last_error=raw.get("last_error"),
            reason=raw.get("reason"),
            labels=raw.get("labels", {}),
            raw=raw,
        )


@dataclass(frozen=True)
class Replayed:
    """How many dead letters matched, how many were replayed, and which."""

    matched: int
    replayed: int
    job_ids: list[str]


@dataclass(frozen=True)
class Page:
    """Some deliveries, and the cursor of the next page; None at the end."""

    deliveries: list[Delivery]
    next_cursor: str | None


def enqueue(target: str, body: Any, key: str | None, options: EnvelopeOptions) -> Call[Delivery]:
    """Accept an envelope. Safe to repeat: without a key, one is made up here."""
    envelope: dict[str, Any] = {"target": target, **options}
    if body is not None:
        envelope["body"] = body
    headers = {"idempotency-key": key or str(uuid.uuid4())}
    return Call(
        "POST", "/enqueue", lambda response: Delivery.from_json(response.json()), json=envelope, headers=headers
    )


def get(job_id: str, wait_s: float) -> Call[Delivery]:
    """One delivery; with `wait_s`, as soon as it has ended."""
    return Call(
        "GET",
        path("jobs", job_id),
        lambda response: Delivery.from_json(response.json()),
        params={"wait": f"{min(wait_s, LONGEST_WAIT_S):.3f}"} if wait_s > 0 else None,
        timeout_s=LONGEST_WAIT_S + 30,
    )


def response_body(job_id: str) -> Call[bytes]:
    """The body of the target's last answer."""
    return Call("GET", path("jobs", job_id, "response", "body"), lambda response: response.content)


def cancel(job_id: str) -> Call[Delivery]:
    """Cancel a delivery."""
    return Call("DELETE", path("jobs", job_id), lambda response: Delivery.from_json(response.json()), once=True)


def page(where: str, cursor: str | None, params: Mapping[str, str], rules: DeliveryFilter) -> Call[Page]:
    """A page of deliveries, or of a target's dead letters; `where` is their path."""
    wanted = dict(params) | {name: str(value) for name, value in rules.items() if name != "labels"}
    wanted |= {f"label.{name}": value for name, value in rules.get("labels", {}).items()}
    if cursor is not None:
        wanted["cursor"] = cursor
    return Call(
        "GET",
        where,
        lambda response: Page(
            [Delivery.from_json(raw) for raw in response.json()["jobs"]], response.json()["next_cursor"]
        ),
        params=wanted,
    )


def dead_letters_path(target: str) -> str:
    """Where a target's dead letters are."""
    return path("targets", target, "dead-letters")


def replay(target: str, options: ReplayOptions) -> Call[Replayed]:
    """Replay dead letters. Not repeated: they would get a fresh budget twice."""
    said: dict[str, Any] = dict(options)
    if "job_ids" in said:
        said["job_ids"] = list(said["job_ids"])
    return Call(
        "POST",
        path("targets", target, "dead-letters", "replay"),
        lambda response: Replayed(**response.json()),
        json=said,
        once=True,
    )


def purge(target: str, job_id: str) -> Call[None]:
    """Remove a dead letter for good."""
    return Call("DELETE", path("targets", target, "dead-letters", job_id), lambda _: None, once=True)


def targets() -> Call[list[dict[str, Any]]]:
    """Every target with its status."""
    return Call("GET", "/targets", lambda response: list(response.json()["targets"]))


def target(name: str) -> Call[dict[str, Any]]:
    """One target with its status."""
    return Call("GET", path("targets", name), lambda response: dict(response.json()))


def switch_target(name: str, action: Literal["pause", "resume"]) -> Call[None]:
    """Pause or resume a target."""
    return Call("POST", path("targets", name, action), lambda _: None)
