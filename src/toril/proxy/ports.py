"""What the parts of the async proxy need of each other, as small Protocols; errors as in `toril.bullmq.ports`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from msgspec import Struct

from toril.core.blob import BlobRef
from toril.core.http.headers import Header
from toril.proxy.rules.proxied_job import ProxiedJob
from toril.proxy.rules.upstream import Upstream


class Submission(Struct, kw_only=True):
    """A request that was read whole, to wait in its upstream's queue.

    `headers` are those that the upstream gets, `forwarding` the client's own (see `RecordedRequest`). `key` is an
    `Idempotency-Key`, valid for its `caller` alone. `owner` is the only caller that may see the job, if jobs have
    owners. `callback` is the URL that is called when the job ends, if there is one. `trace` is the trace context of the
    job; None is that of the headers. `wait_s` is how long the client would wait for the answer itself. `group` is its
    group in the queue, if it has one.
    """

    upstream: Upstream
    method: str
    target: bytes
    headers: Sequence[Header]
    body: bytes
    timeout_s: float | None = None
    wait_s: float = 0.0
    key: bytes | None = None
    caller: bytes = b""
    owner: str = ""
    callback: str | None = None
    forwarding: Sequence[Header] | None = None
    trace: Sequence[Header] | None = None
    group: str | None = None


class Submissions(Protocol):
    """Accepts requests."""

    def begin(self, upstream: Upstream) -> tuple[str, str]:
        """Return a new job id, and the queue that the job will be in; nothing is written."""
        ...

    async def accept(self, submission: Submission, job_id: str) -> str:
        """Store a request; return the id of its job, or of the job with the same key if it is under way or answered.

        Raises:
            IdempotencyMismatch: the key came with another request.
            GroupFull: its group has as many waiting requests as it may have.
        """
        ...


class KeptRequest(Struct, frozen=True):
    """What is stored of a proxied request: the JSON of the request and of its answer, and the times of its job."""

    request: bytes
    response: bytes | None
    accepted_at_ms: int
    started_at_ms: int
    attempts_made: int


class ProxiedJobs(Protocol):
    """Reads and cancels jobs of the async proxy by their id alone."""

    async def find(self, job_id: str) -> ProxiedJob | None:
        """Return the job; None if there is none, or its time is over."""
        ...

    async def response(self, job: ProxiedJob) -> bytes | None:
        """Return the JSON of the recorded response; None if there is none."""
        ...

    async def kept(self, job: ProxiedJob) -> KeptRequest | None:
        """Return all that is stored of a job; None if it is gone."""
        ...

    async def had_ended(self, job_id: str, callbacks: str) -> bool:
        """Return True if a job that is gone had completed or failed, by what its callback in this queue knows."""
        ...

    async def cancel(self, job: ProxiedJob) -> bool:
        """Remove a job in any state, and break its attempt off; return False if it is gone already."""
        ...


class Bodies(Protocol):
    """Reads bodies that were offloaded to the blob store, or not."""

    def stream(self, kept: bytes | BlobRef) -> AsyncIterator[bytes]:
        """Return the body piece by piece. Raises `BlobsUnavailable` and `BlobLost`."""
        ...


class AnswerCache(Protocol):
    """Keeps answers for a while, and lets one process make the request for an answer that is not there."""

    async def get(self, key: str) -> bytes | None:
        """Return what is kept under this key."""
        ...

    async def put(self, key: str, value: bytes) -> None:
        """Keep this for the cache's time. Idempotent."""
        ...

    async def claim(self, key: str, who: bytes, for_s: float) -> bool:
        """Claim the key for a process, in one atomic step; return False if another one has claimed it.

        The claim ends by itself after `for_s`; claiming again extends it. A cache that only one process has always
        returns True.
        """
        ...

    async def release(self, key: str, who: bytes) -> None:
        """Release the claim. Does nothing if another process has it."""
        ...


class IdempotencyEntry(Struct, frozen=True):
    """The job of an `Idempotency-Key`, and a digest of its request. `settled` once the job is stored.

    `age_s` is how old the entry is, in whole seconds.
    """

    job_id: str
    digest: str
    settled: bool
    age_s: int = 0


class IdempotencyStore(Protocol):
    """Keeps the entries of idempotency keys for a while."""

    async def claim(
        self, name: str, job_id: str, digest: str, instead_of: IdempotencyEntry | None = None
    ) -> IdempotencyEntry:
        """Return the entry of this name, or else write one for this job, in one atomic step.

        An entry that equals `instead_of`, apart from its age, is replaced.
        """
        ...

    async def settle(self, name: str, entry: IdempotencyEntry) -> None:
        """Mark the entry as settled, unless the key has another job by now. Idempotent."""
        ...
