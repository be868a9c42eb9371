"""An upstream of the async proxy: it gets each recorded request as it was sent, and any answer completes the job.

The rules are proxq's (wire/proxq.md, "Forwarding" and "Retries"). The job's return value is a summary; the answer is
another field of the job, so that BullMQ's events do not repeat it.
"""

from __future__ import annotations

from typing import assert_never

import msgspec
from msgspec import Struct

from toril.core.destination import Limiter, OutboundRequest, RandomSource
from toril.core.group_limits import GroupDefault
from toril.core.http.headers import header_lines, is_header_value
from toril.core.http.retry_hint import read_hint
from toril.core.lease import Lease
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, Replied, TimedOut
from toril.core.ports import Now
from toril.core.stored_job import Keep
from toril.core.verdict import Complete, Fail, Retry, Verdict
from toril.proxy.rules.caching import cache_key
from toril.proxy.rules.envelope import RecordedResponse, decode_request, encode_response
from toril.proxy.rules.proxied_job import RESPONSE_FIELD
from toril.proxy.rules.upstream import Upstream

NOT_A_REQUEST = "EINVAL"
"""The code of a job that holds no recorded request: trying it again is useless."""

NOT_KEPT = "EBLOBS"
"""The code of an answer that was too large for Redis, and could not be offloaded; the detail says why."""

LONGEST_BACKOFF_S = 24 * 3600.0
MAX_RETRY_AFTER_MS = 3600 * 1000


class UpstreamRules(Struct, frozen=True):
    """The lease rules of an upstream: completed and failed jobs stay for `keep`."""

    keep: Keep
    limiter: Limiter | None = None
    # Whether equal requests may share an answer.
    cached: bool = False
    # The largest head of a request: all that a client may send, and the headers about the client that toril adds.
    max_head_bytes: int = 128 * 1024
    # Large, so that a gateway that is killed again and again loses no request: a low limit is for jobs that kill
    # workers.
    max_stalled_count: int = 1_000
    group: GroupDefault | None = None

    @property
    def keep_completed(self) -> Keep:
        """Return how long completed jobs stay."""
        return self.keep

    @property
    def keep_failed(self) -> Keep:
        """Return how long failed jobs stay."""
        return self.keep


class UpstreamDestination:
    """Sends the jobs of one upstream's queue to it, up to `concurrency` at once."""

    __slots__ = ("_concurrency", "_host", "_now", "_queue", "_rules", "upstream")

    def __init__(self, upstream: Upstream, queue: str, concurrency: int, rules: UpstreamRules, now: Now) -> None:
        self.upstream = upstream
        self._queue = queue
        self._concurrency = concurrency
        self._rules = rules
        self._now = now
        self._host = b" HTTP/1.1\r\nhost: %b\r\n" % upstream.host

    @property
    def queue(self) -> str:
        """Return the queue of its jobs."""
        return self._queue

    @property
    def url(self) -> str:
        """Return the upstream's URL."""
        return self.upstream.url

    @property
    def concurrency(self) -> int:
        """Return how many requests the upstream gets at once."""
        return self._concurrency

    @property
    def lease_rules(self) -> UpstreamRules:
        """Return the lease rules of the upstream."""
        return self._rules

    def _unsendable(self, lease: Lease, why: str) -> OutboundRequest:
        fault = f"the job holds no recorded request that can be sent: {why}"
        return OutboundRequest(b"", b"", self.upstream.timeout_s, lease.job_id, fault=fault)

    def request(self, lease: Lease) -> OutboundRequest:
        """Return the recorded request with the upstream's `Host`, or one with a fault where the job holds none."""
        try:
            recorded = decode_request(lease.fields.get(b"data", b""))
        except ValueError as exc:
            return self._unsendable(lease, str(exc))
        method = recorded.method.encode("ascii")
        target = self.upstream.forwarded(recorded.target.encode("latin-1"))
        head = b"%b %b%b%b" % (method, target, self._host, header_lines(recorded.headers))
        if len(head) > self._rules.max_head_bytes:
            return self._unsendable(lease, f"its head has more than {self._rules.max_head_bytes} bytes")
        key = ""
        if self._rules.cached:
            url = self.upstream.origin.encode() + target
            key = cache_key(method, url, recorded.own_headers, recorded.body, self.upstream.cache_key_excludes)
        return OutboundRequest(
            head,
            recorded.body,
            recorded.timeout_s or self.upstream.timeout_s,
            lease.job_id,
            framed=True,
            head_only=recorded.method == "HEAD",
            cache_key=key,
        )

    def judge(self, lease: Lease, outcome: Outcome, random: RandomSource) -> Verdict:
        """Complete the job on any answer except those of `retry_on`; without an answer the attempt has failed."""
        match outcome:
            case Answered():
                return self._answered(lease, outcome)
            case TimedOut(phase="connect"):
                reason = "no connection to the upstream could be made in time"
            case TimedOut():
                reason = f"the upstream did not answer within {round(outcome.duration_s, 2):g} s"
            case ConnectFailed():
                reason = f"no connection to the upstream could be made: {outcome.code}"
            case CutOff(code="EINVAL"):
                return Fail(outcome.detail, f"Error: {outcome.detail}")
            case CutOff(code="EBLOBS"):
                reason = f"the upstream's answer could not be kept: {outcome.detail}"
            case CutOff(code="ERR_TLS"):
                reason = f"the upstream has ended TLS: {outcome.code}"
            case CutOff(code="ERR_TRANSFER_CODING"):
                reason = f"the upstream's answer cannot be given back: {outcome.detail}"
            case CutOff():
                reason = f"the upstream's answer was cut off: {outcome.code}"
            case Replied():
                raise TypeError("an upstream answers; only a socket replies")
            case _:
                assert_never(outcome)
        detail = "" if isinstance(outcome, TimedOut) or outcome.detail in reason else f"\n    {outcome.detail}"
        return self._failed(lease, reason, self._trace(lease, reason) + detail)

    def _answered(self, lease: Lease, answer: Answered) -> Verdict:
        if not 200 <= answer.status <= 599:
            reason = f"the upstream's answer has the status {answer.status}, which cannot be passed on"
            return self._failed(lease, reason, self._trace(lease, reason))
        if answer.status in self.upstream.retry_on and lease.attempt <= self.upstream.max_retries:
            hint = read_hint(answer, self._now(), MAX_RETRY_AFTER_MS)
            reason = f"the upstream answered {answer.status}"
            own_ms = self._backoff_ms(lease.attempt)
            after_ms = own_ms if hint.instead_ms is None else hint.instead_ms
            return Retry(max(after_ms, hint.least_ms), reason, self._trace(lease, reason))
        size = len(answer.body) if answer.blob is None else answer.blob.size_bytes
        recorded = RecordedResponse(
            status=answer.status,
            reason=answer.reason if is_header_value(answer.reason.encode("latin-1")) else "",
            headers=answer.headers,
            body=answer.body,
            blob=answer.blob,
        )
        summary = msgspec.json.encode({"status": answer.status, "bytes": size})
        return Complete(summary, (RESPONSE_FIELD, encode_response(recorded)))

    def _failed(self, lease: Lease, reason: str, trace: str) -> Retry | Fail:
        if lease.attempt > self.upstream.max_retries:
            return Fail(reason, trace)
        return Retry(self._backoff_ms(lease.attempt), reason, trace)

    def _backoff_ms(self, attempt: int) -> int:
        """Return the configured delay, by default n⁴ seconds after the n-th attempt."""
        delay_s = self.upstream.retry_delay_s or min(float(attempt) ** 4, LONGEST_BACKOFF_S)
        return round(delay_s * 1000)

    def _trace(self, lease: Lease, reason: str) -> str:
        name = lease.fields.get(b"name", b"").decode(errors="replace")
        return f"Error: {reason}\n    at {self.upstream.origin}: {name}, attempt {lease.attempt}"
