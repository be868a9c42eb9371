"""What the delivery door promises an operator, at full size: two instances, a real Valkey and a real PostgreSQL.

    python -m benchmarks.promises errors     200 deliveries a second with 0.5 % errors: the breaker never opens
    python -m benchmarks.promises outage     a target is down for ten minutes: all delivered, only probes meanwhile
    python -m benchmarks.promises held       50 deliveries against `Retry-After: 120`: only the first wave is sent
    python -m benchmarks.promises events     each kind of event, with its target down for a minute: once for each fact

`--seconds` makes any of them shorter. Each prints what it has seen, and exits with 1 where the promise was not kept.
The test suite has smaller forms of all (`tests/journeys/test_target_policies.py`, `test_operator_events.py`).
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from tests.support.deliveries import configuration
from tests.support.endpoint import Answer, Call, Endpoint, respond
from tests.support.postgres import PostgresProcess
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

from benchmarks.processes import exit_on_sigterm

_PATIENCE_S = 300.0
_BATCH_S = 0.25
_QUICK = {"base": "20ms", "max": "200ms", "jitter": 0}


class Fleet:
    """Two instances with the same targets, their PostgreSQL, and what is found wrong."""

    def __init__(self, folder: Path, stack: ExitStack, targets: dict[str, Any], **more: Any) -> None:
        self.postgres = stack.enter_context(PostgresProcess())
        self._ledger = self.postgres.database()
        valkey = stack.enter_context(ValkeyProcess(folder / "valkey"))
        self.file = configuration(folder / "toril.yaml", targets, ledger={"url": self._ledger}, **more)
        args = ("--config", str(self.file))
        self.members = [
            stack.enter_context(TorilProcess(valkey.url, folder / f"{name}.log", args=args))
            for name in ("one", "other")
        ]
        self.one = self.members[0]
        self.wrong: list[str] = []

    def promise(self, kept: bool, what: str) -> None:
        """Note a promise that was not kept."""
        print(f"{'kept' if kept else 'BROKEN':<8}{what}", flush=True)
        if not kept:
            self.wrong.append(what)

    def shown(self, target: str) -> dict[str, Any]:
        """What the other instance shows of a target."""
        found: dict[str, Any] = self.members[1].client.get(f"/targets/{target}").json()
        return found

    def opened(self, target: str) -> int:
        """How often a breaker has opened, by both logs."""
        lines = [line for member in self.members for line in member.log().splitlines()]
        return sum('"breaker.open' in line and target in line for line in lines)

    def post(self, target: str, per_s: float, seconds: float) -> int:
        """Enqueue at an even pace; return how many were accepted."""
        began, accepted = time.monotonic(), 0
        while (passed := time.monotonic() - began) < seconds:
            due = round(min(passed + _BATCH_S, seconds) * per_s) - accepted
            member = self.members[accepted // max(1, due) % 2]
            envelopes = [{"target": target, "body": {"n": accepted + n}} for n in range(due)]
            answer = member.client.post("/enqueue/batch", json=envelopes)
            accepted += sum(item["status_code"] == 202 for item in answer.json())
            time.sleep(max(0.0, began + accepted / per_s - time.monotonic()))
        return accepted

    def _rows(self, sql: str) -> list[list[str]]:
        text = self.postgres.psql(sql, self._ledger.rpartition("/")[2])
        return [line.split("|") for line in text.splitlines()]

    def all_delivered(self, target: str, count: int) -> None:
        """Wait until all are delivered, and look at the ledger."""
        began = time.monotonic()

        def done() -> bool:
            depth = self.shown(target)["depth"]
            return not any(depth.values())

        eventually(done, timeout_s=_PATIENCE_S, what=f"{target} to have nothing open")
        took_s = time.monotonic() - began
        rows = self._rows(f"SELECT status, count(*) FROM toril_deliveries WHERE target = '{target}' GROUP BY 1")
        found = {status: int(number) for status, number in rows}
        self.promise(found == {"delivered": count}, f"of {count} accepted: {found}, {took_s:.1f} s after the last")


def errors(fleet: Fleet, endpoints: dict[str, Endpoint], seconds: float) -> None:
    """A target with a few errors."""
    chance = random.Random(1)
    failed = 0

    def answer(_: Call) -> Answer:
        nonlocal failed
        bad = chance.random() < 0.005
        failed += bad
        return respond(503 if bad else 200)

    endpoints["healthy"].behaviour = answer
    began = time.monotonic()
    count = fleet.post("healthy", 200.0, seconds)
    rate = count / (time.monotonic() - began)
    fleet.all_delivered("healthy", count)
    calls = len(endpoints["healthy"].calls)
    print(f"        {rate:.0f} accepted/s for {seconds:g} s, {calls} requests, {failed} of them answered 503")
    fleet.promise(fleet.opened("healthy") == 0, "the breaker never opened")


def outage(fleet: Fleet, endpoints: dict[str, Endpoint], seconds: float) -> None:
    """A target that is down, and gets more deliveries all the time."""
    down = endpoints["down"]
    down.behaviour = lambda _: respond(503)
    began = time.monotonic()
    count = fleet.post("down", 10.0, seconds)
    calls = [call.at for call in down.calls]
    lasted_s = time.monotonic() - began
    down.behaviour = lambda _: respond(200)
    # The breaker opens with the fifth failure; up to 20 more are under way then, on each instance.
    first = sum(at < calls[0] + 5 for at in calls)
    probes = len(calls) - first
    most = lasted_s / 15 + 2
    fleet.promise(first <= 2 * 20, f"{first} requests before it was open")
    fleet.promise(probes <= most, f"{probes} requests in the other {lasted_s:.0f} s; probes every 15 s are {most:.0f}")
    fleet.all_delivered("down", count)


def held(fleet: Fleet, endpoints: dict[str, Endpoint], seconds: float) -> None:
    """A target that asks to be left alone."""
    busy = endpoints["busy"]
    busy.behaviour = lambda _: respond(429, "Too Many Requests", [("retry-after", f"{seconds:.0f}")])
    envelopes = [{"target": "busy", "body": n} for n in range(50)]
    fleet.one.client.post("/enqueue/batch", json=envelopes).raise_for_status()
    busy.wait_for_calls(1, timeout_s=30)
    until = busy.calls[0].at + seconds
    time.sleep(max(0.0, until - time.time() - 1.0))
    wave = len(busy.calls)
    last_s = busy.calls[-1].at - busy.calls[0].at
    busy.behaviour = lambda _: respond(200)
    fleet.promise(
        wave <= 2 * 10, f"{wave} requests in {seconds - 1:.0f} s, the last after {last_s:.2f} s; 10 at once each"
    )
    fleet.all_delivered("busy", 50)


def events(fleet: Fleet, endpoints: dict[str, Endpoint], seconds: float) -> None:
    """Every kind of event, while their target is down."""
    ops, began = endpoints["ops"], time.monotonic()
    ops.behaviour = lambda _: respond(503)
    endpoints["refusing"].behaviour = lambda _: respond(400)
    for name in ("flapping", "tired", "hook"):
        endpoints[name].behaviour = lambda _: respond(500)
    expected = Counter({"delivery.dead_lettered": 50})
    fleet.one.client.post("/enqueue/batch", json=[{"target": "refusing"}] * 50).raise_for_status()
    fleet.one.client.post("/enqueue/batch", json=[{"target": "flapping"}] * 8).raise_for_status()
    fleet.one.client.post("/enqueue/batch", json=[{"target": "tired"}] * 4).raise_for_status()
    expected["delivery.dead_lettered"] += 4
    fleet.one.gateway.register("hooked", endpoints["hook"].url)
    for _ in range(8):
        fleet.one.gateway.add_one("hooked", attempts=1)
    fleet.one.gateway.add_one("left-alone")
    logged(fleet, "breaker.opened", "target.failing", "worker.failing", "queue.stuck")
    eventually(lambda: fleet.shown("tired")["dead_letters"] == 4, timeout_s=60)
    for name in ("flapping", "tired", "hook"):
        endpoints[name].behaviour = lambda _: respond(200)
    for _ in range(8):
        fleet.one.gateway.add_one("hooked")
        fleet.one.client.post("/enqueue", json={"target": "tired"}).raise_for_status()
    logged(fleet, "breaker.closed", "target.recovered", "worker.recovered")
    good = fleet.file.read_text()
    broken = yaml.safe_load(good)
    broken["targets"]["tired"]["concurrency"] = "many"
    fleet.file.write_text(yaml.safe_dump(broken))
    logged(fleet, "config.kept", by_all=True)
    fleet.file.write_text(good)
    fleet.postgres.stop(immediately=True)
    logged(fleet, "ledger.unreachable", by_all=True)
    fleet.postgres.start()
    logged(fleet, "ledger.back", by_all=True)
    expected.update(
        (
            "breaker.opened", "breaker.closed", "target.failing", "target.recovered", "worker.failing",
            "worker.recovered", "queue.stuck", "config.kept", "ledger.unreachable", "ledger.back",
        )
    )  # fmt: skip
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    print(
        f"        the events' target was down for {time.monotonic() - began:.0f} s, {len(ops.calls)} requests meanwhile"
    )
    refused = len(ops.calls)
    ops.behaviour = lambda _: respond(200)
    eventually(lambda: not any(fleet.shown("ops")["depth"].values()), timeout_s=_PATIENCE_S, what="all to be told")
    # While nothing is delivered, the queue of a target may be stuck as well.
    calls = [call for call in ops.calls[refused:] if not call.json["data"].get("queue", "").startswith("deliver-")]
    told = [(call.json["type"], call.header("webhook-id")) for call in calls]
    found = Counter(kind for kind, _ in set(told))
    fleet.promise(found == expected, f"{sum(found.values())} events of {len(found)} kinds, each fact under one id")
    for kind in sorted(expected.keys() | found.keys()):
        print(f"        {kind:<24}{found[kind]:>4} of {expected[kind]}")
    print(f"        {len(told) - len(set(told))} were sent twice (at least once is promised)")


def logged(fleet: Fleet, *kinds: str, by_all: bool = False) -> None:
    """Wait until instances have seen these facts."""
    for kind in kinds:
        seen = all if by_all else any
        eventually(
            lambda kind=kind, seen=seen: seen(f'"{kind}"' in member.log() for member in fleet.members),  # type: ignore[misc]
            timeout_s=90,
            what=kind,
        )


_Promise = Callable[[Fleet, dict[str, Endpoint], float], None]
_PROMISES: dict[str, tuple[_Promise, float]] = {
    "errors": (errors, 60.0),
    "outage": (outage, 600.0),
    "held": (held, 120.0),
    "events": (events, 60.0),
}
_TARGETS: dict[str, dict[str, Any]] = {
    "healthy": {},
    "down": {"concurrency": 20},
    "busy": {"concurrency": 10},
    "ops": {"retry": {"max_attempts": 1000, "base": "1s", "max": "2s"}, "breaker": {"open_for": "2s"}},
    "refusing": {},
    "flapping": {"retry": _QUICK | {"max_attempts": 10_000}, "breaker": {"failures": 3, "open_for": "2s"}},
    "tired": {"retry": _QUICK | {"max_attempts": 4}, "breaker": "off"},
}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("promise", choices=list(_PROMISES))
    parser.add_argument("--seconds", type=float)
    options = parser.parse_args()
    exit_on_sigterm()
    run, seconds = _PROMISES[options.promise]
    with tempfile.TemporaryDirectory(prefix="toril-promises-") as folder, ExitStack() as stack:
        endpoints = {name: stack.enter_context(Endpoint()) for name in (*_TARGETS, "hook")}
        targets = {name: {"url": endpoints[name].at("/")} | more for name, more in _TARGETS.items()}
        more = {"events": {"target": "ops", "stuck_after": "2s"}} if options.promise == "events" else {}
        fleet = Fleet(Path(folder), stack, targets, **more)
        run(fleet, endpoints, options.seconds or seconds)
    print("FAILED" if fleet.wrong else "passed")
    return 1 if fleet.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
