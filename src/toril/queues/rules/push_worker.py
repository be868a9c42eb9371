"""A registered worker's endpoint: it is sent `{job, token}`, and a 2xx answer completes the job with its body.

The shapes and texts are BullMQ Proxy's (wire/bullmq-proxy.md, "Push").
"""

from __future__ import annotations

from typing import assert_never
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Raw

from toril.core.destination import OutboundRequest, RandomSource
from toril.core.failed_attempt import attempt_failed
from toril.core.http.headers import header_lines, request_head
from toril.core.http.retry_hint import HOLDING, read_hint
from toril.core.http.signing import message_id, signature_headers
from toril.core.http.trace_context import stored_headers
from toril.core.lease import Lease, held_job
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, Replied, TimedOut
from toril.core.ports import Now
from toril.core.stored_job import integer_json, text_json
from toril.core.verdict import Complete, Fail, Retry, Verdict
from toril.queues.rules.handover import read_handover
from toril.queues.rules.worker import WorkerSpec

EXCERPT_BYTES = 512
_LOCATION_BYTES = 200
_is_json = msgspec.json.Decoder(Raw).decode
_URL_SAFE = "!#$%&'()*+,/:;=?@[]~"


class PushWorker:
    """Sends the jobs of one queue to the endpoint of a `WorkerSpec`. `prefix` is that of BullMQ's keys."""

    __slots__ = ("_given", "_head", "_name", "_now", "_qualified", "_secrets", "_shown", "spec")

    def __init__(self, spec: WorkerSpec, prefix: str, agent: str, now: Now) -> None:
        self.spec = spec
        self._now = now
        self._secrets = spec.policy.secrets if spec.policy is not None else ()
        endpoint = spec.endpoint
        parts = urlsplit(endpoint.url)
        path = quote(parts.path or "/", safe=_URL_SAFE)
        target = f"{path}?{quote(parts.query, safe=_URL_SAFE)}" if parts.query else path
        headers = [(name.encode(), value.encode("latin-1")) for name, value in endpoint.headers]
        self._given = given = frozenset(name.lower() for name, _ in headers)
        defaults = ((b"accept", b"*/*"), (b"accept-encoding", b"identity"), (b"user-agent", agent.encode()))
        headers += [pair for pair in defaults if pair[0] not in given]
        host = parts.netloc.encode("idna" if not parts.netloc.isascii() else "ascii")
        self._head = request_head(endpoint.method.encode(), target.encode(), host, headers)
        self._name = f"{prefix}:{spec.queue}".encode()
        self._qualified = text_json(self._name)
        self._shown = f"{endpoint.method} {endpoint.url}"

    @property
    def queue(self) -> str:
        """Return the queue of its jobs."""
        return self.spec.queue

    @property
    def url(self) -> str:
        """Return the endpoint's URL."""
        return self.spec.endpoint.url

    @property
    def concurrency(self) -> int:
        """Return how many jobs the endpoint gets at once."""
        return self.spec.concurrency

    @property
    def lease_rules(self) -> WorkerSpec:
        """Return the worker's settings."""
        return self.spec

    def request(self, lease: Lease) -> OutboundRequest:
        """Return `{"job": <job JSON>, "token": "<lock>"}` with the registered headers, signed if there are secrets.

        The trace context of the job comes with it, unless the registered headers have one.
        """
        return self.carrying(held_job(self._qualified, lease), lease)

    def carrying(self, body: bytes, lease: Lease) -> OutboundRequest:
        """Return the request with this body; of the lease, the job's id and its `timestamp` are needed."""
        head = self._head
        if lease.options.trace:
            head += header_lines(stored_headers(lease.options.trace, self._given))
        if self._secrets:
            message = message_id(self._name, lease.job_id, integer_json(lease.fields.get(b"timestamp")))
            head += signature_headers(self._secrets, message, int(self._now()), body)
        return OutboundRequest(head, body, self.spec.endpoint.timeout_s, unpacks=True)

    def judge(self, lease: Lease, outcome: Outcome, random: RandomSource) -> Verdict:
        """Complete the job, or hand it over, on 2xx; anything else fails the attempt, as job and policy say."""
        match outcome:
            case Answered(status=202) if (handover := read_handover(outcome)) is not None:
                return handover
            case Answered(status=status) if 200 <= status < 300:
                returnvalue, fault = returned(outcome)
                if fault is None:
                    return Complete(returnvalue)
                return attempt_failed(lease, fault, self._answer_trace(fault, outcome), random)
            case Answered():
                return self._refused(lease, outcome, random)
            case TimedOut():
                reason = "The operation was aborted."
                limit_ms = self.spec.endpoint.timeout_s * 1000
                detail = f"no whole answer within {limit_ms:.0f} ms (waiting for: {outcome.phase})"
            case ConnectFailed():
                reason = f"{outcome.code}: Unable to connect. {outcome.detail}"
                detail = "no connection was made"
            case CutOff():
                reason = f"{outcome.code}: {outcome.detail}"
                detail = "no whole answer"
            case Replied():
                raise TypeError("an HTTP endpoint answers; only a socket replies")
            case _:
                assert_never(outcome)
        trace = f"Error: {reason}\n    at {self._shown}\n    {detail}, after {outcome.duration_s * 1000:.0f} ms"
        return attempt_failed(lease, reason, trace, random)

    def _refused(self, lease: Lease, answer: Answered, random: RandomSource) -> Retry | Fail:
        policy = self.spec.policy
        most_ms = policy.max_retry_after_ms if policy is not None and policy.retry_after else None
        hint = read_hint(answer, self._now(), most_ms)
        if policy is not None and policy.is_final(answer.status):
            note = f"the worker's policy fails the job on {answer.status}"
            trace = self._answer_trace(answer.reason, answer, *_unfollowed(answer), note)
            verdict: Retry | Fail = Fail(answer.reason, trace)
        else:
            trace = self._answer_trace(answer.reason, answer, *_unfollowed(answer), *hint.notes)
            verdict = attempt_failed(lease, answer.reason, trace, random, hint)
        if answer.status in HOLDING:
            verdict.hold_ms = hint.least_ms
        return verdict

    def _answer_trace(self, reason: str, answer: Answered, *notes: str) -> str:
        excerpt = answer.unreadable or answer.body[:EXCERPT_BYTES].decode(errors="replace")
        more = "" if len(answer.body) <= EXCERPT_BYTES else f" … ({len(answer.body)} bytes in all)"
        noted = "".join(f"    {note}\n" for note in notes)
        return (
            f"Error: {reason}\n    at {self._shown}\n"
            f"    answered {f'{answer.status} {answer.reason}'.rstrip()} after {answer.duration_s * 1000:.0f} ms\n"
            f"{noted}    body: {excerpt}{more}"
        )


def _unfollowed(answer: Answered) -> tuple[str, ...]:
    """Return the note on a redirect. None is followed: it could lead where this worker could not be registered."""
    location = answer.header(b"location") if 300 <= answer.status < 400 else None
    if location is None:
        return ()
    shown = repr(location[:_LOCATION_BYTES].decode("latin-1"))
    return (f"redirects are not followed, this one leads to {shown}",)


def returned(answer: Answered) -> tuple[bytes, str | None]:
    """Return the result in a 2xx answer as JSON text, and what is wrong with it if it is not the JSON that it claims.

    An empty JSON body is null.
    """
    if answer.unreadable:
        return b"", answer.unreadable
    kind = answer.header(b"content-type") or b""
    if b"application/json" not in kind.lower() or answer.status == 204:
        return text_json(answer.body), None
    if not answer.body:
        return b"null", None
    body = answer.body.removeprefix(b"\xef\xbb\xbf").strip()
    if not body:
        return b"", "Unexpected end of JSON input"
    try:
        body.decode()
        _is_json(body)
    except UnicodeDecodeError as exc:
        return b"", f"JSON Parse error: not UTF-8 at byte {exc.start}"
    except (msgspec.DecodeError, RecursionError) as exc:
        return b"", f"JSON Parse error: {str(exc).removeprefix('JSON is malformed: ')}"
    return body, None
