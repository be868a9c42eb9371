"""What a request has taken is freed when it ends. What the garbage collector has to find costs a tenth of a request."""

import asyncio
import gc

from starlette.middleware import Middleware

from toril.server.request_cycle import RequestCycle
from toril.server.server import bind, listening
from toril.web.access_control import Access
from toril.web.application import Application
from toril.web.request import Request
from toril.web.request_metrics import RequestMetrics
from toril.web.responses import BytesResponse, json_response
from toril.web.routing import IndexedRouter, Route


async def _answer(request: Request) -> BytesResponse:
    return json_response(b"[%d]" % len(await request.body(1000)))


async def test_a_request_leaves_nothing_to_the_garbage_collector() -> None:
    routes = [Route(f"/{method}", _answer, method=method, access=Access.OPEN) for method in ("GET", "POST")]
    app = Application(IndexedRouter(routes), [Middleware(RequestMetrics)])
    with bind("127.0.0.1", 0) as sock:
        async with listening(app, sock):
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            for request in (b"GET /GET HTTP/1.1\r\nhost: x\r\n\r\n", b"POST /POST HTTP/1.1\r\nhost: x\r\n\r\n"):
                gc.collect()
                gc.disable()
                try:
                    for _ in range(20):
                        writer.write(request)
                        assert (await reader.readuntil(b"[0]")).startswith(b"HTTP/1.1 200 OK\r\n")
                    # The connection keeps the newest one. `isinstance` would ask lazy objects for their class.
                    assert sum(issubclass(type(one), RequestCycle) for one in gc.get_objects()) <= 1
                finally:
                    gc.enable()
            writer.close()
            await writer.wait_closed()
