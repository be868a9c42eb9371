"""The loss test: envelopes are posted while everything that can die dies, and every id is accounted for.

    python -m benchmarks.loss                      10,000 envelopes, some three minutes
    python -m benchmarks.loss --envelopes 1000     the short version, which CI runs too
    python -m benchmarks.loss --alone              over PostgreSQL alone (`redis: none`), which crashes three times

Two gateways and two workers (`toril serve --role …`) on a Valkey that writes every command to disk and a PostgreSQL as
the ledger. While envelopes are posted, members of the fleet are killed with `kill -9` at random and started again,
Redis is killed and restarted once, **flushed** once, and PostgreSQL is stopped without a chance to write once. A caller
repeats an envelope under its idempotency key until it is answered 202 or 200. In the end:

- every envelope that was accepted has reached the target at least once (2xx), and how many came more than once is told;
- no key was accepted under two ids;
- every history in the ledger is gapless and legal by the table of `toril.delivery.rules.lifecycle`, and ends in
`delivered`.

It exits with 1 when one of these does not hold. What it starts it stops, by pid.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml
from tests.support.ports import free_port
from tests.support.postgres import PostgresProcess
from tests.support.valkey import ValkeyProcess

from benchmarks.loss_receiver import Receiver
from toril.delivery.rules.lifecycle import Status, Transition, faults

TOKEN = "loss-test"
TARGET = "target"
_CALLERS = 8
_REQUEST_S = 10.0
# What share of the envelopes has been accepted when these happen.
_REDIS_RESTART, _REDIS_FLUSH, _POSTGRES_RESTART = 0.2, 0.45, 0.7
_KILLS_IN_THE_END = 2


@dataclass
class Account:
    """What came of it. `accepted` are the job ids by key; `received` how often each key was answered 2xx."""

    envelopes: int
    accepted: dict[str, str] = field(default_factory=dict)
    received: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    repeated: int = 0
    wrong: list[str] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    sent_in_s: float = 0.0
    ended_in_s: float = 0.0

    @property
    def lost(self) -> list[str]:
        """Keys that were accepted and never reached the target."""
        return sorted(key for key in self.accepted if not self.received[key])

    @property
    def duplicates(self) -> int:
        """How many times the target was successful with what it had already had."""
        return sum(count - 1 for count in self.received.values() if count > 1)

    @property
    def passed(self) -> bool:
        """Whether nothing was lost and every history is in order."""
        return len(self.accepted) == self.envelopes and not self.lost and not self.wrong

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"envelopes            {self.envelopes:>7}"
        yield f"accepted             {len(self.accepted):>7}   posts that had to be repeated: {self.repeated}"
        yield f"reached the target   {len(self.accepted) - len(self.lost):>7}   lost: {len(self.lost)}"
        again = sum(count > 1 for count in self.received.values())
        yield f"more than once       {again:>7}   duplicates: {self.duplicates}"
        yield f"attempts             {self.calls:>7}   requests that the target saw"
        yield f"histories in order   {len(self.accepted) - len(self.wrong):>7}   not: {len(self.wrong)}"
        yield "events               " + ", ".join(f"{name}: {count}" for name, count in sorted(self.events.items()))
        yield f"time                 accepted in {self.sent_in_s:.1f} s, delivered in {self.ended_in_s:.1f} s"
        yield from (f"! {text}" for text in self.wrong[:20])
        yield from (f"! lost: {key} ({self.accepted[key]})" for key in self.lost[:20])


class Member:
    """One toril of the fleet, which is started again when it has been killed."""

    def __init__(self, role: str, number: int, config: Path, environment: dict[str, str], folder: Path) -> None:
        self.role = role
        self.port = free_port()
        self.log = folder / f"{role}-{number}.log"
        self._environment = environment | {"PYTHONFAULTHANDLER": "1"}
        self._command = [
            sys.executable, "-m", "toril", "serve", "--processes", "1", "--host", "127.0.0.1", "--port", str(self.port),
            "--config", str(config), "--role", role,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; whether it answers is another question."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """As a machine that loses its power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def stop(self) -> None:
        """Tell it to end in good order."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def ended(self) -> int:
        """Its exit status, once it has ended."""
        assert self._process is not None
        try:
            status = self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)  # its log then says what each thread was at
            status = self._process.wait(20)
        self._process = None
        return status

    def last_lines(self, count: int = 40) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def ready(self) -> bool:
        """Whether work moves."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class Caller:
    """Posts envelopes until they are accepted, at one gateway after the other."""

    def __init__(self, gateways: Sequence[Member], account: Account, lock: threading.Lock) -> None:
        self._gateways = gateways
        self._account = account
        self._lock = lock
        self._connection: http.client.HTTPConnection | None = None
        self._turn = 0

    def post(self, number: int) -> None:
        """Have one envelope accepted."""
        key = f"envelope-{number}"
        body = json.dumps({"target": TARGET, "path": f"/{number}", "body": {"number": number, "pad": "x" * 200}})
        while True:
            status, answer = self._ask("POST", "/enqueue", body, {"idempotency-key": key})
            if status in {200, 202}:
                with self._lock:
                    known = self._account.accepted.setdefault(key, answer["job_id"])
                    if known != answer["job_id"]:
                        self._account.wrong.append(f"{key} has two ids: {known}, {answer['job_id']}")
                return
            with self._lock:
                self._account.repeated += 1
                if status not in {0, 503}:
                    self._account.wrong.append(f"{key} was answered {status}: {answer}")
                    return
            time.sleep(0.05)

    def history(self, key: str, job_id: str) -> list[str]:
        """What is wrong with the history of a delivery that should have ended well."""
        while True:
            status, job = self._ask("GET", f"/jobs/{job_id}")
            if status == 200:
                break
            if status not in {0, 503}:
                return [f"{key} ({job_id}): GET was answered {status}"]
            time.sleep(0.05)
        steps = [
            Transition(
                seq=step["seq"],
                source=None if step["from"] is None else Status(step["from"]),
                to=Status(step["to"]),
                at_s=0.0,
            )
            for step in job["transitions"]
        ]
        found = [f"{key} ({job_id}): {fault}" for fault in faults(steps)]
        if job["status"] != "delivered" or steps[-1].to is not Status.DELIVERED:
            found.append(f"{key} ({job_id}) is {job['status']}")
        numbers = [attempt["number"] for attempt in job["attempts"]]
        if numbers != list(range(1, len(numbers) + 1)):
            found.append(f"{key} ({job_id}) has the attempts {numbers}")
        return found

    def _ask(
        self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """One request: its status and its JSON; 0 when there was no answer, and the next gateway is asked next time."""
        if self._connection is None:
            port = self._gateways[self._turn % len(self._gateways)].port
            self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_REQUEST_S)
        try:
            self._connection.request(method, path, body, {"authorization": f"Bearer {TOKEN}"} | (headers or {}))
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            self._next()
            return 0, None
        if answer.status == 503 or answer.will_close:
            self._next()
        is_json = "json" in answer.headers.get("content-type", "")
        return answer.status, json.loads(content) if is_json else content

    def _next(self) -> None:
        self.close()
        self._turn += 1

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None


class Callers:
    """As many callers as threads ask for one, each with its own connection."""

    def __init__(self, gateways: Sequence[Member], account: Account) -> None:
        self._gateways = gateways
        self._account = account
        self._lock = threading.Lock()
        self._local = threading.local()
        self._all: list[Caller] = []

    @contextlib.contextmanager
    def pool(self) -> Iterator[ThreadPoolExecutor]:
        """Threads for the length of a block; whatever they have open is closed behind it."""
        try:
            with ThreadPoolExecutor(_CALLERS) as pool:
                yield pool
        finally:
            for caller in self._all:
                caller.close()

    def mine(self) -> Caller:
        """The caller of this thread."""
        if not hasattr(self._local, "caller"):
            self._local.caller = Caller(self._gateways, self._account, self._lock)
            self._all.append(self._local.caller)
        caller: Caller = self._local.caller
        return caller


class Fleet:
    """Everything that runs, and everything that is done to it."""

    def __init__(self, folder: Path, receiver: Receiver, seed: int, *, alone: bool = False) -> None:
        self.random = random.Random(seed)
        self.alone = alone
        self.valkey = ValkeyProcess(folder / "valkey", aof=True)
        self.postgres = PostgresProcess()
        self._folder = folder
        self._receiver = receiver
        self.members: list[Member] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Everything is up for the length of a block, and gone behind it."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.postgres.close)
            self.postgres.start()
            if not self.alone:
                stack.enter_context(self.valkey)
            config = self._folder / "toril.yaml"
            config.write_text(yaml.safe_dump(self._configuration(self.postgres.database())))
            environment = {
                "PATH": os.environ.get("PATH", ""),
                "HOME": os.environ.get("HOME", "/"),
                "REDIS_URL": "redis://127.0.0.1:9" if self.alone else self.valkey.url,
                "AUTH_TOKENS": TOKEN,
                "TORIL_LOG_FORMAT": "json",
                "TORIL_LOG_LEVEL": "warning",
            }
            self.members = [
                Member(role, number, config, environment, self._folder)
                for role in ("gateway", "worker")
                for number in (1, 2)
            ]
            for member in self.members:
                stack.callback(member.kill)
                member.start()
            until(lambda: all(member.ready() for member in self.members), 60, "the fleet")
            yield

    def of_role(self, role: str) -> list[Member]:
        return [member for member in self.members if member.role == role]

    def kill_one(self) -> str:
        """Kill a member, and start it again a moment later."""
        member = self.random.choice(self.members)
        member.kill()
        time.sleep(self.random.uniform(0.0, 0.3))
        member.start()
        return f"{member.role} killed"

    def disasters(self) -> list[tuple[float, Callable[[], str]]]:
        """What happens to the stores, and when: at which share of what is to be accepted."""
        if self.alone:
            return [(share, self.restart_postgres) for share in (_REDIS_RESTART, _REDIS_FLUSH, _POSTGRES_RESTART)]
        return [
            (_REDIS_RESTART, self.restart_redis),
            (_REDIS_FLUSH, self.flush_redis),
            (_POSTGRES_RESTART, self.restart_postgres),
        ]

    def restart_redis(self) -> str:
        self.valkey.kill()
        time.sleep(0.5)
        self.valkey.start()
        return "Redis killed and restarted"

    def flush_redis(self) -> str:
        self.valkey.client().flushall()
        return "Redis flushed"

    def restart_postgres(self) -> str:
        self.postgres.restart(immediately=True)
        return "PostgreSQL crashed and restarted"

    def _configuration(self, ledger: str) -> dict[str, Any]:
        return {
            **({"redis": "none"} if self.alone else {}),
            "ledger": {"url": ledger},
            "engine": {"lock": "3s", "stalled_interval": "1s", "poll_interval": "1s"},
            "delivery": {"lease": "2s", "recover_every": "1s"},
            "targets": {
                TARGET: {
                    "url": self._receiver.url,
                    "concurrency": 20,
                    "timeout": {"connect": "1s", "total": "2s"},
                    "retry": {"max_attempts": 1000, "base": "50ms", "max": "1s"},
                    # Whether a breaker holds deliveries back is not asked here.
                    "breaker": {"failures": 1000, "window": "1s"},
                }
            },
        }


def until(fact: Callable[[], Any], patience_s: float, what: str) -> None:
    """Wait for a fact.

    Raises:
        TimeoutError: it does not come about.
    """
    deadline = time.monotonic() + patience_s
    while not fact():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {patience_s:g} s in vain for {what}")
        time.sleep(0.05)


def run(
    envelopes: int,
    *,
    kills: int,
    per_s: float,
    seed: int,
    patience_s: float,
    alone: bool = False,
    say: Callable[[str], None] = print,
) -> Account:
    """The whole test, with `alone` without Redis. `per_s` paces the posts, so that what happens meanwhile does so.

    Raises:
        TimeoutError: something did not come about within `patience_s` after the last post. The logs are kept then.
    """
    folder = Path(tempfile.mkdtemp(prefix="toril-loss-"))
    account = Account(envelopes)
    with Receiver() as receiver:
        fleet = Fleet(folder, receiver, seed, alone=alone)
        try:
            with fleet.running():
                _trouble(fleet, account, kills, per_s, say)
                _settle(fleet, account, receiver, patience_s)
        except TimeoutError as exc:
            raise TimeoutError(f"{exc}; logs in {folder}") from exc
    if account.passed:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        account.wrong.append(f"logs in {folder}")
    return account


def _trouble(fleet: Fleet, account: Account, kills: int, per_s: float, say: Callable[[str], None]) -> None:
    """Post everything while the fleet is being mistreated."""
    callers, began = Callers(fleet.of_role("gateway"), account), time.monotonic()

    def post(number: int) -> None:
        time.sleep(max(0.0, began + number / per_s - time.monotonic()))
        callers.mine().post(number)

    # By what is accepted, not by the clock: on a machine that is slow to start processes, a fleet that is killed once
    # a second accepts nothing.
    shares = [fleet.random.uniform(0.02, 1.0) for _ in range(kills - _KILLS_IN_THE_END)] + [1.0] * _KILLS_IN_THE_END
    planned: list[tuple[float, Callable[[], str]]] = [(share, fleet.kill_one) for share in shares]
    planned += fleet.disasters()
    planned.sort(key=lambda plan: plan[0])
    with callers.pool() as pool:
        posting = [pool.submit(post, number) for number in range(account.envelopes)]
        for share, happen in planned:
            while len(account.accepted) < share * account.envelopes and not all(one.done() for one in posting):
                time.sleep(0.02)
            done = happen()
            account.events[done] += 1
            say(f"{time.monotonic() - began:6.1f} s  {len(account.accepted):>6} accepted  {done}")
        for one in posting:
            one.result()
    account.sent_in_s = time.monotonic() - began


def _settle(fleet: Fleet, account: Account, receiver: Receiver, patience_s: float) -> None:
    """Wait until everything is delivered, then look at every history, and end the fleet in good order."""
    began = time.monotonic()
    until(lambda: all(member.ready() for member in fleet.members), patience_s, "the fleet to be ready again")
    with contextlib.suppress(TimeoutError):  # what is missing is told by the account
        until(lambda: not account.accepted.keys() - receiver.received.keys(), patience_s, "every envelope")
    # The last attempt's record follows its answer; a record that a crash kept from being made takes a lease more.
    callers = Callers(fleet.of_role("gateway"), account)

    def history(item: tuple[str, str]) -> list[str]:
        deadline = time.monotonic() + patience_s
        while (found := callers.mine().history(*item)) and time.monotonic() < deadline:
            time.sleep(0.2)
        return found

    with callers.pool() as pool:
        for found in pool.map(history, account.accepted.items()):
            account.wrong.extend(found)
    account.ended_in_s = account.sent_in_s + time.monotonic() - began
    for member in fleet.members:
        member.stop()
    for member in fleet.members:
        if (status := member.ended()) != 0:
            account.wrong.append(f"a {member.role} ended with {status}; its last lines:\n{member.last_lines()}")
    account.received = Counter(receiver.received)
    account.calls = receiver.calls


class Outcome(Protocol):
    """What came of a loss test."""

    @property
    def passed(self) -> bool:
        """Whether everything is as it should be."""
        ...

    def lines(self) -> Iterator[str]:
        """For people."""
        ...


def command(description: str, run: Callable[..., Outcome], what: str, *, count: int, kills: int, per_s: float) -> int:
    """Run a loss test with the options of the command line, which has these defaults; returns the exit status."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(f"--{what}", type=int, default=count, metavar="N", dest="count")
    parser.add_argument(
        "--kills", type=int, default=kills, metavar="N", help="of gateways and workers (default %(default)s)"
    )
    parser.add_argument(
        "--per-s", type=float, default=per_s, metavar="RATE", help=f"{what} a second (default %(default)g)"
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31), help="repeats the chances")
    parser.add_argument("--patience", type=float, default=120.0, metavar="SECONDS")
    parser.add_argument("--alone", action="store_true", help="over PostgreSQL alone, without Redis")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    # As a time limit ends it: what was started is stopped then too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    account = run(
        options.count,
        kills=options.kills,
        per_s=options.per_s,
        seed=options.seed,
        patience_s=options.patience,
        alone=options.alone,
    )
    print("\n".join(account.lines()))
    print("passed" if account.passed else "FAILED")
    return 0 if account.passed else 1


def main() -> int:
    text = "Post envelopes while everything dies, and account for every id."
    return command(text, run, "envelopes", count=10_000, kills=60, per_s=100.0)


if __name__ == "__main__":
    sys.exit(main())
