"""What comes behind the head is never a header (RFC 9110 6.5.1), however it is split and whatever it says."""

import json

import pytest

from tests.conformance.web.bounded import bounded, say

HEAD = b"POST /first HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n"
SECOND = b"GET /second HTTP/1.1\r\nhost: here\r\nx-second: yes\r\n\r\n"
TRAILER = b"authorization: Bearer stolen\r\nHost: elsewhere\r\nX-Forwarded-For: 6.6.6.6\r\ncontent-type: text/evil\r\n"
BODY = b"3\r\nabc\r\n0\r\n"
OF_FIRST = [["host", "here"], ["transfer-encoding", "chunked"]]
OF_SECOND = [["host", "here"], ["x-second", "yes"]]
STEPS = pytest.mark.parametrize("step", [0, 1, 7], ids=["whole", "byte by byte", "in sevens"])


@STEPS
async def test_a_trailer_is_no_header_of_its_request_nor_of_the_next(step: int) -> None:
    async with bounded() as server, server.client() as client:
        await say(client, HEAD + BODY + TRAILER + b"\r\n" + SECOND, step)
        first, second = json.loads((await client.answer()).body), json.loads((await client.answer()).body)
    assert (first["headers"], first["body"]) == (OF_FIRST, "abc")
    assert (second["path"], second["headers"]) == ("/second", OF_SECOND)


@STEPS
async def test_a_trailer_is_no_header_if_the_request_asks_for_an_unsupported_upgrade(step: int) -> None:
    upgrade = HEAD.replace(b"host: here\r\n", b"host: here\r\nconnection: upgrade\r\nupgrade: h2c\r\n")
    async with bounded() as server, server.client() as client:
        await say(client, upgrade + BODY + TRAILER + b"\r\n" + SECOND, step)
        first, second = json.loads((await client.answer()).body), json.loads((await client.answer()).body)
    assert (first["headers"][0], first["body"]) == (["host", "here"], "abc")
    assert not {"authorization", "x-forwarded-for", "content-type"} & {name for name, _ in first["headers"]}
    assert second["headers"] == OF_SECOND


@pytest.mark.parametrize(
    "line",
    [
        b"connection: close",
        b"connection: upgrade\r\nupgrade: websocket",
        b"upgrade: h2c\r\nconnection: upgrade",
        b"expect: 100-continue",
        b"keep-alive: timeout=1",
        b"trailer: authorization",
    ],
)
async def test_a_connection_field_in_a_trailer_is_ignored(line: bytes) -> None:
    """`Connection: close` closes the parser: the next request, of another client behind a proxy, was never answered."""
    async with bounded() as server, server.client() as client:
        await client.say(HEAD + BODY + line + b"\r\n\r\n")
        assert json.loads((await client.answer()).body)["headers"] == OF_FIRST
        await client.say(SECOND)
        answer = await client.answer()
    assert json.loads(answer.body)["headers"] == OF_SECOND
    assert answer.values("connection") == []


@pytest.mark.parametrize("line", [b"content-length: 3", b"transfer-encoding: chunked", b"x: a\r\n folded", b"no colon"])
async def test_a_trailer_that_the_parser_cannot_read_refuses_the_request(line: bytes) -> None:
    async with bounded() as server:
        answer = await server.ask(HEAD + BODY + line + b"\r\n\r\n")
        assert answer.status == 400
        assert server.seen == []


async def test_a_length_said_by_a_trailer_of_the_request_before_counts_for_nothing() -> None:
    post = b"POST /third HTTP/1.1\r\nhost: here\r\ncontent-length: 4\r\n\r\nfour"
    async with bounded() as server, server.client() as client:
        await client.say(HEAD + BODY + b"x-content-length: 9\r\n\r\n" + post + SECOND)
        bodies = [json.loads((await client.answer()).body)["body"] for _ in range(3)]
    assert bodies == ["abc", "four", ""]
