"""The shapes of the async proxy's answers. Those of proxq's routes are only for the OpenAPI document."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class ProxyAccepted(Struct):
    """The job of an accepted request."""

    jobId: str  # noqa: N815 - proxq's spelling


class ProxyCancelled(Struct):
    """The answer to a cancellation."""

    status: Literal["cancelled"]


class ListedUpstream(Struct):
    """An upstream, its queue, and how many requests it has by state."""

    prefix: str
    queue: str
    url: str
    paused: bool
    counts: dict[str, int]


class UpstreamList(Struct):
    """Upstreams, and the path of the jobs API."""

    jobs_path: str
    upstreams: list[ListedUpstream]


class SentRequest(Struct):
    """A request as it was sent, without its body."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body_bytes: int


class CameResponse(Struct):
    """An answer as it came, without its body."""

    status: int
    headers: list[tuple[str, str]]
    body_bytes: int


class ProxiedRequest(Struct):
    """A proxied request, and its answer once there is one. Times are RFC 3339."""

    id: str
    queue: str
    upstream: str
    status: Literal["queued", "running", "completed", "failed"]
    attempts_made: int
    failed_reason: str | None
    accepted_at: str
    started_at: str | None
    finished_at: str | None
    kept_until: str | None
    request: SentRequest
    response: CameResponse | None
