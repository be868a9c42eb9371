"""Callbacks: requests to a URL of the caller's when a proxied job has ended, signed as in Standard Webhooks.

The job of a callback is the parent of the proxied job. BullMQ moves it to waiting in the same step that ends the
proxied job, whether that completed, failed or was cancelled.
"""

from __future__ import annotations

from typing import Any, Literal, assert_never
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Struct

from toril.core.destination import Limiter, OutboundRequest, RandomSource
from toril.core.errors import InvalidRequest
from toril.core.failed_attempt import attempt_failed
from toril.core.group_limits import GroupDefault
from toril.core.http.headers import header_lines, request_head
from toril.core.http.signing import Secret, signature_headers
from toril.core.http.trace_context import stored_headers
from toril.core.http.urls import check_url
from toril.core.lease import Lease
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, Replied, TimedOut
from toril.core.stored_job import Keep
from toril.core.times import moment_text
from toril.core.verdict import Complete, Fail, Verdict
from toril.proxy.rules.proxied_job import ProxiedJob, is_id

HEADER = b"x-toril-callback"
"""The header of a submission that names the URL."""

Forgotten = Literal["cancelled", "expired"]
"""What became of a job that is gone: it was cancelled before it ended, or its retention is over."""

_URL_SAFE = "!#$%&'()*+,/:;=?@[]~"


class CallbackOrder(Struct, frozen=True):
    """The data of a callback's job: the proxied job, and the URL to call."""

    url: str
    job: str


_read = msgspec.json.Decoder(CallbackOrder).decode


def read_order(stored: bytes) -> CallbackOrder:
    """Return the order in a callback's job, checked like the submission that asks for a callback.

    Raises:
        ValueError: it is no order, or one that cannot be carried out; says why.
    """
    try:
        order = _read(stored)
        check_url(order.url)
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    except InvalidRequest as exc:
        raise ValueError(exc.message) from exc
    if not is_id(order.job):
        raise ValueError("it names no job")
    return order


class CallbackRules(Struct, frozen=True):
    """The lease rules of callbacks: failed ones are kept, to be looked at."""

    limiter: Limiter | None = None
    max_stalled_count: int = 1_000
    keep_completed: Keep | None = Keep(0)
    keep_failed: Keep | None = Keep(1000)
    group: GroupDefault | None = None


class CallbackDestination:
    """Calls URLs about ended jobs. The URL is in the job's data; how the proxied job ended is read for each attempt."""

    __slots__ = ("_queue", "_rules", "_timeout_s")

    concurrency = 20
    url = ""

    def __init__(self, queue: str, timeout_s: float) -> None:
        self._queue = queue
        self._timeout_s = timeout_s
        self._rules = CallbackRules()

    @property
    def queue(self) -> str:
        """Return the queue of its jobs."""
        return self._queue

    @property
    def lease_rules(self) -> CallbackRules:
        """Return the lease rules of callbacks."""
        return self._rules

    def request(self, lease: Lease) -> OutboundRequest:
        """Return the order itself: the request to the URL is made when the ended job has been read.

        Its head has the lines of the trace context.
        """
        trace = lease.options.trace
        return OutboundRequest(
            header_lines(stored_headers(trace)) if trace else b"",
            lease.fields.get(b"data", b""),
            self._timeout_s,
            lease.job_id,
        )

    def judge(self, lease: Lease, outcome: Outcome, random: RandomSource) -> Verdict:
        """Complete the job on 2xx; anything else is tried again, as often as the job allows."""
        match outcome:
            case Answered(status=status) if 200 <= status < 300:
                return Complete(b"null")
            case Answered():
                reason = f"the callback was answered {outcome.status}"
            case TimedOut():
                reason = "the callback was not answered in time"
            case CutOff(code="EINVAL"):
                return Fail(outcome.detail, f"Error: {outcome.detail}")
            case ConnectFailed() | CutOff():
                reason = f"{outcome.code}: {outcome.detail}"
            case Replied():
                raise TypeError("a callback answers; only a socket replies")
            case _:
                assert_never(outcome)
        return attempt_failed(lease, reason, f"Error: {reason}", random)


def callback_request(
    order: CallbackOrder, end: ProxiedJob | Forgotten, secrets: tuple[Secret, ...], now_s: float, timeout_s: float
) -> OutboundRequest:
    """Return a `POST` of `{"type","timestamp","data"}`: `job.completed`, `.failed`, `.cancelled` or `.expired`."""
    if isinstance(end, ProxiedJob):
        data: dict[str, Any] = msgspec.json.decode(end.as_json())
        # The time of its end, so that every attempt sends the same. A job that is gone has no such time.
        ended_s = end.finished_at_ms // 1000
    else:
        data, ended_s = {"id": order.job, "status": end}, int(now_s)
    at = moment_text(ended_s, "seconds")
    body = msgspec.json.encode({"type": f"job.{data['status']}", "timestamp": at, "data": data})
    parts = urlsplit(order.url)
    path = quote(parts.path or "/", safe=_URL_SAFE)
    target = f"{path}?{quote(parts.query, safe=_URL_SAFE)}" if parts.query else path
    host = parts.netloc.encode("idna" if not parts.netloc.isascii() else "ascii")
    headers = [(b"content-type", b"application/json"), (b"user-agent", b"toril")]
    head = request_head(b"POST", target.encode(), host, headers)
    head += signature_headers(secrets, order.job.encode(), int(now_s), body)
    return OutboundRequest(head, body, timeout_s)
