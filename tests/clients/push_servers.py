"""Web servers with one address, `/charge`, whose handler is a framework's `push_handler` of the Python client."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import uvicorn
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.urls import clear_url_caches, path
from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.routing import Route

import toril_client.django
import toril_client.flask
import toril_client.starlette
from tests.support.ports import free_port
from tests.support.waiting import eventually

urlpatterns: list[Any] = []
"""Django's, of the server that runs."""


class Quiet(WSGIRequestHandler):
    """A request handler that prints no line for each request."""

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@contextmanager
def wsgi(app: Any) -> Iterator[str]:
    """Serve a WSGI application; its URL."""
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)


@contextmanager
def asgi(app: Any) -> Iterator[str]:
    """Serve an ASGI application; its URL."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started, what="uvicorn")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


def fastapi(url: str, work: Any, **options: Any) -> Any:
    app = FastAPI()
    app.post("/charge")(toril_client.starlette.push_handler(url, work, **options))
    return asgi(app)


def starlette(url: str, work: Any, **options: Any) -> Any:
    handler = toril_client.starlette.push_handler(url, work, **options)
    return asgi(Starlette(routes=[Route("/charge", handler, methods=["POST"])]))


def flask(url: str, work: Any, **options: Any) -> Any:
    app = Flask(__name__)
    handler = toril_client.flask.push_handler(url, work, **options)
    app.add_url_rule("/charge", view_func=handler, methods=["POST"])
    return wsgi(app)


def _django(url: str, work: Any, **options: Any) -> None:
    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["127.0.0.1"], MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
            ROOT_URLCONF=__name__, SECRET_KEY="of-a-test",
        )  # fmt: skip
    sys.modules[__name__].urlpatterns = [  # type: ignore[attr-defined]
        path("charge", toril_client.django.push_handler(url, work, **options))
    ]
    clear_url_caches()


def django(url: str, work: Any, **options: Any) -> Any:
    _django(url, work, **options)
    return wsgi(get_wsgi_application())


def django_asgi(url: str, work: Any, **options: Any) -> Any:
    _django(url, work, **options)
    return asgi(get_asgi_application())


SERVERS: dict[str, Callable[..., Any]] = {
    server.__name__: server for server in (fastapi, starlette, flask, django, django_asgi)
}
