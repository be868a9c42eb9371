"""Stores requests to the async proxy as jobs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct

from toril.bullmq.ports.jobs import FlowStore, JobProducer
from toril.bullmq.rules.flow import FlowJob
from toril.bullmq.rules.groups import GroupOption
from toril.bullmq.rules.job import BackoffOption, JobOptions, JobSpec
from toril.bullmq.rules.traced import traced_flow, traced_job
from toril.core.errors import IdempotencyMismatch, StoreUnavailable
from toril.core.http.trace_context import metadata, trace_headers
from toril.core.ports import Now
from toril.proxy.ports import IdempotencyEntry, IdempotencyStore, ProxiedJobs, Submission
from toril.proxy.rules.callback import CallbackOrder
from toril.proxy.rules.envelope import RecordedRequest, encode_request
from toril.proxy.rules.proxied_job import job_name, new_id
from toril.proxy.rules.upstream import Upstream, callback_queue, queue_name

_FIRST_PAUSE_MS = 1000.0
# If a claim is this old and its job is not there, the process that made it has crashed.
_LONGEST_CLAIM_S = 60
# Each claim after the first one means that another job took the key meanwhile, and failed or is gone.
_MOST_CLAIMS = 5
_OTHER_REQUEST = "Another request was accepted under this idempotency key"


class SubmissionStores(Struct, frozen=True):
    """The stores of submissions: `producer` for jobs, `flows` for jobs with a callback, `keys` for idempotency keys.

    `jobs` tells what became of the job of a key.
    """

    producer: JobProducer
    flows: FlowStore
    keys: IdempotencyStore
    jobs: ProxiedJobs


class QueuedSubmissions:
    """Stores each request in the queue of its upstream.

    Args:
        stores: where requests go.
        queue: the queue's name in the configuration; the names of the upstreams' queues begin with it.
        callback_attempts: how often a callback is tried.
        random_bytes: returns this number of random bytes.
        now: the wall clock.
        stored: called for each request that is stored.
    """

    def __init__(
        self,
        stores: SubmissionStores,
        queue: str,
        callback_attempts: int,
        random_bytes: Callable[[int], bytes],
        now: Now,
        stored: Callable[[], None] = lambda: None,
    ) -> None:
        self._stores = stores
        self._queue = queue
        self._names: dict[str, str] = {}
        self._callback_attempts = callback_attempts
        self._random_bytes = random_bytes
        self._now = now
        self._stored = stored

    def begin(self, upstream: Upstream) -> tuple[str, str]:
        """Return a new job id, and the queue that the job will be in; nothing is written."""
        queue = self._name(upstream)
        return new_id(self._random_bytes(16), queue), queue

    def _name(self, upstream: Upstream) -> str:
        name = self._names.get(upstream.prefix)
        if name is None:
            name = self._names[upstream.prefix] = queue_name(self._queue, upstream.prefix)
        return name

    def accept(self, submission: Submission, job_id: str) -> Coroutine[Any, Any, str]:
        """Store a request; return the id of its job, or of the job with the same key if it is under way or answered.

        Raises:
            IdempotencyMismatch: the key came with another request.
            GroupFull: its group has as many waiting requests as it may have.
        """
        if submission.key is None:
            return self._store(submission, job_id)
        return self._store_once(submission, submission.key, job_id)

    async def _store_once(self, submission: Submission, key: bytes, job_id: str) -> str:
        name = _digest(submission.upstream.prefix.encode(), submission.caller, key)
        digest = _digest(submission.method.encode(), submission.target, submission.body)
        entry = await self._entry(name, job_id, digest)
        if not entry.settled:
            # The claimant may have crashed; adding the same id again is a no-op.
            await self._store(submission, entry.job_id)
            await self._stores.keys.settle(name, entry)
        return entry.job_id

    async def _entry(self, name: str, job_id: str, digest: str) -> IdempotencyEntry:
        """Return the entry of the key: of a job that is under way or answered, or of one that is to be stored.

        Raises:
            IdempotencyMismatch: the key has the job of another request.
            StoreUnavailable: each time another job took the key, and was gone again.
        """
        free: IdempotencyEntry | None = None
        for _ in range(_MOST_CLAIMS):
            entry = await self._stores.keys.claim(name, job_id, digest, instead_of=free)
            if entry.job_id == job_id:
                return entry
            job = await self._stores.jobs.find(entry.job_id)
            if job is None:
                # Either it is not stored yet, or it is gone.
                is_free = entry.settled or (entry.digest != digest and entry.age_s >= _LONGEST_CLAIM_S)
            else:
                is_free = job.status == "failed"
            if not is_free:
                if entry.digest != digest:
                    raise IdempotencyMismatch(_OTHER_REQUEST)
                return entry
            free = entry
        if job is not None and entry.digest == digest:
            return entry  # it failed, but was made after this request came, so it is the job of this request, too
        raise StoreUnavailable("The job of an idempotency key is gone as often as it is made")

    async def _store(self, submission: Submission, job_id: str) -> str:
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
        trace = trace_headers(submission.headers) if submission.trace is None else submission.trace
        context = metadata(trace) if trace else ""
        group = UNSET if submission.group is None else GroupOption(submission.group)
        now_ms = int(self._now() * 1000)
        self._stored()
        if submission.callback is None:
            job = traced_job(JobSpec(name, data, JobOptions(jobId=job_id, attempts=attempts, group=group)), context)
            await self._stores.producer.add(queue, [job], now_ms)
            return job_id
        # A failed job has ended, too; without this its parent would wait for ever.
        opts = JobOptions(jobId=job_id, attempts=attempts, group=group, ignoreDependencyOnFailure=True)
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
        await self._stores.flows.add([traced_flow(callback, context)], now_ms)
        return job_id


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()
