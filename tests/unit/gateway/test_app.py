import pytest
from structlog.testing import capture_logs

from tests.unit.gateway.asgi import Body, ask, scope
from toril.core.errors import InvalidRequest
from toril.gateway.admission import Admission
from toril.gateway.app import Gateway
from toril.gateway.auth import Tokens
from toril.gateway.routing import Access, Answer, Request, Route
from toril.testing import FakeRates

TOKEN = [(b"authorization", b"Bearer secret")]


async def echo(request: Request) -> Answer:
    body = await request.body(5)
    return Answer(200, b"text/plain", request.segment(1).encode() + body, ((b"x-more", b"1"),))


async def crash(request: Request) -> Answer:
    raise ZeroDivisionError("a secret")


def gateway() -> Gateway:
    routes = [
        Route("POST", "/open/{name}", Access.OPEN, echo),
        Route("POST", "/token/{name}", Access.TOKEN, echo),
        Route("POST", "/lock/{name}", Access.LOCK, echo),
        Route("POST", "/crash", Access.OPEN, crash),
    ]
    return Gateway(routes, Admission(Tokens(("secret",)), FakeRates(lambda: 0.0)))


async def test_an_answer_goes_out_with_its_headers_and_length() -> None:
    answer = await ask(gateway(), scope("POST", "/open/a%20"), Body(b"bc"))
    assert (answer.status, answer.body) == (200, b"a bc")
    assert answer.headers == {b"content-type": b"text/plain", b"content-length": b"4", b"x-more": b"1"}


@pytest.mark.parametrize("asked", [scope("POST", "/nowhere"), scope("GET", "/token/a"), scope("POST", "/token/")])
async def test_what_is_not_there_is_not_found_before_anybody_is_asked_for_a_token(asked: dict[str, object]) -> None:
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
    app = gateway()
    app.draining = True
    assert (await ask(app, scope("POST", "/token/a", headers=TOKEN))).status == 503
    assert (await ask(app, scope("POST", "/token/a"))).status == 401
    assert (await ask(app, scope("POST", "/lock/a"))).status == 200
    assert (await ask(app, scope("POST", "/open/a"))).status == 200


async def test_an_error_of_a_handler_keeps_its_text() -> None:
    async def refuse(_: Request) -> Answer:
        raise InvalidRequest("not so")

    app = Gateway([Route("POST", "/", Access.OPEN, refuse)], Admission(Tokens(), FakeRates(lambda: 0.0)))
    answer = await ask(app, scope("POST", "/"))
    assert (answer.status, answer.body) == (400, b"not so")
