"""The target of the loss test: counts every request by its idempotency key, in a separate thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from typing import Self

from tests.support.ports import free_port

_ANSWERS = {
    200: b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    503: b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
}


class Receiver:
    """Answers 200, but 503 to the first attempt of every tenth key. `received` counts only what was answered 200."""

    def __init__(self) -> None:
        self.received: Counter[str] = Counter()
        self.calls = 0
        self._refused: set[str] = set()
        self._port = free_port()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._up.wait(30):
            raise TimeoutError("the receiver did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    async def _serve(self) -> None:
        connections: set[asyncio.StreamWriter] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.add(writer)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    writer.write(await self._one(reader))
            connections.discard(writer)
            writer.close()

        async with await asyncio.start_server(connected, "127.0.0.1", self._port, backlog=512):
            self._up.set()
            await self._stop.wait()
            for writer in list(connections):
                writer.close()
            # Whoever reads finds the end, and is done before the loop is.
            while connections:
                await asyncio.sleep(0.01)

    async def _one(self, reader: asyncio.StreamReader) -> bytes:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        await reader.readexactly(int(headers.get("content-length", "0")))
        key = headers["idempotency-key"]
        self.calls += 1
        if key.endswith("0") and key not in self._refused:
            self._refused.add(key)
            return _ANSWERS[503]
        self.received[key] += 1
        return _ANSWERS[200]
