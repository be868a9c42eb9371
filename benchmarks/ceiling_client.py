"""The ceiling of push: what an HTTP client alone can POST, with no queue behind it.

Concurrency, body and endpoint are those of the push scenario. A client is one coroutine function in
`CLIENTS`; the interesting one is `toril`, the very adapter that toril pushes with. Prints one line of
JSON: client, per_s.

    python -m benchmarks.ceiling_client --client toril --url http://127.0.0.1:9001/x --seconds 3

Exits with 3, and says so, when the client is not installed here.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
import urllib.parse
from collections.abc import Awaitable, Callable
from datetime import timedelta

import msgspec
import uvloop

from benchmarks import payload

NOT_INSTALLED = 3
TIMEOUT_S = 3.0


class PostError(Exception):
    """The endpoint's answer was not a 200."""


async def post_all(post: Callable[[], Awaitable[int]], concurrency: int, seconds: float) -> float:
    """Keeps this many posts in flight for this long; returns posts a second. `post` returns a status."""
    done = 0
    started = time.perf_counter()
    deadline = started + seconds

    async def slot() -> None:
        nonlocal done
        while time.perf_counter() < deadline:
            status = await post()
            if status != 200:
                raise PostError(f"status {status}")
            done += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(slot())
    return done / (time.perf_counter() - started)


async def toril_posts(url: str, body: bytes, concurrency: int, seconds: float) -> float:
    """Through the adapter that toril's push workers use."""
    from toril.core.destination import OutboundRequest  # noqa: PLC0415
    from toril.core.http.headers import request_head  # noqa: PLC0415
    from toril.core.outcome import Answered  # noqa: PLC0415
    from toril.http_client.client import HttpClient  # noqa: PLC0415 - only this client needs it

    parts = urllib.parse.urlsplit(url)
    headers = [(b"content-type", b"application/json")]
    head = request_head(b"POST", parts.path.encode(), parts.netloc.encode(), headers)
    pool = HttpClient(connect_timeout_s=TIMEOUT_S, max_response_bytes=1 << 20).pool(url)

    async def post() -> int:
        outcome = await pool.send(OutboundRequest(head, body, TIMEOUT_S))
        if not isinstance(outcome, Answered):
            raise PostError(repr(outcome))
        return outcome.status

    try:
        return await post_all(post, concurrency, seconds)
    finally:
        pool.close()


async def pyreqwest_posts(url: str, body: bytes, concurrency: int, seconds: float) -> float:
    """Through pyreqwest: reqwest (Rust) for Python."""
    from pyreqwest.client import ClientBuilder  # noqa: PLC0415

    builder = ClientBuilder().max_connections(concurrency).timeout(timedelta(seconds=TIMEOUT_S))
    async with builder.build() as client:

        async def post() -> int:
            request = client.post(url).header("content-type", "application/json").body_bytes(body).build()
            response = await request.send()
            await response.bytes()
            return int(response.status)

        return await post_all(post, concurrency, seconds)


async def aiohttp_posts(url: str, body: bytes, concurrency: int, seconds: float) -> float:
    """Through aiohttp."""
    import aiohttp  # noqa: PLC0415

    headers = {"content-type": "application/json"}
    connector = aiohttp.TCPConnector(limit=concurrency)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def post() -> int:
            async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                await response.read()
                return int(response.status)

        return await post_all(post, concurrency, seconds)


CLIENTS: dict[str, Callable[[str, bytes, int, float], Awaitable[float]]] = {
    "toril": toril_posts,
    "pyreqwest": pyreqwest_posts,
    "aiohttp": aiohttp_posts,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--client", choices=sorted(CLIENTS), required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()

    async def posts() -> float:
        client = CLIENTS[arguments.client]
        return await client(arguments.url, payload.pushed_job(), arguments.concurrency, arguments.seconds)

    try:
        per_s = uvloop.run(posts())
    except ImportError as exc:
        print(f"{arguments.client} is not installed here: {exc}", file=sys.stderr)
        return NOT_INSTALLED
    print(msgspec.json.encode({"client": arguments.client, "per_s": per_s}).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
