"""What passes through to an upstream, to the byte: raw requests in, raw requests seen, raw answers out."""

import asyncio

import pytest

from tests.conformance.web.passing import answering, passing, serving
from tests.support.upstream import Head, read_body, read_chunk, read_head

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
Seen = list[tuple[Head, bytes]]


async def test_a_request_arrives_as_it_was_sent_but_for_hop_by_hop_headers() -> None:
    seen: Seen = []
    async with serving(answering(OK, seen=seen)) as port, passing(port) as server:
        host = f"127.0.0.1:{port}"
        answer = await server.ask(
            b"PURGE //a/./b/../%2F%2f;p=1?q=%20+;&&=%zz HTTP/1.1\r\nHost: client.example\r\nX-One: 1\r\nx-one: 2\r\n"
            b"Connection: keep-alive, X-Named\r\nConnection: x-other\r\nX-Named: secret\r\nX-Other: 1\r\n"
            b"Keep-Alive: 5\r\nTE: trailers\r\nTrailers: x\r\nProxy-Authorization: secret\r\nUser-Agent:\r\n"
            b"X-Forwarded-For: 10.0.0.7, 10.0.0.8\r\nX-Real-IP: 10.0.0.9\r\nX-Forwarded-Proto: https\r\n\r\n"
        )
    assert (answer.status, answer.body) == (200, b"ok")
    head, body = seen[0]
    assert (head.method, head.target, body) == ("PURGE", "//a/./b/../%2F%2f;p=1?q=%20+;&&=%zz", b"")
    assert head.headers == (
        ("host", host),
        ("x-one", "1"),
        ("x-one", "2"),
        ("user-agent", ""),
        ("x-forwarded-for", "10.0.0.7"),
        ("x-real-ip", "10.0.0.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "client.example"),
    )


@pytest.mark.parametrize(("target", "base", "expected"), [
    ("/?", "", "/?"),
    ("/a?", "/bucket/data/", "/bucket/data/a?"),
    ("/", "/bucket/data", "/bucket/data/"),
    ("http://elsewhere.example/a%2Fb?c", "", "/a%2Fb?c"),
    ("http://elsewhere.example", "", "/"),
])  # fmt: skip
async def test_the_target_is_joined_to_the_upstreams(target: str, base: str, expected: str) -> None:
    seen: Seen = []
    async with serving(answering(OK, seen=seen)) as port, passing(port, base=base) as server:
        await server.ask(f"GET {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    assert seen[0][0].target == expected


async def test_the_upstream_is_told_who_asked_where_the_client_says_nothing() -> None:
    seen: Seen = []
    async with serving(answering(OK, seen=seen)) as port, passing(port) as server:
        await server.ask(b"GET / HTTP/1.0\r\n\r\n")
    assert seen[0][0].headers == (
        ("host", f"127.0.0.1:{port}"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
    )


@pytest.mark.parametrize(("framing", "sent", "expected"), [
    (b"", b"", []),
    (b"content-length: 0\r\n", b"", [("content-length", "0")]),
    (b"content-length: 3\r\nconnection: content-length, host\r\n", b"a\0b", [("content-length", "3")]),
    (b"transfer-encoding: chunked\r\n", b"3\r\na\0b\r\n0\r\n\r\n", [("transfer-encoding", "chunked")]),
])  # fmt: skip
async def test_a_body_is_framed_as_it_came(framing: bytes, sent: bytes, expected: list[tuple[str, str]]) -> None:
    seen: Seen = []
    async with serving(answering(OK, seen=seen)) as port, passing(port) as server:
        await server.ask(b"POST / HTTP/1.1\r\nhost: x\r\n" + framing + b"\r\n" + sent)
    head, body = seen[0]
    assert [pair for pair in head.headers if pair[0] in {"content-length", "transfer-encoding"}] == expected
    assert body == (b"a\0b" if sent else b"")


async def test_an_answer_comes_back_as_it_was_sent_but_for_hop_by_hop_headers() -> None:
    raw = (
        b"HTTP/1.1 299 Odd\r\nServer: up\r\nDate: yesterday\r\nSet-Cookie: a=1\r\nX-Up: \xe9\r\nset-cookie: b=2\r\n"
        b"Connection: X-Named\r\nX-Named: 1\r\nKeep-Alive: timeout=5\r\nContent-Encoding: gzip\r\nX-Empty:\r\n"
        b"Content-Length: 5\r\n\r\n\x1f\x8b\0\xff\n"
    )
    async with serving(answering(raw)) as port, passing(port) as server:
        answer = await server.ask(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert answer.status == 299
    assert answer.body == b"\x1f\x8b\0\xff\n"
    assert answer.headers == [
        ("server", "up"),
        ("date", "yesterday"),
        ("set-cookie", "a=1"),
        ("x-up", "\xe9"),
        ("set-cookie", "b=2"),
        ("content-encoding", "gzip"),
        ("x-empty", ""),
        ("content-length", "5"),
    ]


@pytest.mark.parametrize("raw", [
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n3;x=y\r\ndef\r\n0\r\ntrailer: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nabcdef",
    b"HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nabcdef",
])  # fmt: skip
async def test_an_answer_of_unknown_length_is_passed_on(raw: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(raw)
        await writer.drain()

    async with serving(serve) as port, passing(port) as server:
        client = await server.client()
        await client.say(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        status, headers = await client.head()
        assert status == 200
        assert headers == [("connection", "close"), ("transfer-encoding", "chunked")]
        assert await client.chunks() == b"abcdef"
        assert await client.rest() == b""


async def test_an_old_client_gets_no_chunks() -> None:
    raw = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    async with serving(answering(raw)) as port, passing(port) as server:
        client = await server.client()
        await client.say(b"GET / HTTP/1.0\r\n\r\n")
        assert await client.head() == (200, [("connection", "close")])
        assert await client.rest() == b"abc"


@pytest.mark.parametrize(("method", "raw"), [
    (b"HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
    (b"HEAD", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
    (b"GET", b"HTTP/1.1 204 No Content\r\nx-a: b\r\n\r\n"),
    (b"GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\netag: a\r\n\r\n"),
])  # fmt: skip
async def test_an_answer_without_a_body_has_none_and_both_connections_go_on(method: bytes, raw: bytes) -> None:
    async with serving(answering(raw, OK)) as port, passing(port) as server:
        client = await server.client()
        await client.say(method + b" / HTTP/1.1\r\nhost: x\r\n\r\n")
        _, headers = await client.head()
        assert ("content-length", "5") in headers or b"content-length" not in raw
        await client.say(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await client.answer()).body == b"ok"


async def test_redirects_are_not_followed() -> None:
    raw = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
    async with serving(answering(raw)) as port, passing(port) as server:
        answer = await server.ask(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (answer.status, answer.values("location")) == (302, ["http://127.0.0.1:1/"])


async def test_the_first_event_arrives_before_the_second_is_made() -> None:
    heard = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")
        await writer.drain()
        await heard.wait()
        writer.write(b"data: 2\n\n")

    async with serving(serve) as port, passing(port) as server:
        client = await server.client()
        await client.say(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        await client.head()
        assert await client.exactly(14) == b"9\r\ndata: 1\n\n\r\n"
        heard.set()
        assert await client.rest() == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"


async def test_events_may_be_rarer_than_the_timeout() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.6)
        writer.write(b"data: late\n\n")

    async with serving(serve) as port, passing(port, timeout_s=0.2) as server:
        client = await server.client()
        await client.say(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        await client.head()
        assert b"data: late" in await client.rest()


async def test_both_bodies_flow_at_the_same_time() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while part := await read_chunk(reader):
            writer.write(part.upper())
            await writer.drain()

    async with serving(serve) as port, passing(port) as server:
        client = await server.client()
        await client.say(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n")
        await client.head()
        for letter in (b"a", b"b", b"c"):
            await client.say(b"1\r\n" + letter + b"\r\n")
            assert await client.exactly(6) == b"1\r\n" + letter.upper() + b"\r\n"
        await client.say(b"0\r\n\r\n")
        assert await client.rest() == b"0\r\n\r\n"


async def test_an_answer_may_come_before_the_whole_request_body() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
        await writer.drain()

    async with serving(serve) as port, passing(port) as server:
        client = await server.client()
        await client.say(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc")
        answer = await client.answer()
        assert (answer.status, answer.body) == (413, b"no")
        await client.say(b"defGET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await client.answer()).status == 413, "the connection goes on behind the rest of the body"


async def test_only_the_upstream_sends_100_continue() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        assert head.value("expect") == "100-continue"
        if head.target == "/no":
            writer.write(b"HTTP/1.1 417 No\r\ncontent-length: 0\r\n\r\n")
            return
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
        assert await read_body(reader, head) == b"body"
        writer.write(OK)

    request = b"PUT %b HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n"
    async with serving(serve) as port, passing(port) as server:
        client = await server.client()
        await client.say(request % b"/yes")
        # Which of the two comes first means nothing.
        early = [await client.head(), await client.head()]
        assert sorted(early) == [(100, []), (103, [("link", "x")])]
        await client.say(b"body")
        assert (await client.answer()).body == b"ok"
        client = await server.client()
        await client.say(request % b"/no")
        status, headers = await client.head()
        assert (status, ("connection", "close") in headers) == (417, True)


async def test_a_client_that_expects_100_continue_does_not_wait_forever() -> None:
    seen: Seen = []
    async with serving(answering(OK, seen=seen)) as port, passing(port) as server:
        client = await server.client()
        await client.say(b"PUT / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        assert await client.head() == (100, [])
        await client.say(b"body")
        assert (await client.answer()).body == b"ok"
    assert seen[0][1] == b"body"
