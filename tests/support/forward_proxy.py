"""A forward proxy that counts: CONNECT and absolute form, names looked up by itself, refusing on request."""

import asyncio
import base64
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from tests.support.upstream import Head, RawUpstream, read_body, read_head


@dataclass(frozen=True)
class Asked:
    """One request to the proxy: `CONNECT pay.example:443`, or one in absolute form."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]


class CountingProxy:
    """A forward proxy on loopback. `hosts` says where names lead that no other resolver knows: a port here.

    With `credentials` (`user:password`) it answers 407 to all others. `refuses` is a status that it answers to
    everything, `garbles` what it answers in place of HTTP.
    """

    def __init__(self, hosts: Mapping[str, int] | None = None, credentials: str | None = None) -> None:
        self._server = RawUpstream(self._serve)
        self._hosts = dict(hosts or {})
        self.credentials = credentials
        self.refuses: str | None = None
        self.garbles: bytes | None = None
        self.asked: list[Asked] = []

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.__exit__(*exc)

    @property
    def url(self) -> str:
        """Where it is."""
        return self._server.url

    @property
    def targets(self) -> list[str]:
        """What it was asked for, in order."""
        return [f"{asked.method} {asked.target}" for asked in self.asked]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await read_head(reader)
            self.asked.append(Asked(head.method, head.target, head.headers))
            body = b"" if head.method == "CONNECT" else await read_body(reader, head)
            if self.garbles is not None:
                writer.write(self.garbles)
                return
            refusal = self._refusal(head)
            if refusal is not None:
                writer.write(f"HTTP/1.1 {refusal}\r\ncontent-length: 0\r\n\r\n".encode())
                await writer.drain()
                if head.method == "CONNECT":
                    return
                continue
            if head.method == "CONNECT":
                await self._tunnel(head, reader, writer)
                return
            await self._forward(head, body, writer)

    def _refusal(self, head: Head) -> str | None:
        if self.refuses is not None:
            return self.refuses
        if self.credentials is not None:
            wanted = f"Basic {base64.b64encode(self.credentials.encode()).decode()}"
            if head.values("proxy-authorization") != [wanted]:
                return "407 Proxy Authentication Required"
        return None

    def _port(self, authority: str) -> int:
        host, _, port = authority.rpartition(":")
        return self._hosts.get(host) or int(port)

    async def _tunnel(self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port(head.target))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pump(reader, up_writer))
                tasks.create_task(_pump(up_reader, writer))
        finally:
            up_writer.transport.abort()

    async def _forward(self, head: Head, body: bytes, writer: asyncio.StreamWriter) -> None:
        assert head.target.startswith("http://"), head.target
        authority, slash, path = head.target.removeprefix("http://").partition("/")
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port(authority))
        try:
            lines = [f"{head.method} {slash}{path} HTTP/1.1", f"host: {authority}", "connection: close"]
            dropped = {"host", "proxy-authorization", "connection"}
            lines += [f"{name}: {value}" for name, value in head.headers if name.lower() not in dropped]
            up_writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            answer = await read_answer(up_reader)
            writer.write(answer)
            await writer.drain()
        finally:
            up_writer.transport.abort()


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """Read an answer with a content-length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        (int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
    )
    return head + await reader.readexactly(length)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.transport.abort()
