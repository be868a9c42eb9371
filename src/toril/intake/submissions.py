"""Requests to the async proxy → stored jobs. Called by `toril.gateway` through a port; decides nothing about routes."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Raw

from toril.core.envelope import RecordedRequest, encode_request
from toril.core.job import JobOptions, JobSpec
from toril.core.ports import JobProducer, Now
from toril.core.proxied_job import job_name, new_id
from toril.core.proxy_ports import Submission
from toril.core.upstream import Upstream, queue_name


class QueuedSubmissions:
    """Stores each request in its upstream's queue.

    Args:
        producer: adds jobs.
        queue: what the operator calls the queue; each upstream has one of its own below it.
        chance: that many random bytes.
        now: the wall clock.
    """

    def __init__(self, producer: JobProducer, queue: str, chance: Callable[[int], bytes], now: Now) -> None:
        self._producer = producer
        self._queue = queue
        self._chance = chance
        self._now = now

    def begin(self, upstream: Upstream) -> tuple[str, str]:
        """A fresh job id, and the queue that it will be in; nothing is written."""
        queue = queue_name(self._queue, upstream.prefix)
        return new_id(self._chance(16), queue), queue

    async def accept(self, submission: Submission, job_id: str) -> str:
        """Store it; the id of its job."""
        recorded = RecordedRequest(
            method=submission.method,
            target=submission.target.decode("latin-1"),
            headers=submission.headers,
            body=submission.body,
            timeout_s=submission.timeout_s,
        )
        upstream = submission.upstream
        job = JobSpec(
            job_name(submission.method, submission.target, submission.owner),
            Raw(encode_request(recorded)),
            JobOptions(jobId=job_id, attempts=upstream.max_retries + 1),
        )
        await self._producer.add(queue_name(self._queue, upstream.prefix), [job], int(self._now() * 1000))
        return job_id
