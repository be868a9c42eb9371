"""The BullMQ job that stands for a delivery in its target's queue, and the ledger that its row is in.

The job names its ledger, so that a process that has another one can tell before it asks for a row that it cannot have.
"""

from __future__ import annotations

import math
import re

import msgspec
from msgspec import UNSET, Raw, Struct

from toril.core.delivery import Delivery
from toril.core.job import JobOptions, JobSpec

JOB_NAME = "delivery"
_LEDGER_ID = re.compile(r"[A-Za-z0-9-]{1,64}\Z")


class _Data(Struct):
    """The data of such a job. Jobs of versions before ledgers had ids have no `ledger`."""

    target: str = ""
    ledger: str | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Data).decode


def job_of(one: Delivery, now_s: float, ledger_id: str) -> JobSpec:
    """The job of a delivery that is kept in this ledger; it leaves the queue without a trace when it ends.

    Its id is the delivery's, so adding it again is harmless. What is to be sent stays in the ledger.
    """
    delay_ms = 0 if one.next_attempt_at_s is None else max(0, math.ceil((one.next_attempt_at_s - now_s) * 1000))
    options = JobOptions(
        jobId=one.job_id,
        delay=delay_ms or UNSET,
        priority=one.priority or UNSET,
        removeOnComplete=True,
        removeOnFail=True,
    )
    return JobSpec(JOB_NAME, Raw(_encode(_Data(one.target, ledger_id))), options)


def ledger_of(data: bytes) -> str | None:
    """The id of the ledger that a job's data names; None where it names none, or cannot be read.

    Others may add jobs to a target's queue, and the id goes into logs and `/ready`: what cannot be one is none.
    """
    try:
        ledger_id = _decode(data).ledger
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return ledger_id if ledger_id is not None and _LEDGER_ID.match(ledger_id) else None
