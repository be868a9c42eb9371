"""What is tried: two torils with all doors, their Redis and their PostgreSQL, and relays between them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import yaml
from tests.support.ports import free_port
from tests.support.postgres import PostgresProcess
from tests.support.sentinel import Replicated
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess

from benchmarks.compiling import built
from benchmarks.histories.endpoint import TIMEOUT_S, Endpoint, source_address
from benchmarks.histories.plan import DoorName
from benchmarks.histories.relay import Relay
from benchmarks.processes import ProcessError

QUEUE, LINE, PULLED, TARGET, UPSTREAM = "orders", "line", "pulled", "billing", "/proxy"
LOCK_S = 5.0
_DISK_SIZE = "75%"  # of memory
_OFFSET = struct.Struct("=q")


def _library(name: str) -> Path | None:
    """Return a library to be loaded before a program; None where there is no C compiler."""
    try:
        return built(name, library=True)
    except ProcessError:
        return None


class Member:
    """One toril, which reaches its stores by relays of its own."""

    def __init__(self, number: int, fleet: Fleet) -> None:
        self.number = number
        self.port = free_port()
        self.to_redis = Relay(free_port(), fleet.valkey.port)
        self.to_postgres = Relay(free_port(), fleet.postgres.port)
        self.lock = asyncio.Lock()
        self.clock = fleet.folder / f"clock-{number}"
        self.process = self._made(fleet)

    def _made(self, fleet: Fleet) -> TorilProcess:
        ledger = fleet.ledger.replace(f":{fleet.postgres.port}/", f":{self.to_postgres.port}/")
        env: dict[str, str | None] = {
            "TORIL_REDIS_COMMAND_TIMEOUT": None,
            "TORIL_LOG_LEVEL": "warning",
            "TORIL_LEDGER_URL": ledger if DoorName.DELIVERY in fleet.doors else None,
            "TORIL_ACKNOWLEDGE": f"replicas:{fleet.confirming}" if fleet.confirming else None,
            "PYTHONFAULTHANDLER": "1",
        }
        if fleet.sources is not None:
            env["PYTHONPATH"] = str(fleet.sources)
        if fleet.clocks is not None and fleet.addresses is not None:
            self.clock.write_bytes(_OFFSET.pack(0))
            env |= {
                "LD_PRELOAD": f"{fleet.clocks}:{fleet.addresses}",
                "MOVED_CLOCK": str(self.clock),
                "SOURCE_ADDRESS": source_address(self.number),
            }
        return TorilProcess(
            # Sentinels name the master itself, so no relay can be before it.
            f"redis://127.0.0.1:{self.to_redis.port}" if fleet.replicated is None else fleet.replicated.url,
            fleet.folder / f"toril-{self.number}.log",
            env=env,
            args=("--config", str(fleet.config)),
            port=self.port,
            cwd=fleet.folder,
            command=("serve", "--host", "127.0.0.1", "--processes", str(fleet.processes)),
            preloaded=False,  # what moves its clock has to be there from the start
        )

    def start(self, wait_for: str = "/health") -> None:
        """Start it; `/health` answers also while a store is away."""
        self.process.start(wait_for, timeout_s=120)

    def move_clock(self, moved_s: int) -> None:
        """Let its wall clock be so many seconds ahead."""
        # In place: the program has the file in its memory.
        with self.clock.open("r+b") as file:
            file.write(_OFFSET.pack(moved_s))

    def stop(self) -> int:
        """End it in good order, and return its exit status."""
        self.process.send(signal.SIGTERM)
        return self.process.wait(120).code

    @property
    def relays(self) -> tuple[Relay, Relay]:
        """The ways to both stores."""
        return self.to_redis, self.to_postgres


class Fleet:
    """Everything that runs, in a folder; with `confirming` on a Redis with two replicas, of which so many confirm."""

    def __init__(
        self,
        folder: Path,
        doors: list[DoorName],
        endpoint: Endpoint,
        *,
        confirming: int,
        sources: Path | None,
        processes: int,
        lock_s: float,
    ) -> None:
        self._lock_s = lock_s
        self.folder = folder
        self.processes = processes
        self.sources = sources
        self.doors = doors
        self.config = folder / "toril.yaml"
        self.clocks = _library("moved_clock")
        self.addresses = _library("source_address")
        self.replicated = Replicated(folder / "servers") if confirming else None
        self.confirming = confirming
        self.valkey = ValkeyProcess(folder / "valkey", aof=True)
        self.redis_disk = Disk(folder / "valkey")
        self.postgres = PostgresProcess()
        self.postgres_disk = Disk(self.postgres.folder / "disk")
        self.ledger = ""
        self.members: list[Member] = []
        self.generation = 0
        self._endpoint = endpoint

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything is up for the length of a block, and gone behind it."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.postgres.close)
            stack.enter_context(self.redis_disk)
            stack.enter_context(self.postgres_disk)
            self._move_postgres()
            stack.callback(self.valkey.close)
            stack.callback(self.postgres.stop, immediately=True)
            if self.replicated is not None:
                stack.enter_context(self.replicated)
            await asyncio.to_thread(self.valkey.start)
            await asyncio.to_thread(self.postgres.start)
            self.ledger = await asyncio.to_thread(self.postgres.database)
            self.write_configuration()
            await asyncio.to_thread(self._migrate)
            self.members = [Member(number, self) for number in range(2)]
            for member in self.members:
                stack.callback(member.process.close)
                for relay in member.relays:
                    await relay.start()
            await asyncio.gather(*(asyncio.to_thread(member.start, "/ready") for member in self.members))
            try:
                yield
            finally:
                for member in self.members:
                    for relay in member.relays:
                        await relay.close()

    def _migrate(self) -> None:
        """Make the ledger, and what a program needs to enqueue in transactions."""
        if DoorName.DELIVERY in self.doors:
            env = os.environ | {"TORIL_LEDGER_URL": self.ledger}
            command = [sys.executable, "-m", "toril", "migrate", "--config", str(self.config)]
            subprocess.run(command, env=env, cwd=self.folder, check=True, capture_output=True)

    def versions(self) -> dict[str, str]:
        """Return what is tried, and on what."""
        commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], check=False, capture_output=True, text=True)
        toril = commit.stdout.strip() or "unknown"
        postgres = self.postgres.psql("SHOW server_version").split(" ")[0]
        return {
            "toril": toril if self.sources is None else f"of {self.sources}",
            "Python": platform.python_version(),
            "Valkey": str(self.valkey.client().info("server")["valkey_version"]),
            "PostgreSQL": postgres,
        }

    def _move_postgres(self) -> None:
        owner = self.postgres.folder.stat()
        shutil.copytree(self.postgres.data, moved := self.postgres_disk.folder / "data")
        for path in (moved.parent, moved, *moved.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
        moved.chmod(0o700)
        self.postgres.data = moved

    def write_configuration(self) -> None:
        """Write the file anew; each time with another pace of retries, which a reload applies."""
        self.generation += 1
        new = self.config.with_suffix(".new")
        new.write_text(yaml.safe_dump(self._configuration()))
        new.replace(self.config)

    def _configuration(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "engine": {"lock": f"{self._lock_s:g}s", "stalled_interval": "1s", "poll_interval": "2s", "grace": "10s"},
        }
        if DoorName.PROXY in self.doors:
            found |= {
                "queue": "upstream",
                "apiPath": "/",
                "concurrency": 20,
                "taskRetention": "240h",
                "upstreams": [
                    {
                        "prefix": UPSTREAM,
                        "url": f"{self._endpoint.url}/proxy",
                        "timeout": f"{TIMEOUT_S:g}s",
                        "maxRetries": 200,
                        "retryDelay": "100ms",
                    }
                ],
            }
        if DoorName.DELIVERY in self.doors:
            found |= {
                "delivery": {"lease": "2s", "recover_every": "2s"},
                "targets": {
                    TARGET: {
                        "url": f"{self._endpoint.url}/delivery",
                        "concurrency": 20,
                        "timeout": {"connect": "2s", "total": f"{TIMEOUT_S:g}s"},
                        "retry": {"max_attempts": 1000, "base": f"{40 + 20 * (self.generation % 2)}ms", "max": "1s"},
                        # Whether a breaker holds deliveries back is not asked here.
                        "breaker": "off",
                        "retention": {"delivered": "240h", "dead_lettered": "240h", "cancelled": "240h"},
                    }
                },
            }
        return found


class Disk:
    """A file system in memory that can be made full, where the machine lets us mount one, and else a plain folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mounted = False

    def __enter__(self) -> Disk:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.mounted = self._mount(f"size={_DISK_SIZE}", "-t", "tmpfs", "toril-histories")
        return self

    def __exit__(self, *_: object) -> None:
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=False, capture_output=True)

    def fill(self) -> None:
        """Let it have no more space than what is in use."""
        stat = os.statvfs(self.folder)
        self._mount(f"remount,size={(stat.f_blocks - stat.f_bfree + 1) * stat.f_frsize}")

    def free(self) -> None:
        """Let it have space again."""
        self._mount(f"remount,size={_DISK_SIZE}")

    def _mount(self, options: str, *what: str) -> bool:
        command = ["mount", "-o", options, *what, str(self.folder)]
        try:
            return subprocess.run(command, check=False, capture_output=True).returncode == 0
        except OSError:
            return False
