"""An upstream that a test writes down to its bytes: each connection is served by a coroutine of the test's."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Head:
    """A request's head, as it arrived; header names as sent."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    def values(self, name: str) -> list[str]:
        """All values of a header, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def value(self, name: str) -> str | None:
        """The only value of a header."""
        values = self.values(name)
        assert len(values) <= 1, values
        return values[0] if values else None


async def read_head(reader: asyncio.StreamReader) -> Head:
    """Read a request's head. Raises `IncompleteReadError` where none comes."""
    raw = await reader.readuntil(b"\r\n\r\n")
    line, *lines = raw[:-4].decode("latin-1").split("\r\n")
    method, target, version = line.split(" ")
    assert version == "HTTP/1.1"
    headers = tuple((name, value.strip(" \t")) for name, _, value in (line.partition(":") for line in lines))
    return Head(method, target, headers)


async def read_chunk(reader: asyncio.StreamReader) -> bytes:
    """Read one chunk of a chunked body; nothing is the last one."""
    size = int(await reader.readuntil(b"\r\n"), 16)
    data = await reader.readexactly(size)
    assert await reader.readexactly(2) == b"\r\n"
    return data


async def read_body(reader: asyncio.StreamReader, head: Head) -> bytes:
    """Read a request's whole body."""
    if head.value("transfer-encoding") is not None:
        parts = []
        while part := await read_chunk(reader):
            parts.append(part)
        return b"".join(parts)
    length = head.value("content-length")
    return b"" if length is None else await reader.readexactly(int(length))


async def gone(reader: asyncio.StreamReader) -> None:
    """Wait until the other side has closed the connection."""
    try:
        while await reader.read(65_536):
            pass
    except ConnectionError:
        pass


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class RawUpstream:
    """A server on loopback, in a separate thread. What `serve` raises is in `errors`; a closed connection is not."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="upstream", daemon=True)
        self._started = threading.Event()
        self._stop = asyncio.Event()
        self.errors: list[BaseException] = []
        self.connections = 0
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10), "the upstream did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        for error in self.errors:
            raise error

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._listen())

    async def _listen(self) -> None:
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            self.connections += 1
            try:
                await self._serve(reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            except Exception as exc:
                self.errors.append(exc)
            finally:
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=256 * 1024)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
