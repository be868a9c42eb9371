"""The ceiling of durable accepts: an ASGI app that decodes an envelope, inserts a row and adds a job, and no more.

Rows and jobs are those of toril, in PostgreSQL and Redis, and rows that come together share one statement. Nothing is
checked, measured or logged: no token, target, idempotency key, group or limit. With `--starlette` it is a route of
Starlette; without, a bare app. The ledger's tables must be there (`toril migrate`).

    REDIS_URL=redis://127.0.0.1:6379 python -m benchmarks.ceiling_accept --port 9000 --ledger postgresql://…
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections import deque
from typing import Any

import asyncpg
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.ceiling_asgi import Message, Receive, Send, answer_json, serve, whole
from benchmarks.redis_pipe import Argument, Pipe, connect, load, pack
from toril.delivery.ledger.postgres.accept_statements import accept_all
from toril.delivery.rules.delivery import Envelope, Inline, NewDelivery, new_job_id

_BASE = "bull:deliver-sink:"
_KEYS = ("marker", "meta", "id", "delayed", "completed", "events")
_LANES = 2
_json, _msgpack = msgspec.json.Encoder().encode, msgspec.msgpack.Encoder().encode


class _Posted(msgspec.Struct):
    target: str
    path: str = "/"
    body: msgspec.Raw = msgspec.Raw()
    delay_ms: int = 0


_decode = msgspec.json.Decoder(_Posted).decode


class Accepting:
    """Accepts envelopes; what comes while two batches are under way shares the next one."""

    def __init__(self, ledger: str, redis: str) -> None:
        self._ledger = ledger
        self._redis = redis
        self._ready: asyncio.Task[None] | None = None
        self._pool: Any = None
        self._pipe: Pipe | None = None
        self._head: tuple[Argument, ...] = ()
        self._waiting: list[tuple[NewDelivery, asyncio.Future[None]]] = []
        self._added: deque[asyncio.Future[None]] = deque()
        self._lanes: set[asyncio.Task[None]] = set()

    async def _connect(self) -> None:
        self._pool = await asyncpg.create_pool(self._ledger, min_size=_LANES, max_size=_LANES)
        self._pipe = await connect(self._redis)
        sha = await load(self._pipe, "addDelayedJob-6.lua")
        self._head = ("EVALSHA", sha, len(_KEYS), *(_BASE + key for key in _KEYS))
        self._pipe.on_replies = self._replied

    def _replied(self, replies: list[Any]) -> None:
        for _ in replies:
            self._added.popleft().set_result(None)

    async def accept(self, body: bytes) -> tuple[str, bytes]:
        """Return the id and the answer of an envelope whose row and job are written."""
        if self._ready is None:
            self._ready = asyncio.create_task(self._connect())
        if not self._ready.done():
            await self._ready
        posted, now_s = _decode(body), time.time()
        new = NewDelivery(
            job_id=new_job_id(now_s, os.urandom(10)),
            target=posted.target,
            envelope=Envelope(path=posted.path, content=Inline(bytes(posted.body))),
            at_s=now_s,
            max_attempts=8,
            by="ceiling",
            not_before_s=now_s + posted.delay_ms / 1000,
        )
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((new, done))
        if len(self._lanes) < _LANES:
            lane = asyncio.create_task(self._lane())
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)
        await done
        return new.job_id, _json({"job_id": new.job_id, "target": new.target, "status": "queued", "created_at": now_s})

    async def _lane(self) -> None:
        assert self._pipe is not None
        while self._waiting:
            batch, self._waiting = self._waiting, []
            async with self._pool.acquire() as connection:
                await accept_all(connection, [new for new, _ in batch])
            self._pipe.write(b"".join(self._packed(new) for new, _ in batch))
            self._added.extend(done for _, done in batch)

    def _packed(self, new: NewDelivery) -> bytes:
        created_ms = int(new.at_s * 1000)
        delay_ms = round(((new.not_before_s or new.at_s) - new.at_s) * 1000)
        fields = _msgpack((_BASE, new.job_id, "delivery", created_ms, None, None, None, None, None))
        options = {
            "attempts": 0,
            "delay": delay_ms,
            "jobId": new.job_id,
            "removeOnComplete": True,
            "removeOnFail": True,
        }
        data = _json({"target": new.target, "ledger": "-" * 36})
        return pack((*self._head, fields, data, _msgpack(options), created_ms))


def bare(accepting: Accepting) -> Any:
    """Return an app without routes: each request with a body is an envelope."""

    async def app(_: Message, receive: Receive, send: Send) -> None:
        body = await whole(receive)
        job_id, answer = await accepting.accept(body) if body else ("", b"{}")
        await answer_json(send, 202 if body else 200, answer, (b"location", b"/jobs/%b" % job_id.encode()))

    return app


def routed(accepting: Accepting) -> Any:
    """Return an app of Starlette with one route."""

    async def enqueue(request: Request) -> Response:
        job_id, answer = await accepting.accept(await request.body())
        return Response(answer, 202, {"location": f"/jobs/{job_id}"}, media_type="application/json")

    def health(_: Request) -> Response:
        return Response()

    return Starlette(routes=[Route("/enqueue", enqueue, methods=["POST"]), Route("/health", health)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ledger", required=True, metavar="URL", help="of PostgreSQL")
    parser.add_argument("--starlette", action="store_true", help="with Starlette's routing and answers")
    arguments = parser.parse_args()
    accepting = Accepting(arguments.ledger, os.environ["REDIS_URL"])
    serve(routed(accepting) if arguments.starlette else bare(accepting), arguments.port, gathered=True)


if __name__ == "__main__":
    main()
