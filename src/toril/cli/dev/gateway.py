"""`toril dev`: a gateway with an embedded Valkey, a ledger in a file, a token, an inspector, and lines to paste.

It follows its configuration file: what can apply at once does, as with `toril serve`, and for everything else another
instance takes this one's place.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import uvloop
from msgspec import Struct
from msgspec.structs import replace

from toril.cli.causes import tell_causes
from toril.cli.dashboard_link import dashboard_link
from toril.cli.dev.inspected_requests import InspectedRequest, InspectedRequests
from toril.cli.dev.inspector import PATH, InspectorRoute
from toril.cli.gateway_address import TOKEN_FILE, URL_FILE
from toril.cli.terminal import printable
from toril.config.reloading import POLL_S, ConfigFile
from toril.config.rollout import plan
from toril.config.settings import Settings, ShutdownPolicy
from toril.core.errors import ConfigInvalid, StoreError
from toril.core.times import duration_text
from toril.delivery.ledger.policy import LedgerPolicy
from toril.delivery.rules.target import TargetSpec
from toril.instance import Instance
from toril.proxy.rules.upstream import ProxyPolicy, Upstream
from toril.redis.embedded import embedded_valkey
from toril.redis.policy import RedisAddress
from toril.server.server import bind, serve, url_of, why_not_bound
from toril.telemetry.logs import configure
from toril.web.auth import Tokens

_SHOWN_BODY = 160


class DevOptions(Struct, frozen=True):
    """The options of the command. A port of None is the one of the configuration."""

    host: str
    port: int | None
    data: Path
    config: Path | None


def dev(options: DevOptions) -> int:
    """Run until told to stop, and return the exit status. Jobs, workers, deliveries and the token stay in the data
    folder.

    Raises:
        ConfigInvalid: the environment or the configuration file is not valid.
    """
    settings = ConfigFile(os.environ, options.config).read()
    configure(settings.log)
    host, port = options.host, settings.port if options.port is None else options.port
    try:
        sock = bind(host, port)
    except OSError as exc:
        print(
            f"toril: cannot listen on {host}:{port}: {why_not_bound(exc)} (choose another with --port)",
            file=sys.stderr,
        )
        return 1
    status = 0
    try:
        with sock, embedded_valkey(options.data) as redis:
            uvloop.run(_Dev(options, sock, redis).run())
    except* StoreError as group:
        status = 1
        tell_causes(group)
    return status


class _Dev:
    """One instance after the other, on the same socket and the same store."""

    def __init__(self, options: DevOptions, sock: socket.socket, redis: RedisAddress) -> None:
        self._options = options
        self._sock = sock
        self._url = url_of(sock)
        self._adapt = partial(_adapted, data=options.data.resolve(), redis=redis, url=self._url)
        self._config = ConfigFile(os.environ, options.config, self._read)
        self._latest = self._config.read()
        self._requests = InspectedRequests()
        self._welcomed = False

    def _read(self, settings: Settings) -> Settings:
        self._latest = self._adapt(settings)
        return self._latest

    async def run(self) -> None:
        """Run instances until told to stop."""
        while await self._serve(self._latest):
            print(f"toril: starts anew with {self._options.config}", flush=True)

    async def _serve(self, settings: Settings) -> bool:
        """Run one instance; returns True if another one is to take its place."""
        replaced = asyncio.Event()
        # A duplicate, because serving closes its socket; callers wait in the queue of this one meanwhile.
        await serve(
            settings,
            self._sock.dup(),
            started=partial(self._started, replaced=replaced),
            config=self._config,
            replaced=replaced,
        )
        return replaced.is_set()

    def _started(self, instance: Instance, replaced: asyncio.Event) -> None:
        def tokens() -> Tokens:
            policy = instance.settings.gateway
            return Tokens(policy.auth_tokens, policy.tokens)

        instance.router.routes.append(InspectorRoute(self._requests, tokens, _tell))
        instance.dashboard.inspector = PATH
        instance.tasks.create_task(self._watch(instance, replaced), name="dev")
        if not self._welcomed:
            self._welcomed = True
            print(_welcome(self._url, instance.settings, self._options.data), flush=True)
        (self._options.data / URL_FILE).write_text(self._url + _api_path(instance.settings))

    async def _watch(self, instance: Instance, replaced: asyncio.Event) -> None:
        """Have another instance take this one's place as soon as a setting has changed that does not apply at once."""
        while True:
            await asyncio.sleep(POLL_S / 4)
            if pending := plan(instance.settings, self._latest).pending:
                print(f"toril: {', '.join(pending)} changed", flush=True)
                replaced.set()
                return


def _adapted(settings: Settings, data: Path, redis: RedisAddress, url: str) -> Settings:
    """Return the settings with the embedded store, a ledger in the data folder, a token, a target, an upstream, and no
    wait for a balancer at the end.

    The token is the environment's or the file's, else the one in the data folder. The ledger, the targets and the
    upstreams are those that are configured, else a file and the inspector. The gateway may call itself, whatever the
    egress policy, and its own API is served beside any upstream.

    Raises:
        ConfigInvalid: an upstream takes the inspector's path.
    """
    for upstream in settings.proxy.upstreams:
        if upstream.prefix == PATH or upstream.prefix.startswith(PATH + "/"):
            raise ConfigInvalid([f"upstreams: the prefix {upstream.prefix} is the inspector's in toril dev"])
    gateway, egress, proxy = settings.gateway, settings.egress, settings.proxy
    itself = urlsplit(url).hostname or ""
    own_ledger = LedgerPolicy(url=f"sqlite:///{data / 'ledger.sqlite3'}")
    return replace(
        settings,
        redis=redis,
        gateway=replace(gateway, auth_tokens=gateway.auth_tokens or (_token(data / TOKEN_FILE),)),
        ledger=own_ledger if settings.ledger == LedgerPolicy() else settings.ledger,
        targets=settings.targets or (TargetSpec(name="inspector", url=f"{url}{PATH}/deliveries"),),
        egress=replace(egress, allow=(*egress.allow, itself)),
        proxy=_with_upstream(proxy, url),
        shutdown=ShutdownPolicy(delay_s=0.0),
    )


def _with_upstream(proxy: ProxyPolicy, url: str) -> ProxyPolicy:
    if proxy.upstreams:
        return replace(proxy, api_path=proxy.ops_path)
    return replace(proxy, upstreams=(Upstream(prefix="/upstream", url=f"{url}{PATH}/upstream"),), api_path="/")


def _token(file: Path) -> str:
    """Return the token in a file that only its owner may read; one is made where there is none."""
    kept = file.read_text().strip() if file.exists() else ""
    if kept:
        return kept
    made = secrets.token_urlsafe(24)
    # Renamed into place, so that a crash leaves no half of it.
    part = file.with_name(file.name + ".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
        handle.write(made)
    part.replace(file)
    return made


def _tell(request: InspectedRequest) -> None:
    """Print a line about a request; what would move the cursor is shown as its escape."""
    body = request.body[:_SHOWN_BODY].decode(errors="replace")
    more = " …" if request.body_bytes > _SHOWN_BODY else ""
    after = f" after {duration_text(request.delay_s)}" if request.delay_s else ""
    line = f"inspect  {request.method} {request.target} → {request.status}{after}  {body}{more}"
    print(printable(line), flush=True)


def _api_path(settings: Settings) -> str:
    return (settings.proxy.api_path or "").rstrip("/")


def _welcome(url: str, settings: Settings, data: Path) -> str:
    token = settings.gateway.auth_tokens[0]
    api = _api_path(settings)
    api_note = f"\n  api     {url}{api}" if api else ""
    dashboard = f"\n  look    {dashboard_link(url, settings)}" if settings.dashboard.enabled else ""
    target = settings.targets[0].name
    return f"""
toril is up at {url}{dashboard}{api_note}
  data    {data.resolve()} (delete the folder to start over)
  redis   {settings.redis} (BullMQ from any language can join)
  token   {token}
  inspect {url}{PATH}/NAME answers anything (?status=503&delay=2s&body=…), and is shown here

Try it in another terminal:

  TORIL={url}{api} TOKEN={token}

  # add two jobs
  curl -s $TORIL/queues/orders/jobs -H "Authorization: Bearer $TOKEN" \\
    -d '[{{"name": "charge", "data": {{"amount": 42}}}}, {{"name": "charge", "data": {{"amount": 7}}}}]'

  # see them wait
  curl -s "$TORIL/queues/orders/jobs?statuses=waiting" -H "Authorization: Bearer $TOKEN"

  # let an HTTP endpoint work on them: the inspector, or one of yours
  curl -s $TORIL/workers -H "Authorization: Bearer $TOKEN" \\
    -d '{{"queue": "orders", "endpoint": {{"url": "{url}{PATH}/charge", "method": "POST"}}}}'

  # or one that this gateway need not reach, until Ctrl-C: toril listen orders --to http://127.0.0.1:3000/charge

  # hand over a delivery
  curl -s $TORIL/enqueue -H "Authorization: Bearer $TOKEN" -d '{{"target": "{target}", "body": {{"order": 4711}}}}'

  # make a request asynchronous: the answer is a job, or the upstream's own where it comes in time
  curl -s {url}{settings.proxy.upstreams[0].prefix.rstrip("/")}/report -H "Prefer: wait=10" -d '{{"year": 2026}}'

Ctrl-C ends it.
"""
