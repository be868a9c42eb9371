"""The `toril` command: serve, dev, demo, check-config, recover, token."""

from __future__ import annotations

import argparse
import difflib
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec
import uvloop

from toril import __version__
from toril.bootstrap import recover
from toril.config.loading import config_file
from toril.config.logs import configure
from toril.config.reloading import ConfigFile
from toril.config.tokens import Faults, line
from toril.core.errors import ConfigInvalid, StoreError
from toril.core.policy import Role, Settings
from toril.processes import (
    COUNT_VARIABLE,
    FOLDER_VARIABLE,
    NUMBER_VARIABLE,
    PARENT_VARIABLE,
    SOCKET_VARIABLE,
    Processes,
)
from toril.server import bind, serve, why_not_bound


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    try:
        return int(options.run(options, given))
    except ConfigInvalid as exc:
        print(f"toril: the configuration has {len(exc.faults)} fault(s):", file=sys.stderr)
        for fault in exc.faults:
            print(f"  - {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="toril", description="An HTTP gateway over BullMQ queues.")
    parser.add_argument("--version", action="version", version=f"toril {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("serve", help="run the gateway and the registered workers")
    _add_config(command)
    command.add_argument("--host", help="address to listen on (default 0.0.0.0)")
    command.add_argument("--port", type=_port, help="port to listen on (default 8080; 0 takes a free one)")
    command.add_argument(
        "--role",
        choices=("all", "gateway", "worker"),
        default="all",
        help="a gateway only accepts and answers, a worker only works (default all)",
    )
    command.add_argument(
        "--targets",
        type=_names,
        metavar="NAMES",
        help="targets to deliver to, with commas between them, and nothing else; '' is everything but targets "
        "(default: all there is)",
    )
    command.add_argument("--processes", type=_count, default=1, metavar="N", help="processes to run (default 1)")
    command.set_defaults(run=_serve)

    command = commands.add_parser("dev", help="run with an embedded Valkey and a token made up for you")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    command.add_argument("--port", type=_port, help="port to listen on (default 8080; 0 takes a free one)")
    command.add_argument("--data", type=Path, default=Path("toril-data"), help="folder that keeps the data")
    command.set_defaults(run=_dev)

    command = commands.add_parser("demo", help="see the whole journey on an embedded Valkey, then end")
    command.add_argument("--jobs", type=_count, default=3000, metavar="N", help="jobs to send (default 3000)")
    command.set_defaults(run=_demo)

    command = commands.add_parser("check-config", help="read the configuration, name every fault, and end")
    _add_config(command)
    command.set_defaults(run=_check_config)

    command = commands.add_parser("recover", help="put back into the queues what the ledger has and they have not")
    _add_config(command)
    command.set_defaults(run=_recover)

    command = commands.add_parser("token", help="make a token, and the line that goes into the configuration for it")
    command.add_argument("--name", required=True, help="what the log and rate limits call its callers")
    command.add_argument(
        "--allow", nargs="+", default=["*:read"], metavar="RIGHT", help="its rights (default '*:read')"
    )
    command.add_argument(
        "--queues", nargs="+", default=["*"], metavar="GLOB", help="the queues they hold for (default '*')"
    )
    command.add_argument("--stdin", action="store_true", help="take the token from standard input instead")
    command.set_defaults(run=_token)
    return parser


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, metavar="FILE", help="YAML file with settings")


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text} is no port")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return int(text)


def _serve(options: argparse.Namespace, given: Sequence[str]) -> int:
    config = ConfigFile(os.environ, config_file(options.config, os.environ), partial(_with_options, options))
    settings = config.read()
    _check_role(settings)
    configure(settings.log)
    inherited = os.environ.get(SOCKET_VARIABLE)
    if inherited is not None:
        engine = msgspec.structs.replace(
            settings.engine,
            process=int(os.environ[NUMBER_VARIABLE]),
            processes=int(os.environ[COUNT_VARIABLE]),
        )
        lifeline = int(os.environ[PARENT_VARIABLE])
        metrics = msgspec.structs.replace(settings.metrics, folder=os.environ[FOLDER_VARIABLE])
        settings = msgspec.structs.replace(settings, engine=engine, metrics=metrics)
        return _run(settings, socket.socket(fileno=int(inherited)), config, lifeline)
    try:
        sock = bind(settings.host, settings.port)
    except OSError as exc:
        print(f"toril: cannot listen on {settings.host}:{settings.port}: {why_not_bound(exc)}", file=sys.stderr)
        return 1
    if options.processes > 1:
        return Processes(given, sock, options.processes).run()
    return _run(settings, sock, config)


def _with_options(options: argparse.Namespace, settings: Settings) -> Settings:
    """What the command line says goes over what was read."""
    said = {name: getattr(options, name) for name in ("host", "port") if getattr(options, name) is not None}
    return msgspec.structs.replace(settings, role=Role(name=options.role, targets=options.targets), **said)


def _check_role(settings: Settings) -> None:
    """Only at the start: a target that a reload finds gone is delivered to until the next one."""
    role = settings.role
    faults = []
    if role.name == "gateway" and role.targets is not None:
        faults.append("--targets: a gateway delivers to none")
    names = [target.name for target in settings.targets]
    for name in role.targets or ():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            faults.append(f"--targets: no target is called {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
    if faults:
        raise ConfigInvalid(faults)


def _run(settings: Settings, sock: socket.socket, config: ConfigFile, lifeline: int | None = None) -> int:
    status = 0
    try:
        uvloop.run(serve(settings, sock, config=config, lifeline=lifeline))
    except* StoreError as group:
        status = 1
        _tell(group)
    return status


def _tell(group: BaseExceptionGroup[StoreError]) -> None:
    for cause in dict.fromkeys(_causes(group)):
        print(f"toril: {cause}", file=sys.stderr)


def _causes(group: BaseExceptionGroup[StoreError]) -> Iterator[str]:
    """What went wrong, one line each, however deep in task groups it happened."""
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _causes(exc)
        else:
            yield " ".join(exc.message.split())


def _dev(options: argparse.Namespace, given: Sequence[str]) -> int:
    from toril.dev import dev  # noqa: PLC0415 - needs the embedded store, which serving does without

    return dev(options.host, options.port, options.data)


def _demo(options: argparse.Namespace, given: Sequence[str]) -> int:
    from toril.demo.journey import demo  # noqa: PLC0415 - as above

    return demo(options.jobs)


def _check_config(options: argparse.Namespace, given: Sequence[str]) -> int:
    settings = ConfigFile(os.environ, config_file(options.config, os.environ)).read()
    policy = settings.gateway
    print(f"The configuration is valid: listens on {settings.host}:{settings.port}, Redis at {settings.redis}.")
    now = time.time()
    over = sum(grant.expires_at_s is not None and grant.expires_at_s <= now for grant in policy.tokens)
    named = f"{len(policy.tokens)} with rights of their own" + (f" ({over} expired)" if over else "")
    print(f"API tokens: {len(policy.auth_tokens)} with all rights, {named}.")
    if len(policy.auth_tokens) + len(policy.tokens) == over:
        print("No API token is valid (AUTH_TOKENS, tokens): every request would be refused.")
    return 0


def _recover(options: argparse.Namespace, given: Sequence[str]) -> int:
    settings = ConfigFile(os.environ, config_file(options.config, os.environ)).read()
    if not settings.targets:
        print("toril: no targets are configured, so there is no ledger to recover from", file=sys.stderr)
        return 1
    configure(settings.log)
    status = 0
    try:
        done = uvloop.run(recover(settings))
        for target in (target.name for target in settings.targets):
            print(
                f"{target}: {done.requeued[target]} put back into the queue, {done.lost[target]} lost attempts ended, "
                f"{done.expired[target]} past their deadline"
            )
    except* StoreError as group:
        status = 1
        _tell(group)
    return status


def _token(options: argparse.Namespace, given: Sequence[str]) -> int:
    token = sys.stdin.readline().strip() if options.stdin else "toril_" + secrets.token_urlsafe(32)
    if not (token and token.isascii() and token.isprintable()):
        print("toril: a token holds visible ASCII characters only, at least one", file=sys.stderr)
        return 1
    try:
        entry = line(options.name, token, options.allow, options.queues)
    except Faults as exc:
        for fault in exc.faults:
            print(f"toril: {fault.partition(': ')[2]}", file=sys.stderr)
        return 1
    if not options.stdin:
        print(f"The token, shown only now:\n\n  {token}\n\nFor the configuration file:\n\ntokens:")
    print(f"  {entry}")
    return 0
