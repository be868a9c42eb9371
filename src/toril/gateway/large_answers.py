"""JSON answers that may be large, made piece by piece: sent whole where they are short, else as they are read.

What has to go out whole (a WebSocket's message, a part of another answer) is bounded instead, and refused when it is
larger.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from toril.core.errors import InvalidRequest
from toril.core.ports.jobs import Jobs
from toril.core.stored_job import text_json
from toril.gateway import wire
from toril.gateway.routing import Answer, Stream

WHOLE_BYTES = 2**20
"""An answer that is no longer than this is sent whole, with its length."""
MOST_BYTES = 32 * 2**20
"""What goes out whole in any case is no longer than this."""


async def answered(parts: AsyncGenerator[bytes, None]) -> Answer | Stream:
    """The JSON text in these parts as an answer. What comes behind the first megabyte is read as it is sent."""
    begun: list[bytes] = []
    size = 0
    async for part in parts:
        begun.append(part)
        size += len(part)
        if size > WHOLE_BYTES:
            return Stream(wire.JSON, b"".join(begun), parts)
    return wire.json_answer(b"".join(begun))


async def gathered(parts: AsyncGenerator[bytes, None], hint: str) -> bytes:
    """The text in these parts.

    Raises:
        InvalidRequest: it is too long; `hint` says what to ask for instead.
    """
    found: list[bytes] = []
    size = 0
    async with aclosing(parts):
        async for part in parts:
            size += len(part)
            if size > MOST_BYTES:
                raise InvalidRequest(f"The answer would be longer than {MOST_BYTES // 2**20} MB; {hint}")
            found.append(part)
    return b"".join(found)


async def page_of_jobs(
    counts: bytes, jobs: AsyncGenerator[bytes, None], start: int, length: int
) -> AsyncGenerator[bytes, None]:
    """A page of jobs, of their counts as JSON and their array in parts."""
    yield b'{"counts":%b,"jobs":' % counts
    async with aclosing(jobs):
        async for part in jobs:
            yield part
    yield b',"start":%d,"length":%d}' % (start, length)


async def array_of_jobs(queue: bytes, jobs: Jobs, *, hide: bool) -> AsyncGenerator[bytes, None]:
    """Jobs as a JSON array; `queue` is the qualified name as a JSON string. With `hide` secrets are redacted."""
    async with aclosing(jobs):
        async for part in _array([wire.stored(queue, *job, hide=hide) for job in piece] async for piece in jobs):
            yield part


async def page_of_lines(lines: AsyncGenerator[list[bytes], None], count: int) -> AsyncGenerator[bytes, None]:
    """Log lines of a job."""
    yield b'{"logs":'
    async with aclosing(lines):
        async for part in _array([text_json(line) for line in piece] async for piece in lines):
            yield part
    yield b',"count":%d}' % count


async def _array(pieces: AsyncIterator[Sequence[bytes]]) -> AsyncGenerator[bytes, None]:
    before = b"["
    async for piece in pieces:
        if piece:
            yield before + b",".join(piece)
            before = b","
    yield b"]" if before == b"," else b"[]"
