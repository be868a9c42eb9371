"""Measures servers that speak BullMQ Proxy's HTTP wire, beside the ceilings of this machine, in one run.

    python -m benchmarks.run                                     our own server on an embedded Valkey
    python -m benchmarks.run --scenario push --seconds 5
    python -m benchmarks.run --start 'toril={python} -m toril serve --host 127.0.0.1 --port {port}' \\
                             --start 'bun=bun run /src/bullmq-proxy/src/index.ts'
    python -m benchmarks.run --target a=http://127.0.0.1:8080 --token SECRET --redis redis://127.0.0.1:6379

Run it from the repository root. `benchmarks/README.md` says what each scenario measures and how to read it.
"""

from __future__ import annotations

import argparse
import os
import platform
import secrets
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import redis

from benchmarks import report, wrk
from benchmarks.bench import Bench, Options
from benchmarks.endpoint import Endpoint
from benchmarks.measurement import Result, Scenario, Skipped
from benchmarks.processes import ProcessError, exit_on_sigterm
from benchmarks.scenarios import MAKERS
from benchmarks.servers import (
    BARE,
    RAW,
    STARLETTE,
    TORIL,
    start_asgi,
    start_jobs,
    start_target,
    start_valkey,
    toril_gathers_writes,
)
from benchmarks.store import Store
from benchmarks.target import Target, TargetError

_TOKEN = "bench-token"
_WITH_WRK = {"add", "bulk", "get"}
_WITH_ASGI = {"add", "get"}
_WITH_WORKERS = {"push", "latency", "idle"}


class UsageError(Exception):
    """The command line asks for something that cannot be measured."""


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    who = parser.add_argument_group("who is measured (without any: toril on an embedded Valkey)")
    who.add_argument("--target", action="append", default=[], metavar="NAME=URL", help="a running server; repeatable")
    who.add_argument(
        "--start",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="a server to start; {port} and {python} are filled in, REDIS_URL, PORT and AUTH_TOKENS set",
    )
    who.add_argument("--token", default=_TOKEN, help=f"the targets' API token (default {_TOKEN})")
    who.add_argument(
        "--redis",
        action="append",
        default=[],
        metavar="[NAME=]URL",
        help="the Redis of all targets, or of one; started servers get separate databases on it",
    )
    who.add_argument("--pid", action="append", default=[], metavar="NAME=PID", help="a target's process, for its CPU")
    what = parser.add_argument_group("what is measured")
    what.add_argument("--scenario", action="append", choices=tuple(MAKERS), help="repeatable (default: all)")
    what.add_argument("--seconds", type=float, default=3, help="length of one run (default 3)")
    what.add_argument("--rounds", type=int, default=3, help="runs per contender, interleaved (default 3)")
    what.add_argument("--json", type=Path, metavar="FILE", help="where to write every figure of every round")
    what.add_argument("--push-jobs", type=int, default=15_000, help="jobs to drain per --seconds (default 15000)")
    what.add_argument("--latency-rate", type=float, default=20, help="jobs a second (default 20)")
    what.add_argument("--latency-seconds", type=float, default=5)
    what.add_argument("--idle-workers", type=int, default=1_000)
    what.add_argument("--idle-seconds", type=float, default=10, help="how long CPU is watched (default 10)")
    what.add_argument("--idle-settle", type=float, default=10, help="seconds between registering and watching")
    what.add_argument(
        "--client",
        action="append",
        choices=("toril", "pyreqwest", "aiohttp"),
        help="HTTP clients for the push ceiling; repeatable (default: toril)",
    )
    what.add_argument("--client-python", default=sys.executable, help="an interpreter that has them, if not this")
    what.add_argument("--prefix", default="bull", help="the targets' queue prefix (default bull)")
    return parser.parse_args(argv)


def named(pairs: Sequence[str], option: str) -> dict[str, str]:
    """NAME=VALUE options as a dict. Raises UsageError."""
    result = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name or not value:
            raise UsageError(f"{option} wants NAME=VALUE, not {pair!r}")
        if name in result:
            raise UsageError(f"{option} names {name} twice")
        result[name] = value
    return result


def targets_of(arguments: argparse.Namespace, stack: ExitStack) -> tuple[list[Target], str | None]:
    """The servers to measure, started if need be, and the Redis of the script ceiling."""
    running, commands = named(arguments.target, "--target"), named(arguments.start, "--start")
    if both := running.keys() & commands.keys():
        raise UsageError(f"--target and --start both name {', '.join(both)}")
    if not running and not commands:
        commands = {"toril": TORIL}
    plain = [url for url in arguments.redis if "://" in url.partition("=")[0]]
    own = named([url for url in arguments.redis if url not in plain], "--redis")
    pids = named(arguments.pid, "--pid")
    if unknown := (own.keys() | pids.keys()) - running.keys() - commands.keys():
        raise UsageError(f"no target is called {', '.join(unknown)}")
    shared = plain[0] if plain else None
    targets = [
        Target(
            name,
            url.rstrip("/"),
            arguments.token,
            own.get(name, shared),
            int(pids[name]) if name in pids else None,
        )
        for name, url in running.items()
    ]
    if commands:
        base = shared or start_valkey(stack)
        for database, (name, command) in zip(reversed(range(len(commands))), commands.items(), strict=True):
            # Two servers on one database would share their workers: each gets a database to itself. The last one has
            # database 0, because BullMQ Proxy knows no other by REDIS_HOST.
            url = own.get(name) or (base if shared and len(commands) == 1 else _with_database(base, database))
            targets.append(start_target(stack, name, command, url, arguments.token))
    return targets, targets[0].redis_url


def refuse_shared_workers(targets: Sequence[Target]) -> None:
    """Raises UsageError if a worker registered at one target shows at another: both would work its queue."""
    for target in targets:
        probe = f"bench-probe-{secrets.token_hex(3)}"
        with target.wire() as wire:
            wire.register(probe, "http://127.0.0.1:4/", 1)
            try:
                time.sleep(0.3)
                for other in targets:
                    with other.wire() as others:
                        if other is not target and probe in others.workers():
                            raise UsageError(
                                f"{target.name} and {other.name} share their workers, so push would measure "
                                "both at once: give each a separate Redis database"
                            )
            finally:
                wire.unregister(probe)


def measure(scenarios: Sequence[Scenario], rounds: int, seconds: float) -> list[Result]:
    """Runs everything, interleaved: in each round every contender of a scenario runs right after the others.

    Each round begins with another contender, so that no one always profits from its place.
    """
    results = [Result(scenario) for scenario in scenarios]
    for result in results:
        if result.scenario.once:
            run_all(result, 0, seconds)
    for number in range(rounds):
        for result in results:
            scenario = result.scenario
            if scenario.once:
                continue
            if number == 0 and scenario.warm_up_s:
                run_all(result, 0, scenario.warm_up_s)
                result.runs.clear()
            run_all(result, number, seconds)
    return results


def run_all(result: Result, first: int, seconds: float) -> None:
    """One run of every contender, beginning with the `first`; failures and skips end nothing."""
    contenders = result.scenario.contenders
    for offset in range(len(contenders)):
        contender = contenders[(first + offset) % len(contenders)]
        if contender.name in result.skipped:
            continue
        progress(f"{result.scenario.name}: {contender.name}")
        try:
            measurement = contender.run(seconds)
            result.runs.setdefault(contender.name, []).append(measurement)
        except Skipped as exc:
            result.skipped[contender.name] = str(exc)
        except (ProcessError, TargetError, OSError, redis.RedisError) as exc:
            # The others' figures, and this one's other rounds, are worth keeping.
            result.failed.append(f"{contender.name}: {exc}")
    progress("")


def progress(text: str) -> None:
    """Shows on a terminal what runs now, on one line that the next text replaces."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def machine_of(stores: dict[str, Store]) -> dict[str, str]:
    """What the figures depend on: they mean nothing away from it."""
    facts = {
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
        "store": ", ".join(sorted({store.ping() for store in stores.values()})) or "unknown",
    }
    return {name: str(fact) for name, fact in facts.items()}


def benchmark(arguments: argparse.Namespace, stack: ExitStack) -> bool:
    """Measures and reports what the command line asks for; False when some run failed."""
    chosen = list(dict.fromkeys(arguments.scenario or MAKERS))
    if _WITH_WRK & set(chosen):
        wrk.require()
    load = os.getloadavg()[0]
    if load > 0.5:
        print(
            f"warning: this machine is busy already (load {load:.2f}); trust ratios, not figures",
            file=sys.stderr,
        )
    targets, script_redis = targets_of(arguments, stack)
    stores = {}
    for url in {target.redis_url for target in targets if target.redis_url}:
        stores[url] = Store(url, arguments.prefix)
        stack.callback(stores[url].close)
    machine = machine_of(stores)
    options = Options(
        seconds=arguments.seconds,
        push_jobs_per_s=arguments.push_jobs,
        latency_rate=arguments.latency_rate,
        latency_seconds=arguments.latency_seconds,
        idle_workers=arguments.idle_workers,
        idle_seconds=arguments.idle_seconds,
        idle_settle_s=arguments.idle_settle,
        clients=tuple(dict.fromkeys(arguments.client or ["toril"])),
        client_python=arguments.client_python,
        prefix=arguments.prefix,
    )
    bench = Bench(targets, stores, options, script_redis=script_redis)
    if _WITH_ASGI & set(chosen):
        bench.asgi = [start_asgi(stack, RAW)]
        if toril_gathers_writes():
            bench.asgi.append(start_asgi(stack, f"{RAW}, gathered", "--gathered"))
            if script_redis:
                bench.storing = [
                    start_jobs(stack, STARLETTE, script_redis, "--starlette"),
                    start_jobs(stack, BARE, script_redis),
                ]
    if _WITH_WORKERS & set(chosen):
        bench.endpoint = Endpoint()
        stack.callback(bench.endpoint.stop)
        if len(targets) > 1:
            refuse_shared_workers(targets)
    scenarios = [scenario for name in chosen for scenario in MAKERS[name](bench)]
    results = measure(scenarios, arguments.rounds, arguments.seconds)

    print(", ".join(f"{name} {fact}" for name, fact in machine.items()))
    print(f"rounds {arguments.rounds}, {arguments.seconds:g} s each; medians; = marks a ceiling\n")
    for result in results:
        print(report.table(result), end="\n\n")
    print(report.ratios_table(results))
    if arguments.json is not None:
        settings = {
            "rounds": arguments.rounds,
            "targets": {target.name: target.url for target in targets},
            **msgspec.to_builtins(options),
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        plain = msgspec.json.encode(report.document(results, machine, settings))
        arguments.json.write_bytes(msgspec.json.format(plain, indent=2) + b"\n")
    return not any(result.failed for result in results)


def _with_database(url: str, database: int) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/{database}"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = arguments_of(argv)
    exit_on_sigterm()
    try:
        with ExitStack() as stack:
            return 0 if benchmark(arguments, stack) else 1
    except KeyboardInterrupt:
        print("\ninterrupted; everything started has been stopped", file=sys.stderr)
        return 130
    except (ProcessError, TargetError, UsageError, redis.RedisError) as exc:
        print(f"\n{exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
