"""A view of pushed jobs for Flask.

app.add_url_rule("/charge", view_func=push_handler(TORIL, charge, secrets=SECRETS), methods=["POST"])
"""

from collections.abc import Callable, Iterable
from http import HTTPStatus

from toril_client.handling import MAX_BODY_BYTES, Handling, Work, missing

try:
    from flask import Response, request
except ImportError as exc:
    raise missing("flask", exc) from exc


def push_handler(
    url: str, work: Work, *, secrets: str | Iterable[str] = (), max_body_bytes: int = MAX_BODY_BYTES
) -> Callable[[], Response]:
    """Return a view that works on pushed jobs; see `Handling` for the arguments.

    Its endpoint is named after the function, so that an application can have several. A coroutine function runs in an
    event loop of the request's own. `MAX_CONTENT_LENGTH` counts too, where it is lower.
    """
    handling = Handling(url, work, secrets, max_body_bytes)

    def view() -> Response:
        if handling.refuses(request.headers.get("content-length")):
            answer = handling.too_large()
        else:
            answer = handling.answer(_read(handling), request.headers)
        status, headers, body = answer
        # Werkzeug's own phrases are in capitals, and the phrase becomes the failedReason.
        return Response(body, f"{status} {HTTPStatus(status).phrase}", headers)

    view.__name__ = getattr(work, "__name__", type(work).__name__)
    return view


def _read(handling: Handling) -> bytes:
    if request.content_length is not None:
        return request.get_data()  # no more than the length says, and there still if something has read it before
    return request.stream.read(handling.max_body_bytes + 1)
