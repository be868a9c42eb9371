"""A client that calls any of the instances, and knows of each call whether it was answered."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from tests.support.gateway import TOKEN

from benchmarks.histories.case import UNKNOWN, Answer, Call, Case
from benchmarks.histories.connection import Connection

REQUEST_S = 8.0
PAUSE_S = 0.1
"""Between two calls of which the second one repeats the first."""
_AUTHORIZATION = {"authorization": f"Bearer {TOKEN}"}


class Caller:
    """Makes one call after the other, each at an instance chosen by chance; connections are kept."""

    def __init__(self, ports: Sequence[int], seed: object) -> None:
        self._ports = ports
        self._random = random.Random(str(seed))
        self._open: dict[int, Connection] = {}
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
        content = b"" if body is None else msgspec.json.encode(body)
        lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1"]
        lines += [f"{name}: {value}" for name, value in (_AUTHORIZATION | dict(headers or {})).items()]
        if body is not None:
            lines += ["content-type: application/json", f"content-length: {len(content)}"]
        self.calls += 1
        try:
            async with asyncio.timeout(REQUEST_S + (60 if "wait=" in path else 0)):
                return await self._exchange(port, "\r\n".join([*lines, "", ""]).encode() + content)
        except (OSError, TimeoutError, ValueError):
            self._hang_up(port)
            return Answer(UNKNOWN)

    async def call(
        self,
        cases: Sequence[Case],
        kind: str,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[list[Call], Answer]:
        """Make a request that belongs to cases, and record it. While it is under way its `ended` is far off."""
        began = time.monotonic()
        calls = [Call(kind, began, float("inf"), UNKNOWN) for _ in cases]
        for case, call in zip(cases, calls, strict=True):
            case.calls.append(call)
        status = UNKNOWN
        try:
            answer = await self.ask(method, path, body, headers)
            status = answer.status
        finally:
            ended = time.monotonic()
            for call in calls:
                call.ended, call.status = ended, status
        return calls, answer

    async def repeated(
        self,
        cases: Sequence[Case],
        kind: str,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        again: bool = True,
    ) -> tuple[list[Call], Answer]:
        """As `call`, again until it is known what came of it; only once without `again`."""
        while True:
            calls, answer = await self.call(cases, kind, method, path, body, headers)
            if not (again and answer.uncertain):
                return calls, answer
            await asyncio.sleep(PAUSE_S)

    async def asked(self, method: str, path: str, body: Any = None) -> Answer:
        """Make a request again until there is an answer, at any instance."""
        while (answer := await self.ask(method, path, body)).uncertain:
            await asyncio.sleep(PAUSE_S)
        return answer

    async def _exchange(self, port: int, request: bytes) -> Answer:
        connection = self._open.get(port)
        if connection is None or connection.closed:
            connection = self._open[port] = await Connection.open(port)
        return await connection.exchange(request)

    def _hang_up(self, port: int) -> None:
        if (connection := self._open.pop(port, None)) is not None:
            connection.abort()

    def close(self) -> None:
        """Close all connections."""
        for port in list(self._open):
            self._hang_up(port)
