"""What the engine asks of a destination."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from toril.core.blob import StreamedBody
from toril.core.lease import Lease
from toril.core.limiter import Limiter
from toril.core.outcome import Outcome
from toril.core.stored_job import Keep
from toril.core.streaming import REPEATABLE
from toril.core.verdict import Verdict

Chance = Callable[[], float]
"""A source of chance: floats in [0, 1)."""


class OutboundRequest(Struct):
    """One request. For HTTP/1.1 `head` is the request line and headers without framing and without the empty line.

    A worker on a socket gets the `body` alone; `job_id` is what it reports progress on. A `framed` head says itself
    how long the body is, and nothing is added to it. The answer to a request with `head_only` (HEAD) has no body,
    whatever its headers say. A `stream` is sent in place of the body and read meanwhile.
    Requests with the same `cache_key` may share an answer; one without shares none.

    One with a `fault` cannot be made: that says why. An answer to one that `unpacks` has its body uncompressed.
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
        """Whether it may be sent a second time where nobody knows if the first one was heard."""
        return not self.body and self.stream is None and self.head.partition(b" ")[0] in REPEATABLE


class LeaseRules(Protocol):
    """What BullMQ's scripts want to know of the worker that leases."""

    @property
    def limiter(self) -> Limiter | None:
        """The worker's rate limit."""

    @property
    def max_stalled_count(self) -> int:
        """How often a job may stall before it fails."""

    @property
    def keep_completed(self) -> Keep | None:
        """How many completed jobs stay, where the job does not say."""

    @property
    def keep_failed(self) -> Keep | None:
        """How many failed jobs stay, where the job does not say."""


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
        """How many requests may be under way at once, in the whole instance."""

    @property
    def lease_rules(self) -> LeaseRules:
        """Under which settings its jobs are leased and kept."""

    def request(self, lease: Lease) -> OutboundRequest:
        """The request that this attempt makes."""
        ...

    def judge(self, lease: Lease, outcome: Outcome, chance: Chance) -> Verdict:
        """What to do with the job now."""
        ...


class DefaultRules(Struct, frozen=True):
    """BullMQ's defaults of a worker: no rate limit, everything kept, a second stall fails."""

    limiter: Limiter | None = None
    max_stalled_count: int = 1
    keep_completed: Keep | None = None
    keep_failed: Keep | None = None


DEFAULT_RULES = DefaultRules()
