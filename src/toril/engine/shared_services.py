"""The services that all consumers of a process share."""

from __future__ import annotations

import asyncio

from toril.core.ports import Now
from toril.engine.cancelled_jobs import CancelledJobs
from toril.engine.lock_tokens import LockTokens
from toril.engine.ports import Presence
from toril.engine.queue_survey import EVERY_QUEUE, QueueSurvey
from toril.engine.shared_waits import SharedWaits
from toril.telemetry.measures import UNMEASURED, Measures
from toril.telemetry.tracing.attempts import AttemptTracing


class SharedServices:
    """The shared services; one object per process.

    Args:
        tasks: where slots run.
        waits: wait for jobs.
        presence: told which queues have jobs.
        now: the wall clock.
        measures: told of leases that are lost.
        tokens: make the lock tokens of this instance.
        tracing: makes the spans of attempts; None makes none.
        survey: tells which queues are not idle.
    """

    __slots__ = ("_slots", "cancelled", "measures", "now", "presence", "survey", "tasks", "tokens", "tracing", "waits")

    def __init__(  # noqa: PLR0913 - by name, and one for each service
        self,
        *,
        tasks: asyncio.TaskGroup,
        waits: SharedWaits,
        presence: Presence,
        now: Now,
        measures: Measures = UNMEASURED,
        tokens: LockTokens,
        tracing: AttemptTracing | None = None,
        survey: QueueSurvey = EVERY_QUEUE,
    ) -> None:
        self.tasks = tasks
        self.waits = waits
        self.presence = presence
        self.now = now
        self.measures = measures
        self.tokens = tokens
        self.tracing = tracing
        self.survey = survey
        self.cancelled = CancelledJobs()
        self._slots = 0

    def slot_token(self, queue: str) -> bytes:
        """Return a lock token that no other slot of any process has: BullMQ's form `uuid:n`, and signed."""
        self._slots += 1
        return self.tokens.made(queue, f"{self.tokens.instance_id}:{self._slots}")
