"""A delivery's target: gets the envelope as it was posted, and answers for good, for now, or for never.

Which headers are added and what each answer means stands in wire/delivery.md ("What reaches the target"). The ledger's
row comes with the lease: this destination has a journal.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import assert_never
from urllib.parse import quote, urlsplit

from toril.core.access import RateLimit
from toril.core.backoff import wait_s
from toril.core.blob import StreamedBody
from toril.core.delivery import DEADLINE, queue_of
from toril.core.destinations.base import Chance, OutboundRequest
from toril.core.headers import request_head
from toril.core.journal_entry import Entry, entry_of
from toril.core.lease import Lease
from toril.core.limiter import Limiter
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, Replied, TimedOut
from toril.core.ports.shared import Now
from toril.core.retry_hint import retry_after_ms
from toril.core.signing import Signer
from toril.core.stored_job import Keep
from toril.core.target import TargetAuth, TargetSpec
from toril.core.verdict import Complete, DeadLetter, Retry, Settlement

ATTEMPTS = "attempts"
"""The reason of what is dead-lettered because its attempts are used up."""

REFUSED = "refused"
"""The reason of what is dead-lettered because the target answered so."""

_URL_SAFE = "!#$%&'()*+,/:;=?@[]~"
_NOTHING = b"null"
# The ledger says what becomes of a job, so no number of stalls makes it fail.
_NEVER = 2**31


class TargetRules:
    """How a target's jobs are leased: under its rate limit, and gone from Redis when they are over."""

    __slots__ = ("keep_completed", "keep_failed", "limiter", "max_stalled_count")

    def __init__(self, rate_limit: RateLimit | None) -> None:
        self.limiter = None if rate_limit is None else Limiter(rate_limit.max, max(1, round(rate_limit.per_s * 1000)))
        self.max_stalled_count = _NEVER
        self.keep_completed = Keep(0)
        self.keep_failed = Keep(0)


class Target:
    """Sends the deliveries of one target. `spec` may be replaced by another one with the same URL (`renew`)."""

    __slots__ = ("_auth", "_base", "_host", "_now", "_query", "lease_rules", "queue", "spec")

    def __init__(self, spec: TargetSpec, now: Now) -> None:
        parts = urlsplit(spec.url)
        self._base = quote(parts.path, safe=_URL_SAFE).encode()
        self._query = quote(parts.query, safe=_URL_SAFE).encode()
        host = parts.netloc
        self._host = host.encode("idna" if not host.isascii() else "ascii")
        self._now = now
        self.queue = queue_of(spec.name)
        self.renew(spec)

    def renew(self, spec: TargetSpec) -> None:
        """From the next attempt or verdict on, this policy and these secrets count."""
        self.spec = spec
        self._auth = auth_headers(spec.auth)
        self.lease_rules = TargetRules(spec.rate_limit)

    @property
    def url(self) -> str:
        """The URL of its origin."""
        return self.spec.url

    @property
    def concurrency(self) -> int:
        """How many attempts may be under way at once."""
        return self.spec.concurrency

    def request(self, lease: Lease) -> OutboundRequest:
        """The envelope's request, with toril's own headers, the target's auth, and signed if the target wants that.

        The journal has put row, body and signature at the lease.
        """
        entry = _entry(lease)
        delivery, envelope, body = entry.begun.delivery, entry.begun.envelope, entry.body
        reserved = self.spec.auth.reserved
        headers = [
            (name.encode(), value.encode("latin-1")) for name, value in envelope.headers if name.lower() not in reserved
        ]
        key = delivery.idempotency_key or delivery.job_id
        headers += [
            (b"toril-job-id", delivery.job_id.encode()),
            (b"toril-attempt", b"%d" % delivery.attempts_begun),
            (b"idempotency-key", key.encode()),
            *self._auth,
        ]
        method = envelope.method.encode()
        head = request_head(method, join(self._base, self._query, envelope.path), self._host, headers)
        head += entry.signature
        if body is not None:
            head += b"content-length: %d\r\n" % (len(body) if isinstance(body, bytes) else body.size_bytes)
        return OutboundRequest(
            head,
            body if isinstance(body, bytes) else b"",
            self.spec.timeout.total_s,
            lease.job_id,
            framed=True,
            head_only=method == b"HEAD",
            stream=body if isinstance(body, StreamedBody) else None,
        )

    def signer(self, job_id: str) -> Signer | None:
        """Signs an attempt that is made now; None where the target wants no signature."""
        if self.spec.signing is None:
            return None
        # The same id on every attempt, so that a receiver can tell which ones are repetitions.
        return Signer(self.spec.signing.secrets, job_id.encode(), int(self._now()))

    def judge(self, lease: Lease, outcome: Outcome, chance: Chance) -> Settlement:
        """2xx is delivered; the policy says which other answers are final; all else is tried again while it may be."""
        error = describe(outcome, self.spec.timeout.total_s)
        match outcome:
            case Answered(status=status) if 200 <= status < 300:
                return Complete(_NOTHING)
            case Answered(status=status) if not self.spec.retry.again(status):
                return DeadLetter(REFUSED, error)
            case Answered() | TimedOut() | ConnectFailed() | CutOff():
                return self._again(lease, outcome, error, chance)
            case Replied():
                raise TypeError("an HTTP endpoint answers; only a socket replies")
            case _:
                assert_never(outcome)

    def _again(self, lease: Lease, outcome: Outcome, error: str, chance: Chance) -> Settlement:
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


def _entry(lease: Lease) -> Entry:
    entry = entry_of(lease)
    if entry is None:
        raise TypeError("a delivery's attempt is made only once the ledger has it")
    return entry


def join(base: bytes, query: bytes, path: str | None) -> bytes:
    """The request target: a target's own path and query, and an envelope's path with its query behind it.

    Path and path are joined by exactly one slash, the one that `path` begins with, and otherwise left as they are; the
    target's own query comes first.
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
    """The header that says who we are; none where the scheme sets none."""
    match auth.scheme:
        case "bearer":
            return [(b"authorization", b"Bearer " + auth.secret.encode())]
        case "basic":
            return [(b"authorization", b"Basic " + base64.b64encode(auth.secret.encode()))]
        case "header":
            return [((auth.header or "").encode(), auth.secret.encode())]
        case "none" | "passthrough":
            return []
        case _:
            assert_never(auth.scheme)


def asked_to_wait_s(outcome: Outcome, now_s: float) -> float | None:
    """How long an answer's `Retry-After` asks us to stay away; None where it says nothing of use."""
    value = outcome.header(b"retry-after") if isinstance(outcome, Answered) else None
    wanted_ms = None if value is None else retry_after_ms(value, now_s)
    return None if wanted_ms is None else wanted_ms / 1000


def describe(outcome: Outcome, total_s: float) -> str:
    """What happened, in a line."""
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
