"""Records attempts in the ledger: the begin before the request is made, the end before the job moves in its queue.

Also prepares the body and the signature of a request. Must never settle a job: the delivery executor does that, by what
is returned here.
"""

from __future__ import annotations

import itertools

from msgspec.structs import replace

from toril.core.blob import StreamedBody
from toril.core.errors import BlobsUnavailable
from toril.core.lease import Lease
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, Replied, TimedOut, failure_of_the_way
from toril.core.ports import Now
from toril.core.verdict import GONE, Complete, DeadLetter, Fail, Retry, Settlement, Snooze
from toril.delivery.ports import AnyLedger
from toril.delivery.rules.changes import (
    AttemptResult,
    Begin,
    Begun,
    DeadLettered,
    Delivered,
    End,
    PutBack,
    Refused,
    RetryAt,
    Written,
)
from toril.delivery.rules.delivery import AttemptOutcome, Content, Inline, Stored, TargetResponse, folder_of
from toril.delivery.rules.destination import Target, asked_to_wait_s, describe
from toril.delivery.rules.journal_entry import JournalEntry
from toril.delivery.rules.lifecycle import TERMINAL, Status
from toril.payloads.payload_offload import PayloadOffload

_AT_HAND_BYTES = 1024 * 1024
"""A larger body is read from the store while it is sent."""


class Journal:
    """Records the attempts of one target.

    Args:
        ledger: has the deliveries.
        bodies: returns the bodies of envelopes, and keeps those of answers.
        target: whose attempts these are; its policy is read each time.
        by: the name of this instance in histories.
        lease_s: how long after its longest duration an attempt without an end counts as lost.
        now: the wall clock.
    """

    def __init__(
        self, ledger: AnyLedger, bodies: PayloadOffload, target: Target, *, by: str, lease_s: float, now: Now
    ) -> None:
        self._ledger = ledger
        self._bodies = bodies
        self._target = target
        self._by = by
        self._lease_s = lease_s
        self._now = now
        self._begun = itertools.count(1)
        self._folder = ""

    def token(self, lease: Lease) -> str:
        """Return a new unique name for an attempt."""
        return f"{lease.token.decode()}.{next(self._begun)}"

    async def begin(self, lease: Lease, token: str) -> Begun | Refused:
        """Commit that an attempt begins; idempotent by the token. Raises `LedgerUnavailable`."""
        now_s = self._now()
        until_s = now_s + self._target.spec.timeout.total_s + self._lease_s
        job_id = lease.job_id.decode(errors="replace")
        begun = await self._ledger.begin(
            Begin(job_id=job_id, token=token, by=self._by, at_s=now_s, lease_until_s=until_s)
        )
        self._folder = folder_of(await self._ledger.identity())
        return begun

    async def prepare(self, lease: Lease, begun: Begun) -> None:
        """Attach to the lease what its request is made from. Raises `BlobsUnavailable` and `BlobLost`."""
        body = await self._body(begun.envelope.content)
        signer = self._target.signer(begun.delivery.job_id)
        if signer is not None and isinstance(body, StreamedBody):
            # The signature is sent before the body, so a large body is read twice instead of held in memory.
            async for piece in body.open():
                signer.update(piece)
        elif signer is not None and isinstance(body, bytes):
            signer.update(body)
        lease.entry = JournalEntry(begun, body, b"" if signer is None else signer.headers())

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

    async def ending(self, begun: Begun, outcome: Outcome, verdict: Settlement) -> End:
        """Return the change that records the outcome of an attempt. The body of the answer is stored first."""
        now_s = self._now()
        good = isinstance(verdict, Complete)
        response: TargetResponse | None = None
        if isinstance(outcome, Answered):
            if self._bodies.takes(outcome.body):
                response = _response(outcome, *await self._offloaded(begun, outcome))
            else:
                response = _response(outcome, *self._inline(outcome.body, outcome.truncated))
        return End(
            job_id=begun.delivery.job_id,
            number=begun.delivery.attempts_begun,
            by=self._by,
            at_s=now_s,
            result=_result(verdict, now_s),
            outcome=_outcome(outcome),
            duration_s=outcome.duration_s,
            status_code=outcome.status if isinstance(outcome, Answered) else None,
            error=None if good else describe(outcome, self._target.spec.timeout.total_s),
            retry_after_s=asked_to_wait_s(outcome, now_s),
            response=response,
            max_attempts=self._target.spec.retry.max_attempts,
            begun=begun.delivery,
        )

    def without_answer(self, change: End) -> End:
        """Return the same end without the texts of the target, for a ledger that refuses to store them."""
        error = None if change.error is None else "The ledger refused to record what went wrong"
        return replace(change, response=None, error=error)

    def unmade(self, begun: Begun, result: AttemptResult, error: str) -> End:
        """Return the change that records an attempt for which no request was made."""
        now_s = self._now()
        return End(
            job_id=begun.delivery.job_id,
            number=begun.delivery.attempts_begun,
            by=self._by,
            at_s=now_s,
            result=result,
            outcome=AttemptOutcome.CANCELLED,
            duration_s=max(0.0, now_s - begun.delivery.attempt_began_at_s),
            error=error,
        )

    def given_back(self, begun: Begun) -> End:
        """Return the change that records an attempt that was aborted because its worker ends."""
        return self.unmade(begun, PutBack(reason="given back"), "broken off: the worker ends")

    async def end(self, change: End, verdict: Settlement) -> Settlement | None:
        """Commit the end of an attempt; return the settlement of its job, or None to give it back.

        Idempotent by the change. Raises `LedgerUnavailable`.
        """
        match await self._ledger.end(change):
            case Written(delivery=delivery) if delivery.status is Status.CANCELLED:
                return GONE
            case Written():
                return verdict
            case Refused(delivery=delivery) if delivery is not None and delivery.status in TERMINAL:
                return GONE
            case Refused():
                # The attempt was recorded as lost and another one has begun, or the ledger is another one now.
                return None

    async def _offloaded(self, begun: Begun, answer: Answered) -> tuple[Content, bool]:
        """Store the body of an answer; return it as it is kept, and whether it is cut off."""
        part = f"response-{begun.delivery.attempts_begun}"
        try:
            kept = await self._bodies.keep(self._folder, begun.delivery.job_id, part, answer.body)
        except BlobsUnavailable:
            # The outcome must be recorded; the answer may be cut short.
            return Inline(answer.body[: self._bodies.threshold_bytes]), True
        if isinstance(kept, bytes):
            return self._inline(kept, answer.truncated)
        return Stored(kept.name, kept.size_bytes), answer.truncated

    def _inline(self, body: bytes, truncated: bool) -> tuple[Content, bool]:
        limit = self._bodies.threshold_bytes
        return Inline(body[:limit]), truncated or len(body) > limit


def _response(answer: Answered, content: Content, truncated: bool) -> TargetResponse:
    headers = tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers])
    return TargetResponse(status=answer.status, headers=headers, content=content, truncated=truncated)


def _result(verdict: Settlement, now_s: float) -> AttemptResult:
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
        case ConnectFailed(code="EGRESS_DENIED"):
            return AttemptOutcome.EGRESS_REFUSED
        case ConnectFailed():
            return AttemptOutcome(failure_of_the_way(outcome) or "connect_error")
        case CutOff():
            return AttemptOutcome(failure_of_the_way(outcome) or "cut_off")
