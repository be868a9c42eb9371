"""The loss test of SQL enqueue: deliveries are enqueued in transactions while everything that can die dies.

    python -m benchmarks.sql_loss                     a thousand transactions from 20 connections, about a minute
    python -m benchmarks.sql_loss --transactions 200  the short version, which CI runs too
    python -m benchmarks.sql_loss --alone             over PostgreSQL alone (`redis: none`)

The fleet is that of `benchmarks.loss`: two gateways and two workers on a Valkey that writes every command to disk, and
a PostgreSQL. Callers write an order and enqueue its delivery in one transaction, which stays open for up to half a
second, and roll every third one back. Meanwhile members of the fleet are killed at random and started again, Redis is
killed and restarted once, **flushed** once, and PostgreSQL is stopped without a chance to write once. A caller whose
connection breaks does not know whether it has committed, and goes on with the next order. In the end:

- there is a delivery for every order in the database, and for nothing else;
- each has reached the target at least once (2xx), and nothing else has; how many came more than once is told;
- every history is gapless and legal, and ends in `delivered`.

It exits with 1 when one of these does not hold. What it starts it stops, by pid.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import yaml

from benchmarks.loss import TARGET, Fleet, command, until
from benchmarks.loss_receiver import Receiver
from toril.delivery.rules.lifecycle import Status, Transition, faults

CONNECTIONS = 20
_OPEN_S = 0.5
_AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
_ENQUEUE = "SELECT toril.enqueue($1, path => $2, body => $3, idempotency_key => $4)"


@dataclass
class SqlAccount:
    """What came of it. Keys are `order-N`."""

    transactions: int
    begun: int = 0
    rolled_back: int = 0
    broken: int = 0
    committed: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)
    received: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    wrong: list[str] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    sent_in_s: float = 0.0
    ended_in_s: float = 0.0

    @property
    def lost(self) -> list[str]:
        """Keys that were committed and never reached the target."""
        return sorted(self.committed - self.received.keys())

    @property
    def invented(self) -> list[str]:
        """Keys that were not committed, and are in the ledger or reached the target."""
        return sorted((self.received.keys() | self.accepted) - self.committed)

    @property
    def passed(self) -> bool:
        """Whether exactly what was committed was delivered."""
        return (
            bool(self.committed) and self.accepted == self.committed and not (self.lost or self.invented or self.wrong)
        )

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"transactions         {self.begun:>7}   rolled back: {self.rolled_back}, broken off: {self.broken}"
        yield f"committed            {len(self.committed):>7}   in the ledger: {len(self.accepted)}"
        strays = len(self.invented)
        yield f"reached the target   {len(self.received):>7}   lost: {len(self.lost)}, never committed: {strays}"
        again = sum(count > 1 for count in self.received.values())
        yield f"more than once       {again:>7}   of {self.calls} requests that the target saw"
        yield "events               " + ", ".join(f"{name}: {count}" for name, count in sorted(self.events.items()))
        yield f"time                 enqueued in {self.sent_in_s:.1f} s, delivered in {self.ended_in_s:.1f} s"
        yield from (f"! {text}" for text in self.wrong[:20])
        yield from (f"! lost: {key}" for key in self.lost[:20])
        yield from (f"! never committed: {key}" for key in self.invented[:20])


class _Callers:
    """Programs that write orders, over so many connections at once."""

    def __init__(self, url: str, account: SqlAccount, per_s: float, chance: random.Random) -> None:
        self._url = url
        self._chance = chance
        self._account = account
        self._per_s = per_s
        self._began = time.monotonic()
        self._numbers = iter(range(account.transactions))

    async def run(self) -> None:
        """Write all orders."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CONNECTIONS):
                tasks.create_task(self._one())

    async def _one(self) -> None:
        connection: asyncpg.Connection[asyncpg.Record] | None = None
        for number in self._numbers:
            await asyncio.sleep(max(0.0, self._began + number / self._per_s - time.monotonic()))
            while connection is None or connection.is_closed():
                try:
                    connection = await asyncpg.connect(self._url, timeout=5)
                except _AWAY:
                    await asyncio.sleep(0.1)
            try:
                await self._order(connection, number)
            except _AWAY:
                self._account.broken += 1
                connection.terminate()
        if connection is not None:
            connection.terminate()

    async def _order(self, connection: asyncpg.Connection[asyncpg.Record], number: int) -> None:
        self._account.begun += 1
        async with asyncio.timeout(20):
            await connection.execute("BEGIN")
            await connection.execute("INSERT INTO public.orders VALUES ($1)", number)
            body = f'{{"order": {number}, "pad": "{"x" * 200}"}}'
            await connection.execute(_ENQUEUE, TARGET, f"/{number}", body, f"order-{number}")
            await asyncio.sleep(self._chance.uniform(0.0, _OPEN_S))
            await connection.execute("ROLLBACK" if number % 3 == 2 else "COMMIT")
            self._account.rolled_back += number % 3 == 2


def run(
    transactions: int,
    *,
    kills: int,
    per_s: float,
    seed: int,
    patience_s: float,
    alone: bool = False,
    say: Callable[[str], None] = print,
) -> SqlAccount:
    """The whole test. `alone`: over PostgreSQL alone, without Redis.

    Raises:
        TimeoutError: something did not come about within `patience_s`. The logs are kept then.
    """
    folder = Path(tempfile.mkdtemp(prefix="toril-sql-loss-"))
    account = SqlAccount(transactions)
    with Receiver() as receiver:
        fleet = Fleet(folder, receiver, seed, alone=alone)
        try:
            with fleet.running():
                url = _migrated(folder / "toril.yaml")
                asyncio.run(_trouble(fleet, account, url, kills, per_s, say))
                began = time.monotonic()
                until(
                    lambda: all(member.ready() for member in fleet.members), patience_s, "the fleet to be ready again"
                )
                asyncio.run(_settle(account, url, receiver, patience_s))
                account.ended_in_s = account.sent_in_s + time.monotonic() - began
        except TimeoutError as exc:
            raise TimeoutError(f"{exc}; logs in {folder}") from exc
    account.received, account.calls = Counter(receiver.received), receiver.calls
    if account.passed:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        account.wrong.append(f"logs in {folder}")
    return account


def _migrated(config: Path) -> str:
    """Make the functions and a table of orders; return the database's URL."""
    subprocess.run([sys.executable, "-m", "toril", "migrate", "--config", str(config)], check=True)
    url: str = yaml.safe_load(config.read_text())["ledger"]["url"]

    async def orders() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE public.orders (number int PRIMARY KEY)")
        await connection.close()

    asyncio.run(orders())
    return url


async def _trouble(
    fleet: Fleet, account: SqlAccount, url: str, kills: int, per_s: float, say: Callable[[str], None]
) -> None:
    """Write all orders while the fleet is being mistreated."""
    began = time.monotonic()
    planned: list[tuple[float, Callable[[], str]]] = [
        (fleet.random.uniform(0.02, 1.0), fleet.kill_one) for _ in range(kills)
    ]
    planned += fleet.disasters()
    planned.sort(key=lambda plan: plan[0])
    writing = asyncio.create_task(_Callers(url, account, per_s, random.Random(fleet.random.random())).run())
    for share, happen in planned:
        while account.begun < share * account.transactions and not writing.done():
            await asyncio.sleep(0.01)
        done = await asyncio.to_thread(happen)
        account.events[done] += 1
        say(f"{time.monotonic() - began:6.1f} s  {account.begun:>6} begun  {done}")
    await writing
    account.sent_in_s = time.monotonic() - began


async def _settle(account: SqlAccount, url: str, receiver: Receiver, patience_s: float) -> None:
    """Wait until everything that was committed is delivered, and look at every history."""
    connection = await asyncpg.connect(url)
    try:
        account.committed = {f"order-{row[0]}" for row in await connection.fetch("SELECT number FROM public.orders")}
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            open_ = await connection.fetchval("SELECT count(*) FROM toril_deliveries WHERE status <> 'delivered'")
            if not open_ and not account.committed - receiver.received.keys():
                break
            await asyncio.sleep(0.1)
        keys = {
            row[0]: row[1] for row in await connection.fetch("SELECT job_id, idempotency_key FROM toril_deliveries")
        }
        account.accepted = set(keys.values())
        histories: dict[str, list[Transition]] = {job_id: [] for job_id in keys}
        for job_id, seq, source, to in await connection.fetch(
            "SELECT job_id, seq, source, status FROM toril_transitions ORDER BY job_id, seq"
        ):
            step = Transition(seq=seq, source=None if source is None else Status(source), to=Status(to), at_s=0.0)
            histories.setdefault(job_id, []).append(step)
        for job_id, steps in histories.items():
            account.wrong += [f"{keys.get(job_id)} ({job_id}): {fault}" for fault in faults(steps)]
            if not steps or steps[-1].to is not Status.DELIVERED:
                account.wrong.append(f"{keys.get(job_id)} ({job_id}) does not end in delivered")
        if left := await connection.fetchval("SELECT count(*) FROM toril.unqueued"):
            account.wrong.append(f"{left} rows say that their job is not queued yet")
    finally:
        await connection.close()


def main() -> int:
    text = "Enqueue in SQL while everything dies, and account for every order."
    return command(text, run, "transactions", count=1000, kills=12, per_s=40.0)


if __name__ == "__main__":
    sys.exit(main())
