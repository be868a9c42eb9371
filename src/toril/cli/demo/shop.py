"""The programs of the kept demo's shop: workers, an upstream and receivers of deliveries, in one ASGI application.

Each fails as such programs do: mailboxes do not exist, a supplier refuses, the billing system is down.
"""

from __future__ import annotations

import asyncio
import random
import struct
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from toril.cli.demo.client import CallFailed, Client

_JSON = "application/json"
_OK = 200


class Answer(msgspec.Struct, frozen=True):
    """What a program of the shop answers."""

    body: Any
    status: int = 200
    content_type: str = _JSON


class Shop:
    """An ASGI application: `/work/…` are workers, `/upstream/…` is proxied, `/receive/…` are targets of deliveries.

    Args:
        api: reaches the gateway as any worker would.
        dice: decides what fails.
    """

    def __init__(self, api: Client, dice: random.Random) -> None:
        self._api = api
        self._dice = dice
        self._programs: dict[str, Callable[[bytes], Awaitable[Answer]]] = {
            "/work/orders": self._charge,
            "/work/mails": self._mail,
            "/work/invoices": self._invoice,
            "/work/thumbnails": self._thumbnail,
            "/work/stock-sync": self._stock_sync,
            "/upstream/search": self._search,
            "/upstream/quote": self._quote,
            "/upstream/label": self._label,
            "/receive/crm": self._crm,
            "/receive/warehouse": self._warehouse,
            "/receive/billing": self._billing,
            "/receive/partners": self._partners,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Part of ASGI."""
        body = await Request(scope, receive).body()
        path = "/" + "/".join(scope["path"].split("/")[1:3])
        program = self._programs.get(path, _not_found)
        answer = await program(body)
        sent = answer.body if isinstance(answer.body, bytes) else msgspec.json.encode(answer.body)
        await Response(sent, answer.status, media_type=answer.content_type)(scope, receive, send)

    async def _takes(self, least_s: float, most_s: float) -> None:
        await asyncio.sleep(self._dice.uniform(least_s, most_s))

    def _happens(self, share: float) -> bool:
        return self._dice.random() < share

    async def _charge(self, body: bytes) -> Answer:
        pushed = msgspec.json.decode(body)
        await self._takes(0.03, 0.18)
        if self._happens(0.03):
            return Answer({"error": "the card was declined: insufficient funds"}, 402)
        return Answer({"charged": pushed["job"]["data"].get("total", 0), "receipt": f"r-{self._dice.randrange(10**6)}"})

    async def _mail(self, body: bytes) -> Answer:
        pushed = msgspec.json.decode(body)
        job, token = pushed["job"], pushed["token"]
        path = f"/queues/mails/jobs/{job['id']}"
        try:
            await self._api.post(f"{path}/logs", f"rendered {job['name']}, 2 parts, 18 KB", token)
            await self._api.post(f"{path}/progress", 50, token)
            await self._takes(0.05, 0.25)
            await self._api.post(f"{path}/logs", "handed to smtp-2.example.org", token)
        except CallFailed:
            return Answer({"error": "the gateway does not answer"}, 503)
        to = job["data"].get("to", "unknown@example.org")
        if self._happens(0.04):
            return Answer({"error": f"550 5.1.1 mailbox unavailable: {to}"}, 422)
        if self._happens(0.06):
            return Answer({"error": "421 4.7.0 try again later"}, 503)
        return Answer({"accepted": [to], "messageId": f"<{job['id']}@mails.example.org>"})

    async def _invoice(self, body: bytes) -> Answer:
        number = msgspec.json.decode(body)["job"]["data"].get("order", 0)
        await self._takes(0.1, 0.4)
        return Answer({"invoice": f"2026-{number}", "pages": self._dice.choice([1, 1, 1, 2, 3])})

    async def _thumbnail(self, body: bytes) -> Answer:
        await self._takes(2.5, 6)
        return Answer({"sizes": [64, 256, 1024], "bytes": self._dice.randrange(20_000, 90_000)})

    async def _stock_sync(self, body: bytes) -> Answer:
        await self._takes(0.02, 0.05)
        return Answer({"error": "upstream connect error: warehouse-api:5432 refused"}, 503)

    async def _search(self, body: bytes) -> Answer:
        await self._takes(0.05, 0.6)
        hits = [{"sku": f"T-{self._dice.randrange(900)}", "score": round(self._dice.random(), 3)} for _ in range(4)]
        return Answer({"hits": hits, "total": self._dice.randrange(4, 400)})

    async def _quote(self, body: bytes) -> Answer:
        await self._takes(0.2, 1.2)
        if self._happens(0.1):
            return Answer({"error": "no carrier serves this address"}, 404)
        return Answer({"carrier": "north", "price": 12.9, "days": 2})

    async def _label(self, body: bytes) -> Answer:
        await self._takes(0.3, 0.9)
        return Answer(_picture(), _OK, "image/png")

    async def _crm(self, body: bytes) -> Answer:
        await self._takes(0.02, 0.12)
        return Answer({"stored": True})

    async def _warehouse(self, body: bytes) -> Answer:
        await self._takes(0.05, 0.3)
        if self._happens(0.12):
            return Answer({"error": "deadlock detected, retry the transaction"}, 500)
        return Answer({"picked": True})

    async def _billing(self, body: bytes) -> Answer:
        await self._takes(0.01, 0.05)
        return Answer({"error": "maintenance until 06:00 UTC"}, 503)

    async def _partners(self, body: bytes) -> Answer:
        await self._takes(0.02, 0.1)
        if b"X-" in body:
            return Answer({"error": "unknown article number", "field": "lines[0].sku"}, 422)
        return Answer({"accepted": True})


async def _not_found(body: bytes) -> Answer:
    return Answer({"error": "not found"}, 404)


def _picture() -> bytes:
    """Return a small PNG: the answer of an upstream that is not text."""
    side = 32
    rows = b"".join(b"\x00" + bytes((x * y) % 256 for x in range(side)) for y in range(side))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
