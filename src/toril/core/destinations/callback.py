"""Tells a URL of the caller's that a proxied job has ended, signed as Standard Webhooks has it.

The job of a callback is the parent of the job it tells of, so BullMQ itself wakes it in the same step that ends the
other one, however that ends: completed, failed or cancelled.
"""

from __future__ import annotations

from typing import Any, Literal, assert_never
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Struct

from toril.core import moments
from toril.core.destinations.base import Chance, OutboundRequest
from toril.core.errors import InvalidRequest
from toril.core.failed_attempt import attempt_failed
from toril.core.headers import request_head
from toril.core.lease import Lease
from toril.core.limiter import Limiter
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, Replied, TimedOut
from toril.core.proxied_job import ProxiedJob, is_id
from toril.core.signing import Secret, signature_headers
from toril.core.stored_job import Keep
from toril.core.urls import check_url
from toril.core.verdict import Complete, Fail, Verdict

HEADER = b"x-toril-callback"
"""The header of a submission that names the URL."""

Forgotten = Literal["cancelled", "expired"]
"""What became of a job that is known no longer: cancelled before it ended, or ended and not kept any more."""

_URL_SAFE = "!#$%&'()*+,/:;=?@[]~"


class CallbackOrder(Struct, frozen=True):
    """The data of a callback's job: which job's end to tell, and where."""

    url: str
    job: str


_read = msgspec.json.Decoder(CallbackOrder).decode


def read_order(stored: bytes) -> CallbackOrder:
    """Return the order of a callback's job, checked as a submission that asks for one is.

    Raises:
        ValueError: it is none, or one that cannot be carried out; says why.
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
    """How jobs of callbacks are leased and kept: those that failed stay to be looked at."""

    limiter: Limiter | None = None
    max_stalled_count: int = 1_000
    keep_completed: Keep | None = Keep(0)
    keep_failed: Keep | None = Keep(1000)


class CallbackDestination:
    """Tells of ended jobs. Which URL a job has to tell is in its data; what to tell is read when the time has come."""

    __slots__ = ("_queue", "_rules", "_timeout_s")

    concurrency = 20
    url = ""

    def __init__(self, queue: str, timeout_s: float) -> None:
        self._queue = queue
        self._timeout_s = timeout_s
        self._rules = CallbackRules()

    @property
    def queue(self) -> str:
        """The queue it takes jobs from."""
        return self._queue

    @property
    def lease_rules(self) -> CallbackRules:
        """How its jobs are kept."""
        return self._rules

    def request(self, lease: Lease) -> OutboundRequest:
        """The order itself: what is sent is not known before the ended job has been read."""
        return OutboundRequest(b"", lease.fields.get(b"data", b""), self._timeout_s, lease.job_id)

    def judge(self, lease: Lease, outcome: Outcome, chance: Chance) -> Verdict:
        """A 2xx answer is all there is to wish for; else it is tried again, as often as the job allows."""
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
        return attempt_failed(lease, reason, f"Error: {reason}", chance)


def callback_request(
    order: CallbackOrder, end: ProxiedJob | Forgotten, secrets: tuple[Secret, ...], now_s: float, timeout_s: float
) -> OutboundRequest:
    """`POST` with `{"type","timestamp","data"}`: `job.completed`, `job.failed`, `job.cancelled` or `job.expired`."""
    if isinstance(end, ProxiedJob):
        data: dict[str, Any] = msgspec.json.decode(end.as_json())
        # When it ended, so that every attempt says the same; one that is forgotten has left nothing that says when.
        ended_s = end.finished_at_ms // 1000
    else:
        data, ended_s = {"id": order.job, "status": end}, int(now_s)
    at = moments.shown(ended_s, "seconds")
    body = msgspec.json.encode({"type": f"job.{data['status']}", "timestamp": at, "data": data})
    parts = urlsplit(order.url)
    path = quote(parts.path or "/", safe=_URL_SAFE)
    target = f"{path}?{quote(parts.query, safe=_URL_SAFE)}" if parts.query else path
    host = parts.netloc.encode("idna" if not parts.netloc.isascii() else "ascii")
    headers = [(b"content-type", b"application/json"), (b"user-agent", b"toril")]
    head = request_head(b"POST", target.encode(), host, headers)
    head += signature_headers(secrets, order.job.encode(), int(now_s), body)
    return OutboundRequest(head, body, timeout_s)
