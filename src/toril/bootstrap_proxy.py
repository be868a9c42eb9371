"""Wires the async proxy together, for `toril.bootstrap`: upstreams in; a door, destinations and tasks out."""

from __future__ import annotations

import os
import time
from collections.abc import Coroutine
from typing import Any

from msgspec import Struct
from starlette.types import ASGIApp

from toril.adapters.httptools_outbound import HttptoolsOutbound
from toril.adapters.httptools_streams import HttptoolsStreams
from toril.bull.cancelling import Cancelling
from toril.bull.control import Control
from toril.bull.proxied_jobs import BullProxiedJobs
from toril.bull.scripts import Scripts
from toril.core.destinations.upstream import UpstreamDestination, UpstreamRules
from toril.core.policy import Settings
from toril.core.ports import EventFeed, JobProducer
from toril.core.stored_job import Keep
from toril.core.upstream import queue_name
from toril.engine.janitor import ProxyJanitor
from toril.engine.upstream_calls import UpstreamCalls
from toril.gateway.passthrough import Passthrough
from toril.gateway.proxy import Doors, ProxyDoor
from toril.gateway.proxy_jobs import ProxyJobs
from toril.intake.spill import Spill
from toril.intake.submissions import QueuedSubmissions

CONNECT_S = 30.0
"""How long a connection to an upstream may take to be made, where its timeout does not end it before."""
MAX_ANSWER_BYTES = 100 * 1024 * 1024
"""A larger answer fails the job, as in proxq."""


class Shared(Struct, frozen=True):
    """What the proxy shares with the rest of the instance."""

    scripts: Scripts
    producer: JobProducer
    cancelling: Cancelling
    control: Control
    events: EventFeed
    spill: Spill


class Proxy:
    """The async proxy of one instance.

    Args:
        settings: with upstreams.
        shared: what it shares with the rest of the instance.
        api: toril's own application.
    """

    def __init__(self, settings: Settings, shared: Shared, api: ASGIApp) -> None:
        policy, prefix = settings.proxy, settings.store.queue_prefix
        queues = {upstream.prefix: queue_name(policy.queue, upstream.prefix) for upstream in policy.upstreams}
        # BullMQ counts in whole seconds; what is a little too long is made exact by whoever reads a job.
        rules = UpstreamRules(Keep(age=int(policy.retention_s) + 1))
        self.destinations = [
            UpstreamDestination(upstream, queues[upstream.prefix], policy.concurrency, rules, time.time)
            for upstream in policy.upstreams
        ]
        self.outbound = UpstreamCalls(HttptoolsOutbound(CONNECT_S, MAX_ANSWER_BYTES), shared.spill)
        jobs = BullProxiedJobs(
            shared.scripts, prefix, list(queues.values()), shared.cancelling, policy.retention_s, time.time
        )
        submissions = QueuedSubmissions(shared.producer, policy.queue, os.urandom, time.time)
        self._passthrough = Passthrough(HttptoolsStreams(CONNECT_S))
        self._grace_s = settings.engine.grace_s
        self.door = ProxyDoor(policy, Doors(api, ProxyJobs(jobs, shared.spill), self._passthrough, submissions))
        self._janitor = ProxyJanitor(shared.control, list(queues.values()), policy.retention_s)

    async def drain(self) -> None:
        """Let what passes through end within the grace period, then break it off."""
        await self._passthrough.drain(self._grace_s)

    def tasks(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """What is to run for as long as the instance does."""
        return [("proxy:janitor", self._janitor.run())]
