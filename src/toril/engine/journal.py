"""A delivery's attempts in the ledger: begun before they are made, ended before their job moves in the queue.

Makes the ledger's changes and prepares what is sent. Must never settle a job; the delivery executor does, by what comes
back from here.
"""

from __future__ import annotations

import itertools

from msgspec.structs import replace

from toril.core.blob import StreamedBody
from toril.core.delivery import (
    AttemptOutcome,
    Begin,
    Begun,
    Content,
    DeadLettered,
    Delivered,
    End,
    Inline,
    PutBack,
    RecordedResponse,
    Refused,
    RetryAt,
    Settlement,
    Stored,
    Written,
    folder_of,
)
from toril.core.destinations.target import Target, asked_to_wait_s, describe
from toril.core.errors import BlobsUnavailable
from toril.core.journal_entry import Entry
from toril.core.lease import Lease
from toril.core.lifecycle import TERMINAL, Status
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, Replied, TimedOut
from toril.core.ports.bodies import Bodies
from toril.core.ports.ledger import AnyLedger
from toril.core.ports.shared import Now
from toril.core.verdict import Complete, DeadLetter, Fail, Retry, Snooze
from toril.core.verdict import Settlement as Verdict

_AT_HAND_BYTES = 1024 * 1024
"""Larger bodies are read from the store while they are sent."""


class Journal:
    """The attempts of one target's jobs.

    Args:
        ledger: where they are recorded.
        bodies: gives back the bodies of envelopes, and keeps those of answers.
        target: whose they are; its policy is read anew each time.
        by: who makes the attempts, for the record.
        lease_s: how long after an attempt must have ended whoever made it is taken for lost.
        now: the wall clock.
    """

    def __init__(self, ledger: AnyLedger, bodies: Bodies, target: Target, *, by: str, lease_s: float, now: Now) -> None:
        self._ledger = ledger
        self._bodies = bodies
        self._target = target
        self._by = by
        self._lease_s = lease_s
        self._now = now
        self._begun = itertools.count(1)
        self._folder = ""

    def token(self, lease: Lease) -> str:
        """A name for an attempt that no other one has."""
        return f"{lease.token.decode()}.{next(self._begun)}"

    async def begin(self, lease: Lease, token: str) -> Begun | Refused:
        """Commit that the attempt begins. May be called again with the same token. Raises `LedgerUnavailable`."""
        now_s = self._now()
        until_s = now_s + self._target.spec.timeout.total_s + self._lease_s
        job_id = lease.job_id.decode(errors="replace")
        begun = await self._ledger.begin(
            Begin(job_id=job_id, token=token, by=self._by, at_s=now_s, lease_until_s=until_s)
        )
        self._folder = folder_of(await self._ledger.identity())
        return begun

    async def prepare(self, lease: Lease, begun: Begun) -> None:
        """Put what the request is made of at the lease. Raises `BlobsUnavailable` and `BlobLost`."""
        body = await self._body(begun.envelope.content)
        signer = self._target.signer(begun.delivery.job_id)
        if signer is not None and isinstance(body, StreamedBody):
            # The signature goes ahead of the body, so it is read twice and held never.
            async for piece in body.open():
                signer.update(piece)
        elif signer is not None and isinstance(body, bytes):
            signer.update(body)
        lease.entry = Entry(begun, body, b"" if signer is None else signer.headers())

    async def _body(self, content: Content | None) -> bytes | StreamedBody | None:
        match content:
            case None:
                return None
            case Inline(data=data):
                return data
            case Stored(size_bytes=size_bytes) if size_bytes > _AT_HAND_BYTES:
                return StreamedBody(size_bytes, lambda: self._bodies.stream(content))
            case Stored():
                return await self._bodies.whole(content)

    async def ending(self, begun: Begun, outcome: Outcome, verdict: Verdict) -> End:
        """The change that records what came of an attempt. The answer's body is kept first."""
        now_s = self._now()
        error = describe(outcome, self._target.spec.timeout.total_s)
        good = isinstance(verdict, Complete)
        return End(
            job_id=begun.delivery.job_id,
            number=begun.delivery.attempts_begun,
            by=self._by,
            at_s=now_s,
            settlement=_settlement(verdict, now_s),
            outcome=_outcome(outcome),
            duration_s=outcome.duration_s,
            status_code=outcome.status if isinstance(outcome, Answered) else None,
            error=None if good else error,
            retry_after_s=asked_to_wait_s(outcome, now_s),
            response=await self._response(begun, outcome) if isinstance(outcome, Answered) else None,
            max_attempts=self._target.spec.retry.max_attempts,
        )

    def without_answer(self, change: End) -> End:
        """The same end without what a target may have put into it: less is known of it, but it is known."""
        error = None if change.error is None else "The ledger refused to record what went wrong"
        return replace(change, response=None, error=error)

    def unmade(self, begun: Begun, settlement: Settlement, error: str, started_at_s: float) -> End:
        """The change that records an attempt that came to no request."""
        now_s = self._now()
        return End(
            job_id=begun.delivery.job_id,
            number=begun.delivery.attempts_begun,
            by=self._by,
            at_s=now_s,
            settlement=settlement,
            outcome=AttemptOutcome.CANCELLED,
            duration_s=max(0.0, now_s - started_at_s),
            error=error,
        )

    def given_back(self, begun: Begun) -> End:
        """The change that records an attempt that was broken off because its worker ends."""
        started_at_s = begun.delivery.started_at_s
        return self.unmade(
            begun,
            PutBack(reason="given back"),
            "broken off: the worker ends",
            self._now() if started_at_s is None else started_at_s,
        )

    async def end(self, change: End, verdict: Verdict) -> Verdict | None:
        """Commit what came of an attempt; what its job is to come to now, None for being given back.

        May be called again with the same change. Raises `LedgerUnavailable`.
        """
        match await self._ledger.end(change):
            case Written(delivery=delivery) if delivery.status is Status.CANCELLED:
                return Complete(b"null")  # it leaves the queue
            case Written():
                return verdict
            case Refused(delivery=delivery) if delivery is not None and delivery.status in TERMINAL:
                return Complete(b"null")
            case Refused():
                # The attempt was taken for lost, and another one may be made; or the ledger was exchanged meanwhile.
                return None

    async def _response(self, begun: Begun, answer: Answered) -> RecordedResponse:
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers)
        content, truncated = await self._content(begun, answer)
        return RecordedResponse(status=answer.status, headers=headers, content=content, truncated=truncated)

    async def _content(self, begun: Begun, answer: Answered) -> tuple[Content, bool]:
        limit = self._bodies.threshold_bytes
        part = f"response-{begun.delivery.attempts_begun}"
        try:
            kept = await self._bodies.keep(self._folder, begun.delivery.job_id, part, answer.body)
        except BlobsUnavailable:
            # What came of the attempt counts for more than the whole of its answer.
            return Inline(answer.body[:limit]), True
        if not isinstance(kept, bytes):
            return Stored(kept.name, kept.size_bytes), answer.truncated
        return Inline(kept[:limit]), answer.truncated or len(kept) > limit


def _settlement(verdict: Verdict, now_s: float) -> Settlement:
    match verdict:
        case Complete():
            return Delivered()
        case Retry(after_ms=after_ms):
            return RetryAt(now_s + after_ms / 1000)
        case Snooze(after_ms=after_ms, reason=reason):
            return PutBack(now_s + after_ms / 1000, reason)
        case DeadLetter(reason=reason) | Fail(reason=reason):
            return DeadLettered(reason)


def _outcome(outcome: Outcome) -> AttemptOutcome:
    match outcome:
        case Answered() | Replied():
            return AttemptOutcome.ANSWERED
        case TimedOut():
            return AttemptOutcome.TIMEOUT
        case ConnectFailed(code="ERR_TLS"):
            return AttemptOutcome.TLS_ERROR
        case ConnectFailed(code="EGRESS_DENIED"):
            return AttemptOutcome.EGRESS_REFUSED
        case ConnectFailed():
            return AttemptOutcome.CONNECT_ERROR
        case CutOff():
            return AttemptOutcome.CUT_OFF
