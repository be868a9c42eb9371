"""The ceiling of one-job requests with their store: an ASGI app that adds a job, or reads one, and does no more.

A POST to a queue's jobs adds the one job of its list by BullMQ's script, and is answered with that job. A GET reads a
job's hash, and is answered with it. Any other POST becomes a job that keeps its path, headers and body, and is answered
with 202. Commands of one turn of the event loop leave in one write. Nothing is checked, measured or logged: no token,
option, limit, group or trace. With `--starlette` these are routes of Starlette; without, a bare app.

    REDIS_URL=redis://127.0.0.1:6379 python -m benchmarks.ceiling_jobs --port 9000
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections import deque
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.ceiling_asgi import Message, Receive, Send, answer_json, serve, whole
from benchmarks.ceiling_script import ADD_KEYS
from benchmarks.redis_pipe import Argument, Pipe, connect, load, pack

_PREFIX = "bull"
_json, _msgpack = msgspec.json.Encoder().encode, msgspec.msgpack.Encoder().encode


class _Posted(msgspec.Struct):
    name: str
    data: msgspec.Raw = msgspec.Raw()
    opts: dict[str, Any] = {}


_decode = msgspec.json.Decoder(list[_Posted]).decode
_SHOWN = (
    b'{"name":%b,"data":%b,"opts":%b,"id":"%b","progress":0,"returnvalue":null,"stacktrace":null,"delay":%b,'
    b'"priority":%b,"attemptsStarted":0,"attemptsMade":0,"stalledCounter":0,"timestamp":%b,"queueQualifiedName":%b}'
)


class Jobs:
    """Adds and reads jobs over one connection to Redis."""

    def __init__(self, redis: str) -> None:
        self._redis = redis
        self._opening: asyncio.Task[None] | None = None
        self._pipe: Pipe | None = None
        self._sha = b""
        self._heads: dict[str, tuple[Argument, ...]] = {}
        self._commands: list[bytes] = []
        self._asked: deque[asyncio.Future[Any]] = deque()

    async def _open(self) -> None:
        pipe = await connect(self._redis)
        self._sha = await load(pipe, "addStandardJob-9.lua")
        pipe.on_replies = self._replied
        self._pipe = pipe

    def _replied(self, replies: list[Any]) -> None:
        for reply in replies:
            self._asked.popleft().set_result(reply)

    async def _opened(self) -> None:
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        await self._opening

    def _call(self, command: bytes) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        if not self._commands:
            loop.call_soon(self._write)
        self._commands.append(command)
        reply: asyncio.Future[Any] = loop.create_future()
        self._asked.append(reply)
        return reply

    def _write(self) -> None:
        assert self._pipe is not None
        self._pipe.write(b"".join(self._commands))
        self._commands.clear()

    async def _added(self, queue: str, name: str, data: bytes, options: dict[str, Any], now_ms: int) -> bytes:
        if self._pipe is None:
            await self._opened()
        head = self._heads.get(queue)
        if head is None:
            base = f"{_PREFIX}:{queue}:"
            head = ("EVALSHA", self._sha, len(ADD_KEYS), *(base + key for key in ADD_KEYS))
            self._heads[queue] = head
        fields = _msgpack((f"{_PREFIX}:{queue}:", "", name, now_ms, None, None, None, None, None))
        job_id: bytes = await self._call(pack((*head, fields, data, _msgpack(options))))
        return job_id

    async def add(self, queue: str, body: bytes) -> bytes:
        """Return the answer to a list of one job, which has been added."""
        (job,) = _decode(body)
        options, data, now_ms = {"attempts": 0} | job.opts, bytes(job.data), time.time_ns() // 1_000_000
        job_id = await self._added(queue, job.name, data, options, now_ms)
        where = b'"%b:%b"' % (_PREFIX.encode(), queue.encode())
        shown = (_json(job.name), data, _json(options), job_id, b"0", b"0", b"%d" % now_ms, where)
        return b"[%b]" % (_SHOWN % shown)

    async def accept(self, path: str, headers: list[tuple[bytes, bytes]], body: bytes) -> bytes:
        """Return the answer to a request that has become a job."""
        kept = {"path": path, "headers": [(name.decode(), value.decode()) for name, value in headers]}
        data = _json(kept | {"body": body.decode()})
        job_id = await self._added("requests", "request", data, {"attempts": 1}, time.time_ns() // 1_000_000)
        return b'{"jobId":"%b"}' % job_id

    async def read(self, queue: str, job_id: str) -> bytes:
        """Return the answer to the question for a job."""
        if self._pipe is None:
            await self._opened()
        flat = await self._call(pack(("HGETALL", f"{_PREFIX}:{queue}:{job_id}")))
        get = dict(zip(flat[::2], flat[1::2], strict=True)).__getitem__
        where = b'"%b:%b"' % (_PREFIX.encode(), queue.encode())
        named = _json(get(b"name").decode())
        times = get(b"delay"), get(b"priority"), get(b"timestamp")
        return _SHOWN % (named, get(b"data"), get(b"opts"), job_id.encode(), *times, where)


def bare(jobs: Jobs) -> Any:
    """Return an app that finds its way by the parts of the path."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        path = scope["path"]
        parts = path.split("/")
        if scope["method"] == "GET":
            await answer_json(send, 200, await jobs.read(parts[2], parts[4]) if len(parts) == 5 else b"{}")
            return
        body = await whole(receive)
        if parts[1] == "queues":
            await answer_json(send, 200, await jobs.add(parts[2], body))
        else:
            await answer_json(send, 202, await jobs.accept(path, scope["headers"], body))

    return app


def routed(jobs: Jobs) -> Any:
    """Return an app of Starlette with a route for each."""

    def shown(answer: bytes, status: int = 200) -> Response:
        return Response(answer, status, media_type="application/json")

    async def add(request: Request) -> Response:
        return shown(await jobs.add(request.path_params["queue"], await request.body()))

    async def read(request: Request) -> Response:
        return shown(await jobs.read(request.path_params["queue"], request.path_params["job"]))

    async def accept(request: Request) -> Response:
        return shown(await jobs.accept(request.scope["path"], request.headers.raw, await request.body()), 202)

    async def health(_: Request) -> Response:
        return shown(b"{}")

    return Starlette(
        routes=[
            Route("/queues/{queue}/jobs", add, methods=["POST"]),
            Route("/queues/{queue}/jobs/{job}", read),
            Route("/health", health),
            Route("/{path:path}", accept, methods=["POST"]),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--starlette", action="store_true", help="with Starlette's routing and answers")
    arguments = parser.parse_args()
    jobs = Jobs(os.environ["REDIS_URL"])
    serve(routed(jobs) if arguments.starlette else bare(jobs), arguments.port, gathered=True)


if __name__ == "__main__":
    main()
