"""One run: callers make their cases while faults happen, and everything is read when it has come to rest."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import uvloop
from tests.support.ports import free_port

from benchmarks.histories.caller import Caller
from benchmarks.histories.case import UNKNOWN, Case, Harm, History
from benchmarks.histories.delivery_door import DeliveryDoor
from benchmarks.histories.endpoint import Endpoint
from benchmarks.histories.faults import Faults
from benchmarks.histories.fleet import LOCK_S, Fleet
from benchmarks.histories.plan import DoorName, Fault, Planned, faults_for, is_batched, planned_faults
from benchmarks.histories.proxy_door import ProxyDoor
from benchmarks.histories.pullers import LEASE_S, pullers
from benchmarks.histories.queues_door import QueuesDoor
from benchmarks.histories.records import Records

_LEAD = 20
_LOOK_S = 0.2
_STALLED_S = 1.0
_PROBE_S = 0.5
_BATCH = 16
_PULLERS = 3
_TOLD_EVERY_S = 60.0
Door = QueuesDoor | ProxyDoor | DeliveryDoor


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        accepted: how many cases each door has to accept.
        faults: how many faults happen.
        callers: how many callers each door has.
        per_s: how many cases each door begins in a second, at most; 0 is as many as it can.
        patience_s: how long everything may take to come to rest after the last case and the last fault.
        kinds: the faults to choose from; all that the doors can have where it is empty.
        confirming: how many of two replicas confirm what is acknowledged (`replicas:N`); 0 is a Redis without replicas.
        within_s: after how long no case is begun and no fault happens, whatever was accepted.
        processes: how many processes each toril has.
        lock_s: how long the locks of jobs live.
        lease_s: how long pull workers lease jobs for.
        sources: the folder that the torils import toril from; where it is None, from the one that is installed.
    """

    accepted: int
    faults: int
    callers: int = 8
    per_s: float = 0.0
    patience_s: float = 300.0
    kinds: tuple[Fault, ...] = ()
    confirming: int = 0
    within_s: float = float("inf")
    sources: Path | None = None
    processes: int = 1
    lock_s: float = LOCK_S
    lease_s: float = LEASE_S


@dataclass
class Progress:
    """How far a run is; `stopped` when its time was over before all was accepted."""

    wanted: int
    accepted: Counter[DoorName] = field(default_factory=Counter)
    stopped: bool = False

    @property
    def share(self) -> float:
        """The share of all cases that has been accepted, by the door that is behind the others."""
        return min(self.accepted.values()) / max(1, self.wanted)

    def stop(self) -> None:
        """Want no more than what each door has accepted."""
        self.wanted = min(self.accepted.values())
        self.stopped = True

    @property
    def complete(self) -> bool:
        """True if every door has accepted what it has to."""
        return self.share >= 1

    def is_ahead(self, door: DoorName) -> bool:
        """Return True if a door has to wait for the others, so that faults meet all of them."""
        lead = self.accepted[door] - min(self.accepted.values())
        return not self.complete and lead > max(_LEAD, self.wanted // 50)


class Run:
    """Everything that one run needs."""

    def __init__(self, seed: int, doors: Sequence[DoorName], size: Size, say: Callable[[str], None]) -> None:
        self._doors = list(doors)
        self._size = size
        self._say = say
        self._began = time.monotonic()
        self.records = {door: Records(seed, door) for door in doors}
        self.history = History(seed, self.records)
        self.progress = Progress(size.accepted, Counter(dict.fromkeys(doors, 0)))
        self.folder = Path(tempfile.mkdtemp(prefix="toril-histories-"))
        # What is not root's must pass through to its own parts.
        self.folder.chmod(0o755)
        self._made: dict[DoorName, Door] = {door: self._door(door) for door in doors}
        self._calling: list[asyncio.Task[None]] = []
        # A batch is small beside what a door accepts, so that few cases are left over.
        self._batch = min(_BATCH, max(2, size.accepted // (4 * size.callers)))
        self.endpoint = Endpoint(free_port(), self.records)
        self.fleet = Fleet(
            self.folder,
            self._doors,
            self.endpoint,
            confirming=size.confirming,
            sources=size.sources,
            processes=size.processes,
            lock_s=size.lock_s,
        )

    def _door(self, door: DoorName) -> Door:
        match door:
            case DoorName.QUEUES:
                return QueuesDoor()
            case DoorName.PROXY:
                return ProxyDoor()
            case DoorName.DELIVERY:
                return DeliveryDoor(self._near_fault, lambda: self.fleet.ledger)

    def _near_fault(self, began: float, ended: float) -> bool:
        """Return True if a fault may have touched what was accepted between these times, and attempted soon."""
        lock_s = self._size.lock_s
        return any(harm.began < ended + lock_s and harm.ended > began - lock_s for harm in self.history.harms)

    async def carry_out(self) -> History:
        """Do all of it, and return what was seen."""
        await self.endpoint.start()
        try:
            async with self.fleet.running():
                self.history.versions = await asyncio.to_thread(self.fleet.versions)
                ports = [member.port for member in self.fleet.members]
                caller = Caller(ports, f"{self.history.seed}/operator")
                for door in self._made.values():
                    await door.prepare(caller, self.endpoint)
                pulling = pullers(self.endpoint, self.records, ports, self.history.seed, self._size.lease_s)
                async with pulling.working(_PULLERS) if pulling else nullcontext():
                    await self._mistreat(ports)
                    await self._rest(caller)
                await self._read(ports)
                await self._end()
                caller.close()
        finally:
            await self.endpoint.close()
        self.history.left += self.endpoint.wrong
        return self.history

    async def _mistreat(self, ports: list[int]) -> None:
        """Make all cases while the faults happen."""
        kinds = self._size.kinds or faults_for(
            self._doors, replicated=self._size.confirming > 0, processes=self._size.processes
        )
        faults = Faults(self.fleet, ports, self.history)
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch())
            probing = [tasks.create_task(self._probe(member.number, member.port)) for member in self.fleet.members]
            harming = tasks.create_task(self._harm(planned_faults(self.history.seed, kinds, self._size.faults), faults))
            async with asyncio.TaskGroup() as calling:
                for door in self._doors:
                    for number in range(self._size.callers):
                        caller = Caller(ports, f"{self.history.seed}/{door}/{number}")
                        self._calling.append(calling.create_task(self._call(door, caller)))
            self._tell("all cases are made")
            await harming
            for task in (watching, *probing):
                task.cancel()
        self._tell("all faults have ended")

    async def _watch(self) -> None:
        """Note when the checker itself stands still, and give callers up where nothing is done for a long time."""
        seen, since = -1, time.monotonic()
        told = since
        while True:
            before = time.monotonic()
            await asyncio.sleep(_LOOK_S)
            if (now := time.monotonic()) - before > _STALLED_S:
                self.history.harms.append(Harm(Fault.STALL, 0, before, now))
            if seen != (seen := sum(one.ended for one in self.records.values())):
                since = now
            elif now - since > self._size.patience_s:
                self._give_up()
                return
            if now - self._began > self._size.within_s and not self.progress.complete:
                self.progress.stop()
                self._tell("the time is over")
            if now - told > _TOLD_EVERY_S:
                told = now
                self._tell("")

    def _give_up(self) -> None:
        """Note which cases their callers still work on, and end these. Raise TimeoutError where too few were made."""
        if not self.progress.complete:
            raise TimeoutError(f"nothing was accepted for {self._size.patience_s:g} s; logs in {self.folder}")
        for records in self.records.values():
            for case in filter(lambda case: case.calls, records.open):
                self.history.left.append("; ".join(["a caller waits for ever", *case.lines()]))
        for task in self._calling:
            task.cancel()

    async def _probe(self, number: int, port: int) -> None:
        """Note when a toril answers nothing for long."""
        caller = Caller([port], f"probe {number}")
        heard = time.monotonic()
        while True:
            answer = await caller.ask("GET", "/health")
            if answer.status != UNKNOWN:
                if (now := time.monotonic()) - heard > _PROBE_S + _STALLED_S:
                    self.history.silences.append((number, heard, now))
                heard = now
            await asyncio.sleep(_PROBE_S)

    async def _harm(self, planned: Sequence[Planned], faults: Faults) -> None:
        async with asyncio.TaskGroup() as tasks:
            for one in planned:
                while self.progress.share < one.share:
                    await asyncio.sleep(0.02)
                if self.progress.stopped:
                    return
                self._tell(f"{one.fault} ({one.member}, {one.lasts_s:g} s)")
                tasks.create_task(faults.carry_out(one))

    async def _call(self, door: DoorName, caller: Caller) -> None:
        """Make cases one after the other; those that are added in batches wait until one is full."""
        records, made = self.records[door], self._made[door]
        batch: list[Case] = []
        try:
            while self.progress.accepted[door] + len(batch) < self.progress.wanted:
                await self._paced(door)
                case = records.begin()
                if not (made.batches and is_batched(case.script, case.number)):
                    await self._make(door, [case], made.run(case, caller))
                    continue
                batch.append(case)
                if len(batch) == self._batch:
                    await self._make(door, batch, made.add_all(batch, caller))
                    batch = []
            if batch:
                await self._make(door, batch, made.add_all(batch, caller))
        finally:
            caller.close()

    async def _make(self, door: DoorName, cases: Sequence[Case], making: Awaitable[None]) -> None:
        try:
            await making
        except (KeyError, TypeError, ValueError, msgspec.DecodeError) as exc:
            numbers = [case.number for case in cases]
            self.history.left.append(f"{door} {numbers}: an answer is not as described: {exc!r}")
        finally:
            for case in cases:
                self.progress.accepted[door] += bool(case.ids)
                self.records[door].end(case)

    async def _paced(self, door: DoorName) -> None:
        while self.progress.is_ahead(door):
            await asyncio.sleep(0.05)
        if self._size.per_s:
            await asyncio.sleep(self._began + len(self.records[door]) / self._size.per_s - time.monotonic())

    async def _rest(self, caller: Caller) -> None:
        """Wait until no door has anything left to do."""
        deadline = time.monotonic() + self._size.patience_s
        left = ["nothing was asked yet"]
        while left and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
            left = [text for door in self._made.values() for text in await door.left(caller)]
        self.history.left += left
        self._tell("everything is at rest" if not left else f"not at rest: {left}")

    async def _read(self, ports: list[int]) -> None:
        """Read what has become of each case."""
        async with asyncio.TaskGroup() as tasks:
            for door in self._doors:
                tasks.create_task(self._read_door(door, ports))
        self._tell(f"everything is read: {sum(one.size_bytes for one in self.records.values()):,} bytes")

    async def _read_door(self, door: DoorName, ports: list[int]) -> None:
        caller = Caller(ports, f"pages {door}")
        await self._made[door].read_pages(self.records[door], caller)
        caller.close()
        waiting = self.records[door].called()
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._size.callers):
                tasks.create_task(self._read_some(door, waiting, Caller(ports, f"read {door} {number}")))
        self._tell(f"{door} is read")

    async def _read_some(self, door: DoorName, waiting: Iterator[Case], caller: Caller) -> None:
        for case in waiting:
            known = set(case.finals)
            await self._made[door].read(case, caller)
            if found := {job_id: final for job_id, final in case.finals.items() if job_id not in known}:
                self.records[door].found(case.number, found)
        caller.close()

    async def _end(self) -> None:
        """End the torils in good order."""
        for member in self.fleet.members:
            if (code := await asyncio.to_thread(member.stop)) != 0:
                self.history.left.append(f"toril {member.number} ended with {code}")
            self.history.left += [f"toril {member.number} logged: {line}" for line in member.process.complaints()]

    def _tell(self, text: str) -> None:
        accepted = ", ".join(f"{door} {number}" for door, number in self.progress.accepted.items())
        self._say(f"{time.monotonic() - self._began:8.1f} s  accepted: {accepted}  {text}")


def run(
    seed: int, doors: Sequence[DoorName], size: Size, say: Callable[[str], None] = lambda _: None
) -> tuple[History, Path]:
    """Carry a run out; return what was seen, and the folder with the logs."""
    made = Run(seed, doors, size, say)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(made.carry_out()), made.folder
