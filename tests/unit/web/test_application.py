import pytest
from starlette.responses import Response
from structlog.testing import capture_logs

from tests.unit.web.asgi import Body, application, ask, scope
from toril.core.errors import InvalidRequest
from toril.testing import FakeRates
from toril.web.access_control import Access, AccessControl
from toril.web.application import Application
from toril.web.auth import Tokens
from toril.web.request import Request
from toril.web.responses import BytesResponse
from toril.web.routing import Route

TOKEN = [(b"authorization", b"Bearer secret")]


async def echo(request: Request) -> Response:
    body = await request.body(5)
    return BytesResponse(request.path_params["name"].encode() + body, 200, b"text/plain", ((b"x-more", b"1"),))


async def crash(request: Request) -> Response:
    raise ZeroDivisionError("a secret")


def gateway(control: AccessControl | None = None) -> Application:
    routes = [
        Route("/open/{name}", echo, method="POST", access=Access.OPEN),
        Route("/token/{name}", echo, method="POST", access=Access.TOKEN),
        Route("/lock/{name}", echo, method="POST", access=Access.LOCK),
        Route("/crash", crash, method="POST", access=Access.OPEN),
    ]
    return application(routes, control)


async def test_an_answer_goes_out_with_its_headers_and_length() -> None:
    answer = await ask(gateway(), scope("POST", "/open/a%20"), Body(b"bc"))
    assert (answer.status, answer.body) == (200, b"a bc")
    assert answer.headers == {b"content-type": b"text/plain", b"content-length": b"4", b"x-more": b"1"}


@pytest.mark.parametrize("asked", [scope("POST", "/nowhere"), scope("GET", "/token/a"), scope("POST", "/token/")])
async def test_an_unknown_path_is_not_found_even_without_a_token(asked: dict[str, object]) -> None:
    answer = await ask(gateway(), asked)
    assert (answer.status, answer.body) == (404, b"Not found")


async def test_a_route_for_token_holders_needs_one() -> None:
    assert (await ask(gateway(), scope("POST", "/token/a"))).status == 401
    assert (await ask(gateway(), scope("POST", "/token/a", headers=TOKEN))).status == 200


async def test_the_token_is_asked_for_before_the_request_is_looked_at() -> None:
    body = Body(b"too much")
    answer = await ask(gateway(), scope("POST", "/token/%"), body)
    assert answer.status == 401
    assert len(body.unread) == 1


@pytest.mark.parametrize(
    ("path", "pieces", "status"), [("/open/%", (b"",), 400), ("/open/a", (b"123456",), 413), ("/crash", (b"",), 500)]
)
async def test_an_error_becomes_an_answer(path: str, pieces: tuple[bytes, ...], status: int) -> None:
    with capture_logs():
        answer = await ask(gateway(), scope("POST", path), Body(*pieces))
    assert answer.status == status
    assert b"secret" not in answer.body


async def test_while_draining_workers_may_still_report() -> None:
    control = AccessControl(Tokens(("secret",)), FakeRates(lambda: 0.0))
    control.draining = True
    app = gateway(control)
    assert (await ask(app, scope("POST", "/token/a", headers=TOKEN))).status == 503
    assert (await ask(app, scope("POST", "/token/a"))).status == 401
    assert (await ask(app, scope("POST", "/lock/a"))).status == 200
    assert (await ask(app, scope("POST", "/open/a"))).status == 200


async def test_an_error_of_a_handler_keeps_its_text() -> None:
    async def refuse(_: Request) -> Response:
        raise InvalidRequest("not so")

    app = application([Route("/", refuse, method="POST", access=Access.OPEN)])
    answer = await ask(app, scope("POST", "/"))
    assert (answer.status, answer.body) == (400, b"not so")
