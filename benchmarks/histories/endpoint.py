"""The endpoint of all doors: answers each request as the script of its case says, and records it.

`/queues/…` gets pushed jobs, `/proxy/NUMBER` requests of the async proxy, `/delivery/NUMBER` deliveries.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from itertools import count

from benchmarks.histories.case import Arrival, Case
from benchmarks.histories.plan import DoorName, Reply

LATE_S = 5.0
"""How long a late answer takes; the timeouts of all doors are shorter."""
TIMEOUT_S = 4.0
_SLOW_S = 0.15
_STATUS = {Reply.ERROR: b"500 Internal Server Error", Reply.REFUSAL: b"400 Bad Request"}

FindCase = Callable[[DoorName, int], Case]


class Endpoint:
    """Answers on a port until `close`."""

    def __init__(self, port: int, find: FindCase) -> None:
        self.port = port
        self.requests = 0
        self.wrong: list[str] = []
        self._find = find
        self._serials = count(1)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, backlog=1024)

    async def close(self) -> None:
        """Stop listening, and close what is open."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._connections):
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while await self._one(reader, writer):
                    pass
        finally:
            self._connections.discard(writer)
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if name}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests += 1
        case, arrival = self._recorded(first.split(" ")[1], headers, body)
        case.arrivals.append(arrival)
        try:
            return await self._answer(reader, writer, case, arrival)
        finally:
            arrival.ended = time.monotonic()

    def _recorded(self, path: str, headers: dict[str, str], body: bytes) -> tuple[Case, Arrival]:
        door = DoorName(path.split("/")[1])
        job_id, attempt = headers.get("toril-job-id"), headers.get("toril-attempt")
        if door is DoorName.QUEUES:
            job = json.loads(body)["job"]
            case = self._find(door, int(job["data"]["number"]))
            job_id, attempt = job["id"], job["attemptsStarted"]
        else:
            case = self._find(door, int(path.split("/")[2]))
            if json.loads(body)["number"] != case.number:
                self.wrong.append(f"{path} came with the body {body!r}")
        step = min(len(case.arrivals), len(case.script.replies) - 1)
        arrival = Arrival(
            next(self._serials),
            time.monotonic(),
            case.script.replies[step],
            job_id,
            None if attempt is None else int(attempt),
        )
        return case, arrival

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, case: Case, arrival: Arrival
    ) -> bool:
        answer = _answer(case, arrival, arrival.reply)
        match arrival.reply:
            case Reply.CUT:
                return False
            case Reply.TORN:
                writer.write(answer[: len(answer) - 8])
                await writer.drain()
                return False
            case Reply.GARBAGE:
                writer.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
                await writer.drain()
                return False
            case Reply.TWICE:
                writer.write(answer + _answer(case, arrival, Reply.ERROR))
                await writer.drain()
                arrival.whole = True
                writer.close()  # what was written goes out first, unlike with an abort
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
                return False
            case Reply.SLOW | Reply.LATE:
                # Who has gone by then has not been answered.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_SLOW_S if arrival.reply is Reply.SLOW else LATE_S):
                        if not await reader.read(1):
                            return False
            case _:
                pass
        if reader.at_eof() or writer.is_closing():
            return False
        writer.write(answer)
        await writer.drain()
        arrival.whole = True
        return True


def _answer(case: Case, arrival: Arrival, reply: Reply) -> bytes:
    body = b'{"number": %d, "serial": %d}' % (case.number, arrival.serial)
    status = _STATUS.get(reply, b"200 OK")
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
    return head + body
