"""One toril of the proxy's world, asked over ASGI: it accepts requests for upstreams, makes them, and calls back."""

from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.middleware import Middleware
from starlette.routing import Router

from tests.simulation.delivery_parts import WiredBlobs
from tests.simulation.engine_parts import LEASE_CALLS, services_of, settler_of
from tests.simulation.proxy.parts import Flows
from tests.simulation.queue_store import Broken
from tests.simulation.wire import Wired
from tests.simulation.world import POLICY, OrderedConsumer, Process
from toril.core.destination import Destination
from toril.core.stored_job import Keep
from toril.engine.consumer import Consumer
from toril.engine.executor import Executor
from toril.engine.load_shedding import LoadShedding
from toril.engine.supervisor import Supervisor
from toril.http_client.egress import Egress, EgressPolicy
from toril.payloads.payload_offload import PayloadOffload
from toril.proxy.cache.offloaded_cache import OffloadedCache
from toril.proxy.cache.singleflight import Singleflight
from toril.proxy.callback_calls import CallbackCalls
from toril.proxy.janitor import BlobSweep, OrphanedAnswers, ProxyJanitor
from toril.proxy.jobs import ProxyJobs
from toril.proxy.proxied_requests import ProxiedRequests
from toril.proxy.routes import ProxyRouter, UpstreamServices
from toril.proxy.rules.callback import CallbackDestination
from toril.proxy.rules.destination import UpstreamDestination, UpstreamRules
from toril.proxy.rules.upstream import callback_queue, queue_name
from toril.proxy.submissions import QueuedSubmissions, SubmissionStores
from toril.proxy.upstream_calls import UpstreamCalls
from toril.proxy.waits import ProxyWaits
from toril.testing import (
    FakeMeter,
    FakeOutbound,
)
from toril.web.application import Application
from toril.web.request_metrics import RequestMetrics

if TYPE_CHECKING:
    from tests.simulation.proxy.world import ProxyWorld

_THRESHOLD_BYTES = 60
_JOB_CALLS = frozenset({"find", "response", "had_ended", "clean"})


async def _nowhere(*_: Any) -> None:
    raise AssertionError("no request goes past the queue")


class ProxyInstance(Process):
    """One toril that is an async proxy."""

    world: "ProxyWorld"

    async def serve(self) -> None:
        """Wire it up as `toril.instance.proxy` does."""
        world, line, now, policy = self.world, self.line, self.now, self.world.policy
        chance, meter = world.chance(f"{self.name}:engine"), FakeMeter()
        self.blob_line = world.line(f"{self.name}:blobs")
        self.lines.append(self.blob_line)
        blobs = WiredBlobs(world.blobs, self.blob_line)
        spill = PayloadOffload(blobs, _THRESHOLD_BYTES)
        jobs = Wired(world.proxied, line, repeatable=_JOB_CALLS)
        producer = Wired(world.producer, line, before=world.adds)
        keys = Wired(world.keys, line, repeatable=frozenset({"settle"}))
        self.settler = settler_of(self, meter)
        self.shared = services_of(self, self.settler.measures)
        busy = chance.random() < 0.3
        self.shedding = LoadShedding(lambda: world.loop.time() if busy else 0.0, lambda: 0.0, 2, world.loop.time)
        self.supervisor = Supervisor(self._consumer, POLICY, self.shared)
        self.chance = chance
        singleflight = None
        if policy.cache.mode != "none":
            cache = Wired(world.cache, line, repeatable=frozenset({"get", "put", "claim", "release"}))
            singleflight = Singleflight(OffloadedCache(cache, spill), self.name.encode())
        self.upstreams = FakeOutbound(partial(world.answer, self))
        self.callbacks = FakeOutbound(partial(world.called_back, self))
        self.upstream_calls = UpstreamCalls(self.upstreams, spill, singleflight)
        self.callback_calls = CallbackCalls(
            self.callbacks, jobs, callback_queue(policy.queue), policy.callback.secrets, now
        )
        submissions = QueuedSubmissions(
            SubmissionStores(producer, Flows(producer), keys, jobs),
            policy.queue,
            policy.callback.attempts,
            chance.randbytes,
            now,
            self.shedding.accepted,
        )
        waits = ProxyWaits(jobs, world.events.of(line))  # type: ignore[arg-type]
        proxied = ProxyJobs(jobs, spill, waits, path=policy.jobs_path, owner_only=False)
        services = UpstreamServices(
            proxied, _nowhere, ProxiedRequests(policy, Egress(EgressPolicy())), submissions, waits, meter
        )
        self.router = ProxyRouter(policy, services, Router())
        self.app = Application(self.router, [Middleware(RequestMetrics, meter)])
        queues = [queue_name(policy.queue, upstream.prefix) for upstream in policy.upstreams]
        orphans = OrphanedAnswers(blobs, jobs, queues, policy.retention_s, now)
        janitor = ProxyJanitor(jobs, queues, policy.retention_s, BlobSweep(blobs, [orphans]))
        for work in (self.supervisor.run(), janitor.run()):
            self.tasks.create_task(work)
        rules = UpstreamRules(Keep(age=int(policy.retention_s) + 1), cached=singleflight is not None)
        for upstream, queue in zip(policy.upstreams, queues, strict=True):
            self.supervisor.start_configured(UpstreamDestination(upstream, queue, policy.concurrency, rules, now))
        self.supervisor.start_configured(CallbackDestination(callback_queue(policy.queue), 3.0))

    def _consumer(self, destination: Destination, slots: int) -> Consumer:
        is_upstream = isinstance(destination, UpstreamDestination)
        leases = Wired(self.world.stores[destination.queue], self.line, repeatable=LEASE_CALLS, before=self.check_write)
        outbound = self.upstream_calls if is_upstream else self.callback_calls
        executor = Executor(destination, leases, outbound, self.settler, self.chance.random)
        return OrderedConsumer(destination, slots, leases, executor, self.shared, self.shedding.may_begin)

    def cancelled(self, queue: str, job_id: bytes) -> None:
        """As an instance that hears of a cancelled job."""
        if not self.supervisor.cancel(queue, job_id):
            self.shared.cancelled.note(queue, job_id)

    async def drain(self) -> None:
        """As an instance does."""
        self.router.endpoint.draining = True
        await self.supervisor.drain()
        self.check_left(self.supervisor.consumers(), excused=any(line.troubled for line in self.lines))
        self.blob_line.cut()

    def kill(self) -> None:
        """End the process at once."""
        self.blob_line.cut()
        super().kill()

    async def ask(
        self, method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes = b""
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        """Serve a request; return the status, the headers and the body of the answer."""
        came: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            came.append(message)

        plain, _, query = path.partition("?")
        scope = {
            "type": "http", "method": method, "raw_path": plain.encode(), "query_string": query.encode(),
            "path": plain, "headers": headers, "client": ("127.0.0.1", 1), "scheme": "http",
        }  # fmt: skip
        await self.app(scope, receive, send)
        whole = b"".join(message.get("body", b"") for message in came)
        return came[0]["status"], dict(came[0]["headers"]), whole

    def check(self) -> None:
        """Raise `Broken` where slots are not as they must be."""
        for consumer in self.supervisor.consumers():
            if len(consumer.slots) > max(consumer._limit, 1):
                raise Broken(f"{self.name}: {len(consumer.slots)} slots of {consumer._limit}")
