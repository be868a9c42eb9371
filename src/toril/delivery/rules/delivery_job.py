"""The BullMQ job that stands for a delivery in its target's queue, and the ledger that its row is in.

The job names its ledger, so that a process with another ledger knows that it cannot have the row.
"""

from __future__ import annotations

import math
import re

import msgspec
from msgspec import UNSET, Raw, Struct

from toril.bullmq.rules.groups import GroupOption
from toril.bullmq.rules.job import JobOptions, JobSpec
from toril.delivery.rules.delivery import Delivery
from toril.delivery.rules.delivery_group import group_in

JOB_NAME = "delivery"
_LEDGER_ID = re.compile(r"[A-Za-z0-9-]{1,64}\Z")


class _JobData(Struct):
    """The data of such a job. Jobs added by versions in which ledgers had no ids have no `ledger`."""

    target: str = ""
    ledger: str | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_JobData).decode


def job_of(one: Delivery, now_s: float, ledger_id: str, group_by: str | None = None) -> JobSpec:
    """Return the job of a delivery in this ledger; Redis keeps nothing of it when it has ended.

    Its id is the delivery's, so adding it again changes nothing. The envelope stays in the ledger. Its group is the one
    that the envelope names; without one, the label `group_by` names it, and the delivery's priority counts within it.
    """
    group = one.group
    if group is None and (labelled := group_in(one.labels, group_by)) is not None:
        group = GroupOption(labelled, one.priority or UNSET)
    delay_ms = 0 if one.next_attempt_at_s is None else max(0, math.ceil((one.next_attempt_at_s - now_s) * 1000))
    options = JobOptions(
        jobId=one.job_id,
        delay=delay_ms or UNSET,
        priority=one.priority or UNSET,
        removeOnComplete=True,
        removeOnFail=True,
        group=UNSET if group is None else group,
    )
    return JobSpec(JOB_NAME, Raw(_encode(_JobData(one.target, ledger_id))), options)


def ledger_of(data: bytes) -> str | None:
    """Return the id of the ledger that a job's data names; None if it names none, or cannot be read.

    Other programs may add jobs to a target's queue, and the id is shown in logs and `/ready`, so its form is checked.
    """
    try:
        ledger_id = _decode(data).ledger
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return ledger_id if ledger_id is not None and _LEDGER_ID.match(ledger_id) else None
