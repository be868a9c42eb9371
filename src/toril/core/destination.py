"""Destinations as the engine sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from toril.core.blob import StreamedBody
from toril.core.group_limits import GroupDefault
from toril.core.http.streaming import REPEATABLE
from toril.core.lease import Lease
from toril.core.outcome import Outcome
from toril.core.stored_job import Keep
from toril.core.verdict import Verdict

RandomSource = Callable[[], float]
"""Returns random floats in [0, 1)."""


class Limiter(Struct, frozen=True):
    """A worker's rate limit as BullMQ counts it: `max` jobs started per `duration` milliseconds, in the whole fleet."""

    max: int
    duration: int


class OutboundRequest(Struct):
    """One request. For HTTP/1.1 `head` is the request line and headers without framing and without the empty line.

    A worker on a socket gets the `body` alone; `job_id` is what it reports progress on. A `framed` head says itself
    how long the body is, and nothing is added to it. The answer to a request with `head_only` (HEAD) has no body,
    whatever its headers say. A `stream` is sent in place of the body and read meanwhile.
    Requests with the same `cache_key` may share an answer; one without shares none.

    A request with a `fault` is not sent: the text says why. An answer to one that `unpacks` has its body uncompressed.
    """

    head: bytes
    body: bytes
    timeout_s: float
    job_id: bytes = b""
    framed: bool = False
    head_only: bool = False
    stream: StreamedBody | None = None
    cache_key: str = ""
    fault: str = ""
    unpacks: bool = False

    @property
    def repeatable(self) -> bool:
        """True if it may be sent again after a failure that leaves open whether it was received."""
        return not self.body and self.stream is None and self.head.partition(b" ")[0] in REPEATABLE


class LeaseRules(Protocol):
    """The settings of a worker that BullMQ's scripts need for leasing."""

    @property
    def limiter(self) -> Limiter | None:
        """The worker's rate limit."""

    @property
    def max_stalled_count(self) -> int:
        """How often a job may stall before it fails."""

    @property
    def keep_completed(self) -> Keep | None:
        """How many completed jobs to keep, unless the job says otherwise."""

    @property
    def keep_failed(self) -> Keep | None:
        """How many failed jobs to keep, unless the job says otherwise."""

    @property
    def group(self) -> GroupDefault | None:
        """The limits of each group of the queue that has no limits; None without a limit."""


class Destination(Protocol):
    """A place that jobs of one queue are sent to."""

    @property
    def queue(self) -> str:
        """The queue it takes jobs from."""

    @property
    def url(self) -> str:
        """The URL whose origin the requests go to."""

    @property
    def concurrency(self) -> int:
        """How many requests may be in progress at once in the whole instance."""

    @property
    def lease_rules(self) -> LeaseRules:
        """The settings under which its jobs are leased and kept."""

    def request(self, lease: Lease) -> OutboundRequest:
        """Return the request that this attempt makes."""
        ...

    def judge(self, lease: Lease, outcome: Outcome, random: RandomSource) -> Verdict:
        """Return what to do with the job now."""
        ...


class DefaultRules(Struct, frozen=True):
    """The defaults of a worker in BullMQ: no rate limit, everything kept, a second stall fails the job."""

    limiter: Limiter | None = None
    max_stalled_count: int = 1
    keep_completed: Keep | None = None
    keep_failed: Keep | None = None
    group: GroupDefault | None = None


DEFAULT_RULES = DefaultRules()
