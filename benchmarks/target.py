"""One benchmarked server, and the few calls of the wire that prepare and check a run.

Not the load: that comes from separate processes. Speaks only what BullMQ Proxy documents, so any server
of that wire is a target.
"""

from __future__ import annotations

import http.client
import ipaddress
import time
import urllib.parse
from dataclasses import dataclass

import msgspec

from benchmarks import payload, procfs

_JSON = {"content-type": "application/json"}
# Servers close what has been idle for a while (uvicorn after 5 s); a request that meets that would fail.
_KEEP_ALIVE_S = 2.0


class TargetError(Exception):
    """A target answered what the wire does not allow, or not at all."""


class _Listing(msgspec.Struct):
    counts: dict[str, int]


class _Job(msgspec.Struct):
    id: str


@dataclass(frozen=True)
class Target:
    """Where a server listens, how to get in, which Redis it uses, and its pid where we know it."""

    name: str
    url: str
    token: str
    redis_url: str | None = None
    pid: int | None = None

    def __post_init__(self) -> None:
        host = urllib.parse.urlsplit(self.url).hostname or ""
        if host != "localhost" and not _is_loopback(host):
            # The endpoint listens on loopback, and load is only for servers on this machine.
            raise TargetError(f"{self.name}: {self.url} is not on this machine's loopback")

    def wire(self) -> Wire:
        """A keep-alive connection of one's own; use it in a `with`."""
        return Wire(self)

    def cpu_s(self) -> float | None:
        """Seconds of CPU used so far, or None without a pid."""
        return None if self.pid is None else procfs.cpu_s(self.pid)


class Wire:
    """BullMQ Proxy's REST calls over one connection."""

    def __init__(self, target: Target) -> None:
        parts = urllib.parse.urlsplit(target.url)
        self._base = parts.path.rstrip("/")
        self._headers = {"authorization": f"Bearer {target.token}", **_JSON}
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=30)
        self._used_s = time.monotonic()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The body of a 200 answer. Raises TargetError on any other, or when nothing answers."""
        if time.monotonic() - self._used_s > _KEEP_ALIVE_S:
            self._connection.close()  # the next request opens a new one
        try:
            self._connection.request(method, self._base + path, body, self._headers)
            response = self._connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as exc:
            self._connection.close()
            raise TargetError(f"{method} {path}: {exc!r}") from exc
        self._used_s = time.monotonic()
        if response.status != 200:
            raise TargetError(f"{method} {path}: {response.status} {answer[:300]!r}")
        return answer

    def add(self, queue: str, body: bytes) -> bytes:
        return self.call("POST", f"/queues/{queue}/jobs", body)

    def add_many(self, queue: str, count: int) -> None:
        """Adds this many jobs, 100 a request."""
        hundred = payload.jobs(100)
        for _ in range(count // 100):
            self.add(queue, hundred)
        if count % 100:
            self.add(queue, payload.jobs(count % 100))

    def add_one(self, queue: str) -> str:
        """Adds one job and returns its id."""
        return msgspec.json.decode(self.add(queue, payload.jobs(1)), type=list[_Job])[0].id

    def count(self, queue: str, state: str) -> int:
        """How many jobs of the queue are in this state."""
        listing = self.call("GET", f"/queues/{queue}/jobs?start=0&length=1&statuses={state}")
        return msgspec.json.decode(listing, type=_Listing).counts.get(state, 0)

    def register(self, queue: str, endpoint_url: str, concurrency: int) -> None:
        document = {
            "queue": queue,
            "endpoint": {"url": endpoint_url, "method": "POST", "headers": _JSON},
            "opts": {"concurrency": concurrency},
        }
        self.call("POST", "/workers", msgspec.json.encode(document))

    def unregister(self, queue: str) -> None:
        self.call("DELETE", f"/workers/{queue}")

    def workers(self) -> set[str]:
        """The queues that have a registered worker."""
        return set(msgspec.json.decode(self.call("GET", "/workers"), type=dict[str, object]))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
