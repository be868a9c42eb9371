"""The traffic of the kept demo's shop: a first load, so that no page is empty, and then a few jobs a second."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from toril.cli.demo.client import CallFailed, Client

_FIRST_MAILS = 150
_FIRST_ORDERS = 120
_NAMES = ("ana", "ben", "chidi", "dana", "emil", "farah", "goran", "hana", "ines", "jonas")
_MAILS = ("order-confirmation", "invoice", "password-reset", "shipping-notice")
_WORKERS = {"orders": 4, "mails": 4, "invoices": 2, "thumbnails": 1, "stock-sync": 2}
_TARGETS = ("crm", "crm", "crm", "warehouse", "warehouse", "billing", "partners")
_RETRIED = {"attempts": 3, "backoff": {"type": "exponential", "delay": 1000}}


class Traffic:
    """The shop's traffic at all three doors.

    Args:
        api: the gateway's own routes.
        front: the gateway's paths that go to upstreams.
        shop: the URL of the shop's programs.
    """

    def __init__(self, api: Client, front: Client, shop: str, dice: random.Random) -> None:
        self._api = api
        self._front = front
        self._shop = shop
        self._dice = dice
        self._order = 4700

    async def begin(self) -> None:
        """Register the workers and the schedulers, and make the first load."""
        for queue, concurrency in _WORKERS.items():
            endpoint = {"url": f"{self._shop}/work/{queue}", "method": "POST", "timeout": 10_000}
            await self._api.send(
                "POST", "/workers", {"queue": queue, "endpoint": endpoint, "opts": {"concurrency": concurrency}}
            )
        await self._schedulers()
        await self._add("mails", [self._mail() for _ in range(_FIRST_MAILS)])
        await self._add("orders", [self._new_order() for _ in range(_FIRST_ORDERS)])
        await self._add("thumbnails", [self._thumbnail() for _ in range(60)])
        await self._add("stock-sync", [self._stock() for _ in range(25)])
        await self._waiting()
        for _ in range(12):
            await self._flow()
            await self._proxied()
        for target in _TARGETS * 6:
            await self._delivery_to(target)
        await self._api.send("POST", "/targets/analytics/pause")
        for _ in range(8):
            await self._envelope("analytics", {"event": "order", "order": self._number()})

    async def go_on(self) -> None:
        """Make a few jobs a second until cancelled. Failed calls are ignored: the gateway may be stopping."""
        beats: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (0.7, self._order_mail),
            (1.1, self._new_order_job),
            (1.6, self._delivery),
            (2.5, self._proxied),
            (4.0, self._more_thumbnails),
            (9.0, self._more_stock),
            (12.0, self._flow),
        ]
        async with asyncio.TaskGroup() as tasks:
            for pause_s, act in beats:
                tasks.create_task(self._again(pause_s, act))

    async def _again(self, pause_s: float, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self._dice.uniform(0.5, 1.5) * pause_s)
            try:
                await act()
            except CallFailed:
                continue

    async def _schedulers(self) -> None:
        for queue, name, how, template in (
            ("reports", "nightly-digest", {"pattern": "0 3 * * *", "tz": "Europe/Prague"}, "digest"),
            ("reports", "monday-figures", {"pattern": "30 7 * * 1", "tz": "America/New_York"}, "figures"),
            ("mails", "reminders", {"every": 45_000}, "reminder"),
        ):
            to = {"to": "team@example.org"}
            body = how | {"template": {"name": template, "data": to}}
            await self._api.send("PUT", f"/queues/{queue}/schedulers/{name}", body)

    async def _waiting(self) -> None:
        """Make queues in which jobs wait: paused, later, without a worker, of several priorities."""
        await self._add("reports", [{"name": "monthly", "data": {"month": month}} for month in range(1, 10)])
        await self._api.send("POST", "/queues/reports/pause")
        hour_ms = 3_600_000
        later = [
            {"name": "trial-ends", "data": {"customer": self._customer()}, "opts": {"delay": n * hour_ms}}
            for n in range(1, 15)
        ]
        await self._add("reminders", later)
        urgent = [
            {"name": "export", "data": {"table": "orders", "year": 2010 + n}, "opts": {"priority": n % 4 + 1}}
            for n in range(16)
        ]
        await self._add("exports", urgent)
        await self._api.send("PUT", "/queues/exports/concurrency", {"concurrency": 2})
        await self._api.send("PUT", "/queues/mails/rate-limit", {"max": 50, "duration": 1000})

    async def _add(self, queue: str, jobs: list[dict[str, Any]]) -> None:
        await self._api.send("POST", f"/queues/{queue}/jobs", jobs)

    def _number(self) -> int:
        self._order += 1
        return self._order

    def _customer(self) -> dict[str, Any]:
        name = self._dice.choice(_NAMES)
        plan = self._dice.choice(("free", "pro", "pro", "team"))
        return {"id": self._dice.randrange(40, 900), "name": name, "email": f"{name}@example.org", "plan": plan}

    def _lines(self) -> list[dict[str, Any]]:
        return [
            {"sku": f"T-{self._dice.randrange(100, 400)}", "qty": self._dice.randrange(1, 4)}
            for _ in range(self._dice.randrange(1, 4))
        ]

    def _mail(self) -> dict[str, Any]:
        customer = self._customer()
        data = {"to": customer["email"], "customer": customer, "order": {"id": self._number(), "lines": self._lines()}}
        return {"name": self._dice.choice(_MAILS), "data": data, "opts": _RETRIED}

    def _new_order(self) -> dict[str, Any]:
        total = self._dice.randrange(900, 40_000) / 100
        data = {"order": self._number(), "customer": self._customer(), "total": total, "lines": self._lines()}
        return {"name": "charge", "data": data, "opts": {"attempts": 2}}

    def _thumbnail(self) -> dict[str, Any]:
        number = self._dice.randrange(10**5)
        return {"name": "resize", "data": {"key": f"uploads/2026/11/{number:05}.jpg", "sizes": [64, 256, 1024]}}

    def _stock(self) -> dict[str, Any]:
        return {"name": "sync", "data": {"sku": f"T-{self._dice.randrange(100, 400)}", "warehouse": "north"}}

    async def _order_mail(self) -> None:
        await self._add("mails", [self._mail()])

    async def _new_order_job(self) -> None:
        await self._add("orders", [self._new_order()])

    async def _more_thumbnails(self) -> None:
        await self._add("thumbnails", [self._thumbnail()])

    async def _more_stock(self) -> None:
        await self._add("stock-sync", [self._stock()])

    async def _flow(self) -> None:
        number = self._number()
        customer = self._customer()
        invoice = {"name": "invoice", "queueName": "invoices", "data": {"order": number}}
        mail = {
            "name": "order-confirmation",
            "queueName": "mails",
            "data": {"to": customer["email"], "order": {"id": number}},
            "children": [invoice],
        }
        label = {"name": "resize", "queueName": "thumbnails", "data": {"key": f"labels/{number}.png", "sizes": [256]}}
        order = {"order": number, "customer": customer, "total": 129.9}
        flow = {"name": "fulfil", "queueName": "orders", "data": order, "children": [mail, label]}
        await self._api.send("POST", "/flows", flow)

    async def _delivery(self) -> None:
        await self._delivery_to(self._dice.choice(_TARGETS))

    async def _delivery_to(self, target: str) -> None:
        lines = self._lines()
        if target == "partners" and self._order % 3 == 0:
            lines = [{"sku": "X-17", "qty": 1}]
        await self._envelope(target, {"order": self._number(), "customer": self._customer(), "lines": lines})

    async def _envelope(self, target: str, body: dict[str, Any]) -> None:
        labels = {"tenant": self._dice.choice(("north", "south")), "order": str(self._order)}
        await self._api.send("POST", "/enqueue", {"target": target, "path": "/orders", "body": body, "labels": labels})

    async def _proxied(self) -> None:
        what = self._dice.choice(("search", "search", "quote", "label"))
        query = {"q": self._dice.choice(("winter boots", "tent", "head torch")), "customer": self._customer()}
        await self._front.send("POST", f"/shop/{what}", query)
