"""How long callers get errors when Redis fails over, with Sentinels and in a Cluster, so many times each.

    python -m benchmarks.failovers [--kind sentinel-planned]... [--times 10] [--acknowledge replicas:1]

Four callers add jobs to one toril, one after the other. Of each failover the table has

- `known`: from the fault until the first Sentinel (or other node of the cluster) names the new master. This is theirs.
- `after`: from then until the end of the last answer that was an error, or of the first that was none if all waited.
- `gap`: the longest time without a job that was acknowledged.
- `errors`: answers that were no 200.

A fault is SIGKILL, SIGSTOP (the server keeps its connections, and answers nothing), or the failover that an operator
asks for. Servers and Sentinels are those of the tests: `down-after-milliseconds 800`, `cluster-node-timeout 2000`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import msgspec
import redis
from redis.crc import key_slot
from tests.support.cluster import home_of, replicate, start_nodes
from tests.support.sentinel import MASTER, Replicated
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

from benchmarks.processes import exit_on_sigterm

_CALLERS = 4
_PAUSE_S = 0.005
_STEADY_S = 1.0
_PATIENCE_S = 60.0
_GOAL_S = 2.0
_OUTAGE_S = 0.25


class Answer(msgspec.Struct, frozen=True):
    """When a request was sent and answered, and whether it was acknowledged."""

    began: float
    ended: float
    ok: bool


class Failover(msgspec.Struct, frozen=True):
    """Seconds, and the number of errors."""

    known: float
    after: float
    gap: float
    errors: int


class Callers:
    """Threads that add jobs until the block ends."""

    def __init__(self, toril: TorilProcess, queue: str) -> None:
        self.answers: list[Answer] = []
        self._url = f"{toril.url}/queues/{queue}/jobs"
        self._headers = dict(toril.client.headers)
        self._ends = threading.Event()

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Add jobs for the length of a block."""
        threads = [threading.Thread(target=self._run) for _ in range(_CALLERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ends.set()
            for thread in threads:
                thread.join()

    def is_served_since(self, at: float) -> bool:
        """Return True if a request that was sent after this time was acknowledged."""
        return any(answer.ok and answer.began > at for answer in list(self.answers))

    def _run(self) -> None:
        with httpx.Client(headers=self._headers, timeout=30, trust_env=False) as client:
            while not self._ends.is_set():
                began = time.monotonic()
                ok = client.post(self._url, json=[{"name": "n", "data": 1}]).status_code == 200
                self.answers.append(Answer(began, time.monotonic(), ok))
                time.sleep(_PAUSE_S)


def observed(toril: TorilProcess, queue: str, fault: Callable[[], None], is_known: Callable[[], bool]) -> Failover:
    """Cause one failover, and return how callers fared."""
    callers = Callers(toril, queue)
    with callers.calling():
        began = time.monotonic()
        eventually(lambda: callers.is_served_since(began), timeout_s=_PATIENCE_S)
        time.sleep(_STEADY_S)
        at = time.monotonic()
        fault()
        eventually(is_known, timeout_s=_PATIENCE_S, what="a new master")
        known = time.monotonic()
        eventually(lambda: callers.is_served_since(known), timeout_s=_PATIENCE_S, what="an acknowledged add")
        time.sleep(_STEADY_S)  # errors that come late count, too
    return measured(callers.answers, at, known)


def measured(answers: list[Answer], at: float, known: float) -> Failover:
    """Return the figures of a failover by its answers: a fault at this time, and since when the master was known."""
    errors = [answer.ended for answer in answers if not answer.ok]
    good = sorted(answer.ended for answer in answers if answer.ok)
    served = max((ended for ended in good if ended <= known), default=at)
    again = next((ended for ended in good if ended > known), known)
    # Where nothing was acknowledged when it became known, callers were waiting, with errors or without.
    last = max([known if known - served < _OUTAGE_S else again, *errors])
    gap = max((later - earlier for earlier, later in pairwise(good)), default=0.0)
    return Failover(known - at, max(0.0, last - known), gap, len(errors))


class Sentinels:
    """Failovers of a master with two replicas and three Sentinels."""

    def __init__(self, stack: ExitStack, folder: Path, env: dict[str, str | None]) -> None:
        self._servers = stack.enter_context(Replicated(folder / "servers"))
        self._toril = stack.enter_context(TorilProcess(self._servers.url, folder / "toril.log", env=env))
        self._number = 0

    def planned(self) -> Failover:
        """An operator's failover."""
        return self._over(lambda old: self._servers.fail_over())

    def killed(self) -> Failover:
        """The master is killed."""
        return self._over(lambda old: old.kill(), lambda old: old.start())

    def frozen(self) -> Failover:
        """The master is stopped, and goes on later."""
        return self._over(lambda old: old.pause(), lambda old: old.resume())

    def _over(
        self, fault: Callable[[ValkeyProcess], Any], back: Callable[[ValkeyProcess], Any] = lambda _: None
    ) -> Failover:
        old = self._servers.master
        self._number += 1
        found = observed(self._toril, f"over-{self._number}", lambda: fault(old), lambda: self._moved_from(old))
        back(old)
        eventually(self._settled, timeout_s=_PATIENCE_S, what="replicas that follow")
        time.sleep(10.5)  # the Sentinels begin no other failover of this master before twice their failover-timeout
        return found

    def _moved_from(self, old: ValkeyProcess) -> bool:
        named = {str(sentinel.asked("GET-MASTER-ADDR-BY-NAME", MASTER)[1]) for sentinel in self._servers.sentinels}  # type: ignore[index]
        return bool(named - {str(old.port)})

    def _settled(self) -> bool:
        try:
            master = self._servers.master
            info = master.client().info("replication")
            return bool(info["role"] == "master" and info["connected_slaves"] == 2)
        except (redis.RedisError, AssertionError):
            return False


class Cluster:
    """Failovers of one of three masters, which has a replica."""

    def __init__(self, stack: ExitStack, folder: Path, env: dict[str, str | None]) -> None:
        numbers = iter(range(100))

        def start(**options: Any) -> ValkeyProcess:
            return stack.enter_context(ValkeyProcess(folder / f"node-{next(numbers)}", **options))

        self._nodes = start_nodes(start, 3)
        at = home_of(key_slot(b"{over}"), 3)
        self._pair = [self._nodes[at], replicate(start, self._nodes, at)]
        self._others = [node for node in self._nodes if node not in self._pair]
        env = env | {
            "REDIS_CLUSTER": "true",
            "WORKER_METADATA_KEY": "{bmqp}:w:meta",
            "WORKER_METADATA_STREAM": "{bmqp}:w:stream",
        }
        self._toril = stack.enter_context(TorilProcess(self._others[0].url, folder / "toril.log", env=env))

    def planned(self) -> Failover:
        """An operator's failover."""
        return self._over(lambda old, new: new.client().execute_command("CLUSTER", "FAILOVER"))

    def killed(self) -> Failover:
        """The master is killed."""
        return self._over(lambda old, new: old.kill(), lambda old: old.start())

    def frozen(self) -> Failover:
        """The master is stopped, and goes on later."""
        return self._over(lambda old, new: old.pause(), lambda old: old.resume())

    def _over(
        self,
        fault: Callable[[ValkeyProcess, ValkeyProcess], Any],
        back: Callable[[ValkeyProcess], Any] = lambda _: None,
    ) -> Failover:
        old, new = self._pair
        found = observed(self._toril, "{over}", lambda: fault(old, new), lambda: self._is_named(new))
        back(old)
        eventually(lambda: _is_replica(old), timeout_s=_PATIENCE_S, what="the old master to follow")
        self._pair.reverse()
        time.sleep(2.5)
        return found

    def _is_named(self, new: ValkeyProcess) -> bool:
        return any(f"127.0.0.1:{new.port}" in self._master_at(node) for node in self._others)

    def _master_at(self, node: ValkeyProcess) -> str:
        slot = key_slot(b"{over}")
        for first, last, (host, port, *_), *_ in node.client().execute_command("CLUSTER SLOTS", NEVER_DECODE=[]):
            if int(first) <= slot <= int(last):
                return f"{host.decode() if isinstance(host, bytes) else host}:{int(port)}"
        return ""


def _is_replica(node: ValkeyProcess) -> bool:
    try:
        role = node.client().execute_command("ROLE")
    except redis.RedisError:
        return False
    return bool(role[0] == "slave" and role[3] == "connected")


KINDS = {
    f"{of}-{kind}": (made, kind)
    for of, made in (("sentinel", Sentinels), ("cluster", Cluster))
    for kind in ("planned", "killed", "frozen")
}


def main() -> int:
    """Fail over, and print a table; return 1 where errors went on for longer than the goal."""
    exit_on_sigterm()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kind", action="append", choices=list(KINDS))
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--acknowledge", default="memory")
    options = parser.parse_args()
    env = {"TORIL_ACKNOWLEDGE": options.acknowledge, "TORIL_REDIS_COMMAND_TIMEOUT": None}
    print(f"{'median (greatest), s':18} {'known':>13} {'after':>13} {'gap':>13} {'errors':>8}")
    slow = False
    for name in options.kind or list(KINDS):
        made, kind = KINDS[name]
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            servers = made(stack, folder, env)
            found = [getattr(servers, kind)() for _ in range(options.times)]
        columns = [[getattr(one, field) for one in found] for field in ("known", "after", "gap")]
        figures = " ".join(f"{statistics.median(column):6.2f} ({max(column):.2f})".rjust(13) for column in columns)
        print(f"{name:20} {figures} {statistics.median(one.errors for one in found):8.0f}", flush=True)
        slow |= max(one.after for one in found) > _GOAL_S
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
