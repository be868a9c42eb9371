import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import CapturingLoggerFactory, capture_logs

from tests.unit.gateway.asgi import request
from toril.core.access import Caller, Right
from toril.gateway.audit import Audit
from toril.gateway.routing import Access, Answer, Request, Route

SHOP = Caller("shop", frozenset({Right.JOBS_ADD}), ["orders"])


async def nothing(_: Request) -> Answer:
    raise NotImplementedError


def route(method: str, template: str, right: Right | None, access: Access = Access.TOKEN) -> Route:
    return Route(method, template, access, nothing, right)


RETRY = route("POST", "/queues/{queue}/jobs/{id}/retry", Right.JOBS_MANAGE)
ADD = route("POST", "/queues/{queue}/jobs", Right.JOBS_ADD)
COMPLETE = route("POST", "/queues/{queue}/jobs/{id}/complete", None, Access.LOCK)
LEASE = route("POST", "/queues/{queue}/lease", Right.JOBS_LEASE)


def asked(path: str | bytes, caller: Caller | None = SHOP) -> Request:
    made = request(path)
    if caller is not None:
        made.caller = caller
    return made


def lines(path: str | bytes, of: Route, status: int, caller: Caller | None = SHOP) -> list[Any]:
    with capture_logs() as logs:
        Audit().request(asked(path, caller), of, status)
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
    "unchanging",
    [
        route("GET", "/queues/{queue}/jobs", Right.JOBS_READ),
        route("POST", "/", None, Access.OPEN),
    ],
)
def test_what_changes_nothing_or_is_open_to_everybody_is_no_line(unchanging: Route) -> None:
    assert lines("/queues/orders/jobs/7/progress", unchanging, 200) == []


@pytest.mark.parametrize("traffic", [ADD, LEASE, COMPLETE])
@pytest.mark.parametrize(
    ("status", "level"), [(200, "debug"), (400, "debug"), (429, "debug"), (503, "debug"), (401, "info"), (403, "info")]
)
def test_traffic_is_at_debug_unless_it_is_refused(traffic: Route, status: int, level: str) -> None:
    (line,) = lines("/queues/orders/jobs/7/x", traffic, status)
    assert line["log_level"] == level


def test_a_refused_caller_may_be_unknown() -> None:
    (line,) = lines("/queues/orders/jobs", ADD, 401, None)
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
def test_what_the_caller_wrote_can_neither_break_a_line_nor_fill_the_log(raw: bytes, shown: str) -> None:
    (line,) = lines(b"/queues/" + raw + b"/jobs", ADD, 403)
    assert line["queue"] == shown


def command(right: Right, status: int) -> list[Any]:
    with capture_logs() as logs:
        Audit().command("fn", SHOP, right, "orders", status)
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


def test_adds_are_not_even_looked_at_where_nobody_wants_to_know(written: list[Any]) -> None:
    class Unread(Request):
        def segment(self, index: int) -> str:
            raise AssertionError("looked at")

    made = asked("/queues/orders/jobs")
    unread = Unread(made.scope, made._receive, made._segments)
    Audit().request(unread, ADD, 200)
    assert written == []
    Audit().request(made, ADD, 403)
    assert len(written) == 1
