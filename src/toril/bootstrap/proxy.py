"""Wires the async proxy together, for `toril.bootstrap.instance`: upstreams in; a door, destinations and tasks out."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import structlog
from msgspec import Struct
from starlette.types import ASGIApp

from toril.adapters.connecting import Network
from toril.adapters.folder_blobs import FolderBlobs
from toril.adapters.httptools_outbound import HttptoolsOutbound
from toril.adapters.httptools_streams import HttptoolsStreams
from toril.adapters.memory_cache import MemoryCache
from toril.adapters.redis_cache import RedisCache
from toril.adapters.redis_key_book import RedisKeyBook
from toril.bootstrap.store import Store
from toril.bull.proxied_jobs import BullProxiedJobs
from toril.core.destinations.base import Destination
from toril.core.destinations.callback import CallbackDestination
from toril.core.destinations.upstream import UpstreamDestination, UpstreamRules
from toril.core.egress import Egress
from toril.core.policy import Settings
from toril.core.ports.calls import Outbound
from toril.core.ports.shared import Meter
from toril.core.stored_job import Keep
from toril.core.target import PayloadPolicy
from toril.core.upstream import CachePolicy, callback_queue, queue_name, raw_path
from toril.engine.accept_first import AcceptFirst
from toril.engine.callback_calls import CallbackCalls
from toril.engine.janitor import BodySweep, Leftovers, ProxyJanitor, StaleAnswers
from toril.engine.sharing import Sharing
from toril.engine.spilled_cache import SpilledCache
from toril.engine.upstream_calls import UpstreamCalls
from toril.gateway.passthrough import Passthrough
from toril.gateway.proxied_requests import ProxiedRequests
from toril.gateway.proxy import Doors, ProxyDoor
from toril.gateway.proxy_jobs import ProxyJobs
from toril.gateway.proxy_waits import ProxyWaits
from toril.intake.fallback_blobs import FallbackBlobs
from toril.intake.spill import Spill
from toril.intake.submissions import QueuedSubmissions, Stores
from toril.intake.switched_blobs import SwitchedBlobs

log = structlog.get_logger(__name__)

FOLDER = "toril-payloads"
"""The folder, in the working folder, of large answers where no store is configured."""
CONNECT_S = 30.0
"""How long a connection to an upstream may take to be made, where its timeout does not end it before."""
MAX_ANSWER_BYTES = 100 * 1024 * 1024
"""A larger answer fails the job, as in proxq."""
MAX_CALLBACK_ANSWER_BYTES = 1024 * 1024
LEAST_KEY_S = 24 * 3600.0
"""How long an `Idempotency-Key` is known, where jobs are not known for longer."""


class SharedWithProxy(Struct, frozen=True):
    """What the proxy shares with the rest of the instance."""

    store: Store
    egress: Egress
    blobs: SwitchedBlobs
    meter: Meter
    accept_first: AcceptFirst
    network: Network


class Proxy:
    """The async proxy of one instance.

    Args:
        settings: with upstreams.
        shared: what it shares with the rest of the instance.
        api: toril's own application.
    """

    def __init__(self, settings: Settings, shared: SharedWithProxy, api: ASGIApp) -> None:
        policy, prefix, engine = settings.proxy, settings.store.queue_prefix, settings.engine
        head_bytes, network = engine.max_response_head_bytes, shared.network
        queues = [queue_name(policy.queue, upstream.prefix) for upstream in policy.upstreams]
        # BullMQ counts in whole seconds; what is a little too long is made exact by whoever reads a job.
        rules = UpstreamRules(
            Keep(age=int(policy.retention_s) + 1),
            cached=policy.cache.mode != "none",
            max_head_bytes=2 * settings.connections.max_head_bytes,
        )
        self.destinations: list[UpstreamDestination | CallbackDestination] = [
            UpstreamDestination(upstream, queue, policy.concurrency, rules, shared.store.clock)
            for upstream, queue in zip(policy.upstreams, queues, strict=True)
        ]
        self._role = settings.role
        self._folder = Path(FOLDER).absolute()
        blobs = FallbackBlobs(shared.blobs, FolderBlobs(self._folder))
        self._spill = Spill(blobs, settings.payloads.answer_threshold_bytes)
        self._upstreams = UpstreamCalls(
            HttptoolsOutbound(CONNECT_S, MAX_ANSWER_BYTES, network=network, max_head_bytes=head_bytes),
            self._spill,
            self._sharing(policy.cache, shared),
        )
        jobs = BullProxiedJobs(
            shared.store.reading, prefix, queues, shared.store.cancelling, policy.retention_s, shared.store.clock
        )
        stores = Stores(
            shared.store.producer,
            shared.store.flows,
            RedisKeyBook(shared.store.near_key, prefix, max(policy.retention_s, LEAST_KEY_S)),
            jobs,
        )
        waits = ProxyWaits(jobs, shared.store.events)
        self._passthrough = Passthrough(HttptoolsStreams(CONNECT_S, head_bytes, network))
        self._grace_s = engine.grace_s
        self.door = ProxyDoor(
            policy,
            Doors(
                api,
                ProxyJobs(
                    jobs,
                    self._spill,
                    waits,
                    path=raw_path(policy.jobs_path).decode(),
                    owner_only=policy.owner_only,
                    meter=shared.meter,
                ),
                self._passthrough,
                ProxiedRequests(policy, shared.egress),
                QueuedSubmissions(
                    stores,
                    policy.queue,
                    policy.callback.attempts,
                    os.urandom,
                    shared.store.clock,
                    shared.accept_first.accepted,
                ),
                waits,
                shared.meter,
            ),
        )
        if policy.callback.secrets:
            callbacks = callback_queue(policy.queue)
            outbound = HttptoolsOutbound(
                engine.connect_timeout_s, MAX_CALLBACK_ANSWER_BYTES, shared.egress, network, max_head_bytes=head_bytes
            )
            self._callbacks = CallbackCalls(outbound, jobs, callbacks, policy.callback.secrets, shared.store.clock)
            self.destinations.append(CallbackDestination(callbacks, policy.callback.timeout_s))
        leftovers = Leftovers(blobs, jobs, queues, policy.retention_s, shared.store.clock)
        stale = StaleAnswers(blobs, policy.cache.ttl_s, shared.store.clock)
        self._janitor = ProxyJanitor(
            shared.store.control, queues, policy.retention_s, BodySweep(blobs, [leftovers, stale])
        )

    def _sharing(self, policy: CachePolicy, shared: SharedWithProxy) -> Sharing | None:
        match policy.mode:
            case "none":
                return None
            case "memory":
                return Sharing(MemoryCache(policy.ttl_s, policy.max_entries, time.monotonic), b"")
            case "redis":
                cache = RedisCache(shared.store.near_key, policy.redis_key_prefix, policy.ttl_s)
                return Sharing(SpilledCache(cache, self._spill), uuid.uuid4().bytes)

    def outbound(self, destination: Destination) -> Outbound | None:
        """What makes the requests of a destination; None where it is none of the proxy's."""
        match destination:
            case UpstreamDestination():
                return self._upstreams
            case CallbackDestination():
                return self._callbacks
            case _:
                return None

    def renew(self, payloads: PayloadPolicy) -> None:
        """Keep answers in Redis up to the length that these settings say."""
        self._spill.threshold_bytes = payloads.answer_threshold_bytes

    def tell_where_answers_go(self, payloads: PayloadPolicy) -> None:
        """Say so in the log, where nobody has: it matters to whoever runs several machines."""
        if payloads.url is None:
            # Whoever has split accepting from working is likely to have them on several.
            tell = log.info if self._role.name == "all" else log.warning
            tell(
                "payloads.in_folder",
                folder=str(self._folder),
                over_bytes=payloads.redis_max_bytes,
                hint="longer answers are kept there; several machines need one shared store (payloads.url)",
            )

    async def drain(self) -> None:
        """Let what passes through end within the grace period, then break it off."""
        await self._passthrough.drain(self._grace_s)

    def tasks(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """What is to run for as long as the instance does."""
        return [("proxy:janitor", self._janitor.run())]
