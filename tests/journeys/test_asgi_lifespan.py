"""What an application says to those who start it wrongly, and what its lifespan passes on."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tests.support.gateway import TOKEN
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually
from toril.asgi import create_app
from toril.config.settings import GatewayPolicy, Settings
from toril.redis.policy import RedisAddress

BEARER = {"authorization": f"Bearer {TOKEN}"}


def _is_ready(client: TestClient) -> bool:
    """On a busy machine Redis may not have answered within the second that `/ready` waits for it."""
    return eventually(lambda: client.get("/ready").status_code == 200, what="ready")


@pytest.fixture
def app(valkey: ValkeyProcess) -> Starlette:
    address = RedisAddress(host="127.0.0.1", port=valkey.port)
    return create_app(Settings(redis=address, gateway=GatewayPolicy(auth_tokens=(TOKEN,))))


def test_before_its_lifespan_runs_requests_fail_and_name_the_reason(app: Starlette) -> None:
    """The commonest mistake with a mounted application. It looked as if Redis were away."""
    client = TestClient(app, headers=BEARER)
    for path in ("/health", "/ready", "/queues/orders/jobs", "/nowhere"):
        with pytest.raises(RuntimeError, match=r"toril is not running.*lifespan"):
            client.get(path)
    with pytest.raises(RuntimeError, match="toril is not running"), client.websocket_connect("/ws/queues/orders"):
        pass
    with client:
        assert client.get("/health").status_code == 200
    with pytest.raises(RuntimeError, match="toril is not running"):
        client.get("/health")


def test_a_second_start_while_it_runs_is_refused_and_the_first_goes_on(app: Starlette) -> None:
    """It got another instance, and the requests of the first one failed."""
    with TestClient(app, headers=BEARER) as first:
        with pytest.raises(RuntimeError, match="toril is running already"), TestClient(app):
            pass
        assert _is_ready(first)
    with TestClient(app, headers=BEARER) as again:
        assert _is_ready(again)


def test_an_error_of_the_surrounding_lifespan_is_raised_unchanged(
    app: Starlette, caplog: pytest.LogCaptureFixture
) -> None:
    """It came as an exception group, which `except ValueError` does not catch."""

    @asynccontextmanager
    async def failing(_: Starlette) -> AsyncIterator[None]:
        async with app.router.lifespan_context(app):
            raise ValueError("my own database")
            yield

    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(ValueError, match="my own database"),
        TestClient(Starlette(lifespan=failing)),
    ):
        pass
