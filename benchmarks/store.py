"""The Redis behind a target: cleaned of what a run left, and asked what it cost.

Touches only keys of queues that the benchmarks named themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import redis


class Store:
    """One Redis database, seen from the harness."""

    def __init__(self, url: str, prefix: str) -> None:
        self._client = redis.Redis.from_url(url, socket_timeout=30)
        self._prefix = prefix

    def close(self) -> None:
        self._client.close()

    def ping(self) -> str:
        """The server's name and version. Raises redis.RedisError when it does not answer."""
        info = cast("dict[str, object]", self._client.info("server"))
        if "valkey_version" in info:
            return f"Valkey {info['valkey_version']}"
        return f"Redis {info['redis_version']}"

    def forget(self, queue_pattern: str) -> None:
        """Deletes every key of the queues whose names have this pattern (`bench-add-1`, `bench-idle-2-*`)."""
        batch: list[bytes] = []
        for key in cast("Iterable[bytes]", self._client.scan_iter(f"{self._prefix}:{queue_pattern}:*", count=5_000)):
            batch.append(key)
            if len(batch) == 5_000:
                self._client.unlink(*batch)
                batch.clear()
        if batch:
            self._client.unlink(*batch)

    def cpu_s(self) -> float:
        """Seconds of CPU the Redis process has used, background threads included."""
        info = cast("dict[str, float]", self._client.info("cpu"))
        return info["used_cpu_user"] + info["used_cpu_sys"]

    def connections(self, local_ports: set[int]) -> int:
        """How many client connections come from these local ports."""
        clients = self._client.client_list()
        return sum(int(client["addr"].rpartition(":")[2]) in local_ports for client in clients)
