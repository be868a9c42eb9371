"""Wires the async proxy together: upstreams in; a router, destinations and tasks out."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import structlog
from msgspec import Struct
from msgspec.structs import replace
from starlette.routing import Router

from toril.config.settings import Settings
from toril.core.destination import Destination
from toril.core.ports import Meter
from toril.core.stored_job import Keep
from toril.engine import load_board
from toril.engine.load_shedding import LoadShedding
from toril.engine.ports import Outbound
from toril.http_client.client import HttpClient, always
from toril.http_client.configured_routes import HostRoutes, route_of
from toril.http_client.connecting import Network
from toril.http_client.egress import Egress
from toril.instance.entropy import Entropy
from toril.instance.store import Store
from toril.payloads.fallback_blobs import FallbackBlobs
from toril.payloads.folder_blobs import FolderBlobs
from toril.payloads.payload_offload import PayloadOffload
from toril.payloads.policy import PayloadPolicy
from toril.payloads.switched_blobs import SwitchedBlobs
from toril.proxy.busy_time import busy_s, idle_s
from toril.proxy.cache.memory_cache import MemoryCache
from toril.proxy.cache.offloaded_cache import OffloadedCache
from toril.proxy.cache.redis_cache import RedisCache
from toril.proxy.cache.singleflight import Singleflight
from toril.proxy.callback_calls import CallbackCalls
from toril.proxy.idempotency_store import RedisIdempotencyStore
from toril.proxy.janitor import BlobSweep, ExpiredAnswers, OrphanedAnswers, ProxyJanitor
from toril.proxy.jobs import ProxyJobs
from toril.proxy.operating.requests import RequestRoutes, RequestServices
from toril.proxy.passthrough import Passthrough
from toril.proxy.proxied_jobs import BullProxiedJobs
from toril.proxy.proxied_requests import ProxiedRequests
from toril.proxy.routes import ProxyRouter, UpstreamServices
from toril.proxy.rules.callback import CallbackDestination
from toril.proxy.rules.destination import UpstreamDestination, UpstreamRules
from toril.proxy.rules.upstream import CachePolicy, callback_queue, queue_name, raw_path
from toril.proxy.submissions import QueuedSubmissions, SubmissionStores
from toril.proxy.upstream_calls import UpstreamCalls
from toril.proxy.waits import ProxyWaits
from toril.web.routing import Route

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


def load_shedding_of(settings: Settings) -> LoadShedding:
    """Return what decides whether jobs give way to requests, together with the other processes of the instance."""
    board = load_board.mapped(settings.metrics.folder, settings.engine.process, settings.engine.processes)
    return LoadShedding(busy_s, idle_s, os.cpu_count() or 1, time.monotonic, board)


class SharedWithProxy(Struct, frozen=True):
    """The parts that the proxy shares with the rest of the instance."""

    store: Store
    egress: Egress
    blobs: SwitchedBlobs
    meter: Meter
    load_shedding: LoadShedding
    network: Network


class Proxy:
    """The async proxy of one instance.

    Args:
        settings: with upstreams.
        shared: what it shares with the rest of the instance.
    """

    router: ProxyRouter

    def __init__(self, settings: Settings, shared: SharedWithProxy) -> None:
        policy, prefix, engine = settings.proxy, settings.store.queue_prefix, settings.engine
        head_bytes, network = engine.max_response_head_bytes, shared.network
        queues = [queue_name(policy.queue, upstream.prefix) for upstream in policy.upstreams]
        # BullMQ counts in whole seconds; reading a job makes what is a little too long exact.
        rules = UpstreamRules(
            Keep(age=int(policy.retention_s) + 1),
            cached=policy.cache.mode != "none",
            max_head_bytes=2 * settings.connections.max_head_bytes,
        )
        self.destinations: list[UpstreamDestination | CallbackDestination] = [
            UpstreamDestination(
                upstream, queue, policy.concurrency, replace(rules, group=upstream.group), shared.store.clock
            )
            for upstream, queue in zip(policy.upstreams, queues, strict=True)
        ]
        self._role = settings.role
        self._folder = Path(FOLDER).absolute()
        blobs = FallbackBlobs(shared.blobs, FolderBlobs(self._folder))
        self._spill = PayloadOffload(blobs, settings.payloads.answer_threshold_bytes)
        client = HttpClient(CONNECT_S, MAX_ANSWER_BYTES, network=network, max_head_bytes=head_bytes)
        self._routes = {one.prefix: route_of(one.outbound, network, CONNECT_S) for one in policy.upstreams}
        self._clients = {prefix: client.on(always(route)) for prefix, route in self._routes.items()}
        singleflight = self._singleflight(policy.cache, shared)
        self._upstreams = {
            prefix: UpstreamCalls(client, self._spill, singleflight) for prefix, client in self._clients.items()
        }
        jobs = BullProxiedJobs(
            shared.store.reading,
            prefix,
            queues,
            shared.store.acknowledged_cancels,
            policy.retention_s,
            shared.store.clock,
        )
        stores = SubmissionStores(
            shared.store.acknowledged_producer,
            shared.store.acknowledged_flows,
            RedisIdempotencyStore(shared.store.links, prefix, max(policy.retention_s, LEAST_KEY_S)),
            jobs,
        )
        waits = ProxyWaits(jobs, shared.store.events)
        self._passthrough = Passthrough(lambda upstream: self._clients[upstream.prefix])
        self._grace_s = engine.grace_s
        submissions = QueuedSubmissions(
            stores,
            policy.queue,
            policy.callback.attempts,
            Entropy(),
            shared.store.clock,
            shared.load_shedding.accepted,
        )
        self._policy = policy
        self._services = UpstreamServices(
            ProxyJobs(
                jobs,
                self._spill,
                waits,
                path=raw_path(policy.jobs_path).decode(),
                owner_only=policy.owner_only,
            ),
            self._passthrough,
            ProxiedRequests(policy, shared.egress),
            submissions,
            waits,
            shared.meter,
        )
        self._requests = RequestServices(jobs, self._spill, submissions, shared.store.inspector, shared.store.control)
        self._callback_routes = HostRoutes(policy.callback.routes, network, engine.connect_timeout_s)
        if policy.callback.secrets:
            callbacks = callback_queue(policy.queue)
            outbound = HttpClient(
                engine.connect_timeout_s, MAX_CALLBACK_ANSWER_BYTES, shared.egress, network, max_head_bytes=head_bytes
            ).on(self._callback_routes)
            self._callbacks = CallbackCalls(outbound, jobs, callbacks, policy.callback.secrets, shared.store.clock)
            self.destinations.append(CallbackDestination(callbacks, policy.callback.timeout_s))
        leftovers = OrphanedAnswers(blobs, jobs, queues, policy.retention_s, shared.store.clock)
        stale = ExpiredAnswers(blobs, policy.cache.ttl_s, shared.store.clock)
        self._janitor = ProxyJanitor(
            shared.store.control, queues, policy.retention_s, BlobSweep(blobs, [leftovers, stale])
        )

    def routes(self) -> list[Route]:
        """Return the routes that the proxy adds to toril's own."""
        return RequestRoutes(self._policy, self._requests).routes()

    def before(self, api: Router) -> ProxyRouter:
        """Return the router of the proxy, which is in front of toril's own routes."""
        self.router = ProxyRouter(self._policy, self._services, api)
        return self.router

    def _singleflight(self, policy: CachePolicy, shared: SharedWithProxy) -> Singleflight | None:
        match policy.mode:
            case "none":
                return None
            case "memory":
                return Singleflight(MemoryCache(policy.ttl_s, policy.max_entries, time.monotonic), b"")
            case "redis":
                cache = RedisCache(shared.store.links, policy.redis_key_prefix, policy.ttl_s)
                return Singleflight(OffloadedCache(cache, self._spill), uuid.uuid4().bytes)

    def outbound(self, destination: Destination) -> Outbound | None:
        """Return what makes the requests of a destination; None if it is none of the proxy's."""
        match destination:
            case UpstreamDestination(upstream=upstream):
                return self._upstreams[upstream.prefix]
            case CallbackDestination():
                return self._callbacks
            case _:
                return None

    def renew(self, settings: Settings) -> None:
        """Keep answers in Redis up to the length that these settings say, and use their certificates and secrets."""
        self._spill.threshold_bytes = settings.payloads.answer_threshold_bytes
        for upstream in settings.proxy.upstreams:
            self._routes[upstream.prefix].renew(upstream.outbound)
        self._callback_routes.renew(settings.proxy.callback.routes)

    def tell_where_answers_go(self, payloads: PayloadPolicy) -> None:
        """Say in the log where large answers go if no store is configured: several machines need a shared one."""
        if payloads.url is None:
            # A fleet that splits accepting from working is likely to have several machines.
            tell = log.info if self._role.name == "all" else log.warning
            tell(
                "payloads.in_folder",
                folder=str(self._folder),
                over_bytes=payloads.redis_max_bytes,
                hint="longer answers are kept there; several machines need one shared store (payloads.url)",
            )

    async def drain(self) -> None:
        """Let requests that pass through end within the grace period, then abort them."""
        await self._passthrough.drain(self._grace_s)

    def tasks(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """Return the tasks that run as long as the instance does, by name."""
        return [("proxy:janitor", self._janitor.run())]
