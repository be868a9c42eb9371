import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from starlette.responses import Response
from starlette.types import Scope
from structlog.testing import CapturingLoggerFactory, capture_logs

from tests.unit.web.asgi import application, ask, scope
from toril.core.access import ANYBODY, Caller, Right
from toril.core.errors import Forbidden, InvalidRequest
from toril.web.access_control import Access
from toril.web.audit import AuditLog
from toril.web.request import PathParams, Request
from toril.web.routing import Route

SHOP = Caller("shop", frozenset({Right.JOBS_ADD}), ["orders"])


async def nothing(_: Request) -> Response:
    raise AssertionError("no handler is called here")


async def unused(*_: Any) -> Any:
    raise AssertionError("no handler is called here")


def route(method: str, template: str, right: Right | None, access: Access = Access.TOKEN) -> Route:
    return Route(template, nothing, method=method, access=access, right=right)


RETRY = route("POST", "/queues/{queue}/jobs/{id}/retry", Right.JOBS_MANAGE)
ADD = route("POST", "/queues/{queue}/jobs", Right.JOBS_ADD)
COMPLETE = route("POST", "/queues/{queue}/jobs/{id}/complete", None, Access.LOCK)
LEASE = route("POST", "/queues/{queue}/lease", Right.JOBS_LEASE)


def asked(path: str | bytes, of: Route, caller: Caller = SHOP) -> Scope:
    """A request's scope as the router leaves it."""
    made = scope("POST", path) | {"user": caller, "route": of}
    _, found = of.matches(made)
    return made | {"path_params": found.get("path_params", {})}


def lines(path: str | bytes, of: Route, status: int, caller: Caller = SHOP) -> list[Any]:
    with capture_logs() as logs:
        AuditLog().request(asked(path, of, caller), status)
    return list(logs)


def test_a_change_is_one_line_with_who_what_where_and_what_came_of_it() -> None:
    assert lines("/queues/orders/jobs/7/retry", RETRY, 409) == [
        {
            "event": "audit",
            "log_level": "info",
            "caller": "shop",
            "action": "POST /queues/{queue}/jobs/{id}/retry",
            "status": 409,
            "queue": "orders",
            "id": "7",
        }
    ]


@pytest.mark.parametrize(
    ("template", "right", "place"),
    [
        ("/workers", Right.WORKERS_MANAGE, {"queue": "orders"}),
        ("/enqueue", Right.DELIVERIES_ADD, {"target": "orders"}),
        ("/queues/{queue}/copies", Right.JOBS_MANAGE, {"queue": "from"}),
    ],
)
def test_what_is_named_in_the_body_is_in_the_line_also_where_it_is_refused(
    template: str, right: Right, place: dict[str, str]
) -> None:
    made = asked(template.replace("{queue}", "from"), route("POST", template, right))
    with pytest.raises(Forbidden):
        Request(made, unused, unused).demand(right, "orders")
    with capture_logs() as logs:
        AuditLog().request(made, 403)
    assert logs[0].items() >= place.items()
    assert {"queue", "target"} & set(logs[0]) == set(place)


@pytest.mark.parametrize(
    "unchanging",
    [
        route("GET", "/queues/{queue}/jobs", Right.JOBS_READ),
        route("POST", "/", None, Access.OPEN),
    ],
)
def test_requests_that_change_nothing_or_are_open_are_not_audited(unchanging: Route) -> None:
    assert lines("/queues/orders/jobs/7/progress", unchanging, 200) == []


@pytest.mark.parametrize("traffic", [ADD, LEASE, COMPLETE])
@pytest.mark.parametrize(
    ("status", "level"), [(200, "debug"), (400, "debug"), (429, "debug"), (503, "debug"), (401, "info"), (403, "info")]
)
def test_traffic_is_at_debug_unless_it_is_refused(traffic: Route, status: int, level: str) -> None:
    (line,) = lines(traffic.path.replace("{queue}", "orders").replace("{id}", "7"), traffic, status)
    assert line["log_level"] == level


def test_a_refused_caller_may_be_unknown() -> None:
    (line,) = lines("/queues/orders/jobs", ADD, 401, ANYBODY)
    assert (line["caller"], line["status"], line["queue"]) == (None, 401, "orders")


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"a%0Ab", r"'a\nb'"),
        (b"a" * 201, repr("a" * 200)),
        (b"%1B[2J", r"'\x1b[2J'"),
        (b"gr%C3%BCn", "grün"),
        (b"%", ""),
        (b"%ff", ""),
    ],
)
def test_a_callers_text_can_neither_break_a_line_nor_fill_the_log(raw: bytes, shown: str) -> None:
    (line,) = lines(b"/queues/" + raw + b"/jobs", ADD, 403)
    assert line["queue"] == shown


def command(right: Right, status: int) -> list[Any]:
    with capture_logs() as logs:
        AuditLog().command("fn", SHOP, right, "orders", status)
    return list(logs)


def test_commands_that_change_something_are_lines_too() -> None:
    assert command(Right.QUEUES_MANAGE, 200) == [
        {
            "event": "audit",
            "log_level": "info",
            "caller": "shop",
            "action": "socket fn",
            "status": 200,
            "queue": "orders",
        }
    ]
    assert [line["log_level"] for line in command(Right.JOBS_ADD, 200)] == ["debug"]
    assert [line["log_level"] for line in command(Right.JOBS_ADD, 403)] == ["info"]
    assert command(Right.JOBS_READ, 200) == command(Right.QUEUES_READ, 403) == []


@pytest.fixture
def written() -> Iterator[list[Any]]:
    """What is written at level info, as a gateway in service has it."""
    factory = CapturingLoggerFactory()
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=factory,
    )
    yield factory.logger.calls
    structlog.configure(**before)


def test_the_path_of_an_add_is_read_only_if_it_is_logged(written: list[Any]) -> None:
    class Unread(PathParams):
        def __getitem__(self, name: str) -> str:
            raise AssertionError("looked at")

    made = asked("/queues/orders/jobs", ADD)
    AuditLog().request(made | {"path_params": Unread({}, {})}, 200)
    assert written == []
    AuditLog().request(made, 403)
    assert len(written) == 1


async def test_traffic_has_a_line_only_where_it_is_refused(written: list[Any]) -> None:
    async def add(_: Request) -> Response:
        return Response("added")

    async def fail(_: Request) -> Response:
        raise InvalidRequest("no job")

    for handler, headers, status, count in [
        (add, [(b"authorization", b"Bearer secret")], 200, 0),
        (fail, [(b"authorization", b"Bearer secret")], 400, 0),
        (add, [], 401, 1),
    ]:
        app = application([Route("/queues/{queue}/jobs", handler, method="POST", right=Right.JOBS_ADD)])
        answer = await ask(app, scope("POST", "/queues/orders/jobs", headers=headers))
        assert (answer.status, len(written)) == (status, count)
