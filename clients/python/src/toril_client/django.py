"""A view of pushed jobs for Django.

urlpatterns = [path("charge", push_handler(TORIL, charge, secrets=SECRETS))]
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import cast

from toril_client.handling import MAX_BODY_BYTES, Handling, Work, missing
from toril_client.push import Answer

try:
    from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
    from django.views.decorators.csrf import csrf_exempt
except ImportError as exc:
    raise missing("django", exc) from exc

View = Callable[[HttpRequest], HttpResponse] | Callable[[HttpRequest], Awaitable[HttpResponse]]
METHODS = ("POST", "PUT", "PATCH")
"""What a worker can be registered with."""


def push_handler(
    url: str, work: Work, *, secrets: str | Iterable[str] = (), max_body_bytes: int = MAX_BODY_BYTES
) -> View:
    """Return a view that works on pushed jobs; see `Handling` for the arguments.

    A coroutine function makes an async view. `DATA_UPLOAD_MAX_MEMORY_SIZE` does not count, `max_body_bytes` does. The
    view is exempt from the CSRF check: toril is no browser, and signatures say who calls.
    """
    handling = Handling(url, work, secrets, max_body_bytes)

    def view(request: HttpRequest) -> HttpResponse:
        refused, body = _read(request, handling)
        return refused or _response(handling.answer(body, request.headers))

    async def async_view(request: HttpRequest) -> HttpResponse:
        refused, body = _read(request, handling)
        return refused or _response(await handling.answer_async(body, request.headers))

    return cast(View, csrf_exempt(async_view if handling.is_async else view))


def _read(request: HttpRequest, handling: Handling) -> tuple[HttpResponse | None, bytes]:
    if request.method not in METHODS:
        return HttpResponseNotAllowed(METHODS), b""
    if handling.refuses(request.headers.get("content-length")):
        return _response(handling.too_large()), b""
    return None, request.read(handling.max_body_bytes + 1)


def _response(answer: Answer) -> HttpResponse:
    status, headers, body = answer
    return HttpResponse(body, status=status, headers=headers)
