"""toril as a Starlette application: mounted in another one, served by plain uvicorn, called by a TestClient."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, NoMatchFound, Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse

from tests.support.endpoint import Endpoint, cut, reply_json
from tests.support.gateway import PLAIN, TOKEN, Gateway, job
from tests.support.sockets import socket_to
from tests.support.uvicorn import uvicorn
from tests.support.valkey import ValkeyProcess
from toril.asgi import create_app
from toril.config.settings import GatewayPolicy, Settings
from toril.core.errors import Unauthorized
from toril.delivery.ledger.policy import LedgerPolicy
from toril.delivery.rules.target import TargetSpec
from toril.proxy.rules.upstream import PathFilter, ProxyPolicy, Upstream
from toril.redis.policy import RedisAddress
from toril.web.cors import CorsPolicy
from toril.web.raw_target import ResponseCutOffError

BEARER = {"authorization": f"Bearer {TOKEN}"}
HOST = """
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI

from toril.asgi import create_app

inner, proxy = create_app("toril.yaml"), create_app("proxy.yaml")


@asynccontextmanager
async def both(_):
    async with AsyncExitStack() as running:
        for app in (inner, proxy):
            await running.enter_async_context(app.router.lifespan_context(app))
        yield


alone = FastAPI(lifespan=lambda _: inner.router.lifespan_context(inner))
alone.mount("/toril", inner)
app = FastAPI(lifespan=both)
app.mount("/toril", inner)
app.mount("/async", proxy)


@app.get("/")
def hello() -> str:
    return "the application around it"
"""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint(lambda call: reply_json({"path": call.target})) as found:
        yield found
        assert found.errors == []


@pytest.fixture
def folder(tmp_path: Path, start_valkey: Callable[[], ValkeyProcess], endpoint: Endpoint) -> Path:
    """A FastAPI application with toril in it, and the configurations of that."""
    valkey = start_valkey()
    ledger = {"url": f"sqlite:///{tmp_path}/ledger.sqlite3"}
    own = {"redis": {"url": valkey.url}, "targets": {"mounted": {"url": endpoint.url}}, "ledger": ledger}
    proxied = {"redis": {"url": valkey.url}, "upstreams": [{"prefix": "/api", "url": endpoint.url}], "apiPath": "/own"}
    (tmp_path / "toril.yaml").write_text(yaml.safe_dump(own))
    (tmp_path / "proxy.yaml").write_text(yaml.safe_dump(proxied))
    (tmp_path / "host.py").write_text(HOST)
    return tmp_path


def client_of(url: str) -> httpx.Client:
    """A client with the token."""
    return httpx.Client(base_url=url, headers=BEARER, timeout=20, trust_env=False, verify=PLAIN)


class TestMountedInFastapi:
    """The journeys below `/toril`."""

    def test_a_job_is_added_pushed_and_its_result_read(
        self, folder: Path, endpoint: Endpoint, new_queue: Callable[[], str]
    ) -> None:
        queue = new_queue()
        with (
            uvicorn(folder, "host:alone", ready="/toril/ready") as url,
            closing(Gateway(f"{url}/toril")) as gateway,
        ):
            with gateway.http.stream("GET", f"/queues/{queue}/events") as events:
                lines = events.iter_lines()
                assert next(lines) == "retry: 1000"
                gateway.register(queue, endpoint.at("/work"))
                job_id = gateway.add_one(queue, {"n": 1})
                result = gateway.http.get(f"/queues/{queue}/jobs/{job_id}/result", params={"wait": 10})
                assert (result.status_code, result.json()) == (200, {"path": "/work"})
                assert next(line for line in lines if line == "event: completed")
            assert endpoint.calls[0].header("authorization") is None
            with socket_to(f"{url}/toril", f"/ws/queues/{queue}") as socket:
                assert socket.command("getJobCounts", "completed") == {"ok": {"completed": 1}}
            with socket_to(f"{url}/toril", f"/ws/queues/{queue}x/process/1?payload=job") as working:
                gateway.add_one(queue + "x")
                (work,) = working.jobs(1)
                working.finish(work)
                gateway.wait_for_counts(queue + "x", completed=1)
            gateway.unregister(queue)

    def test_the_docs_name_the_mount_and_lead_to_the_routes(self, folder: Path) -> None:
        with uvicorn(folder, "host:alone", ready="/toril/ready") as url, client_of(url) as client:
            page = client.get("/toril/docs")
            assert page.headers["content-type"] == "text/html;charset=utf-8"
            assert '"openapi.json"' in page.text
            (server,) = client.get("/toril/openapi.json").json()["servers"]
            assert server["url"] == "/toril"
            assert client.get(server["url"] + "/health").status_code == 200

    def test_every_location_leads_below_the_mount(self, folder: Path, endpoint: Endpoint) -> None:
        with uvicorn(folder, "host:app", ready="/toril/ready") as url, client_of(url) as client:
            assert client.get("/").json() == "the application around it"
            accepted = client.post("/toril/enqueue", json={"target": "mounted"})
            assert accepted.status_code == 202, accepted.text
            assert accepted.headers["location"].startswith("/toril/jobs/")
            done = client.get(accepted.headers["location"], params={"wait": 10})
            assert done.json()["status"] == "delivered"
            submitted = client.post("/async/api/x%2Fy?z=1", content=b"body")
            assert submitted.headers["location"].startswith("/async/__jobs/")
            ended = client.get(submitted.headers["location"], params={"wait": 10})
            assert ended.json()["status"] == "completed"
            assert client.get(submitted.headers["location"] + "/content").json() == {"path": "/hook/x%2Fy?z=1"}
            assert client.get("/async/own/health").status_code == 200
            assert client.get("/async/nowhere").status_code == 502


class TestPlainUvicorn:
    """`uvicorn --factory toril.asgi:create_app`."""

    def test_a_job_is_added_and_pushed(
        self, tmp_path: Path, valkey: ValkeyProcess, endpoint: Endpoint, new_queue: Callable[[], str]
    ) -> None:
        queue = new_queue()
        env = {"REDIS_URL": valkey.url}
        factory = ("--factory", "toril.asgi:create_app")
        with uvicorn(tmp_path, *factory, ready="/ready", env=env) as url, closing(Gateway(url)) as gateway:
            gateway.register(queue, endpoint.at("/work"))
            job_id = gateway.add_one(queue)
            assert gateway.finished(queue, job_id)["returnvalue"] == {"path": "/work"}
            gateway.unregister(queue)


def settings(valkey: ValkeyProcess, **more: Any) -> Settings:
    address = RedisAddress(host="127.0.0.1", port=valkey.port)
    return Settings(redis=address, gateway=GatewayPolicy(auth_tokens=(TOKEN,)), **more)


class TestAsAnApplication:
    """What Starlette's users expect of an application."""

    def test_a_test_client_can_start_the_application_twice(
        self, valkey: ValkeyProcess, new_queue: Callable[[], str]
    ) -> None:
        app, queue = create_app(settings(valkey)), new_queue()
        for number in (1, 2):
            with TestClient(app, headers=BEARER) as client:
                added = client.post(f"/queues/{queue}/jobs", json=[job()])
                assert (added.status_code, added.json()[0]["id"]) == (200, str(number))
                with client.websocket_connect(f"/ws/queues/{queue}", headers=BEARER) as socket:
                    socket.send_json({"id": 1, "data": {"fn": "getJobCounts", "args": ["waiting"]}})
                    assert socket.receive_json()["data"] == {"ok": {"waiting": number}}
                assert client.get("/queues/a%2Fb%3A/jobs").status_code == 400
                assert client.get(f"/queues/{queue}/events", headers={"authorization": "x"}).status_code == 401
        assert app.state.instance.health is not None

    def test_a_handshake_is_refused_with_its_status(self, valkey: ValkeyProcess) -> None:
        with TestClient(create_app(settings(valkey))) as client:
            for path, status in (("/ws/queues/orders", 401), ("/ws/nowhere", 404)):
                with pytest.raises(WebSocketDenialResponse) as caught, client.websocket_connect(path):
                    pass
                assert caught.value.status_code == status

    def test_every_documented_route_is_a_route_of_starlettes(self, valkey: ValkeyProcess) -> None:
        target = TargetSpec(name="mounted", url="http://b")
        proxy = ProxyPolicy(upstreams=(Upstream(prefix="/api", url="http://a"),), api_path="/own")
        for app in (
            create_app(settings(valkey, targets=(target,), ledger=LedgerPolicy(url="none"))),
            create_app(settings(valkey, proxy=proxy)),
        ):
            routes = set(_walked(app))
            with TestClient(app) as client:
                prefix = "/own" if client.get("/own/health").status_code == 200 else ""
                document = client.get(f"{prefix}/openapi.json").json()
            assert len(document["paths"]) > 40
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    kind = "WS" if "x-websocket" in operation else method.upper()
                    assert {(kind, path), ("any", path)} & routes, (kind, path)

    def test_url_path_for_builds_paths_by_route_name(self, valkey: ValkeyProcess) -> None:
        app = create_app(settings(valkey))
        assert app.url_path_for("get_queues_queue_jobs", queue="a/b") == "/queues/a%2Fb/jobs"
        assert app.url_path_for("ws_ws_queues_queue_events", queue="x") == "/ws/queues/x/events"
        assert app.url_path_for("dashboard") == "/dashboard/"
        with pytest.raises(NoMatchFound):
            app.url_path_for("nothing")

    def test_the_application_accepts_foreign_middleware_routes_and_exception_handlers(
        self, valkey: ValkeyProcess
    ) -> None:
        app = create_app(settings(valkey))

        async def stamp(request: Request, call_next: Any) -> Response:
            response: Response = await call_next(request)
            response.headers["x-stamp"] = "1"
            return response

        async def fail(request: Request) -> Response:
            raise KeyError(request.path_params["what"])

        async def handle(request: Request, exc: Exception) -> Response:
            return PlainTextResponse(f"handled {exc}", 418)

        app.add_middleware(BaseHTTPMiddleware, dispatch=stamp)
        app.add_route("/fail/{what}", fail)
        app.add_exception_handler(KeyError, handle)
        for _ in range(2):
            with TestClient(app) as client:
                failed = client.get("/fail/here")
                assert (failed.status_code, failed.text, failed.headers["x-stamp"]) == (418, "handled 'here'", "1")
                assert client.get("/health").headers["x-stamp"] == "1"

    def test_torils_errors_go_to_exception_handlers_of_their_status_or_class(self, valkey: ValkeyProcess) -> None:
        app = create_app(settings(valkey))

        async def lost(request: Request, exc: Exception) -> Response:
            return PlainTextResponse(f"lost {request.url.path}", 404)

        async def stranger(request: Request, exc: Exception) -> Response:
            return PlainTextResponse(str(exc), 999)

        app.add_exception_handler(404, lost)
        app.add_exception_handler(Unauthorized, stranger)
        with TestClient(app) as client:
            for path in ("/nowhere", "/targets/unknown"):
                assert client.get(path, headers=BEARER).text == f"lost {path}"
            assert client.get("/queues/orders/jobs").status_code == 999
            with pytest.raises(WebSocketDenialResponse) as caught, client.websocket_connect("/ws/nowhere"):
                pass
            assert caught.value.text == "lost /ws/nowhere"
            wrong = client.post("/health")
            assert (wrong.status_code, wrong.headers["content-type"]) == (405, "application/problem+json")

    def test_a_websocket_to_an_upstream_is_refused_where_no_tunnel_is(self, valkey: ValkeyProcess) -> None:
        """Whether the server shows it the `Upgrade` header or not, as HTTP/2 has none."""
        made = settings(valkey, proxy=ProxyPolicy(upstreams=(Upstream(prefix="/api", url="http://127.0.0.1:9"),)))
        with TestClient(create_app(made)) as client:
            for headers in ({}, {"upgrade": "websocket"}):
                with (
                    pytest.raises(WebSocketDenialResponse) as caught,
                    client.websocket_connect("/api/x", headers=headers),
                ):
                    pass
                assert (caught.value.status_code, caught.value.headers["x-proxq-source"]) == (501, "proxq")

    def test_an_answer_that_an_upstream_breaks_off_does_not_look_whole(self, valkey: ValkeyProcess) -> None:
        every = PathFilter(patterns=(re.compile("."),))
        with Endpoint(lambda call: cut()) as breaking:
            upstream = Upstream(prefix="/api", url=breaking.url, path_filter=every)
            made = settings(valkey, proxy=ProxyPolicy(upstreams=(upstream,)))
            with TestClient(create_app(made)) as client, pytest.raises(ResponseCutOffError):
                client.get("/api/x")


def _walked(app: Starlette) -> Iterator[tuple[str, str]]:
    """Every route by method and path; an upstream's takes any method."""
    below = [("", route) for route in app.routes]
    while below:
        prefix, route = below.pop()
        if isinstance(route, Mount):
            below += [(prefix + route.path, inner) for inner in route.routes]
        elif isinstance(route, WebSocketRoute):
            yield "WS", prefix + route.path
        elif isinstance(route, Route):
            yield from ((method, prefix + route.path) for method in route.methods or ("any",))


ORIGIN = "https://app.example"


class TestCors:
    """Pages of other origins, as browsers let them call."""

    def test_cors_is_off_unless_configured(self, valkey: ValkeyProcess) -> None:
        with TestClient(create_app(settings(valkey)), headers=BEARER | {"origin": ORIGIN}) as client:
            assert "access-control-allow-origin" not in client.get("/health").headers
            preflight = client.options("/queues/orders/jobs", headers={"access-control-request-method": "POST"})
            assert not [name for name in preflight.headers if name.startswith("access-control")]

    def test_a_page_may_ask_send_and_read_what_the_client_needs(self, valkey: ValkeyProcess) -> None:
        policy = CorsPolicy(origins=(ORIGIN,), headers=("x-trace",))
        with TestClient(create_app(settings(valkey, cors=policy)), headers={"origin": ORIGIN}) as client:
            asked = {
                "access-control-request-method": "DELETE",
                "access-control-request-headers": "authorization,content-type,last-event-id,x-trace",
            }
            preflight = client.options("/queues/orders/jobs/1", headers=asked)
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == ORIGIN
            assert "DELETE" in preflight.headers["access-control-allow-methods"]
            refused = client.options("/queues/orders/jobs/1", headers=asked | {"origin": "https://evil.example"})
            assert refused.status_code == 400
            assert "access-control-allow-origin" not in refused.headers
            for path, status in (("/queues/orders/jobs", 401), ("/nowhere", 404), ("/health", 200)):
                answer = client.get(path)
                assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, ORIGIN)
                exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
                assert {"retry-after", "toril-code", "location"} <= exposed
                assert "access-control-allow-credentials" not in answer.headers

    def test_submissions_to_upstreams_are_for_pages_too(self, valkey: ValkeyProcess) -> None:
        proxy = ProxyPolicy(upstreams=(Upstream(prefix="/api", url="http://127.0.0.1:9"),))
        made = settings(valkey, cors=CorsPolicy(origins=("*",)), proxy=proxy)
        with TestClient(create_app(made), headers={"origin": ORIGIN}) as client:
            preflight = client.options("/api/x", headers={"access-control-request-method": "POST"})
            assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, "*")
            submitted = client.post("/api/x")
            assert submitted.status_code == 202
            assert submitted.headers["access-control-allow-origin"] == "*"
            assert json.loads(submitted.text)["jobId"]
