"""A client that calls any of the instances, and knows of each call whether it was answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.gateway import TOKEN

from benchmarks.histories.case import UNKNOWN, UNSURE, Call, Case

REQUEST_S = 8.0
PAUSE_S = 0.1
"""Between two calls of which the second one repeats the first."""
_AUTHORIZATION = f"authorization: Bearer {TOKEN}"


@dataclass(slots=True)
class Answer:
    """An answer, or none (`status` 0)."""

    status: int
    body: bytes = b""

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def uncertain(self) -> bool:
        """True if the call may not have been carried out, or may have been without our knowing: it can be repeated."""
        return self.status in UNSURE


class Caller:
    """Makes one call after the other, each at an instance chosen by chance; connections are kept."""

    def __init__(self, ports: Sequence[int], seed: object) -> None:
        self._ports = ports
        self._random = random.Random(str(seed))
        self._open: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
        self.calls = 0

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> Answer:
        """Make one request, whatever comes of it."""
        port = port or self._random.choice(self._ports)
        content = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", _AUTHORIZATION]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body is not None:
            lines += ["content-type: application/json", f"content-length: {len(content)}"]
        self.calls += 1
        try:
            async with asyncio.timeout(REQUEST_S + (60 if "wait=" in path else 0)):
                return await self._exchange(port, "\r\n".join([*lines, "", ""]).encode() + content)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
            self._hang_up(port)
            return Answer(UNKNOWN)

    async def call(
        self, case: Case, kind: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[Call, Answer]:
        """Make a request that belongs to a case, and record it. While it is under way its `ended` is far off."""
        call = Call(kind, time.monotonic(), float("inf"), UNKNOWN)
        case.calls.append(call)
        try:
            answer = await self.ask(method, path, body, headers)
        finally:
            call.ended = time.monotonic()
        call.status = answer.status
        return call, answer

    async def repeated(
        self,
        case: Case,
        kind: str,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        again: bool = True,
    ) -> tuple[Call, Answer]:
        """As `call`, again until it is known what came of it; only once without `again`."""
        while True:
            call, answer = await self.call(case, kind, method, path, body, headers)
            if not (again and answer.uncertain):
                return call, answer
            await asyncio.sleep(PAUSE_S)

    async def asked(self, method: str, path: str, body: Any = None) -> Answer:
        """Make a request again until there is an answer, at any instance."""
        while (answer := await self.ask(method, path, body)).uncertain:
            await asyncio.sleep(PAUSE_S)
        return answer

    async def _exchange(self, port: int, request: bytes) -> Answer:
        if port not in self._open:
            self._open[port] = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = self._open[port]
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        status = int(first.split(" ")[1])
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readuntil(b"\r\n")
        elif status != 204:
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection", "").lower() == "close":
            self._hang_up(port)
        return Answer(status, body)

    def _hang_up(self, port: int) -> None:
        if (pair := self._open.pop(port, None)) is not None:
            pair[1].transport.abort()

    def close(self) -> None:
        """Close all connections."""
        for port in list(self._open):
            with contextlib.suppress(OSError):
                self._hang_up(port)
