"""The ceiling of one-job adds: a raw ASGI app that reads, decodes and answers, and does nothing else.

Runs on the same uvicorn, event loop and HTTP parser as toril. Whatever toril does beyond this (routing, auth,
checks, Redis) is what keeps it under this figure.

With `--gathered` it also writes as toril does, head and body in one system call, which stock uvicorn does not:
the stricter ceiling of the two.

    python -m benchmarks.ceiling_asgi --port 9000
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

import msgspec
import uvicorn

from benchmarks import payload

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_decode = msgspec.json.Decoder().decode
_ONE = payload.job_answer()


async def whole(receive: Receive) -> bytes:
    """Return the body of a request."""
    message = await receive()
    body = cast("bytes", message["body"])
    while message["more_body"]:
        message = await receive()
        body += message["body"]
    return body


async def answer_json(send: Send, status: int, answer: bytes, *more: tuple[bytes, bytes]) -> None:
    """Answer a request; `more` are headers beside the type and the length."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer)), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """Answers a POST with a list of one job and a GET with one job, of the size a real server's would be."""
    answer = _ONE
    if scope["method"] == "POST":
        _decode(await whole(receive))
        answer = b"[" + answer + b"]"
    await answer_json(send, 200, answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--gathered", action="store_true", help="write as toril does")
    arguments = parser.parse_args()
    serve(app, arguments.port, gathered=arguments.gathered)


def serve(app: Any, port: int, *, gathered: bool) -> None:
    """Serve an app as toril is served; `gathered`: write as toril does."""
    http: Any = "httptools"
    if gathered:
        from toril.server.gathered_writes import GatheringProtocol  # noqa: PLC0415 - the plain one does without toril

        http = GatheringProtocol
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        # As in toril.server.server: a setting that differs here would be measured as if it were toril's doing.
        loop="uvloop",
        http=http,
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
    )


if __name__ == "__main__":
    main()
