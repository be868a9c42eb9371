"""For web handlers that toril pushes jobs to: verify and read the request, report, answer now or settle later."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from toril_client import calls
from toril_client.calls import LEASE_S
from toril_client.client import AsyncClient, Client
from toril_client.errors import TorilError
from toril_client.jobs import Job
from toril_client.signing import Headers, verify

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""


@dataclass(frozen=True)
class _Pushed:
    """What a pushed job is, however its reports are made."""

    job: Job
    token: str
    queue: str

    @property
    def data(self) -> Any:
        """The job's data."""
        return self.job.data

    @classmethod
    def from_body(cls, body: bytes) -> Self:
        """Read the body of a request.

        Raises:
            TorilError: it is no pushed job (code `invalid_request`); answer with 400.
        """
        try:
            pushed = json.loads(body)
            job = Job.from_json(pushed["job"])
            token, queue = pushed["token"], pushed["job"]["queueQualifiedName"].rpartition(":")[2]
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise TorilError("the request holds no pushed job", "invalid_request", 400) from exc
        if not isinstance(token, str) or not queue:
            raise TorilError("the request holds no pushed job", "invalid_request", 400)
        return cls(job, token, queue)

    @classmethod
    def verified(cls, body: bytes, headers: Headers, secrets: str | Iterable[str]) -> Self:
        """Read the body of a request that toril signed with one of these secrets within the last five minutes.

        Raises:
            TorilError: it did not (code `unauthorized`, status 401), or it is no pushed job (`invalid_request`, 400);
                answer with the error's status.
            ValueError: there is no secret, or one is not `whsec_` and 24 to 64 bytes in Base64.
        """
        verify(body, headers, secrets)
        return cls.from_body(body)

    @staticmethod
    def result(value: Any) -> Answer:
        """The answer that completes the job."""
        return 200, {"content-type": "application/json"}, json.dumps(value, allow_nan=False).encode()

    @staticmethod
    def failure(message: str, status: int = 500, *, retry_in_s: float | None = None) -> Answer:
        """The answer that fails the attempt. The status' reason phrase becomes the failedReason, the body its trace.

        `retry_in_s` is when to try again, in place of the job's backoff, if attempts are left.
        """
        headers = {"content-type": "text/plain; charset=utf-8"}
        if retry_in_s is not None:
            headers["toril-retry-in"] = str(max(0, round(retry_in_s * 1000)))
        return status, headers, message.encode()

    @staticmethod
    def later(lease_s: float = LEASE_S) -> Answer:
        """The answer that keeps the job: whoever has its token settles it within `lease_s` (1 s to 24 h), or extends.

        Settling may come before this answer does. A job that is not settled in time is pushed again.
        """
        return 202, {"toril-settle": "later", "toril-lease-ms": str(round(lease_s * 1000))}, b""


class PushedJob(_Pushed):
    """A job that came in a request. Its lock token opens it until it is settled.

    Each report goes to the toril at the URL that is given, and raises `TorilError` when it is refused. Where the job is
    no longer this token's, that is `unauthorized` (progress, log), `lease_lost`, or `wrong_lock_token` if somebody else
    has it.
    """

    def progress(self, url: str, value: Any) -> None:
        """Report how far the job is."""
        self._call(url, calls.progress(self.queue, self.job.id, value))

    def log(self, url: str, line: str) -> None:
        """Append a line to the job's log."""
        self._call(url, calls.log(self.queue, self.job.id, line))

    def complete(self, url: str, value: Any = None) -> None:
        """Complete a job that was answered with `later`."""
        self._call(url, calls.complete(self.queue, self.job.id, value))

    def fail(self, url: str, why: str | BaseException) -> None:
        """Fail its attempt; with `Unrecoverable` the job, with `RetryIn` for so long."""
        self._call(url, calls.fail(self.queue, self.job.id, why))

    def extend(self, url: str, lease_s: float = LEASE_S) -> None:
        """It takes longer: the lease ends `lease_s` from now (1 s to 24 h)."""
        self._call(url, calls.extend(self.queue, self.job.id, lease_s))

    def release(self, url: str) -> None:
        """Give it back to the head of its queue, and spend no attempt."""
        self._call(url, calls.release(self.queue, self.job.id))

    def _call(self, url: str, call: calls.Call[None]) -> None:
        with Client(url, self.token) as client:
            client.call(call)


class AsyncPushedJob(_Pushed):
    """The same, with reports to be awaited."""

    async def progress(self, url: str, value: Any) -> None:
        """Report how far the job is."""
        await self._call(url, calls.progress(self.queue, self.job.id, value))

    async def log(self, url: str, line: str) -> None:
        """Append a line to the job's log."""
        await self._call(url, calls.log(self.queue, self.job.id, line))

    async def complete(self, url: str, value: Any = None) -> None:
        """Complete a job that was answered with `later`."""
        await self._call(url, calls.complete(self.queue, self.job.id, value))

    async def fail(self, url: str, why: str | BaseException) -> None:
        """Fail its attempt; with `Unrecoverable` the job, with `RetryIn` for so long."""
        await self._call(url, calls.fail(self.queue, self.job.id, why))

    async def extend(self, url: str, lease_s: float = LEASE_S) -> None:
        """It takes longer: the lease ends `lease_s` from now (1 s to 24 h)."""
        await self._call(url, calls.extend(self.queue, self.job.id, lease_s))

    async def release(self, url: str) -> None:
        """Give it back to the head of its queue, and spend no attempt."""
        await self._call(url, calls.release(self.queue, self.job.id))

    async def _call(self, url: str, call: calls.Call[None]) -> None:
        async with AsyncClient(url, self.token) as client:
            await client.call(call)
