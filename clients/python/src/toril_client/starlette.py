"""A handler of pushed jobs for Starlette and FastAPI.

app.post("/charge")(push_handler(TORIL, charge, secrets=SECRETS))                 # FastAPI
Route("/charge", push_handler(TORIL, charge, secrets=SECRETS), methods=["POST"])  # Starlette
"""

from collections.abc import Awaitable, Callable, Iterable

from toril_client.handling import MAX_BODY_BYTES, Handling, Work, missing

try:
    from starlette.requests import Request
    from starlette.responses import Response
except ImportError as exc:
    raise missing("starlette", exc) from exc


def push_handler(
    url: str, work: Work, *, secrets: str | Iterable[str] = (), max_body_bytes: int = MAX_BODY_BYTES
) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that works on pushed jobs; see `Handling` for the arguments.

    A plain function runs in a thread.
    """
    handling = Handling(url, work, secrets, max_body_bytes)

    async def handle(request: Request) -> Response:
        body = None if handling.refuses(request.headers.get("content-length")) else await _read(request, handling)
        answer = handling.too_large() if body is None else await handling.answer_async(body, request.headers)
        status, headers, content = answer
        return Response(content, status, headers)

    return handle


async def _read(request: Request, handling: Handling) -> bytes | None:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > handling.max_body_bytes:
            return None
    return bytes(body)
