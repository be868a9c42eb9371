"""`toril serve`: the gateway and the registered workers, in one process or several."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click
import msgspec
import structlog
import uvloop
from msgspec import Struct

from toril.cli.causes import tell_causes
from toril.cli.options import COUNT, PORT, config_option
from toril.config.loading import config_file
from toril.config.reloading import ConfigFile
from toril.config.rollout import AT_ONCE
from toril.config.settings import Role, Settings
from toril.core.errors import ConfigInvalid, StoreError
from toril.core.suggestions import did_you_mean
from toril.delivery.rules import target_rollout
from toril.server.cores import MOST, processes_for, usable_cores
from toril.server.garbage_collection import collect_seldom
from toril.server.processes import (
    COUNT_VARIABLE,
    FOLDER_VARIABLE,
    NUMBER_VARIABLE,
    PARENT_VARIABLE,
    PORT_VARIABLE,
    SOCKET_VARIABLE,
    Processes,
)
from toril.server.server import bind, bind_spread, keep_port, serve, spreads, why_not_bound
from toril.telemetry.logs import configure

log = structlog.get_logger(__name__)

_SIGNALS = (
    "At SIGTERM /ready is 503 for shutdown.delay, then jobs in flight have engine.grace to finish; SIGINT does without "
    "the delay, and a second signal ends the process at once. SIGHUP, or a change of the file, reads settings "
    f"again and applies {', '.join(sorted(AT_ONCE))}, and of each target {', '.join(target_rollout.AT_ONCE)} and the "
    "secret files. The log names what needs a restart."
)


class ServeOptions(Struct, frozen=True):
    """What the command line of `toril serve` says."""

    config: Path | None
    host: str | None
    port: int | None
    role: Literal["all", "gateway", "worker"]
    targets: tuple[str, ...] | None
    processes: int | None


class _Names(click.ParamType[tuple[str, ...]]):
    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return tuple(name for part in value.split(",") if (name := part.strip()))


class _Processes(click.ParamType[int]):
    name = "processes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return a number of processes; 0 for `auto`."""
        return 0 if value == "auto" else COUNT.convert(value, param, ctx)


@click.command(epilog=_SIGNALS)
@config_option()
@click.option("--host", metavar="HOST", help="address to listen on (default 0.0.0.0)")
@click.option("--port", type=PORT, metavar="PORT", help="port to listen on (default 8080; 0 takes a free one)")
@click.option(
    "--role",
    type=click.Choice(("all", "gateway", "worker")),
    default="all",
    help="a gateway accepts requests and answers them, a worker only works on jobs (default all)",
)
@click.option(
    "--targets",
    type=_Names(),
    metavar="NAMES",
    help="deliver to these targets (names with commas between them) and do no other work; '' does all work but "
    "deliveries (default: everything)",
)
@click.option(
    "--processes",
    type=_Processes(),
    metavar="N",
    help="processes to run, or auto: one for each core that may be used, less one where Redis is on this machine; "
    f"at least 1 and at most {MOST} (default auto)",
)
@click.pass_obj
def serve_command(given: Sequence[str], /, **options: Any) -> int:
    """Run the gateway until a signal ends it."""
    return _serve(ServeOptions(**options), given)


def _serve(options: ServeOptions, given: Sequence[str]) -> int:
    config = ConfigFile(os.environ, config_file(options.config, os.environ), partial(_with_options, options))
    settings = config.read()
    _check_role(settings)
    configure(settings.log)
    if PARENT_VARIABLE in os.environ:
        engine = msgspec.structs.replace(
            settings.engine,
            process=int(os.environ[NUMBER_VARIABLE]),
            processes=int(os.environ[COUNT_VARIABLE]),
        )
        lifeline = int(os.environ[PARENT_VARIABLE])
        metrics = msgspec.structs.replace(settings.metrics, folder=os.environ[FOLDER_VARIABLE])
        settings = msgspec.structs.replace(settings, engine=engine, metrics=metrics)
        return _run(settings, _socket_of_child(settings.host), config, lifeline)
    processes = options.processes or processes_for(usable_cores(), None if settings.without_redis else settings.redis)
    log.info("processes", count=processes, chosen=options.processes is None)
    try:
        sock = (keep_port if processes > 1 and spreads() else bind)(settings.host, settings.port)
    except OSError as exc:
        print(f"toril: cannot listen on {settings.host}:{settings.port}: {why_not_bound(exc)}", file=sys.stderr)
        return 1
    if processes > 1:
        return Processes(given, sock, processes).run()
    return _run(settings, sock, config)


def _socket_of_child(host: str) -> socket.socket:
    """Return what one of several processes listens on: its own socket, or that of its parent."""
    inherited = os.environ.get(SOCKET_VARIABLE)
    if inherited is not None:
        return socket.socket(fileno=int(inherited))
    return bind_spread(host, int(os.environ[PORT_VARIABLE]))


def _with_options(options: ServeOptions, settings: Settings) -> Settings:
    """Return the settings with what the command line says in place of what was read."""
    said = {name: getattr(options, name) for name in ("host", "port") if getattr(options, name) is not None}
    return msgspec.structs.replace(settings, role=Role(name=options.role, targets=options.targets), **said)


def _check_role(settings: Settings) -> None:
    """Refuse a role that cannot be. Only at the start: after a reload, a target that the file has lost still runs."""
    role = settings.role
    faults = []
    if role.name == "gateway" and role.targets is not None:
        faults.append("--targets: a gateway delivers to none")
    names = [target.name for target in settings.targets]
    faults.extend(
        f"--targets: no target is called {name!r}{did_you_mean(name, names)}"
        for name in role.targets or ()
        if name not in names
    )
    if faults:
        raise ConfigInvalid(faults)


def _run(settings: Settings, sock: socket.socket, config: ConfigFile, lifeline: int | None = None) -> int:
    status = 0
    try:
        uvloop.run(serve(settings, sock, started=lambda _: collect_seldom(), config=config, lifeline=lifeline))
    except* StoreError as group:
        status = 1
        tell_causes(group)
    return status
