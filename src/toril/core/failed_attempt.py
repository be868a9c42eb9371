"""What BullMQ does with a job whose attempt failed: try it again while attempts are left, or fail it."""

from __future__ import annotations

from toril.core.backoff import delay_ms
from toril.core.destination import RandomSource
from toril.core.http.retry_hint import NO_HINT, RetryHint
from toril.core.lease import Lease
from toril.core.outcome import WorkerError
from toril.core.verdict import Fail, Retry


def attempt_failed(
    lease: Lease, reason: str, trace: str, random: RandomSource, hint: RetryHint = NO_HINT
) -> Retry | Fail:
    """Return a retry while attempts are left, after the job's backoff or as a hint says; else a failure."""
    if lease.attempt >= lease.options.attempts:
        return Fail(reason, trace)
    if hint.instead_ms is not None:
        return Retry(hint.instead_ms, reason, trace)
    after_ms = delay_ms(lease.options.backoff, lease.attempt, random)
    if after_ms is None:
        kind = lease.options.backoff.type if lease.options.backoff else ""
        return Fail(f"Unknown backoff strategy {kind}.", trace)
    return Retry(max(after_ms, hint.least_ms), reason, trace)


def worker_failed(lease: Lease, error: WorkerError, random: RandomSource) -> Retry | Fail:
    """Return what to do with a job whose worker reports that it failed."""
    trace = error.stack or f"Error: {error.message}\n    at a worker on a socket"
    if error.unrecoverable:
        return Fail(error.message, trace)
    return attempt_failed(lease, error.message, trace, random, RetryHint(instead_ms=error.retry_in_ms))
