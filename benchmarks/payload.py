"""What the benchmarks post, and what a server answers: the same bytes for every target and every ceiling.

Only data. The load generators, the raw ASGI ceiling and the client ceiling all take their bodies from
here, so that a ratio never compares a small body with a large one.
"""

from __future__ import annotations

import msgspec

JobData = dict[str, str | int | list[dict[str, str | int]]]

NAME = "order.paid"

DATA: JobData = {
    "orderId": "o-1048576",
    "customer": "c-31337",
    "amount": 1999,
    "currency": "EUR",
    "items": [{"sku": "sku-1", "quantity": 2}, {"sku": "sku-2", "quantity": 1}],
}

JOB = {"name": NAME, "data": DATA}


def jobs(count: int) -> bytes:
    """The body of `POST /queues/{queue}/jobs` that adds this many jobs."""
    return msgspec.json.encode([JOB] * count)


def job_answer(queue: str = "bench-add-000000-00") -> bytes:
    """One job as the wire shows it: the answer to a GET of it, and one element of what an add answers."""
    return msgspec.json.encode(
        {
            "name": NAME,
            "data": DATA,
            "opts": {"attempts": 0},
            "id": "104857",
            "progress": 0,
            "returnvalue": None,
            "stacktrace": None,
            "delay": 0,
            "priority": 0,
            "attemptsStarted": 0,
            "attemptsMade": 0,
            "stalledCounter": 0,
            "timestamp": 1_760_000_000_000,
            "queueQualifiedName": f"bull:{queue}",
        }
    )


def pushed_job() -> bytes:
    """The body a registered worker's endpoint receives: `{"job": …, "token": …}`."""
    token = b'"0b2cbf3c-6c1f-4c89-9a4e-0d5b8a0c7d11:42"'
    return b'{"job":' + job_answer() + b',"token":' + token + b"}"
