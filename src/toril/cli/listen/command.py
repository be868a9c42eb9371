"""The options of `toril listen`, made into what to listen to."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
import uvloop
from msgspec import Struct
from msgspec.structs import replace

from toril.bullmq.rules.queue_name import NameRules
from toril.cli.exit_codes import FAILED
from toril.cli.gateway_address import gateway_address
from toril.cli.listen.delivery_work import DeliveryWork
from toril.cli.listen.job_work import JobWork
from toril.cli.listen.listener import ListenerRefused, listen
from toril.cli.options import FILE
from toril.core.errors import InvalidRequest
from toril.core.times import parse_duration_s
from toril.queues.rules.worker import WorkerSpec, read_worker

_LONGEST_NAME = 10_000  # the gateway decides
_NOT_USED = ("limiter", "removeOnComplete", "removeOnFail")


class ListenArguments(Struct, frozen=True):
    """What the command line of `toril listen` says."""

    queue: str | None
    target: str | None
    to: str
    url: str | None
    token: str | None
    concurrency: int | None
    filter: str | None
    timeout: str | None
    worker: Path | None


class _NameFilter(click.ParamType[str]):
    name = "filter"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        field, equals, name = value.partition("=")
        if field != "name" or not equals:
            self.fail(f"{value} is not of the form name=NAME", param, ctx)
        return str(name)


@click.command("listen")
@click.argument("queue", metavar="[QUEUE]", required=False, help="the queue to work on")
@click.option("--target", metavar="NAME", help="instead of a queue, the target whose deliveries to make")
@click.option("--to", required=True, metavar="URL", help="the endpoint, http://127.0.0.1:3000/charge")
@click.option("--url", metavar="URL", help="the toril (default TORIL_URL, else the 'toril dev' of this folder)")
@click.option(
    "--token",
    metavar="TOKEN",
    help="its API token, with jobs:lease, for a target deliveries:manage and payloads:read (default TORIL_TOKEN, else "
    "that one's)",
)
@click.option("--concurrency", type=int, metavar="N", help="jobs at once (default 1)")
@click.option(
    "--filter", type=_NameFilter(), metavar="name=NAME", help="only jobs with this name; others are put off for 5s"
)
@click.option(
    "--timeout", metavar="DURATION", help="how long an answer may take (default 3s; of a target, its own limit)"
)
@click.option(
    "--worker",
    type=FILE,
    metavar="FILE",
    help="a worker document, as for POST /workers: its method, headers, timeout, concurrency and policy count here",
)
def listen_command(**given: Any) -> int:
    """Listen until told to stop."""
    arguments = ListenArguments(**given)
    if (arguments.queue is None) == (arguments.target is None):
        raise click.UsageError("give either a QUEUE or --target NAME")
    if arguments.target is not None and (arguments.filter is not None or arguments.worker is not None):
        raise click.UsageError("--filter and --worker are for a queue")
    try:
        gateway = gateway_address(arguments.url, arguments.token, os.environ)
        work = JobWork(_spec(arguments), arguments.filter) if arguments.target is None else _deliveries(arguments)
        uvloop.run(listen(gateway, work, _say))
    except (ValueError, OSError, ListenerRefused) as exc:
        print(f"toril: {exc}", file=sys.stderr)
        return FAILED
    except InvalidRequest as exc:
        print(f"toril: {exc.message}", file=sys.stderr)
        return FAILED
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def _deliveries(arguments: ListenArguments) -> DeliveryWork:
    """Return the deliveries of a target as work.

    Raises:
        ValueError: the endpoint is no URL, or the timeout no duration.
    """
    timeout_s = None if arguments.timeout is None else _timeout_s(arguments.timeout)
    return DeliveryWork(
        arguments.target or "", arguments.to, 1 if arguments.concurrency is None else arguments.concurrency, timeout_s
    )


def _timeout_s(text: str) -> float:
    timeout_s = parse_duration_s(text)
    if timeout_s <= 0:
        raise ValueError("--timeout must be longer than nothing")
    return timeout_s


def _spec(options: ListenArguments) -> WorkerSpec:
    """Return the endpoint as a registered worker, checked as one.

    Raises:
        InvalidRequest: a value is none that a worker may have.
        ValueError: the file holds no worker document, or the timeout is no duration.
        OSError: the file cannot be read.
    """
    document = _document(options.worker)
    opts = document.get("opts")
    if isinstance(opts, dict):
        if unused := [name for name in _NOT_USED if name in opts]:
            _say(f"not used here: opts.{', opts.'.join(unused)} of {options.worker}")
        document["opts"] = {name: value for name, value in opts.items() if name not in _NOT_USED}
    endpoint = document.get("endpoint")
    document["queue"] = options.queue
    document["endpoint"] = {"method": "POST"} | (endpoint if isinstance(endpoint, dict) else {}) | {"url": options.to}
    spec = read_worker(msgspec.json.encode(document), NameRules(1, _LONGEST_NAME))
    if options.timeout is not None:
        timeout_s = _timeout_s(options.timeout)
        spec = replace(spec, endpoint=replace(spec.endpoint, timeout_s=timeout_s))
    if options.concurrency is not None:
        spec = replace(spec, concurrency=options.concurrency)
    return spec


def _document(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        found = msgspec.json.decode(file.read_bytes())
    except msgspec.DecodeError as exc:
        raise ValueError(f"{file} is not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise ValueError(f"{file} must hold an object")  # noqa: TRY004 - a fault of a file
    return found
