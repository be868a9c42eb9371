"""Puts any httpx-based SDK behind toril's async proxy (or proxq): a request becomes a job, its answer the SDK's answer.

    from toril_client.proxq import openai_client

    client = openai_client("http://127.0.0.1:8080/v1", api_key="sk-your-key")      # an ordinary openai.OpenAI

or, for a client that is put together by hand,

    openai.OpenAI(base_url=…, http_client=httpx.Client(transport=ProxqTransport()))

What is accepted (`202` and `X-Proxq-Source`) is waited for and comes back as the upstream answered it. Anything else is
the answer itself: streams, which are sent past the queue, and errors. When the caller gives up, the job is cancelled.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

import anyio

if TYPE_CHECKING:
    import openai

SOURCE = "x-proxq-source"
JOBS_PATH = "/__jobs"
LONG_POLL_S = 25.0
"""How long toril is asked to hold a question for news; the original answers at once, and is asked again."""

_PAUSES_S = (0.1, 0.2, 0.4, 0.8)
_CANCEL_S = 5.0
_MARGIN_S = 15.0


@dataclass(frozen=True)
class _Send:
    """Send a request; the answer comes back, read to its end if `read`. What goes wrong is raised."""

    request: Any
    read: bool = True


@dataclass(frozen=True)
class _Pause:
    """Wait so long."""

    seconds: float


@dataclass
class _Conversation:
    """One request of the SDK and what is asked of the proxy about it, without I/O: both transports carry it out.

    Requests and errors are of whichever library the SDK uses, httpx or httpx2.
    """

    request: Any
    jobs_url: str | None
    wait_s: float | None
    direct_streams: bool
    chunks: Callable[[bytes], Any]
    job_url: str | None = None
    _waited: Iterator[float] = field(default_factory=lambda: iter(_PAUSES_S))

    def steps(self) -> Generator[_Send | _Pause, Any, Any]:
        """What to do, step by step; returns the answer for the SDK."""
        first = yield _Send(self._past_the_queue() if self.direct_streams and self._streams() else self.request, False)
        if first.status_code != 202 or SOURCE not in first.headers:
            return first
        accepted = yield _Send(first)
        self.job_url = f"{self._jobs()}/{quote(accepted.json()['jobId'], safe='')}"
        status = yield from self._finished()
        if status["status"] == "completed":
            content = yield from self._content()
            if content is not None:
                self.job_url = None
                return content
            raise self._error("RemoteProtocolError", "the job's answer is not there any more")
        self.job_url = None
        raise self._error("RemoteProtocolError", f"the job failed: {status.get('error', 'no reason is given')}")

    def _finished(self) -> Generator[_Send | _Pause, Any, dict[str, Any]]:
        """Ask until the job has ended; its status."""
        until = None if self._patience_s() is None else time.monotonic() + (self._patience_s() or 0.0)
        while True:
            left_s = LONG_POLL_S if until is None else until - time.monotonic()
            if left_s <= 0:
                raise self._error("ReadTimeout", "the job has not ended in time")
            asked_at = time.monotonic()
            wait_s = min(left_s, LONG_POLL_S)
            try:
                answer = yield _Send(self._ask(f"{self.job_url}?wait={wait_s:.3f}", wait_s + _MARGIN_S))
            except Exception as exc:
                if not self._is_passing(exc):
                    raise
                answer = None
            if answer is not None and 400 <= answer.status_code < 500:
                self.job_url = None
                why = "is gone" if answer.status_code == 404 else f"may not be asked for ({answer.status_code})"
                raise self._error("RemoteProtocolError", f"the job {why}")
            if answer is not None and answer.status_code == 200:
                status: dict[str, Any] = answer.json()
                if status["status"] in {"completed", "failed"}:
                    return status
                if time.monotonic() - asked_at > wait_s / 2:
                    continue  # it did hold the question
            yield _Pause(min(next(self._waited, 1.0), max(left_s, 0.0)))

    def _content(self) -> Generator[_Send | _Pause, Any, Any]:
        """The upstream's answer, not read yet; None where it is gone."""
        for pause_s in (*_PAUSES_S, None):
            try:
                content = yield _Send(self._ask(f"{self.job_url}/content", None), False)
            except Exception as exc:
                if pause_s is None or not self._is_passing(exc):
                    raise
            else:
                if SOURCE not in content.headers:
                    return content
                yield _Send(content)
                if content.status_code == 404 or pause_s is None:
                    return None
            yield _Pause(pause_s)
        return None

    def cancellation(self) -> Any:
        """The request that cancels the job, if there is one that has not ended."""
        if self.job_url is None:
            return None
        request = self._ask(self.job_url, _CANCEL_S)
        request.method = "DELETE"
        return request

    def _jobs(self) -> str:
        if self.jobs_url is not None:
            return self.jobs_url.rstrip("/")
        url = urlsplit(str(self.request.url))
        return urlunsplit((url.scheme, url.netloc, JOBS_PATH, "", ""))

    def _patience_s(self) -> float | None:
        if self.wait_s is not None:
            return self.wait_s
        read_s: float | None = self.request.extensions.get("timeout", {}).get("read")
        return read_s

    def _ask(self, url: str, read_s: float | None) -> Any:
        """A GET with the submission's credentials, which may be what lets it see the job."""
        given: Mapping[str, Any] = self.request.extensions.get("timeout", {})
        timeout = {**given, **({} if read_s is None else {"read": read_s})}
        names = ("authorization", "user-agent", "accept-encoding")
        headers = {name: self.request.headers[name] for name in names if name in self.request.headers}
        return type(self.request)("GET", url, headers=headers, extensions={"timeout": timeout})

    def _streams(self) -> bool:
        """Whether the SDK wants its answer piece by piece: `"stream": true` in a JSON body."""
        if "event-stream" in self.request.headers.get("accept", ""):
            return True
        try:
            content: bytes = self.request.content
        except Exception:
            return False
        if b'"stream"' not in content or "json" not in self.request.headers.get("content-type", ""):
            return False
        with contextlib.suppress(ValueError):
            body = json.loads(content)
            return isinstance(body, dict) and body.get("stream") is True
        return False

    def _past_the_queue(self) -> Any:
        """The same request in chunks: what has no known length is not queued."""
        request = self.request
        headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"content-length"]
        return type(request)(
            request.method,
            request.url,
            headers=headers,
            content=self.chunks(request.content),
            extensions=request.extensions,
        )

    def _error(self, name: str, message: str) -> Exception:
        error: Exception = getattr(_library(self.request), name)(message, request=self.request)
        return error

    def _is_passing(self, exc: Exception) -> bool:
        return isinstance(exc, _library(self.request).TransportError)


def _in_chunks(content: bytes) -> Iterator[bytes]:
    """A body whose length is not said."""
    yield content


async def _in_async_chunks(content: bytes) -> AsyncIterator[bytes]:
    """The same for a client that awaits it."""
    yield content


def _library(request: Any) -> Any:
    """httpx or httpx2, whichever made this request."""
    return sys.modules[type(request).__module__.partition(".")[0]]


class ProxqTransport:
    """A transport for `httpx.Client` (or `httpx2.Client`).

    Args:
        jobs_url: where the jobs API is; `/__jobs` on the host of each request by default.
        wait_s: how long a job may take, until it is cancelled and a timeout is raised; the client's read timeout by
            default.
        direct_streams: send what asks for a stream past the queue, so that it comes piece by piece. Otherwise it comes
            when it is whole.
        inner: what makes the requests, for proxies, certificates or limits of your own.
    """

    def __init__(
        self,
        jobs_url: str | None = None,
        *,
        wait_s: float | None = None,
        direct_streams: bool = True,
        inner: Any = None,
    ) -> None:
        self._options = (jobs_url, wait_s, direct_streams)
        self._inner = inner

    def __enter__(self) -> ProxqTransport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._inner is not None:
            self._inner.close()

    def handle_request(self, request: Any) -> Any:
        """Part of httpx's transport API."""
        if self._inner is None:
            self._inner = _library(request).HTTPTransport()
        conversation = _Conversation(request, *self._options, _in_chunks)
        steps = conversation.steps()
        try:
            return self._carry_out(steps)
        except BaseException:
            cancellation = conversation.cancellation()
            if cancellation is not None:
                with contextlib.suppress(Exception):
                    self._inner.handle_request(cancellation).close()
            raise

    def _carry_out(self, steps: Generator[_Send | _Pause, Any, Any]) -> Any:
        step = next(steps)
        while True:
            try:
                came = self._do(step)
            except Exception as exc:
                came = exc
            try:  # what went wrong is for the steps to judge
                step = steps.throw(came) if isinstance(came, Exception) else steps.send(came)
            except StopIteration as end:
                return end.value

    def _do(self, step: _Send | _Pause) -> Any:
        if isinstance(step, _Pause):
            time.sleep(step.seconds)
            return None
        response = step.request
        if not hasattr(response, "status_code"):
            response = self._inner.handle_request(step.request)
        if step.read:
            response.read()
            response.close()
        return response


class AsyncProxqTransport:
    """The same for `httpx.AsyncClient` (or `httpx2.AsyncClient`)."""

    def __init__(
        self,
        jobs_url: str | None = None,
        *,
        wait_s: float | None = None,
        direct_streams: bool = True,
        inner: Any = None,
    ) -> None:
        self._options = (jobs_url, wait_s, direct_streams)
        self._inner = inner

    async def __aenter__(self) -> AsyncProxqTransport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        if self._inner is not None:
            await self._inner.aclose()

    async def handle_async_request(self, request: Any) -> Any:
        """Part of httpx's transport API."""
        if self._inner is None:
            self._inner = _library(request).AsyncHTTPTransport()
        conversation = _Conversation(request, *self._options, _in_async_chunks)
        try:
            return await self._carry_out(conversation.steps())
        except BaseException:
            cancellation = conversation.cancellation()
            if cancellation is not None:
                with anyio.move_on_after(_CANCEL_S, shield=True), contextlib.suppress(Exception):
                    await (await self._inner.handle_async_request(cancellation)).aclose()
            raise

    async def _carry_out(self, steps: Generator[_Send | _Pause, Any, Any]) -> Any:
        step = next(steps)
        while True:
            try:
                came = await self._do(step)
            except Exception as exc:
                came = exc
            try:  # what went wrong is for the steps to judge
                step = steps.throw(came) if isinstance(came, Exception) else steps.send(came)
            except StopIteration as end:
                return end.value

    async def _do(self, step: _Send | _Pause) -> Any:
        if isinstance(step, _Pause):
            await anyio.sleep(step.seconds)
            return None
        response = step.request
        if not hasattr(response, "status_code"):
            response = await self._inner.handle_async_request(step.request)
        if step.read:
            await response.aread()
            await response.aclose()
        return response


def openai_client(base_url: str, *, jobs_url: str | None = None, **options: Any) -> openai.OpenAI:
    """An `openai.OpenAI` whose calls go through toril; `options` are its own."""
    import openai  # noqa: PLC0415 - the package may not be there

    transport: Any = ProxqTransport(jobs_url)
    return openai.OpenAI(base_url=base_url, http_client=openai.DefaultHttpxClient(transport=transport), **options)


def async_openai_client(base_url: str, *, jobs_url: str | None = None, **options: Any) -> openai.AsyncOpenAI:
    """An `openai.AsyncOpenAI` whose calls go through toril; `options` are its own."""
    import openai  # noqa: PLC0415 - the package may not be there

    transport: Any = AsyncProxqTransport(jobs_url)
    http_client = openai.DefaultAsyncHttpxClient(transport=transport)
    return openai.AsyncOpenAI(base_url=base_url, http_client=http_client, **options)
