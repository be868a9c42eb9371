"""A delivery's target as a destination: the request to make of an envelope, and the verdict on each outcome.

wire/delivery.md ("What reaches the target") says which headers are added and what each answer means. The journal has
attached the ledger's row to the lease.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import assert_never
from urllib.parse import quote, urlsplit

from toril.core.access import RateLimit
from toril.core.blob import StreamedBody
from toril.core.destination import Limiter, OutboundRequest, RandomSource
from toril.core.group_limits import GroupDefault
from toril.core.http.headers import header_lines, request_head
from toril.core.http.retry_hint import HOLDING, retry_after_ms
from toril.core.http.signing import Signer
from toril.core.lease import Lease
from toril.core.outcome import BODY_UNREADABLE, Answered, ConnectFailed, CutOff, Outcome, Replied, TimedOut
from toril.core.ports import Now
from toril.core.stored_job import Keep
from toril.core.verdict import Complete, DeadLetter, Retry, Settlement
from toril.delivery.rules.decisions import DEADLINE
from toril.delivery.rules.delivery import Envelope, queue_of
from toril.delivery.rules.journal_entry import JournalEntry, entry_of
from toril.delivery.rules.retry_policy import wait_s
from toril.delivery.rules.target import TargetAuth, TargetSpec

ATTEMPTS = "attempts"
"""The reason of a dead letter whose attempts are used up."""

REFUSED = "refused"
"""The reason of a dead letter that the target refused."""

_URL_SAFE = "!#$%&'()*+,/:;=?@[]~"
_NOTHING = b"null"
# The ledger decides what becomes of a job, so no number of stalls makes it fail.
_NEVER = 2**31
# So many heads are kept for each target, up to this size.
_HEADS = 32
_HEAD_BYTES = 2048


class TargetRules:
    """How a target's jobs are leased: under its rate limit, and removed from Redis when they have ended."""

    __slots__ = ("group", "keep_completed", "keep_failed", "limiter", "max_stalled_count")

    def __init__(self, rate_limit: RateLimit | None, group: GroupDefault | None = None) -> None:
        self.limiter = None if rate_limit is None else Limiter(rate_limit.max, max(1, round(rate_limit.per_s * 1000)))
        self.max_stalled_count = _NEVER
        self.keep_completed = Keep(0)
        self.keep_failed = Keep(0)
        self.group = group


class Target:
    """Makes the requests of one target's deliveries. `renew` replaces `spec` by another one with the same URL."""

    __slots__ = (
        "_auth", "_base", "_heads", "_host", "_identifies_events", "_now", "_query", "lease_rules", "queue", "spec",
    )  # fmt: skip

    def __init__(self, spec: TargetSpec, now: Now, *, identifies_events: bool = False) -> None:
        parts = urlsplit(spec.url)
        self._base = quote(parts.path, safe=_URL_SAFE).encode()
        self._query = quote(parts.query, safe=_URL_SAFE).encode()
        host = parts.netloc
        self._host = host.encode("idna" if not host.isascii() else "ascii")
        self._now = now
        self._identifies_events = identifies_events
        self.queue = queue_of(spec.name)
        self.renew(spec)

    def renew(self, spec: TargetSpec) -> None:
        """Use this policy and these secrets from the next attempt or verdict on."""
        self.spec = spec
        self._auth = header_lines(auth_headers(spec.auth))
        # What most envelopes have in common, by method, path and headers: their part of the head.
        self._heads: dict[tuple[object, ...], bytes] = {}
        self.lease_rules = TargetRules(spec.rate_limit, spec.group)

    @property
    def url(self) -> str:
        """The URL of its origin."""
        return self.spec.url

    @property
    def concurrency(self) -> int:
        """How many attempts may be under way at once."""
        return self.spec.concurrency

    def request(self, lease: Lease) -> OutboundRequest:
        """Return the envelope's request with toril's own headers, the target's auth, and its signature if there is one.

        The journal has attached row, body and signature to the lease.
        """
        return self.request_of(_entry(lease))

    def request_of(self, entry: JournalEntry) -> OutboundRequest:
        """Return the request of an attempt."""
        delivery, envelope, body = entry.begun.delivery, entry.begun.envelope, entry.body
        job_id = delivery.job_id.encode()
        head = b"%btoril-job-id: %b\r\ntoril-attempt: %d\r\nidempotency-key: %b\r\n%b%b" % (
            self._head(envelope), job_id, delivery.attempts_begun, delivery.sent_key.encode(), self._auth,
            entry.signature,
        )  # fmt: skip
        if self._identifies_events and not entry.signature:
            head += b"webhook-id: %b\r\nwebhook-timestamp: %d\r\n" % (job_id, self._now())
        if body is not None:
            head += b"content-length: %d\r\n" % (len(body) if isinstance(body, bytes) else body.size_bytes)
        return OutboundRequest(
            head,
            body if isinstance(body, bytes) else b"",
            self.spec.timeout.total_s,
            job_id,
            framed=True,
            head_only=envelope.method == "HEAD",
            stream=body if isinstance(body, StreamedBody) else None,
        )

    def knows(self, envelope: Envelope) -> bool:
        """Return True if a request with the method, the path and the headers of this envelope was made lately."""
        return (envelope.method, envelope.path, envelope.headers) in self._heads

    def _head(self, envelope: Envelope) -> bytes:
        """Return the request line and the headers of an envelope."""
        key = (envelope.method, envelope.path, envelope.headers)
        head = self._heads.get(key)
        if head is None:
            reserved = self.spec.auth.reserved
            headers = [
                (name.encode(), value.encode("latin-1"))
                for name, value in envelope.headers
                if name.lower() not in reserved
            ]
            path = join(self._base, self._query, envelope.path)
            head = request_head(envelope.method.encode(), path, self._host, headers)
            if len(self._heads) >= _HEADS:
                self._heads.clear()
            if len(head) <= _HEAD_BYTES:
                self._heads[key] = head
        return head

    def signer(self, job_id: str) -> Signer | None:
        """Return a signer for an attempt that is made now; None if the target wants no signature."""
        if self.spec.signing is None:
            return None
        # The same id on every attempt, so that a receiver can tell which ones are repetitions.
        return Signer(self.spec.signing.secrets, job_id.encode(), int(self._now()))

    def judge(self, lease: Lease, outcome: Outcome, chance: RandomSource) -> Settlement:
        """Judge an outcome: 2xx is delivered, the policy says which other answers are final, all else is retried."""
        if isinstance(outcome, Answered) and 200 <= outcome.status < 300:
            return Complete(_NOTHING)
        error = describe(outcome, self.spec.timeout.total_s)
        match outcome:
            case Answered(status=status) if not self.spec.retry.again(status):
                return DeadLetter(REFUSED, error)
            case Answered() | TimedOut() | ConnectFailed() | CutOff():
                return self._again(lease, outcome, error, chance)
            case Replied():
                raise TypeError("an HTTP endpoint answers; only a socket replies")
            case _:
                assert_never(outcome)

    def failing(self, outcome: Outcome) -> bool:
        """Return True if an outcome is a failure of the target: one to retry, whether or not attempts are left."""
        match outcome:
            case Answered(status=status):
                return not 200 <= status < 300 and self.spec.retry.again(status)
            case CutOff(code=code):
                return code != BODY_UNREADABLE  # the fault is ours
            case ConnectFailed(exhausted=exhausted):
                return not exhausted
            case TimedOut() | Replied():
                return True
            case _:
                assert_never(outcome)

    def hold_s(self, outcome: Outcome) -> float:
        """Return for how long an answer holds the whole target: 429 or 503 with `Retry-After`, up to `retry.max`."""
        if not isinstance(outcome, Answered) or outcome.status not in HOLDING:
            return 0.0
        return min(asked_to_wait_s(outcome, self._now()) or 0.0, self.spec.retry.max_s)

    def _again(self, lease: Lease, outcome: Outcome, error: str, chance: RandomSource) -> Settlement:
        policy, delivery = self.spec.retry, _entry(lease).begun.delivery
        spent = delivery.attempts_made + 1
        if spent >= policy.max_attempts:
            return DeadLetter(ATTEMPTS, error)
        now_s = self._now()
        after_s = wait_s(policy, spent, chance)
        hint_s = asked_to_wait_s(outcome, now_s)
        if hint_s is not None:
            after_s = max(after_s, min(hint_s, policy.max_s))
        if delivery.deadline_s is not None and delivery.deadline_s <= now_s + after_s:
            return DeadLetter(DEADLINE, error)
        return Retry(max(0, round(after_s * 1000)), error, error)


def _entry(lease: Lease) -> JournalEntry:
    entry = entry_of(lease)
    if entry is None:
        raise TypeError("a delivery's attempt is made only once the ledger has it")
    return entry


def join(base: bytes, query: bytes, path: str | None) -> bytes:
    """Return the request target: the target's path and query, joined with those of the envelope.

    The paths are joined by exactly one slash, the one that `path` begins with, and are otherwise unchanged; the
    target's query comes first.
    """
    if path is None:
        whole, added = base, b""
    else:
        before, _, after = path.encode().partition(b"?")
        whole = base.rstrip(b"/") + before if before else base
        added = after
    queries = b"&".join(part for part in (query, added) if part)
    if not queries and path is not None and path.endswith("?"):
        return (whole or b"/") + b"?"
    return (whole or b"/") + (b"?" + queries if queries else b"")


def auth_headers(auth: TargetAuth) -> Sequence[tuple[bytes, bytes]]:
    """Return the header that authenticates toril at the target; none if the scheme sets none."""
    match auth.scheme:
        case "bearer":
            return [(b"authorization", b"Bearer " + auth.secret.encode())]
        case "basic":
            return [(b"authorization", b"Basic " + base64.b64encode(auth.secret.encode()))]
        case "header":
            return [((auth.header or "").encode(), auth.secret.encode())]
        case "none" | "passthrough" | "oauth2":
            return []  # an access token is put in when the request is sent
        case _:
            assert_never(auth.scheme)


def asked_to_wait_s(outcome: Outcome, now_s: float) -> float | None:
    """Return how long an answer's `Retry-After` asks to wait; None if there is none, or a useless one."""
    value = outcome.header(b"retry-after") if isinstance(outcome, Answered) else None
    wanted_ms = None if value is None else retry_after_ms(value, now_s)
    return None if wanted_ms is None else wanted_ms / 1000


def describe(outcome: Outcome, total_s: float) -> str:
    """Return a line that describes an outcome."""
    match outcome:
        case Answered():
            return f"HTTP {outcome.status} {outcome.reason}".rstrip()
        case TimedOut():
            return f"no whole answer within {total_s:g}s (waiting for: {outcome.phase})"
        case ConnectFailed() | CutOff():
            return f"{outcome.code}: {outcome.detail}"
        case Replied():
            return "replied over a socket"
        case _:
            assert_never(outcome)
