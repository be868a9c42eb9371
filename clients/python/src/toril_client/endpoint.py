"""What can be said of an endpoint that is registered as a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

Status = int | Literal["3xx", "4xx", "5xx"]
"""A status from 300 to 599, or a class of them."""


@dataclass(frozen=True)
class Policy:
    """How toril takes the answers of an endpoint that are no 2xx. Without one, all are retried while attempts are left.

    Attributes:
        retry_on: the statuses that are retried; all others fail the job at once. None: every status.
        fail_on: the statuses that fail the job at once.
        retry_after: honour the header of that name, as a floor under the job's backoff.
        max_retry_after_ms: at most so long; toril's default is an hour.
    """

    retry_on: Sequence[Status] | None = None
    fail_on: Sequence[Status] = ()
    retry_after: bool = False
    max_retry_after_ms: int | None = None

    def as_json(self) -> dict[str, Any]:
        """What is posted."""
        rules: dict[str, Any] = {"fail_on": list(self.fail_on), "retry_after": self.retry_after}
        if self.retry_on is not None:
            rules["retry_on"] = list(self.retry_on)
        if self.max_retry_after_ms is not None:
            rules["max_retry_after_ms"] = self.max_retry_after_ms
        return rules


class EndpointOptions(TypedDict, total=False):
    """The settings of a registered endpoint; what BullMQ has too is spelled as there.

    Attributes:
        method: POST (without it), PUT or PATCH.
        headers: sent along with every job.
        timeout_ms: how long the whole answer may take; toril's default is 3,000.
        policy: which of its answers are final.
        secrets: one (`whsec_…`) to sign the requests with, or two while it is changed; see `PushedJob.verified`.
        concurrency: how many jobs at once.
        limiter: at most `max` jobs started in `duration` milliseconds.
        maxStalledCount: how often a job may stall before it fails.
        removeOnComplete: how many ended jobs to keep: `count`, `age` in seconds.
        removeOnFail: the same for failed ones.
    """

    method: Literal["POST", "PUT", "PATCH"]
    headers: Mapping[str, str]
    timeout_ms: int
    policy: Policy
    secrets: Sequence[str]
    concurrency: int
    limiter: Mapping[str, int]
    maxStalledCount: int
    removeOnComplete: Mapping[str, int]
    removeOnFail: Mapping[str, int]
