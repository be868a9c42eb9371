"""The targets of requests that come over one connection, of which a short one is read once while it stays the same."""

import asyncio

from toril.server.server import bind, listening
from toril.web.access_control import Access
from toril.web.application import Application
from toril.web.raw_target import raw_target
from toril.web.request import Request
from toril.web.responses import BytesResponse, json_response
from toril.web.routing import IndexedRouter, Route


async def _answer(request: Request) -> BytesResponse:
    scope = request.scope
    return json_response(b" ".join((scope["path"].encode(), scope["query_string"], raw_target(scope))))


async def test_each_request_has_the_target_that_it_was_sent_with() -> None:
    app = Application(IndexedRouter([Route("/of/{name}", _answer, access=Access.OPEN)]))
    long = b"/of/" + b"a" * 300
    targets = [b"/of/one?x=1", b"/of/one?x=1", b"/of/one?x=2", b"/of/one", long, b"/of/one", b"/of/%62", b"/of/b", long]
    with bind("127.0.0.1", 0) as sock:
        async with listening(app, sock):
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            for target in targets:
                writer.write(b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % target)
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                path, _, query = target.replace(b"%62", b"b").partition(b"?")
                assert await reader.readexactly(size) == b" ".join((path, query, target))
            writer.close()
            await writer.wait_closed()
