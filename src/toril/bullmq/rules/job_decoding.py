"""Reads the jobs in a body. `data` is never parsed: the bytes that were sent are the bytes that are stored."""

from __future__ import annotations

import msgspec

from toril.bullmq.rules.job import JobSpec, check_job
from toril.bullmq.rules.job_faults import jobs_or_fault
from toril.bullmq.rules.json_values import require_utf8

_JOBS = msgspec.json.Decoder(list[JobSpec])


def decode_jobs(body: bytes) -> list[JobSpec]:
    """Return the jobs of the body of `POST /queues/{q}/jobs`.

    Valid input takes one typed decode. Input that this refuses is read again, slowly: either it has a fault, or it is
    acceptable after all (a whole number written as `5.0`).

    Raises:
        InvalidRequest: with BullMQ Proxy's text (wire/bullmq-proxy.md), or one that says what is malformed.
    """
    try:
        jobs = _JOBS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return jobs_or_fault(body)
    if not body.isascii():
        require_utf8(body)
    for job in jobs:
        check_job(job)
    return jobs
