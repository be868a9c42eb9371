"""A worker on a WebSocket: what it is sent of a job, and how its reply is judged."""

from __future__ import annotations

import math
from typing import assert_never

from msgspec import Struct

from toril.core.destination import DEFAULT_RULES, DefaultRules, OutboundRequest, RandomSource
from toril.core.failed_attempt import attempt_failed, worker_failed
from toril.core.http.headers import header_lines
from toril.core.http.trace_context import headers_in, stored_headers
from toril.core.lease import Lease, held_job, in_trace
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, Replied, TimedOut
from toril.core.stored_job import json_or_text
from toril.core.verdict import Complete, Verdict


class SocketWorker(Struct, frozen=True):
    """One socket that consumes a queue.

    `qualified` is BullMQ's name of the queue as a JSON string. `whole` sends the whole job with its lock token
    instead of its data alone. Without `timeout_s` a job may take as long as it likes. A job whose worker vanishes more
    than `max_stalled_count` times fails.
    """

    queue: str
    concurrency: int
    qualified: bytes
    whole: bool = False
    timeout_s: float = math.inf
    max_stalled_count: int = DEFAULT_RULES.max_stalled_count

    @property
    def url(self) -> str:
        """Return no URL: the worker has connected to us."""
        return ""

    @property
    def lease_rules(self) -> DefaultRules:
        """Return BullMQ's defaults, with the worker's number of stalls."""
        return DefaultRules(max_stalled_count=self.max_stalled_count)

    def request(self, lease: Lease) -> OutboundRequest:
        """Return the job's data as stored, or `{"job": <job JSON>, "token": "<lock>"}`.

        The head has the lines of the trace context, which go to a worker that gets the whole job (`payload_of`).
        """
        if not self.whole:
            body = json_or_text(lease.fields.get(b"data") or b"{}")
            return OutboundRequest(b"", body, self.timeout_s, lease.job_id)
        trace = lease.options.trace
        head = header_lines(stored_headers(trace)) if trace else b""
        return OutboundRequest(head, held_job(self.qualified, lease), self.timeout_s, lease.job_id)

    def payload_of(self, request: OutboundRequest) -> bytes:
        """Return what the worker is sent of a request: BullMQ Proxy's workers get the data and nothing else."""
        if not (self.whole and request.head):
            return request.body
        return in_trace(request.body, headers_in(request.head))

    def judge(self, lease: Lease, outcome: Outcome, random: RandomSource) -> Verdict:
        """Complete the job with a result, or do what the worker asks for; anything else fails the attempt, which is
        retried while the job's options allow it.
        """
        match outcome:
            case Replied(asks=asks) if asks is not None:
                return asks
            case Replied(error=None):
                return Complete(outcome.result)
            case Replied(error=error) if error is not None:
                return worker_failed(lease, error, random)
            case TimedOut():
                reason = "Timeout"
            case CutOff() | ConnectFailed():
                reason = "Connection closed"
            case Answered() | Replied():
                raise TypeError("a socket replies; only an HTTP endpoint answers")
            case _:
                assert_never(outcome)
        trace = f"Error: {reason}\n    at a worker on a socket\n    after {outcome.duration_s * 1000:.0f} ms"
        return attempt_failed(lease, reason, trace, random)
