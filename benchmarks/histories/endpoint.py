"""The endpoint of all doors: answers each request as the script of its case says, and records it.

`/queues/…` gets pushed jobs, `/proxy/NUMBER` requests of the async proxy, `/delivery/NUMBER` deliveries.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from itertools import count
from typing import cast

import msgspec
from msgspec import Struct

from benchmarks.histories.case import Arrival
from benchmarks.histories.plan import DoorName, Reply
from benchmarks.histories.records import Records

LATE_S = 5.0
"""How long a late answer takes; the timeouts of all doors are shorter."""
TIMEOUT_S = 4.0
_SLOW_S = 0.15
_STATUS = {Reply.ERROR: b"500 Internal Server Error", Reply.REFUSAL: b"400 Bad Request"}
_GARBAGE = b"\x16\x03\x01 this is no HTTP\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_JOB = re.compile(rb"\r\ntoril-job-id: *([^\r]+)", re.IGNORECASE)
_SOURCE = re.compile(r"127\.0\.0\.(\d+)")
_ATTEMPT = re.compile(rb"\r\ntoril-attempt: *(\d+)", re.IGNORECASE)


def source_address(member: int) -> str:
    """Return the address of this machine from which a toril connects, by its number."""
    return f"127.0.0.{member + 2}"


class _Numbered(Struct):
    number: int


class _Job(Struct, rename={"attempts_started": "attemptsStarted"}):
    id: str
    data: _Numbered
    attempts_started: int


class _Pushed(Struct):
    job: _Job


_read_pushed = msgspec.json.Decoder(_Pushed).decode
_read_numbered = msgspec.json.Decoder(_Numbered).decode


class Endpoint:
    """Answers on a port until `close`, and notes what arrives in the records of the doors."""

    def __init__(self, port: int, records: Mapping[DoorName, Records]) -> None:
        self.port = port
        self.requests = 0
        self.wrong: list[str] = []
        self._records = records
        self._serials = count(1)
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Begin to listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port, backlog=1024)

    async def close(self) -> None:
        """Stop listening, and close what is open."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()

    def joins(self, connection: _Connection) -> None:
        """Note an open connection."""
        self._connections.add(connection)

    def leaves(self, connection: _Connection) -> None:
        """Forget a connection that is closed."""
        self._connections.discard(connection)

    def arrived(self, head: bytes, body: bytes, member: int | None) -> tuple[Records, int, Arrival]:
        """Record a request of a toril; return whose it is. Raises ValueError for what no toril sends."""
        self.requests += 1
        path = head.split(b" ", 2)[1].decode()
        door, records = self._door(path)
        try:
            if door is DoorName.QUEUES:
                job = _read_pushed(body).job
                number, job_id, attempt = job.data.number, job.id, job.attempts_started
            else:
                number = int(path.split("/")[2])
                job_id, attempt = _job(head)
                if _read_numbered(body).number != number:
                    self.wrong.append(f"{path} came with the body {body!r}")
        except msgspec.DecodeError as exc:
            raise ValueError(f"{path} came with the body {body!r}") from exc
        return records, number, self.note(records, number, job_id, attempt, member)

    def note(
        self, records: Records, number: int, job_id: str | None, attempt: int | None, member: int | None
    ) -> Arrival:
        """Record that a job has come, here or at a pull worker, and what is to be done with it."""
        reply = records.next_reply(number)
        arrival = Arrival(next(self._serials), time.monotonic(), reply, job_id, attempt, member=member)
        records.arrived(number, arrival)
        return arrival

    def _door(self, path: str) -> tuple[DoorName, Records]:
        door = DoorName(path.split("/")[1])
        if door not in self._records:
            raise ValueError(f"{path} came, and there are no such cases")
        return door, self._records[door]


class _Connection(asyncio.Protocol):
    """A connection of toril, which sends one request after the other."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._under_way: tuple[Records, int, Arrival] | None = None
        self._answering: asyncio.TimerHandle | None = None
        self._member: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._member = _member(transport.get_extra_info("peername"))
        self._endpoint.joins(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._endpoint.leaves(self)
        # A caller that has gone by now has not been answered.
        if self._answering is not None:
            self._answering.cancel()
        self._end()

    def abort(self) -> None:
        """Break it off."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            while self._under_way is None and (found := self._next()) is not None:
                self._under_way = self._endpoint.arrived(*found, self._member)
                self._answer(*self._under_way)
        except ValueError as exc:
            self._endpoint.wrong.append(str(exc))
            self.abort()

    def _next(self) -> tuple[bytes, bytes] | None:
        """Take the head and the body of a request from the buffer, if all of it has come."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._transport is None or self._transport.is_closing():
            return None
        head = bytes(self._buffer[:end])
        length = _LENGTH.search(head)
        used = end + 4 + (int(length[1]) if length else 0)
        if len(self._buffer) < used:
            return None
        body = bytes(self._buffer[end + 4 : used])
        del self._buffer[:used]
        return head, body

    def _answer(self, records: Records, number: int, arrival: Arrival) -> None:
        answer = _answer(number, arrival, arrival.reply)
        match arrival.reply:
            case Reply.CUT:
                self.abort()
                self._end()
            case Reply.TORN:
                self._write_and_close(answer[: len(answer) - 8])
            case Reply.GARBAGE:
                self._write_and_close(_GARBAGE)
            case Reply.TWICE:
                arrival.whole = True
                self._write_and_close(answer + _answer(number, arrival, Reply.ERROR))
            case Reply.SLOW | Reply.LATE:
                after_s = _SLOW_S if arrival.reply is Reply.SLOW else LATE_S
                self._answering = asyncio.get_running_loop().call_later(after_s, self._answer_late, arrival, answer)
            case _:
                self._write(arrival, answer)

    def _answer_late(self, arrival: Arrival, answer: bytes) -> None:
        self._answering = None
        self._write(arrival, answer)
        self.data_received(b"")

    def _write(self, arrival: Arrival, answer: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(answer)
            arrival.whole = True
        self._end()

    def _write_and_close(self, answer: bytes) -> None:
        if self._transport is not None:
            self._transport.write(answer)
            self._transport.close()  # what was written goes out first, unlike with an abort
        self._end()

    def _end(self) -> None:
        if self._under_way is not None:
            records, _, arrival = self._under_way
            self._under_way = None
            arrival.ended = time.monotonic()
            records.answered(arrival)


def _member(peer: tuple[str, int] | None) -> int | None:
    """Return which toril connects from an address; None for an address that is no toril's own."""
    found = peer and _SOURCE.fullmatch(peer[0])
    return int(found[1]) - 2 if found and int(found[1]) >= 2 else None


def _job(head: bytes) -> tuple[str | None, int | None]:
    """Return the job and the attempt that a request names."""
    job_id, attempt = _JOB.search(head), _ATTEMPT.search(head)
    return job_id and job_id[1].decode("latin-1"), attempt and int(attempt[1])


def _answer(number: int, arrival: Arrival, reply: Reply) -> bytes:
    body = b'{"number": %d, "serial": %d}' % (number, arrival.serial)
    status = _STATUS.get(reply, b"200 OK")
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
    return head + body
