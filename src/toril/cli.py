"""The `toril` command: serve, dev, demo, check-config."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import uvloop

from toril import __version__
from toril.config.loading import load
from toril.config.logs import configure
from toril.core.errors import ConfigInvalid, StoreError
from toril.core.policy import Settings
from toril.processes import COUNT_VARIABLE, NUMBER_VARIABLE, PARENT_VARIABLE, SOCKET_VARIABLE, Processes
from toril.server import bind, serve


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
    return parser


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, metavar="FILE", help="YAML file with settings")


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text} is no port")
    return int(text)


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return int(text)


def _load(options: argparse.Namespace) -> Settings:
    return load(os.environ, options.config)


def _serve(options: argparse.Namespace, given: Sequence[str]) -> int:
    settings = _load(options)
    if options.host is not None:
        settings = msgspec.structs.replace(settings, host=options.host)
    if options.port is not None:
        settings = msgspec.structs.replace(settings, port=options.port)
    configure(settings.log)
    inherited = os.environ.get(SOCKET_VARIABLE)
    if inherited is not None:
        engine = msgspec.structs.replace(
            settings.engine,
            process=int(os.environ[NUMBER_VARIABLE]),
            processes=int(os.environ[COUNT_VARIABLE]),
        )
        lifeline = int(os.environ[PARENT_VARIABLE])
        return _run(msgspec.structs.replace(settings, engine=engine), socket.socket(fileno=int(inherited)), lifeline)
    try:
        sock = bind(settings.host, settings.port)
    except OSError as exc:
        print(
            f"toril: cannot listen on {settings.host}:{settings.port}: {os.strerror(exc.errno or 0)}", file=sys.stderr
        )
        return 1
    if options.processes > 1:
        return Processes(given, sock, options.processes).run()
    return _run(settings, sock)


def _run(settings: Settings, sock: socket.socket, lifeline: int | None = None) -> int:
    status = 0
    try:
        uvloop.run(serve(settings, sock, lifeline=lifeline))
    except* StoreError as group:
        status = 1
        for exc in group.exceptions:
            print(f"toril: {exc}", file=sys.stderr)
    return status


def _dev(options: argparse.Namespace, given: Sequence[str]) -> int:
    from toril.dev import dev  # noqa: PLC0415 - needs the embedded store, which serving does without

    return dev(options.host, options.port, options.data)


def _demo(options: argparse.Namespace, given: Sequence[str]) -> int:
    from toril.demo.journey import demo  # noqa: PLC0415 - as above

    return demo(options.jobs)


def _check_config(options: argparse.Namespace, given: Sequence[str]) -> int:
    settings = _load(options)
    tokens = len(settings.gateway.auth_tokens)
    print(f"The configuration is valid: listens on {settings.host}:{settings.port}, Redis at {settings.redis}.")
    if tokens == 0:
        print("No API token is configured (AUTH_TOKENS): every request would be refused.")
    return 0
