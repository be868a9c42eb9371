"""The async proxy: requests that wait in the queues of upstreams, and are made by several instances."""

import asyncio
from typing import Any

import msgspec

from tests.simulation.proxy.instance import ProxyInstance
from tests.simulation.proxy.parts import Answers, Ends, GroupedProxyStore, Keys, Producer, Proxied, ProxyStore
from tests.simulation.queue_store import Broken, WatchedStore
from tests.simulation.world import HEALED_WITHIN_S, LOCK_S, World
from toril.core.destination import OutboundRequest
from toril.core.http.signing import Secret
from toril.core.outcome import ConnectFailed, CutOff, Outcome
from toril.proxy.rules.envelope import decode_request, decode_response
from toril.proxy.rules.grouping import read_group_by
from toril.proxy.rules.proxied_job import RESPONSE_FIELD
from toril.proxy.rules.upstream import CachePolicy, CallbackPolicy, ProxyPolicy, Upstream, callback_queue, queue_name
from toril.testing import FakeBlobs, answered

CLIENT = "client"
_QUEUE = "default"
_CALLBACKS = callback_queue(_QUEUE)
_SOURCE = b"x-proxq-source"
_JSON = msgspec.json.Decoder().decode


class ProxyWorld(World[ProxyInstance]):
    """Upstreams, their queues, callers, and the instances between them."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        plan, self._groups = self.plan, self.chance("groups")
        grouped = self._groups.random() < 0.3
        limits = {"group_by": read_group_by("header:x-tenant"), "group_concurrency": 1} if grouped else {}
        upstreams = tuple(
            Upstream(
                prefix=prefix,
                url=f"http://{prefix[1:]}.example",
                timeout_s=self.timeout_s,
                max_retries=plan.choice((0, 1, 2)),
                retry_delay_s=0.4,
                retry_on=frozenset({503}),
                **limits,
            )
            for prefix in plan.choice((("/api",), ("/api", "/img")))
        )
        self.policy = ProxyPolicy(
            upstreams=upstreams,
            queue=_QUEUE,
            concurrency=plan.choice((1, 2, 4)),
            retention_s=plan.choice((3600.0, 25.0)),
            cache=CachePolicy(mode=plan.choice(("none", "none", "redis")), ttl_s=plan.choice((3.0, 300.0))),
            callback=CallbackPolicy(secrets=(Secret(b"k" * 32),), attempts=20),
        )
        options: dict[str, Any] = {"now": self.now, "lock_s": LOCK_S, "mark": self.markers.mark}
        for upstream in upstreams:
            queue = queue_name(_QUEUE, upstream.prefix)
            self.stores[queue] = ProxyStore(queue, **options)
            if upstream.group is not None:
                self.stores[queue] = GroupedProxyStore(queue, default=upstream.group, limits={}, **options)
        self.upstreams = list(self.stores.values())
        self.stores[_CALLBACKS] = ProxyStore(_CALLBACKS, **options)
        self.blobs = FakeBlobs(self.now)
        self.producer = Producer(self)
        self.proxied = Proxied(self, self.policy.retention_s)
        self.keys = Keys(self.now)
        self.cache = Answers(self.policy.cache.ttl_s, self.now)
        self.events = Ends()
        self.good = False
        # What upstreams have answered: by job, or by what was asked where equal requests share answers.
        self.answers: dict[bytes, set[tuple[int, bytes]]] = {}
        self.asked: dict[bytes, bytes] = {}
        self.requests: dict[bytes, int] = {}
        self.flying: dict[str, int] = {}
        self.under_way: set[bytes] = set()
        # Jobs whose acceptance a caller was told of, with their callback's URL; keys, and the job that each has.
        self.told: dict[bytes, str] = {}
        self.by_key: dict[str, bytes] = {}
        # How many adds of a job were begun and carried out; cancelled jobs, and which of them no worker had begun.
        self.begun: dict[str, int] = {}
        self.carried_out: dict[str, int] = {}
        self.gone: dict[bytes, bool] = {}
        self.called: dict[bytes, set[str]] = {}
        self.bodies: dict[bytes, str] = {}
        self._submitted = 0
        self._upstream = self.chance("upstream")
        self._callers = self.chance("callers")

    def process(self, name: str) -> ProxyInstance:
        """Return another instance, which starts."""
        return ProxyInstance(self, name)

    def check(self) -> None:
        """Check queues, slots, and that no answer has lost its body."""
        super().check()
        for instance in self.running:
            instance.check()
        for job_id, name in self.bodies.items():
            if name not in self.blobs.bodies and not self.jumped_s:
                raise Broken(f"the answer of job {job_id.decode()} has lost its body")

    def moved(self, store: WatchedStore, job_id: bytes, place: str | None) -> None:
        """Check that a job has ended for a reason, and let its callback begin."""
        assert isinstance(store, ProxyStore)
        shown, fields = job_id.decode(), store.jobs.get(job_id, {})
        if place in ("completed", "failed"):
            store.finished[job_id] = self.now()
        if place is None:
            self.bodies.pop(job_id, None)
        if store.queue == _CALLBACKS:
            return
        if place == "waiting" and job_id not in self.asked:
            self.asked[job_id] = store.queue.encode() + decode_request(fields[b"data"]).body
        if place == "completed":
            self._answered(job_id, fields)
        if place == "failed":
            made = int(fields.get(b"atm", b"0"))
            if made < max(1, store.accepted[job_id]):
                raise Broken(f"job {shown} failed after {made} of {store.accepted[job_id]} attempts")
        if self.severity == 0.0 and fields.get(b"stc"):
            raise Broken(f"job {shown} stalled although nothing was wrong")
        if place in ("completed", "failed", None):
            if place is not None:
                self.events.happened(store.queue, shown, place)
            order = store.parents.pop(job_id, None)
            if order is not None and job_id not in self.stores[_CALLBACKS].jobs:
                self.stores[_CALLBACKS].accept(shown, self.policy.callback.attempts, data=order)

    def _answered(self, job_id: bytes, fields: dict[bytes, bytes]) -> None:
        recorded = decode_response(fields[RESPONSE_FIELD])
        body = recorded.body
        if recorded.blob is not None:
            body = self.blobs.bodies[recorded.blob.name]
            self.bodies[job_id] = recorded.blob.name
        if (recorded.status, body) not in self.answers.get(self._shared(job_id), ()):
            raise Broken(f"job {job_id.decode()} has an answer that its upstream never gave: {body[:60]!r}")

    def _shared(self, job_id: bytes) -> bytes:
        """Return what jobs that may share an answer have in common; the id of the job where none may."""
        if self.policy.cache.mode == "none":
            return job_id
        return self.asked[job_id]

    def adds(self, method: str, given: tuple[Any, ...]) -> None:
        """Count the adds that an instance begins."""
        jobs = given[1] if method == "add" else [child for flow in given[0] for child in flow.children]
        for job in jobs:
            self.begun[str(job.opts.jobId)] = self.begun.get(str(job.opts.jobId), 0) + 1

    def added(self, job_id: str) -> None:
        """Count an add that was carried out; one that comes after a cancel has the job begin again."""
        self.carried_out[job_id] = self.carried_out.get(job_id, 0) + 1
        if self.gone.pop(job_id.encode(), None) is not None:
            # Its first add had no answer, and was carried out after the second one and the cancel: it is a new job.
            self.note(job_id, "was added again after it was cancelled")
            for store in self.upstreams:
                store.ends.pop(job_id.encode(), None)

    def cancelled(self, queue: str, job_id: bytes) -> None:
        """Remember a cancelled job, and announce it."""
        self.gone[job_id] = self.stores[queue].starts.get(job_id, 0) == 0
        for instance in self.running:
            if not instance.line.away and self._callers.random() >= 0.1 * self.severity:
                self.loop.call_later(0.01 * self._callers.random(), self._heard, instance, queue, job_id)
        if not self.severity:
            self.loop.call_later(0.5, self._broken_off, job_id)

    def _broken_off(self, job_id: bytes) -> None:
        if job_id in self.under_way:
            self.breaks(Broken(f"the request of job {job_id.decode()} goes on although the job was cancelled"))

    def _heard(self, instance: ProxyInstance, queue: str, job_id: bytes) -> None:
        if instance.line.alive:
            instance.hears(instance.cancelled, queue, job_id)

    async def answer(self, instance: ProxyInstance, request: OutboundRequest) -> Outcome:
        """Answer a request as an upstream with its moods does."""
        job_id, chance = request.job_id, self._upstream
        self.note(instance.name, "request", job_id[-6:])
        self.requests[job_id] = self.requests.get(job_id, 0) + 1
        starts = sum(store.starts.get(job_id, 0) for store in self.upstreams)
        if self.requests[job_id] > starts:
            self.breaks(Broken(f"{self.requests[job_id]} requests for {starts} starts of job {job_id.decode()}"))
        if self.gone.get(job_id):
            self.breaks(Broken(f"a request for job {job_id.decode()}, which was cancelled before it began"))
        key = request.cache_key or job_id.decode()
        self.flying[key] = self.flying.get(key, 0) + 1
        self.under_way.add(job_id)
        if self.flying[key] > 1 and not self.severity:
            self.breaks(Broken(f"{self.flying[key]} requests at once that are equal"))
        try:
            return await self._moody(self._shared(job_id), job_id, 0.0 if self.good else chance.random())
        finally:
            self.flying[key] -= 1
            self.under_way.discard(job_id)

    async def _moody(self, shared: bytes, job_id: bytes, mood: float) -> Outcome:
        chance = self._upstream
        await asyncio.sleep(0.01 + 0.1 * chance.random())
        if 0.35 < mood < 0.55:
            await asyncio.sleep(self.timeout_s * 1.2 * chance.random())
        if mood < 0.7:
            status = 200 if mood < 0.6 else chance.choice((404, 500))
            body = b"%b@%d%b" % (job_id, self.requests[job_id], b"x" * chance.choice((0, 0, 100)))
            self.answers.setdefault(shared, set()).add((status, body))
            return answered(status, body, headers=[(b"content-type", b"text/plain")])
        if mood < 0.8:
            body = b"busy"
            self.answers.setdefault(shared, set()).add((503, body))
            return answered(503, body, headers=[(b"retry-after", b"1")])
        if mood < 0.9:
            return CutOff("ECONNRESET", "reset", 0.1)
        if mood < 0.94:
            return ConnectFailed("ECONNREFUSED", "refused", 0.0)
        return ConnectFailed("EMFILE", "no descriptor", 0.0, exhausted=True)

    async def called_back(self, instance: ProxyInstance, request: OutboundRequest) -> Outcome:
        """Take a callback, and check what it says."""
        told = _JSON(request.body)["data"]
        job_id, said = told["id"].encode(), told["status"]
        self.note(instance.name, "callback", job_id[-6:], said)
        end = next((store.ends[job_id] for store in self.upstreams if job_id in store.ends), None)
        if said in ("completed", "failed") and said != end:
            self.breaks(Broken(f"the callback of job {told['id']} says {said}, and it is {end}"))
        if said == "cancelled" and job_id not in self.gone:
            self.breaks(Broken(f"the callback of job {told['id']} says cancelled, and no caller did that"))
        await asyncio.sleep(0.05)
        if not self.good and self._upstream.random() < 0.2:
            return answered(500)
        self.called.setdefault(job_id, set()).add(said)
        return answered(200)

    def submit(self) -> None:
        """Let a caller submit a request, and try again where it gets no answer."""
        chance = self._callers
        self._submitted += 1
        number, headers = self._submitted, list[tuple[bytes, bytes]]()
        key = f"key{number}" if chance.random() < 0.5 else ""
        if key:
            headers.append((b"idempotency-key", key.encode()))
        if chance.random() < 0.3:
            headers.append((b"prefer", b"wait=%d" % chance.choice((1, 3, 10))))
        callback = "http://caller.example/done" if chance.random() < 0.3 else ""
        if callback:
            headers.append((b"x-toril-callback", callback.encode()))
        if self.policy.upstreams[0].group is not None:
            headers.append((b"x-tenant", self._groups.choice((b"a", b"b"))))
        body = b"%d" % (number if chance.random() < 0.5 else chance.choice((1, 2)))
        path = chance.choice(self.policy.upstreams).prefix + "/thing"
        self._post(path, headers, body, key, 5)

    def _post(self, path: str, headers: list[tuple[bytes, bytes]], body: bytes, key: str, tries: int) -> None:
        if self.running:
            instance = self._callers.choice(self.running)
            instance.serves(self._posting(instance, path, headers, body, key))
        if tries and key and (key not in self.by_key or self._callers.random() < 0.1):
            self.loop.call_later(
                0.5 + 2.0 * self._callers.random(), self._post_again, path, headers, body, key, tries - 1
            )

    def _post_again(self, path: str, headers: list[tuple[bytes, bytes]], body: bytes, key: str, tries: int) -> None:
        if key not in self.by_key or self._callers.random() < 0.1:
            self._post(path, headers, body, key, tries)

    async def _posting(
        self, instance: ProxyInstance, path: str, headers: list[tuple[bytes, bytes]], body: bytes, key: str
    ) -> None:
        status, got, answer = await instance.ask("POST", path, headers, body)
        self.note(CLIENT, "posted", key or body, status)
        if _SOURCE not in got:
            self._given(status, answer)
            return
        if status != 202:
            if status not in (500, 503):
                self.breaks(Broken(f"a submission was answered {status}: {answer!r}"))
            return
        job_id = _JSON(answer)["jobId"].encode()
        self.note(CLIENT, "accepted", job_id[-6:])
        known = job_id in self.gone or any(job_id in store.jobs or job_id in store.ends for store in self.upstreams)
        if not known:
            self.breaks(Broken(f"{job_id.decode()} was accepted, and is in no queue"))
        if job_id in self.told and not (key and self.by_key.get(key) == job_id):
            self.breaks(Broken(f"{job_id.decode()} is the job of two requests"))
        before = self.by_key.get(key, job_id) if key else job_id
        if before != job_id and self._alive(before):
            self.breaks(Broken(f"{key} has two jobs: {before.decode()} and {job_id.decode()}"))
        self.told[job_id] = next((value.decode() for name, value in headers if name == b"x-toril-callback"), "")
        if key:
            self.by_key[key] = job_id

    def _alive(self, job_id: bytes) -> bool:
        """Return True for a job that is under way or answered, and was not added again after it was cancelled."""
        again = self.begun.get(job_id.decode(), 0) > 1 or self.jumped_s
        return not again and any(store.places.get(job_id) not in (None, "failed") for store in self.upstreams)

    def _given(self, status: int, body: bytes) -> None:
        """Check an upstream's answer that a caller was given."""
        if not any((status, body) in given for given in self.answers.values()):
            self.breaks(Broken(f"a caller was given an answer that no upstream gave: {status} {body[:60]!r}"))

    def look(self) -> None:
        """Let a caller ask for a job and its answer."""
        self._ask(self._looking)

    def cancel(self) -> None:
        """Let a caller cancel a job."""
        self._ask(self._cancelling)

    def _ask(self, asking: Any) -> None:
        if self.told and self.running:
            instance = self._callers.choice(self.running)
            instance.serves(asking(instance, self._callers.choice(sorted(self.told))))

    async def _looking(self, instance: ProxyInstance, job_id: bytes) -> None:
        path = f"/__jobs/{job_id.decode()}"
        status, _, body = await instance.ask("GET", path + self._callers.choice(("", "", "?wait=4")), [])
        self.note(CLIENT, "looks", job_id[-6:], status, body[60:])
        if status == 404 and self._known(job_id):
            self.breaks(Broken(f"job {job_id.decode()} is not found, and was neither cancelled nor is its time over"))
        if status == 200 and _JSON(body)["status"] == "completed":
            status, got, body = await instance.ask("GET", path + "/content", [])
            self.note(CLIENT, "reads", job_id[-6:], status)
            if _SOURCE not in got:
                self._read(job_id, status, body)
            elif not self.severity and self._known(job_id):
                self.breaks(Broken(f"the answer of job {job_id.decode()} cannot be read: {status}"))

    def _known(self, job_id: bytes) -> bool:
        ended_at = max(store.finished.get(job_id, 0.0) for store in self.upstreams)
        over = ended_at and ended_at + self.policy.retention_s - 1.0 <= self.now()
        kept = any(job_id in store.jobs for store in self.upstreams)
        return kept and not over and not self.jumped_s and self.begun.get(job_id.decode()) == 1

    def _read(self, job_id: bytes, status: int, body: bytes) -> None:
        if (status, body) not in self.answers.get(self._shared(job_id), ()):
            self.breaks(Broken(f"job {job_id.decode()} was read with an answer that its upstream never gave: {body!r}"))

    async def _cancelling(self, instance: ProxyInstance, job_id: bytes) -> None:
        path = f"/__jobs/{job_id.decode()}"
        status, _, _ = await instance.ask("DELETE", path, [])
        self.note(CLIENT, "cancels", job_id[-6:], status)
        if status != 200:
            return
        status, _, body = await instance.ask("GET", path, [])
        begun, carried_out = self.begun[job_id.decode()], self.carried_out[job_id.decode()]
        if status == 200 and begun == carried_out == 1:
            self.breaks(Broken(f"job {job_id.decode()} was cancelled, and is {body!r}"))

    def left(self) -> list[str]:
        """Return the jobs that have not ended: accepted ones, and callbacks."""
        missing = [job_id for job_id in self.told if job_id not in self.gone and not self._ended(job_id)]
        stored = [
            job_id
            for store in self.stores.values()
            for job_id, place in store.places.items()
            if place not in ("completed", "failed")
        ]
        return [f"{job_id.decode()} ({self._places(job_id)})" for job_id in dict.fromkeys([*missing, *stored])]

    def _ended(self, job_id: bytes) -> bool:
        return any(job_id in store.ends for store in self.upstreams)

    def _places(self, job_id: bytes) -> str:
        return ", ".join(f"{queue}: {store.places.get(job_id)}" for queue, store in self.stores.items())

    async def run(self) -> None:
        """Live from the first request to the last one. Raises `Broken`."""
        plan = self.plan
        self.start(plan.choice((1, 2, 3)))
        events: list[tuple[float, Any]] = [
            (plan.choice((0.2, 12.0)) + 3.0 * plan.random(), self.submit) for _ in range(plan.randint(3, 9))
        ]
        events += [(18.0 * plan.random(), self.cancel) for _ in range(plan.choice((0, 1, 3)))]
        events += [(20.0 * plan.random(), self.look) for _ in range(plan.choice((0, 3, 6)))]
        events += self.faults(self.without_blobs)
        await self.happen(events)
        await asyncio.sleep(6.0)
        self.calm_down()
        self.good = True
        await self.until(lambda: not self.left(), HEALED_WITHIN_S, lambda: f"not ended: {self.left()}")
        await self.until(self._idle, 5 * LOCK_S, lambda: "slots are taken although no job is left")
        for job_id, url in self.told.items():
            if url and not self.called.get(job_id):
                raise Broken(f"the callback of job {job_id.decode()} was never made")
        await self.end()

    def without_blobs(self) -> None:
        """Cut an instance off from its large bodies for a while."""
        if self.running:
            line = self.plan.choice(self.running).blob_line
            line.away = True
            self.note(line.name, "is cut off")
            self.loop.call_later(2.5 * LOCK_S * self.plan.random() ** 2, self._joined, line)

    def _idle(self) -> bool:
        consumers = [one for instance in self.running for one in instance.supervisor.consumers()]
        return not any(one.slots or one.in_doubt or one.in_flight or one._waiting for one in consumers)
