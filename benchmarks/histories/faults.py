"""Carries faults out, and notes from when until when each lasted."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

import redis
from tests.support.sentinel import Replicated
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

from benchmarks.histories.caller import Answer, Caller
from benchmarks.histories.case import Harm, History
from benchmarks.histories.fleet import QUEUE, TARGET, Disk, Fleet, Member
from benchmarks.histories.plan import FAILOVERS, DoorName, Fault, Planned
from benchmarks.histories.relay import Relay

_START_S = 180.0
"""How long Redis may take to read what it had written."""
_BETWEEN_FAILOVERS_S = 10.5
"""Sentinels begin no other failover of a master before twice their `failover-timeout`."""


class Faults:
    """Does to a fleet what is planned. Of two faults of the same part the later one waits for the end of the other."""

    def __init__(self, fleet: Fleet, ports: Sequence[int], history: History) -> None:
        self._fleet = fleet
        self._ports = ports
        self._history = history
        self._redis = asyncio.Lock()
        self._postgres = asyncio.Lock()
        self._pausing = asyncio.Lock()
        self._failover_from = time.monotonic()
        self._random = random.Random(f"{history.seed}/clocks")
        self._do: dict[Fault, Callable[[Planned, Member], Awaitable[bool]]] = {
            Fault.KILL_TORIL: self._kill_toril,
            Fault.FREEZE_TORIL: self._freeze_toril,
            Fault.KILL_PROCESS: self._kill_process,
            Fault.FREEZE_PROCESS: self._freeze_process,
            Fault.RESTART_TORIL: self._restart_toril,
            Fault.MOVE_CLOCK: self._move_clock,
            Fault.KILL_REDIS: self._kill_redis,
            Fault.FREEZE_REDIS: self._freeze_redis,
            Fault.FULL_REDIS: self._fill_redis,
            Fault.FLUSH_REDIS: self._flush_redis,
            Fault.FAIL_OVER: self._fail_over,
            Fault.KILL_MASTER: self._kill_master,
            Fault.FREEZE_MASTER: self._freeze_master,
            Fault.KILL_POSTGRES: self._kill_postgres,
            Fault.FREEZE_POSTGRES: self._freeze_postgres,
            Fault.FULL_POSTGRES: self._fill_postgres,
            Fault.CUT_REDIS: self._cut_redis,
            Fault.CUT_POSTGRES: self._cut_postgres,
            Fault.PART_REDIS: self._part_redis,
            Fault.PART_POSTGRES: self._part_postgres,
            Fault.SLOW_STORES: self._slow_stores,
            Fault.RELOAD: self._reload,
            Fault.PAUSE_QUEUE: self._pause_queue,
            Fault.PAUSE_TARGET: self._pause_target,
        }

    async def carry_out(self, planned: Planned) -> None:
        """Do one, until its end."""
        member = self._fleet.members[planned.member]
        async with self._part_of(planned.fault, member):
            if planned.fault in FAILOVERS:
                await asyncio.sleep(self._failover_from - time.monotonic())
            await self._noted(planned, member)
            if planned.fault in FAILOVERS:
                self._failover_from = time.monotonic() + _BETWEEN_FAILOVERS_S

    async def _noted(self, planned: Planned, member: Member) -> None:
        harm = Harm(planned.fault, planned.member, time.monotonic(), float("inf"))
        self._history.harms.append(harm)
        try:
            if not await self._do[planned.fault](planned, member):
                self._history.harms.remove(harm)
                self._history.untried.add(planned.fault)
        finally:
            harm.ended = time.monotonic()

    def _part_of(self, fault: Fault, member: Member) -> AbstractAsyncContextManager[object]:
        """Return what one fault at a time may have."""
        match fault:
            case (
                Fault.KILL_TORIL | Fault.FREEZE_TORIL | Fault.RESTART_TORIL | Fault.KILL_PROCESS | Fault.FREEZE_PROCESS
            ):
                return member.lock
            case Fault.KILL_POSTGRES | Fault.FREEZE_POSTGRES | Fault.FULL_POSTGRES:
                return self._postgres
            case Fault.PAUSE_QUEUE | Fault.PAUSE_TARGET:
                return self._pausing
            case Fault.KILL_REDIS | Fault.FREEZE_REDIS | Fault.FULL_REDIS | Fault.FLUSH_REDIS:
                return self._redis
            case Fault.FAIL_OVER | Fault.KILL_MASTER | Fault.FREEZE_MASTER:
                return self._redis
            case _:
                return nullcontext()

    async def _kill_toril(self, planned: Planned, member: Member) -> bool:
        await asyncio.to_thread(member.process.kill)
        await asyncio.sleep(planned.lasts_s / 4)
        await asyncio.to_thread(member.start)
        return True

    async def _freeze_toril(self, planned: Planned, member: Member) -> bool:
        with member.process.frozen():
            await asyncio.sleep(planned.lasts_s * 2)
        return True

    async def _kill_process(self, planned: Planned, member: Member) -> bool:
        """Kill one of the processes of a toril, and wait until another one has taken its place."""
        killed = self._random.choice(member.process.children())
        os.kill(killed, signal.SIGKILL)

        def replaced() -> bool:
            now = member.process.children()
            return killed not in now and len(now) == self._fleet.processes

        await asyncio.to_thread(eventually, replaced, timeout_s=60, what="another process")
        return True

    async def _freeze_process(self, planned: Planned, member: Member) -> bool:
        frozen = self._random.choice(member.process.children())
        os.kill(frozen, signal.SIGSTOP)
        await asyncio.sleep(planned.lasts_s * 2)
        os.kill(frozen, signal.SIGCONT)
        return True

    async def _restart_toril(self, planned: Planned, member: Member) -> bool:
        if (code := await asyncio.to_thread(member.stop)) != 0:
            self._history.left.append(f"toril {member.number} ended with {code} after SIGTERM")
        await asyncio.to_thread(member.start)
        return True

    async def _move_clock(self, planned: Planned, member: Member) -> bool:
        if self._fleet.clocks is None:
            return False
        moved_s = self._random.choice((-3600, -30, -2, 2, 30, 3600))
        member.move_clock(moved_s)
        await asyncio.sleep(planned.lasts_s * 2)
        member.move_clock(0)
        return True

    async def _kill_redis(self, planned: Planned, member: Member) -> bool:
        await asyncio.to_thread(self._fleet.valkey.kill)
        await asyncio.sleep(planned.lasts_s / 2)
        await asyncio.to_thread(self._fleet.valkey.start, _START_S)
        return True

    async def _freeze_redis(self, planned: Planned, member: Member) -> bool:
        self._fleet.valkey.pause()
        await asyncio.sleep(planned.lasts_s)
        self._fleet.valkey.resume()
        return True

    async def _fill_redis(self, planned: Planned, member: Member) -> bool:
        disk, valkey = self._fleet.redis_disk, self._fleet.valkey
        if not disk.mounted:
            return False
        await _full(disk, planned.lasts_s)
        # With `appendfsync always` a server that cannot write ends itself.
        if not valkey.running:
            await asyncio.to_thread(valkey.kill)
            await asyncio.to_thread(valkey.start, _START_S)
        return True

    async def _flush_redis(self, planned: Planned, member: Member) -> bool:
        await asyncio.to_thread(self._fleet.valkey.client().flushall)
        return True

    async def _fail_over(self, planned: Planned, member: Member) -> bool:
        return await self._over(Replicated.fail_over, lambda _: None)

    async def _kill_master(self, planned: Planned, member: Member) -> bool:
        return await self._over(lambda servers: servers.master.kill(), ValkeyProcess.start)

    async def _freeze_master(self, planned: Planned, member: Member) -> bool:
        return await self._over(lambda servers: servers.master.pause(), ValkeyProcess.resume)

    async def _over(self, harm: Callable[[Replicated], None], mend: Callable[[ValkeyProcess], None]) -> bool:
        """Have another server become the master; it ends when both of the others follow it."""
        assert self._fleet.replicated is not None

        def over(servers: Replicated) -> None:
            old = servers.master
            harm(servers)
            servers.until_master_is_not(old)
            mend(old)
            eventually(lambda: followers(servers) == 2, timeout_s=60, what="two replicas")

        await asyncio.to_thread(over, self._fleet.replicated)
        return True

    async def _kill_postgres(self, planned: Planned, member: Member) -> bool:
        await asyncio.to_thread(self._fleet.postgres.stop, immediately=True)
        await asyncio.sleep(planned.lasts_s / 2)
        await asyncio.to_thread(self._fleet.postgres.start)
        return True

    async def _freeze_postgres(self, planned: Planned, member: Member) -> bool:
        with self._fleet.postgres.frozen():
            await asyncio.sleep(planned.lasts_s)
        return True

    async def _fill_postgres(self, planned: Planned, member: Member) -> bool:
        disk, postgres = self._fleet.postgres_disk, self._fleet.postgres
        if not disk.mounted:
            return False
        await _full(disk, planned.lasts_s)
        if not postgres.running:
            await asyncio.to_thread(postgres.start)
        return True

    async def _cut_redis(self, planned: Planned, member: Member) -> bool:
        return await self._cut([one.to_redis for one in self._fleet.members], planned)

    async def _cut_postgres(self, planned: Planned, member: Member) -> bool:
        return await self._cut([one.to_postgres for one in self._fleet.members], planned)

    async def _cut(self, relays: list[Relay], planned: Planned) -> bool:
        for relay in relays:
            relay.refuses = True
            relay.cut()
        await asyncio.sleep(planned.lasts_s / 2)
        for relay in relays:
            relay.refuses = False
        return True

    async def _part_redis(self, planned: Planned, member: Member) -> bool:
        return await self._part(member.to_redis, planned)

    async def _part_postgres(self, planned: Planned, member: Member) -> bool:
        return await self._part(member.to_postgres, planned)

    async def _part(self, relay: Relay, planned: Planned) -> bool:
        relay.swallows = True
        await asyncio.sleep(planned.lasts_s * 2)
        relay.let_go()
        return True

    async def _slow_stores(self, planned: Planned, member: Member) -> bool:
        for relay in member.relays:
            relay.delay_s = 0.03
        await asyncio.sleep(planned.lasts_s)
        for relay in member.relays:
            relay.delay_s = 0.0
        return True

    async def _reload(self, planned: Planned, member: Member) -> bool:
        self._fleet.write_configuration()
        answer = await self._asked("/reload")
        if answer.status != 200:
            self._history.left.append(f"a reload was answered {answer.status}: {answer.body!r}")
        return True

    async def _asked(self, path: str) -> Answer:
        caller = Caller(self._ports, self._random.random())
        try:
            return await caller.asked("POST", path)
        finally:
            caller.close()

    async def _pause_queue(self, planned: Planned, member: Member) -> bool:
        return await self._pause(DoorName.QUEUES, f"/queues/{QUEUE}", planned)

    async def _pause_target(self, planned: Planned, member: Member) -> bool:
        return await self._pause(DoorName.DELIVERY, f"/targets/{TARGET}", planned)

    async def _pause(self, door: DoorName, path: str, planned: Planned) -> bool:
        await self._asked(f"{path}/pause")
        began = time.monotonic()
        await asyncio.sleep(planned.lasts_s)
        self._history.pauses.append((door, began, time.monotonic()))
        await self._asked(f"{path}/resume")
        return True


def followers(servers: Replicated) -> int:
    """Return how many replicas the master has."""
    try:
        return int(servers.master.client().info("replication").get("connected_slaves", 0))
    except (redis.RedisError, AssertionError):
        return 0


async def _full(disk: Disk, for_s: float) -> None:
    disk.fill()
    try:
        await asyncio.sleep(for_s)
    finally:
        disk.free()
