"""What a handler of pushed jobs does in every web framework: check, read, work, answer.

The frameworks' modules (`toril_client.starlette`, `.django`, `.flask`) bring the request here and send the answer.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from toril_client.calls import LEASE_S
from toril_client.errors import RetryIn, TorilError, Unrecoverable
from toril_client.push import Answer, AsyncPushedJob, PushedJob
from toril_client.signing import Headers, read_secrets

Work = Callable[[PushedJob], Any] | Callable[[AsyncPushedJob], Awaitable[Any]]
"""A function that works on a pushed job. A coroutine function gets the job whose reports are awaited."""

MAX_BODY_BYTES = 16 * 1024 * 1024
"""The largest request that is read. toril takes jobs of up to 10 MiB by default; the rest is for what it adds."""

TOO_LARGE = 413

_LOG = logging.getLogger("toril_client")
_P = TypeVar("_P", PushedJob, AsyncPushedJob)


@dataclass(frozen=True)
class Later:
    """What a function returns to keep its job: settle it by its token within `lease_s` (1 s to 24 h), or extend."""

    lease_s: float = LEASE_S


class Handling:
    """How the requests at one address are answered.

    Args:
        url: toril's. It is not read from the request, which any caller may have sent.
        work: what it returns (JSON) completes the job, `Later` keeps it, what it raises fails the attempt:
            `Unrecoverable` the job, `RetryIn` for so long.
        secrets: what the worker was registered with, `whsec_…`; others than toril are then refused with 401.
        max_body_bytes: more is refused with 413, and not read.

    Raises:
        ValueError: a secret is none.
    """

    def __init__(
        self, url: str, work: Work, secrets: str | Iterable[str] = (), max_body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        self._url = url
        self._work = work
        self._secrets = [secrets] if isinstance(secrets, str) else list(secrets)
        read_secrets(self._secrets)
        self.max_body_bytes = max_body_bytes
        self.is_async = inspect.iscoroutinefunction(work) or inspect.iscoroutinefunction(
            getattr(work, "__call__", None)  # noqa: B004 - an object's method, to see whether it is a coroutine function
        )

    def too_large(self) -> Answer:
        """Return the answer to a body that is over the limit."""
        return PushedJob.failure(f"the body is larger than {self.max_body_bytes} bytes", TOO_LARGE)

    def refuses(self, content_length: str | None) -> bool:
        """Return whether a body that says its length need not be read."""
        return content_length is not None and content_length.isdecimal() and int(content_length) > self.max_body_bytes

    def answer(self, body: bytes, headers: Headers) -> Answer:
        """Work on a request and return its answer; a coroutine function runs in an event loop of the call's own."""
        if self.is_async:
            return asyncio.run(self.answer_async(body, headers))
        pushed = self._read(PushedJob, body, headers)
        if not isinstance(pushed, PushedJob):
            return pushed
        try:
            return _completed(cast("Callable[[PushedJob], Any]", self._work)(pushed))
        except Exception as exc:
            if isinstance(exc, Unrecoverable) and self._failed(pushed, exc):
                return PushedJob.later()
            return _failure(pushed, exc)

    async def answer_async(self, body: bytes, headers: Headers) -> Answer:
        """Work on a request and return its answer; a plain function runs in a thread."""
        if not self.is_async:
            return await asyncio.to_thread(self.answer, body, headers)
        pushed = self._read(AsyncPushedJob, body, headers)
        if not isinstance(pushed, AsyncPushedJob):
            return pushed
        try:
            return _completed(await cast("Callable[[AsyncPushedJob], Awaitable[Any]]", self._work)(pushed))
        except Exception as exc:
            if isinstance(exc, Unrecoverable) and await self._failed_async(pushed, exc):
                return PushedJob.later()
            return _failure(pushed, exc)

    def _read(self, kind: type[_P], body: bytes, headers: Headers) -> _P | Answer:
        if len(body) > self.max_body_bytes:
            return self.too_large()
        try:
            return kind.verified(body, headers, self._secrets) if self._secrets else kind.from_body(body)
        except TorilError as error:
            return PushedJob.failure(error.message, error.status)

    # No answer can say that a job is beyond recovery. Its lock token can, and then the answer matters no more.
    def _failed(self, pushed: PushedJob, why: Unrecoverable) -> bool:
        try:
            pushed.fail(self._url, why)
        except TorilError:
            return False
        return True

    async def _failed_async(self, pushed: AsyncPushedJob, why: Unrecoverable) -> bool:
        try:
            await pushed.fail(self._url, why)
        except TorilError:
            return False
        return True


def _completed(value: Any) -> Answer:
    return PushedJob.later(value.lease_s) if isinstance(value, Later) else PushedJob.result(value)


def _failure(pushed: PushedJob | AsyncPushedJob, exc: Exception) -> Answer:
    if isinstance(exc, RetryIn):
        return PushedJob.failure(str(exc), retry_in_s=exc.seconds)
    _LOG.error("job %s of %s failed", pushed.job.id, pushed.queue, exc_info=exc)
    # toril keeps the beginning, so what went wrong stands before where.
    said = "".join(traceback.format_exception_only(exc))
    return PushedJob.failure(said + "".join(traceback.format_tb(exc.__traceback__)))


def missing(framework: str, cause: ImportError) -> ImportError:
    """Return the error of a framework that is not installed, or lacks what is used of it."""
    return ImportError(f"toril_client.{framework} needs {framework}: pip install 'toril-client[{framework}]' ({cause})")
