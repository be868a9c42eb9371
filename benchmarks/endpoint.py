"""The endpoint that pushed jobs are delivered to: builds `endpoint.c`, runs it, reads its counts."""

from __future__ import annotations

import http.client

import msgspec

from benchmarks.compiling import built
from benchmarks.processes import Child, ProcessError


class Stats(msgspec.Struct, frozen=True):
    """What arrived since the last reset; times in microseconds of the machine's monotonic clock."""

    count: int
    first_us: int
    last_us: int
    latencies: int

    @property
    def per_s(self) -> float:
        """Arrivals per second between the first and the last."""
        return (self.count - 1) / ((self.last_us - self.first_us) / 1e6) if self.last_us > self.first_us else 0.0


class Endpoint:
    """A running endpoint on a free loopback port."""

    def __init__(self) -> None:
        self._child = Child("endpoint", [str(built("endpoint"))], speaks=True)
        words = self._child.first_line().split()
        if len(words) != 2:
            raise ProcessError(f"the endpoint did not start: {self._child.said()}")
        self._port = int(words[1])
        self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)

    @property
    def pid(self) -> int:
        return self._child.pid

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._port}/{path}"

    def reset(self) -> None:
        self._call("POST", "/reset")

    def stats(self) -> Stats:
        return msgspec.json.decode(self._call("GET", "/stats"), type=Stats)

    def latencies_us(self) -> list[int]:
        """Send-to-arrival times of the jobs that carried `sent_us`, in order of arrival."""
        return msgspec.json.decode(self._call("GET", "/latencies"), type=list[int])

    def stop(self) -> None:
        self._connection.close()
        self._child.stop()

    def _call(self, method: str, path: str) -> bytes:
        self._connection.request(method, path)
        return self._connection.getresponse().read()
