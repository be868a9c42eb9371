"""Requests to the async proxy → stored jobs. Called by `toril.gateway` through a port; decides nothing about routes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec
from msgspec import Raw, Struct

from toril.core.destinations.callback import CallbackOrder
from toril.core.envelope import RecordedRequest, encode_request
from toril.core.errors import IdempotencyMismatch, StoreUnavailable
from toril.core.flow import FlowJob
from toril.core.job import BackoffOption, JobOptions, JobSpec
from toril.core.ports.jobs import FlowStore, JobProducer
from toril.core.ports.proxy import KeyBook, KeyEntry, ProxiedJobs, Submission
from toril.core.ports.shared import Now
from toril.core.proxied_job import job_name, new_id
from toril.core.upstream import Upstream, callback_queue, queue_name

_FIRST_PAUSE_MS = 1000.0
# From here on a claim whose job is not there was made by a process that has crashed.
_LONGEST_CLAIM_S = 60
# Each claim after the first means that a job which took the key meanwhile has failed or gone.
_MOST_CLAIMS = 5


class Stores(Struct, frozen=True):
    """Where submissions go: jobs alone, jobs with a callback that waits for them, and what keys stand for.

    `jobs` knows what has become of the job of a key.
    """

    producer: JobProducer
    flows: FlowStore
    keys: KeyBook
    jobs: ProxiedJobs


class QueuedSubmissions:
    """Stores each request in its upstream's queue.

    Args:
        stores: where.
        queue: what the operator calls the queue; each upstream has one of its own below it.
        callback_attempts: how often the end of a job is told.
        chance: that many random bytes.
        now: the wall clock.
        stored: told of each request that is stored.
    """

    def __init__(
        self,
        stores: Stores,
        queue: str,
        callback_attempts: int,
        chance: Callable[[int], bytes],
        now: Now,
        stored: Callable[[], None] = lambda: None,
    ) -> None:
        self._stores = stores
        self._queue = queue
        self._names: dict[str, str] = {}
        self._callback_attempts = callback_attempts
        self._chance = chance
        self._now = now
        self._stored = stored

    def begin(self, upstream: Upstream) -> tuple[str, str]:
        """A fresh job id, and the queue that it will be in; nothing is written."""
        queue = self._name(upstream)
        return new_id(self._chance(16), queue), queue

    def _name(self, upstream: Upstream) -> str:
        name = self._names.get(upstream.prefix)
        if name is None:
            name = self._names[upstream.prefix] = queue_name(self._queue, upstream.prefix)
        return name

    async def accept(self, submission: Submission, job_id: str) -> str:
        """Store it; the id of its job, which is that of the same key where it is under way or answered.

        Raises:
            IdempotencyMismatch: the key came with another request.
        """
        if submission.key is None:
            await self._store(submission, job_id)
            return job_id
        name = _digest(submission.upstream.prefix.encode(), submission.caller, submission.key)
        digest = _digest(submission.method.encode(), submission.target, submission.body)
        entry = await self._entry(name, job_id, digest)
        if not entry.settled:
            # The claimant may have crashed; adding the same id again is a no-op.
            await self._store(submission, entry.job_id)
            await self._stores.keys.settle(name, entry)
        return entry.job_id

    async def _entry(self, name: str, job_id: str, digest: str) -> KeyEntry:
        """Return what the key stands for: a job that is under way or answered, or one that is to be stored.

        Raises:
            IdempotencyMismatch: that is the job of another request.
            StoreUnavailable: each time another job had the key, and was gone again.
        """
        free: KeyEntry | None = None
        for _ in range(_MOST_CLAIMS):
            entry = await self._stores.keys.claim(name, job_id, digest, instead_of=free)
            if entry.job_id == job_id:
                return entry
            job = await self._stores.jobs.find(entry.job_id)
            if job is None:
                # Either not stored yet, or no longer.
                is_free = entry.settled or (entry.digest != digest and entry.age_s >= _LONGEST_CLAIM_S)
            else:
                is_free = job.status == "failed"
            if not is_free:
                if entry.digest != digest:
                    raise IdempotencyMismatch
                return entry
            free = entry
        if job is not None and entry.digest == digest:
            return entry  # it has failed, but it was made since this request came, so it is this one's job, too
        raise StoreUnavailable("The job of an idempotency key is gone as often as it is made")

    async def _store(self, submission: Submission, job_id: str) -> None:
        recorded = RecordedRequest(
            method=submission.method,
            target=submission.target.decode("latin-1"),
            headers=submission.headers,
            body=submission.body,
            timeout_s=submission.timeout_s,
            forwarding=submission.forwarding,
        )
        upstream = submission.upstream
        queue = self._name(upstream)
        name = job_name(submission.method, submission.target, submission.owner)
        data, attempts = Raw(encode_request(recorded)), upstream.max_retries + 1
        now_ms = int(self._now() * 1000)
        self._stored()
        if submission.callback is None:
            await self._stores.producer.add(
                queue, [JobSpec(name, data, JobOptions(jobId=job_id, attempts=attempts))], now_ms
            )
            return
        # A job that failed has ended too; without this its parent would wait for ever.
        opts = JobOptions(jobId=job_id, attempts=attempts, ignoreDependencyOnFailure=True)
        callback = FlowJob(
            "callback",
            callback_queue(self._queue),
            Raw(msgspec.json.encode(CallbackOrder(submission.callback, job_id))),
            JobOptions(
                jobId=job_id,
                attempts=self._callback_attempts,
                backoff=BackoffOption("exponential", _FIRST_PAUSE_MS),
            ),
            [FlowJob(name, queue, data, opts)],
        )
        await self._stores.flows.add([callback], now_ms)


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()
