"""An open loop of requests, and figures by steps: what the scenarios of `benchmarks.growth` share."""

from __future__ import annotations

import statistics
import struct
import tempfile
from collections.abc import Mapping, Sequence

import msgspec

from benchmarks.compiling import built
from benchmarks.processes import ProcessError, run_to_end
from benchmarks.target import Target

TOKEN = "growth"

Figures = dict[str, float]
Steps = dict[str, Figures]


class Options(msgspec.Struct, frozen=True):
    """How long measurements take, how often they are made, and how large what they measure is."""

    seconds: float = 3.0
    rounds: int = 3
    rows: int = 1_000_000
    sockets: int = 10_000
    minutes: int = 5


class Seen(msgspec.Struct, frozen=True):
    """What the load generator saw; times from when a request was due to its whole answer."""

    answered: int
    bad: int
    unanswered: int
    seconds: float
    p50_us: int
    p99_us: int
    p999_us: int
    max_us: int


def add(queue: str, body: bytes) -> bytes:
    """Return a request that adds jobs to a queue, as it goes over the wire."""
    return post(f"/queues/{queue}/jobs", body)


def post(path: str, body: bytes) -> bytes:
    """Return a request with JSON, as it goes over the wire."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {TOKEN}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def get(path: str) -> bytes:
    """Return a request that reads, as it goes over the wire."""
    return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {TOKEN}\r\n\r\n".encode()


def load(target: Target, requests: Sequence[bytes], connections: int, rate: float, seconds: float) -> Seen:
    """Send requests in turn at a rate; with 0, as fast as they are answered.

    Raises:
        ProcessError: an answer was 400 or above, or the generator failed.
    """
    port = target.url.rpartition(":")[2]
    with tempfile.NamedTemporaryFile() as file:
        for request in requests:
            file.write(struct.pack("<I", len(request)) + request)
        file.flush()
        argv = [str(built("open_loop")), port, str(connections), f"{rate:.3f}", f"{seconds:g}", file.name]
        seen = msgspec.json.decode(run_to_end(argv, 3 * seconds + 30).stdout, type=Seen)
    if seen.bad:
        raise ProcessError(f"{seen.bad} of {seen.answered} answers were 400 or above")
    return seen


def median_of_each(seen: Mapping[str, Sequence[Figures]]) -> Steps:
    """Return the median of each figure of each step."""
    return {
        step: {what: statistics.median([one[what] for one in found]) for what in found[0]}
        for step, found in seen.items()
    }
