"""Answers made of pieces: whole where they are short, streamed or refused where they are not."""

import json
from collections.abc import AsyncGenerator

import pytest
from starlette.responses import Response

from toril.bullmq.ports.jobs import Jobs
from toril.core.errors import InvalidRequest
from toril.queues.large_answers import (
    MOST_BYTES,
    WHOLE_BYTES,
    answered,
    array_of_jobs,
    gathered,
    page_of_jobs,
    page_of_lines,
)
from toril.web.responses import BytesResponse, StreamResponse


async def pieces(*sizes: int, size: int = 10) -> Jobs:
    """So many jobs in each piece."""
    for number, count in enumerate(sizes):
        yield [(b"%d-%d" % (number, each), {b"name": b"n", b"data": b'"%b"' % (b"x" * size)}) for each in range(count)]


def shown(jobs: Jobs) -> AsyncGenerator[bytes, None]:
    return array_of_jobs(b'"bull:q"', jobs, hide=None)


async def lines(*found: list[bytes]) -> AsyncGenerator[list[bytes], None]:
    for piece in found:
        yield piece


async def text_of(answer: Response) -> bytes:
    if isinstance(answer, BytesResponse):
        return answer.body
    assert isinstance(answer, StreamResponse)
    return answer.first + b"".join([part async for part in answer.parts])


@pytest.mark.parametrize("sizes", [(), (0,), (1,), (2, 0, 3), (0, 1)])
async def test_a_short_page_is_whole(sizes: tuple[int, ...]) -> None:
    answer = await answered(page_of_jobs(b'{"waiting":5}', shown(pieces(*sizes)), 2, 7))
    assert isinstance(answer, BytesResponse)
    page = json.loads(answer.body)
    assert (page["counts"], page["start"], page["length"]) == ({"waiting": 5}, 2, 7)
    assert len(page["jobs"]) == sum(sizes)


async def test_a_long_page_is_read_as_it_is_sent() -> None:
    read: list[int] = []

    async def noted() -> Jobs:
        async for piece in pieces(*[1] * 10, size=WHOLE_BYTES // 2):
            read.append(len(piece))
            yield piece

    answer = await answered(page_of_jobs(b"{}", shown(noted()), 0, 100))
    assert isinstance(answer, StreamResponse)
    assert len(read) == 2
    assert [one["id"] for one in json.loads(await text_of(answer))["jobs"]] == [f"{n}-0" for n in range(10)]


async def test_log_lines_are_a_page_too() -> None:
    answer = await answered(page_of_lines(lines([b"a", b"\xff"], [], ["ü".encode()]), 9))
    assert json.loads(await text_of(answer)) == {"logs": ["a", "\ufffd", "ü"], "count": 9}


async def test_an_answer_that_must_be_whole_is_refused_when_it_is_too_long() -> None:
    size = MOST_BYTES // 4
    assert len(await gathered(shown(pieces(1, 1, 1, size=size)), "ask for less")) > 3 * size
    with pytest.raises(InvalidRequest, match="longer than 32 MB; ask for less"):
        await gathered(shown(pieces(1, 1, 1, 1, size=size)), "ask for less")
