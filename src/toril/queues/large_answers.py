"""JSON answers that may be large, made piece by piece: short ones are sent whole, long ones as they are read.

An answer that must be sent whole (a WebSocket message, a part of another answer) is refused if it is over a limit.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from starlette.responses import Response

from toril.bullmq.ports.jobs import Jobs
from toril.core.errors import InvalidRequest
from toril.core.redaction import Redaction
from toril.core.stored_job import Fields, text_json
from toril.queues import job_json
from toril.web.responses import StreamResponse, json_response

WHOLE_BYTES = 2**20
"""Answers up to this length are sent whole, with their length."""
MOST_BYTES = 32 * 2**20
"""The limit on an answer that must be sent whole."""


async def answered(parts: AsyncGenerator[bytes, None]) -> Response:
    """Return the JSON text in these parts as an answer. Parts after the first megabyte are read as it is sent."""
    begun: list[bytes] = []
    size = 0
    async for part in parts:
        begun.append(part)
        size += len(part)
        if size > WHOLE_BYTES:
            return StreamResponse(b"".join(begun), parts)
    return json_response(b"".join(begun))


async def gathered(parts: AsyncGenerator[bytes, None], hint: str) -> bytes:
    """Return these parts as one text.

    Raises:
        InvalidRequest: the text is too long; `hint` says what to ask for instead.
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
    """Yield a page of jobs, made of the counts as JSON and the array of jobs in parts."""
    yield b'{"counts":%b,"jobs":' % counts
    async with aclosing(jobs):
        async for part in jobs:
            yield part
    yield b',"start":%d,"length":%d}' % (start, length)


async def array_of_jobs(
    queue: bytes, jobs: Jobs, *, hide: Redaction | None, names: frozenset[str] | None = None
) -> AsyncGenerator[bytes, None]:
    """Yield jobs as a JSON array; `queue` is the qualified name as a JSON string. With `hide`, secrets are redacted.

    With `names` each job has no more than these fields, and its id.
    """

    def shown(job_id: bytes, fields: Fields) -> bytes:
        job = job_json.stored(queue, job_id, fields, hide=hide)
        return job if names is None else job_json.only(job, names)

    async with aclosing(jobs):
        async for part in _array([shown(*job) for job in piece] async for piece in jobs):
            yield part


async def page_of_lines(lines: AsyncGenerator[list[bytes], None], count: int) -> AsyncGenerator[bytes, None]:
    """Yield a page of log lines."""
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
