"""Every right against every route: in the route table of a real instance, and over HTTP and WebSockets.

Routes are taken from the table, so one that is added is tested here, and fails if the table below does not say which
right it should need.
"""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, get_args

import pytest
import yaml
from starlette.responses import Response
from websockets.exceptions import InvalidStatus

from tests.support.gateway import job, worker
from tests.support.ports import free_port
from tests.support.sockets import socket_to
from tests.support.tokens import ask, token, write
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.unit.web.asgi import Answered, Body, application, scope
from toril.asgi import create_app
from toril.config.settings import Settings
from toril.core.access import Caller, Grant, Right
from toril.delivery.rules.target import TargetSpec
from toril.proxy.operating.requests import RequestRoutes, RequestServices
from toril.proxy.rules.upstream import ProxyPolicy, Upstream
from toril.queues.rules.commands import Command
from toril.queues.sockets.queue import RIGHTS
from toril.testing import FakeClock, FakeRates
from toril.web.access_control import Access, AccessControl
from toril.web.application import Application
from toril.web.auth import Tokens, fingerprint
from toril.web.request import Request
from toril.web.responses import BytesResponse
from toril.web.routing import Route, SocketRoute
from toril.web.websocket import WebSocket

# What each route should need, by method and path, the placeholders without their names: the table of the wire's
# document, written down a second time. WS is a socket; None there is any right on the queue.
EXPECTED: dict[tuple[str, str], Right | None] = {
    ("POST", "/queues/{}/jobs"): Right.JOBS_ADD,
    ("GET", "/whoami"): None,
    ("POST", "/mcp"): None,
    ("POST", "/flows"): Right.JOBS_ADD,
    ("GET", "/queues/{}/jobs"): Right.JOBS_READ,
    ("GET", "/queues/{}/jobs/{}"): Right.JOBS_READ,
    ("GET", "/queues/{}/jobs/{}/logs"): Right.JOBS_READ,
    ("GET", "/queues/{}/jobs/{}/attempts"): Right.JOBS_READ,
    ("GET", "/queues/{}/jobs/{}/result"): Right.JOBS_READ,
    ("GET", "/queues/{}/jobs/{}/flow"): Right.JOBS_READ,
    ("GET", "/queues/{}/search"): Right.JOBS_READ,
    ("POST", "/queues/{}/bulk"): Right.JOBS_MANAGE,
    ("POST", "/queues/{}/jobs/{}/copy"): Right.JOBS_ADD,
    ("DELETE", "/queues/{}/jobs/{}"): Right.JOBS_MANAGE,
    ("POST", "/queues/{}/jobs/{}/retry"): Right.JOBS_MANAGE,
    ("POST", "/queues/{}/jobs/{}/promote"): Right.JOBS_MANAGE,
    ("PUT", "/queues/{}/jobs/{}/data"): Right.JOBS_MANAGE,
    ("PUT", "/queues/{}/jobs/{}/priority"): Right.JOBS_MANAGE,
    ("PUT", "/queues/{}/jobs/{}/delay"): Right.JOBS_MANAGE,
    ("DELETE", "/queues/{}/jobs/{}/logs"): Right.JOBS_MANAGE,
    ("DELETE", "/queues/{}/jobs/{}/children"): Right.JOBS_MANAGE,
    ("POST", "/queues/{}/jobs/{}/detach"): Right.JOBS_MANAGE,
    ("GET", "/queues/{}/deduplication/{}"): Right.JOBS_READ,
    ("DELETE", "/queues/{}/deduplication/{}"): Right.JOBS_MANAGE,
    ("GET", "/queues/{}/priorities"): Right.QUEUES_READ,
    ("POST", "/queues/{}/lease"): Right.JOBS_LEASE,
    ("POST", "/queues/{}/settle"): Right.JOBS_LEASE,
    ("GET", "/queues"): Right.QUEUES_READ,
    ("GET", "/queues/{}"): Right.QUEUES_READ,
    ("GET", "/queues/{}/concurrency"): Right.QUEUES_READ,
    ("GET", "/queues/{}/rate-limit"): Right.QUEUES_READ,
    ("GET", "/queues/{}/metrics"): Right.QUEUES_READ,
    **{
        ("POST", f"/queues/{{}}/{action}"): Right.QUEUES_MANAGE
        for action in (
            "pause",
            "resume",
            "drain",
            "clean",
            "obliterate",
            "retry",
            "promote",
            "trim-events",
            "remove-orphans",
        )
    },
    **{
        (method, f"/queues/{{}}/{limit}"): Right.QUEUES_MANAGE
        for method in ("PUT", "DELETE")
        for limit in ("concurrency", "rate-limit", "rate-limit/hold")
    },
    ("GET", "/queues/{}/groups"): Right.QUEUES_READ,
    ("GET", "/queues/{}/groups/{}"): Right.QUEUES_READ,
    ("PUT", "/queues/{}/groups/{}"): Right.QUEUES_MANAGE,
    ("DELETE", "/queues/{}/groups/{}"): Right.QUEUES_MANAGE,
    **{("POST", f"/queues/{{}}/groups/{{}}/{action}"): Right.QUEUES_MANAGE for action in ("pause", "resume", "drain")},
    ("GET", "/schedulers"): Right.SCHEDULERS_READ,
    ("GET", "/queues/{}/schedulers"): Right.SCHEDULERS_READ,
    ("GET", "/queues/{}/schedulers/{}"): Right.SCHEDULERS_READ,
    ("PUT", "/queues/{}/schedulers/{}"): Right.SCHEDULERS_MANAGE,
    ("DELETE", "/queues/{}/schedulers/{}"): Right.SCHEDULERS_MANAGE,
    ("GET", "/queues/{}/events"): Right.EVENTS_READ,
    ("GET", "/events"): Right.EVENTS_READ,
    ("GET", "/workers"): Right.WORKERS_READ,
    ("GET", "/workers/{}"): Right.WORKERS_READ,
    ("GET", "/connections"): Right.WORKERS_READ,
    ("POST", "/workers"): Right.WORKERS_MANAGE,
    ("DELETE", "/workers/{}"): Right.WORKERS_MANAGE,
    ("POST", "/workers/{}/pause"): Right.WORKERS_MANAGE,
    ("POST", "/workers/{}/resume"): Right.WORKERS_MANAGE,
    ("GET", "/metrics"): Right.METRICS_READ,
    ("GET", "/doctor"): Right.METRICS_READ,
    ("GET", "/stats"): Right.QUEUES_READ,
    ("GET", "/audit"): Right.AUDIT_READ,
    ("POST", "/reload"): Right.TARGETS_MANAGE,
    ("POST", "/enqueue"): Right.DELIVERIES_ADD,
    ("POST", "/enqueue/batch"): Right.DELIVERIES_ADD,
    ("GET", "/jobs"): Right.DELIVERIES_READ,
    ("GET", "/jobs/{}"): Right.DELIVERIES_READ,
    ("GET", "/jobs/{}/response"): Right.DELIVERIES_READ,
    ("GET", "/jobs/{}/response/body"): Right.DELIVERIES_READ,
    ("GET", "/jobs/{}/envelope"): Right.DELIVERIES_READ,
    ("GET", "/jobs/{}/envelope/body"): Right.DELIVERIES_READ,
    ("DELETE", "/jobs/{}"): Right.DELIVERIES_MANAGE,
    ("GET", "/targets/{}/dead-letters"): Right.DELIVERIES_READ,
    ("POST", "/targets/{}/dead-letters/replay"): Right.DELIVERIES_MANAGE,
    ("DELETE", "/targets/{}/dead-letters/{}"): Right.DELIVERIES_MANAGE,
    ("GET", "/targets"): Right.TARGETS_READ,
    ("GET", "/targets/{}"): Right.TARGETS_READ,
    ("POST", "/targets/{}/pause"): Right.TARGETS_MANAGE,
    ("POST", "/targets/{}/resume"): Right.TARGETS_MANAGE,
    ("GET", "/upstreams"): Right.JOBS_READ,
    ("GET", "/proxied/{}"): Right.JOBS_READ,
    ("GET", "/proxied/{}/request"): Right.JOBS_READ,
    ("GET", "/proxied/{}/response"): Right.JOBS_READ,
    ("POST", "/proxied/{}/replay"): Right.JOBS_ADD,
    ("DELETE", "/proxied/{}"): Right.JOBS_MANAGE,
    ("WS", "/ws/queues/{}"): None,
    ("WS", "/ws/queues/{}/events"): Right.EVENTS_READ,
    ("WS", "/ws/queues/{}/process/{}"): Right.JOBS_LEASE,
    ("WS", "/ws/targets/{}/listen/{}"): Right.DELIVERIES_MANAGE,
}
COMMANDS: dict[str, tuple[Right, list[Any]]] = {
    "add": (Right.JOBS_ADD, ["work", {}]),
    "pause": (Right.QUEUES_MANAGE, []),
    "resume": (Right.QUEUES_MANAGE, []),
    "getJobs": (Right.JOBS_READ, ["waiting"]),
    "getJobCounts": (Right.QUEUES_READ, []),
    "getJobLogs": (Right.JOBS_READ, ["1"]),
    "getWorkers": (Right.QUEUES_READ, []),
}
OPEN = {"/", "/health", "/ready", "/openapi.json", "/docs"}


def table() -> tuple[list[Route], list[SocketRoute]]:
    """Every route of an instance."""

    app = create_app(Settings(targets=(TargetSpec(name="billing", url="http://billing.example"),)))
    plain = [route for route in app.routes if isinstance(route, Route)]
    return plain, [route for route in app.routes if isinstance(route, SocketRoute)]


def proxied() -> list[Route]:
    """The routes that an instance with upstreams has beside those. They are tried on a real one among its own tests."""
    policy = ProxyPolicy(upstreams=(Upstream(prefix="/api", url="http://upstream.example"),))
    return RequestRoutes(policy, RequestServices(*[None] * 5)).routes()  # type: ignore[arg-type]


ROUTES, SOCKETS = table()
PROXIED = proxied()
LOCKED = [route for route in ROUTES if route.access is Access.LOCK]
NEEDING = [route for route in ROUTES if route.access is Access.TOKEN]


def named(route: Route | SocketRoute) -> tuple[str, str]:
    """A route's method (WS for a socket) and path without the names of placeholders."""
    method = "WS" if isinstance(route, SocketRoute) else route.method
    return method, re.sub(r"\{\w+\}", "{}", route.path)


def shown(route: Route | SocketRoute) -> str:
    return " ".join(named(route))


def path_of(route: Route | SocketRoute, queue: str, delivery: str = "1") -> str:
    """A path of this route, also where it names a target; every other placeholder but that of a delivery is 1."""
    named_one = route.path.replace("{queue}", queue).replace("{target}", queue).replace("{job}", delivery)
    return re.sub(r"\{\w+\}", "1", named_one)


class TestTheTable:
    """What the routes declare."""

    @pytest.mark.parametrize("route", [*NEEDING, *PROXIED, *SOCKETS], ids=shown)
    def test_every_route_needs_the_right_that_it_should(self, route: Route | SocketRoute) -> None:
        assert named(route) in EXPECTED, "say in EXPECTED which right this route should need"
        assert route.right is EXPECTED[named(route)]

    @pytest.mark.parametrize("route", NEEDING, ids=shown)
    def test_a_route_for_token_holders_needs_a_right(self, route: Route) -> None:
        # One tells callers of their own token; the other one's tools make requests that need rights themselves.
        assert route.right is not None or route.path in {"/whoami", "/mcp"}

    @pytest.mark.parametrize("route", [*NEEDING, *PROXIED, *SOCKETS], ids=shown)
    def test_a_queue_in_a_path_is_called_queue(self, route: Route | SocketRoute) -> None:
        parts = route.path.split("/")
        for before, part in pairwise(parts):
            assert before not in {"queues", "workers"} or not part.startswith("{") or part == "{queue}"

    def test_open_and_lock_routes_are_the_expected_ones(self) -> None:
        for route in ROUTES:
            if route.access is Access.OPEN:
                assert route.path in OPEN
            elif route.access is Access.LOCK:
                assert route.path.startswith("/queues/{queue}/jobs/{id}/")

    def test_every_command_is_in_the_matrix(self) -> None:
        assert set(RIGHTS) == set(get_args(Command))
        tags = {command.__struct_config__.tag: right for command, right in RIGHTS.items()}
        assert tags == {fn: right for fn, (right, _) in COMMANDS.items()}


async def answer(request: Request) -> Response:
    return BytesResponse(b"let in")


async def accept(socket: WebSocket) -> None:
    await socket.serve(socket.close)


def probed(callers: dict[str, Caller]) -> Application:
    """The routes of an instance with nothing behind them, and a token for each caller."""
    grants = [Grant(fingerprint(f"Bearer {name}".encode()), caller) for name, caller in callers.items()]
    clock = FakeClock()

    plain = [
        Route(
            route.path,
            answer,
            method=route.method,
            access=route.access,
            right=route.right,
            own=route.own,
            token_in_url=route.token_in_url,
        )
        for route in [*ROUTES, *PROXIED]
    ]
    sockets = [SocketRoute(route.path, accept, access=route.access, right=route.right) for route in SOCKETS]
    return application([*plain, *sockets], AccessControl(Tokens((), grants, clock), FakeRates(clock)))


async def knock(gateway: Application, route: Route | SocketRoute, queue: str, name: str) -> tuple[int, bytes]:
    """The status (101 for a socket that opens) and the body that a caller gets."""
    headers = [(b"authorization", f"Bearer {name}".encode())]
    asked = scope(route.method, path_of(route, queue), headers=headers)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    if isinstance(route, Route):
        await gateway(asked, Body(), send)
        answered = Answered(sent)
        return answered.status, answered.body

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    await gateway(asked | {"type": "websocket", "subprotocols": []}, receive, send)
    if sent[0]["type"] == "websocket.accept":
        return 101, b""
    return sent[0]["status"], sent[1]["body"]


class TestEveryRightAtEveryRoute:
    """Each right alone at each route, with nothing behind the routes."""

    @pytest.mark.parametrize("route", [*NEEDING, *PROXIED, *SOCKETS], ids=shown)
    async def test_only_a_token_with_the_routes_right_is_let_in(self, route: Route | SocketRoute) -> None:
        gateway = probed({right: Caller(right, frozenset({right}), ["orders"]) for right in Right})
        wanted = EXPECTED[named(route)]
        for right in Right:
            status, body = await knock(gateway, route, "orders", right)
            if wanted in (right, None):
                assert status in {101, 200}, right
            else:
                assert status == 403, right
                assert b"let in" not in body

    @pytest.mark.parametrize("route", [*NEEDING, *PROXIED, *SOCKETS], ids=shown)
    async def test_rights_for_one_queue_open_no_other(self, route: Route | SocketRoute) -> None:
        gateway = probed({"all": Caller("all", frozenset(Right), ["orders"])})
        status, _ = await knock(gateway, route, "invoices", "all")
        assert status == (403 if {"{queue}", "{target}"} & set(route.path.split("/")) else 200)

    @pytest.mark.parametrize("route", [*NEEDING, *PROXIED, *SOCKETS], ids=shown)
    async def test_a_token_that_only_reads_changes_nothing(self, route: Route | SocketRoute) -> None:
        reading = frozenset(right for right in Right if right.endswith(":read"))
        status, _ = await knock(probed({"reader": Caller("reader", reading)}), route, "orders", "reader")
        changes = route.method != "GET" or "/process/" in route.path or "/listen/" in route.path
        changes = changes and route.path != "/mcp"  # what its tools ask is checked as any other request
        assert status == 403 if changes else status in {101, 200}

    @pytest.mark.parametrize("route", [*NEEDING, *PROXIED, *SOCKETS], ids=shown)
    async def test_a_request_without_a_token_is_refused(self, route: Route | SocketRoute) -> None:
        status, _ = await knock(probed({}), route, "orders", "guess")
        assert status == 401


SEEN, UNSEEN = "seen-1", "unseen-1"


@pytest.fixture(scope="module")
def rights_toril(
    request: pytest.FixtureRequest, valkey: ValkeyProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TorilProcess]:
    """A toril that knows a token for each right on `seen-*`, one for all of them, and one that only reads."""
    folder = tmp_path_factory.mktemp("rights")
    tokens = [token(right.replace(":", "-"), [right], ["seen-*"]) for right in Right]
    tokens += [token("all", ["*"], ["seen-*"]), token("reader", ["*:read"])]
    tokens += [token("copier", [Right.JOBS_ADD, Right.JOBS_READ], ["seen-*"])]
    tokens += [token("bodies", [Right.DELIVERIES_READ, Right.PAYLOADS_READ], ["seen-*"])]
    tokens += [token("targets-everywhere", [Right.TARGETS_MANAGE]), token("metrics-everywhere", [Right.METRICS_READ])]
    file = write(folder / "toril.yaml", *tokens)
    nowhere = {"url": f"http://127.0.0.1:{free_port()}/", "retry": {"base": "1h", "max": "1h"}}
    delivery = {
        "targets": {SEEN: nowhere, UNSEEN: nowhere},
        "ledger": {"url": f"sqlite:///{folder}/ledger.sqlite3"},
    }
    file.write_text(file.read_text() + yaml.safe_dump(delivery))
    with TorilProcess(valkey.url, folder / "toril.log", args=["--config", str(file)]) as toril:
        yield toril
        assert toril.complaints() == []


def delivered_to(toril: TorilProcess, target: str) -> str:
    """A delivery to a target that is not there."""
    answer = toril.client.post("/enqueue", json={"target": target})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job_id"])


def secret_of(right: Right) -> str:
    return right.replace(":", "-") + "-secret"


class TestOverTheWire:
    """The same over HTTP and WebSockets."""

    @pytest.mark.parametrize("route", [route for route in NEEDING if route.right is not None], ids=shown)
    def test_a_route_lets_in_its_right_and_refuses_all_others_alike(
        self, rights_toril: TorilProcess, route: Route
    ) -> None:
        for queue in (SEEN, UNSEEN):
            rights_toril.gateway.add(queue, job(), job())
        deliveries = {target: delivered_to(rights_toril, target) for target in (SEEN, UNSEEN)}
        refusals = set()
        for right in Right:
            path = path_of(route, SEEN, deliveries[SEEN]) + ("?queues=" + SEEN if route.path == "/events" else "")
            secret = secret_of(right)
            if route.path in ("/reload", "/doctor") and right is EXPECTED[named(route)]:
                # It concerns all targets and queues: who has the right for some of them only is refused.
                refusals.add(ask(rights_toril.url, secret, route.method, path).text)
                secret = f"{right.partition(':')[0]}-everywhere-secret"
            if route.path.endswith("/copy") and right is EXPECTED[named(route)]:
                # A copy shows what the job holds, so the right to add jobs is not enough.
                refusals.add(ask(rights_toril.url, secret, route.method, path).text)
                secret = "copier-secret"
            if route.path.endswith("/body") and right is EXPECTED[named(route)]:
                # What was sent and what came is for tokens that may read payloads.
                assert ask(rights_toril.url, secret, route.method, path).status_code == 403
                secret = "bodies-secret"
            answer = ask(rights_toril.url, secret, route.method, path)
            if right is EXPECTED[named(route)]:
                assert answer.status_code not in {401, 403}, (right, answer.text)
            else:
                assert answer.status_code == 403, (right, answer.status_code)
                refusals.add(answer.text)
        if {"{queue}", "{target}", "{job}"} & set(route.path.split("/")):
            # One that is there, one that is not, and one that could not be: callers cannot tell them apart.
            for queue in (UNSEEN, "unseen-2", "x", "a:b"):
                path = path_of(route, queue, deliveries.get(queue, queue))
                answer = ask(rights_toril.url, "all-secret", route.method, path)
                assert answer.status_code == 403
                refusals.add(answer.text)
        assert len(refusals) == 1

    @pytest.mark.parametrize("right", list(Right))
    def test_whoami_answers_a_token_with_any_right(self, rights_toril: TorilProcess, right: Right) -> None:
        answer = ask(rights_toril.url, secret_of(right), "GET", "/whoami")
        assert answer.status_code == 200, answer.text
        assert (answer.json()["rights"], answer.json()["doors"]) == ([right], ["queues", "delivery"])

    @pytest.mark.parametrize("route", LOCKED, ids=shown)
    def test_an_api_token_never_replaces_a_lock_token_nor_reveals_that_a_job_exists(
        self, rights_toril: TorilProcess, route: Route
    ) -> None:
        answers = set()
        for queue in (SEEN, UNSEEN, "unseen-2"):
            if queue != "unseen-2":
                rights_toril.gateway.add(queue, job(jobId="job-1"))
            path = path_of(route, queue).replace("/jobs/1/", "/jobs/job-1/")
            body = {"reason": "x"} if path.endswith("/fail") else {}
            for secret in ("guess", "all-secret", "reader-secret", *map(secret_of, Right)):
                answer = ask(rights_toril.url, secret, route.method, path, body)
                answers.add((answer.status_code, answer.text))
        ((status, text),) = answers
        # No worker has these jobs: settling says so, and says the same of a job that does not exist.
        assert status == (401 if route.path.endswith(("/progress", "/logs")) else 409), text

    # Listening needs two rights: tests/journeys/test_listen_target.py.
    @pytest.mark.parametrize("route", [route for route in SOCKETS if "/listen/" not in route.path], ids=shown)
    def test_a_socket_opens_with_its_right_only(self, rights_toril: TorilProcess, route: SocketRoute) -> None:
        rights_toril.gateway.add(UNSEEN, job())
        refusals = set()
        for right in Right:
            if EXPECTED[named(route)] in (right, None):
                with socket_to(rights_toril.url, path_of(route, SEEN), secret_of(right)):
                    continue
            refusals.add(refused(rights_toril, path_of(route, SEEN), secret_of(right)))
        for queue in (UNSEEN, "unseen-2", "x", "a:b"):
            refusals.add(refused(rights_toril, path_of(route, queue), "all-secret"))
        assert refusals == {(403, b"Forbidden")}

    @pytest.mark.parametrize("right", Right)
    def test_each_command_checks_its_own_right(self, rights_toril: TorilProcess, right: Right) -> None:
        with socket_to(rights_toril.url, f"/ws/queues/{SEEN}", secret_of(right)) as socket:
            for fn, (wanted, arguments) in COMMANDS.items():
                answer = socket.command(fn, *arguments)
                if wanted is right:
                    assert "code" not in answer, answer
                else:
                    assert answer == {"message": "Forbidden", "stack": "", "code": "forbidden"}

    def test_lists_show_only_what_the_token_may_see(self, rights_toril: TorilProcess) -> None:
        seen, unseen = "seen-listed", "unseen-listed"
        for queue in (seen, unseen):
            rights_toril.gateway.register(queue, "http://127.0.0.1:4")
            rights_toril.gateway.add(queue, job())
        try:
            for route in NEEDING:
                # /doctor shows the whole instance, for tokens that may see all queues.
                if route.method == "GET" and "{" not in route.path and route.path not in {"/events", "/doctor"}:
                    listed = ask(rights_toril.url, "all-secret", "GET", route.path)
                    assert listed.status_code == 200
                    assert unseen not in listed.text, route.path
            assert seen in ask(rights_toril.url, "all-secret", "GET", "/workers").json()
            assert unseen in rights_toril.client.get("/workers").json()
        finally:
            for queue in (seen, unseen):
                rights_toril.gateway.unregister(queue)

    def test_rights_are_checked_for_queues_named_outside_the_path(self, rights_toril: TorilProcess) -> None:
        url, document = rights_toril.url, worker(UNSEEN, "http://127.0.0.1:4")
        for method, path, body in (
            ("GET", f"/events?queues={UNSEEN}", None),
            ("GET", f"/events?queues={SEEN},{UNSEEN}", None),
            ("POST", "/workers", document),
        ):
            assert ask(url, "all-secret", method, path, body).status_code == 403
        assert UNSEEN not in rights_toril.client.get("/workers").json()

    def test_a_refused_request_writes_nothing(self, rights_toril: TorilProcess, valkey: ValkeyProcess) -> None:
        store, queue = valkey.client(), "seen-untouched"
        rights_toril.gateway.add(queue, job())
        before = {key: store.dump(key) for key in sorted(store.keys(f"bull:{queue}:*"))}
        for route in NEEDING:
            if EXPECTED[named(route)] not in {Right.METRICS_READ, None}:
                answer = ask(rights_toril.url, secret_of(Right.METRICS_READ), route.method, path_of(route, queue))
                assert answer.status_code == 403
        assert {key: store.dump(key) for key in sorted(store.keys(f"bull:{queue}:*"))} == before

    def test_a_token_with_all_rights_may_do_everything(
        self, start_valkey: Callable[..., ValkeyProcess], start_toril: StartToril
    ) -> None:
        toril = start_toril(start_valkey())
        toril.gateway.add("anything", job())
        assert toril.client.get("/workers").status_code == 200


def refused(toril: TorilProcess, path: str, secret: str) -> tuple[int, bytes]:
    """How a handshake is refused."""
    with pytest.raises(InvalidStatus) as caught, socket_to(toril.url, path, secret):
        pass
    return caught.value.response.status_code, bytes(caught.value.response.body)
