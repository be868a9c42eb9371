"""What the rooms of the async proxy need of each other, as small Protocols; errors as in `toril.core.ports`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from msgspec import Struct

from toril.core.blob import BlobRef
from toril.core.headers import Header
from toril.core.proxied_job import ProxiedJob
from toril.core.upstream import Upstream


class Submission(Struct, kw_only=True):
    """A request that was read whole and is to wait in its upstream's queue.

    `headers` are those that the upstream gets, `forwarding` the client's own (see `RecordedRequest`). `key` is an
    `Idempotency-Key`, which counts for its `caller` alone. `owner` is whose job it is where only he may see it;
    `callback` is the URL that is told of the end, if any.
    """

    upstream: Upstream
    method: str
    target: bytes
    headers: Sequence[Header]
    body: bytes
    timeout_s: float | None = None
    key: bytes | None = None
    caller: bytes = b""
    owner: str = ""
    callback: str | None = None
    forwarding: Sequence[Header] | None = None


class Submissions(Protocol):
    """Accepts requests."""

    def begin(self, upstream: Upstream) -> tuple[str, str]:
        """A fresh job id, and the queue that it will be in; nothing is written."""
        ...

    async def accept(self, submission: Submission, job_id: str) -> str:
        """Store it; the id of its job, which is that of the same key where it is under way or answered.

        Raises:
            IdempotencyMismatch: the key came with another request.
        """
        ...


class ProxiedJobs(Protocol):
    """Reads and cancels jobs of the async proxy by their id alone."""

    async def find(self, job_id: str) -> ProxiedJob | None:
        """What is known of it; None where there is none, or it has been forgotten."""
        ...

    async def response(self, job: ProxiedJob) -> bytes | None:
        """The recorded response's JSON; None where there is none."""
        ...

    async def had_ended(self, job_id: str, callbacks: str) -> bool:
        """Whether a job that is known no longer had completed or failed, which its callback, in this queue, knows."""
        ...

    async def cancel(self, job: ProxiedJob) -> bool:
        """Remove it, whatever state it is in; False where it is gone already. What it was doing is broken off."""
        ...


class Cancels(Protocol):
    """Cancels jobs of any queue."""

    async def cancel(self, queue: str, job_id: str) -> bool:
        """Remove a job whatever state it is in, in one atomic step; False where there is none.

        A worker that has it loses its lease with it: it can write nothing any more. Whichever instance it runs on
        breaks its attempt off and frees its slot, at once where it can hear of it, else when it next renews its lock.
        """
        ...


class Bodies(Protocol):
    """Gives bodies back that were put away."""

    def stream(self, kept: bytes | BlobRef) -> AsyncIterator[bytes]:
        """The body piece by piece. Raises `BlobsUnavailable` and `BlobLost`."""
        ...


class Keeps(Protocol):
    """Puts large bodies away."""

    async def keep(self, folder: str, job_id: str, part: str, body: bytes) -> bytes | BlobRef:
        """The body itself, or its reference once it is safely away. Raises `BlobsUnavailable`."""
        ...


class AnswerCache(Protocol):
    """Keeps answers for a while, and says who asks for one that is not there."""

    async def get(self, key: str) -> bytes | None:
        """What is kept under this key."""
        ...

    async def put(self, key: str, value: bytes) -> None:
        """Keep this for the cache's time. Idempotent."""
        ...

    async def claim(self, key: str, who: bytes, for_s: float) -> bool:
        """Be the one who asks, for so long, in one atomic step; False where somebody else is. Again to go on being it.

        Only those who share the cache with others need it: within a process one flight is enough.
        """
        ...

    async def release(self, key: str, who: bytes) -> None:
        """Be it no more. Does nothing for who is not."""
        ...


class KeyEntry(Struct, frozen=True):
    """What an `Idempotency-Key` stands for: a job, and a digest of its request. Settled once the job is stored.

    `age_s` is how long it has been there, in whole seconds.
    """

    job_id: str
    digest: str
    settled: bool
    age_s: int = 0


class KeyBook(Protocol):
    """Remembers keys for a while."""

    async def claim(self, name: str, job_id: str, digest: str, instead_of: KeyEntry | None = None) -> KeyEntry:
        """Return the entry of this name: the one that is there, or one for this job from now on, in one atomic step.

        An entry that equals `instead_of`, but for its age, counts as not there.
        """
        ...

    async def settle(self, name: str, entry: KeyEntry) -> None:
        """Note that the job of this entry is stored, unless the key stands for another one by now. Idempotent."""
        ...
