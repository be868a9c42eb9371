"""The queues door with workers on sockets: they answer, drop, close, stop, settle later, and connect again."""

import asyncio
from contextvars import Context
from typing import Any

import msgspec

from tests.simulation.queue_store import Broken
from tests.simulation.queues_world import QueuesWorld, read_sent
from tests.simulation.sockets.instance import SocketsInstance

_JSON = msgspec.json.Decoder().decode
_DROPPED, _CLOSED = 1006, 1000


class Reports:
    """`JobReporter` for the jobs of a world."""

    def __init__(self, world: QueuesWorld) -> None:
        self._stores = world.stores

    async def progress(self, queue: str, job_id: str, value: bytes) -> bool:
        """Take the progress of a job that is there."""
        return job_id.encode() in self._stores[queue].jobs

    async def log(self, queue: str, job_id: str, line: str) -> bool:
        """Take a log line of a job that is there."""
        return job_id.encode() in self._stores[queue].jobs


class SocketWorkerClient:
    """A worker that connects to some instance, and again to another one when its socket is gone."""

    def __init__(self, world: "SocketsWorld", name: str, queue: str) -> None:
        plan = world.plan
        self.world = world
        self.name = name
        self.queue = queue
        self.concurrency = plan.choice((1, 1, 2, 4))
        self.timed = plan.random() < 0.5
        self.query = b"payload=job" + (b"&timeout=%d" % (world.timeout_s * 1000) if self.timed else b"")
        self.instance: SocketsInstance | None = None
        self._to: asyncio.Queue[dict[str, Any]] | None = None
        self.held: dict[int, bytes] = {}

    def tick(self) -> None:
        """Connect, if there is no connection and an instance can serve it."""
        if self.instance is not None and not self.instance.line.alive:
            self._gone()
        if self.instance is None and self.world.running:
            self.instance = self.world.workers_chance.choice(self.world.running)
            self.world.note(self.name, "connects to", self.instance.name)
            came: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
            came.put_nowait({"type": "websocket.connect"})
            self._to = came
            self.instance.serves(self.instance.connected(self, came))
        if not self.world.ending:
            self.world.loop.call_later(0.5, self.tick, context=Context())

    def _gone(self) -> None:
        self.instance, self._to = None, None
        self.held.clear()

    def closed(self, came: "asyncio.Queue[dict[str, Any]]") -> None:
        """Learn that a socket is served no longer."""
        if self._to is came:
            self._gone()

    def receives(self, came: "asyncio.Queue[dict[str, Any]]", message: Any) -> None:
        """Receive a message a moment after it was sent."""
        self.world.loop.call_later(0.0005, self._received, came, message, context=Context())

    def _received(self, came: "asyncio.Queue[dict[str, Any]]", message: Any) -> None:
        if self._to is not came:
            return
        if message["type"] == "websocket.close":
            self._hang_up(message["code"])
        elif message["type"] == "websocket.send":
            said = _JSON(message["text"])
            kind = said.get("data", {}).get("type")
            if kind == "process":
                self._begins(said["id"], message["text"].encode())
            elif kind == "cancel":
                self.held.pop(said["id"], None)

    def _begins(self, number: int, text: bytes) -> None:
        payload = msgspec.json.encode(_JSON(text)["data"]["payload"])
        sent, world = read_sent(payload), self.world
        job_id = sent.job.id.encode()
        self.held[number] = job_id
        world.note(self.name, "gets", job_id, "start", sent.job.started)
        if len(self.held) > self.concurrency:
            world.breaks(Broken(f"{self.name} has {len(self.held)} jobs of {self.concurrency}"))
        world.begins(job_id, sent.token, sent.job.started)
        chance = world.workers_chance
        mood = 0.0 if world.good else chance.random()
        after_s = 0.01 + 0.1 * chance.random()
        if 0.4 < mood < 0.55:
            after_s += world.timeout_s * 1.2 * chance.random()
        result = msgspec.json.encode(f"{sent.job.id}@{sent.job.started}")
        if mood < 0.65:
            world.answers.setdefault(job_id, set()).add(result)
            if chance.random() < 0.2:
                self._say_later(0.5 * after_s, number, {"progress": 50})
            self._say_later(after_s, number, {"result": msgspec.Raw(result)})
        elif mood < 0.75:
            self._say_later(after_s, number, {"err": {"message": "no"}})
        elif mood < 0.8:
            lease_ms = chance.choice((1000, 3000, 9000))
            self._say_later(after_s, number, {"later": lease_ms})
            world.settles_later(after_s + 0.01, job_id, sent.token, result, lease_ms)
        elif mood < 0.85:
            self._say_later(after_s, number, {"snooze": 400})
        elif mood < 0.9 and world.severity:
            self._after(after_s, self._hang_up, _DROPPED)
        elif mood < 0.93:
            self._after(after_s, self._hang_up, _CLOSED)
        elif mood < 0.96 or not self.timed:
            self._after(0.5 * after_s, self._say, {"data": {"type": "stop"}})
            self._say_later(after_s, number, {"err": {"message": "no", "retryIn": 300}})

    def _after(self, after_s: float, act: Any, *given: Any) -> None:
        came = self._to

        def acts() -> None:
            if self._to is came:
                act(*given)

        self.world.loop.call_later(after_s, acts, context=Context())

    def _say_later(self, after_s: float, number: int, data: dict[str, Any]) -> None:
        self._after(after_s, self._replies, number, data)

    def _replies(self, number: int, data: dict[str, Any]) -> None:
        if "progress" not in data:
            self.held.pop(number, None)
        self._say({"id": number, "data": data})

    def _say(self, said: dict[str, Any]) -> None:
        text = msgspec.json.encode(said).decode()
        self._put({"type": "websocket.receive", "text": text})

    def _hang_up(self, code: int) -> None:
        self.world.note(self.name, "hangs up", code)
        self._put({"type": "websocket.disconnect", "code": code})
        self._gone()

    def _put(self, message: dict[str, Any]) -> None:
        """Let the instance hear it, when it does not stand still."""
        assert self.instance is not None
        assert self._to is not None
        wait_s = max(0.0, self.instance.line.still_until - self.world.loop.time())
        self.world.loop.call_later(wait_s + 0.0005, self._to.put_nowait, message, context=Context())


class SocketsWorld(QueuesWorld):
    """Queues with workers on sockets, and registered ones beside them or not."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.reports = Reports(self)
        self.workers_chance = self.chance("workers")
        self.ending = False
        self.pushed = self.plan.choice(([], [], list(self.stores)))
        self.clients = [
            SocketWorkerClient(self, f"worker{number}", self.plan.choice(list(self.stores)) if number else "queue0")
            for number in range(self.plan.choice((1, 2, 3)))
        ]
        self.clients += [SocketWorkerClient(self, f"worker-{queue}", queue) for queue in self.stores]

    def process(self, name: str) -> SocketsInstance:
        """Return another instance, which starts."""
        return SocketsInstance(self, name)

    async def run(self) -> None:
        """Live from the first job to the last one. Raises `Broken`."""
        for client in self.clients:
            self.loop.call_later(self.plan.choice((0.0, 0.5, 3.0)), client.tick, context=Context())
        await super().run()

    async def end(self) -> None:
        """Let all instances leave, and no worker connect again."""
        self.ending = True
        await super().end()
