import json
from http import HTTPStatus

import pytest
from structlog.testing import capture_logs

from toril.core.errors import (
    ConnectionLost,
    Forbidden,
    InvalidRequest,
    JobFailed,
    JobNotFound,
    JobRefused,
    LeaseLost,
    NotFound,
    PayloadTooLarge,
    QueueNotFound,
    RateLimited,
    ShuttingDown,
    StoreError,
    StoreRefused,
    StoreTimeout,
    StoreUnavailable,
    TorilError,
    Unauthorized,
    WorkerNotFound,
    WrongLockToken,
)
from toril.web.problems import problem, unexpected
from toril.web.responses import BytesResponse

SECRET = "Redis at 10.0.0.1 says: hunter2"


def extra(answer: BytesResponse) -> dict[bytes, bytes]:
    """The headers beside those of every response."""
    return {name: value for name, value in answer.raw_headers if name not in {b"content-type", b"content-length"}}


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (InvalidRequest("Body must be an array"), 400, "Body must be an array"),
        (InvalidRequest("Unexpected field: ü\ud800"), 400, "Unexpected field: ü?"),
        (Unauthorized(), 401, "Unauthorized"),
        (NotFound(), 404, "Not found"),
        (JobNotFound(), 404, "Job not found"),
        (WorkerNotFound(), 404, "Worker not found"),
        (LeaseLost("gone"), 409, "gone"),
        (PayloadTooLarge("too much"), 413, "too much"),
    ],
)
def test_a_fault_of_the_callers_is_told_in_plain_text(error: TorilError, status: int, text: str) -> None:
    answer = problem(error)
    assert (answer.status_code, answer.body.decode()) == (status, text)
    assert answer.content_type == b"text/plain;charset=utf-8"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (StoreUnavailable(SECRET), "Redis is not available, try again"),
        (ConnectionLost(SECRET), "Redis did not answer, so whether anything was written is unknown"),
        (StoreTimeout(SECRET), "Redis did not answer, so whether anything was written is unknown"),
    ],
)
def test_a_store_that_is_away_is_a_503_to_try_again(error: TorilError, text: str) -> None:
    with capture_logs() as logs:
        answer = problem(error)
    assert (answer.status_code, answer.body) == (503, text.encode())
    assert extra(answer) == {b"retry-after": b"1", b"toril-code": b"store_unavailable"}
    assert [line["error"] for line in logs] == [SECRET]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreRefused(SECRET), b"store_refused"),
        (StoreError(SECRET), b"store_error"),
        (TorilError(SECRET), b"internal_error"),
    ],
)
def test_a_fault_of_ours_is_told_by_its_code_only(error: TorilError, code: bytes) -> None:
    with capture_logs() as logs:
        answer = problem(error)
    assert (answer.status_code, answer.body) == (500, b"Internal error: " + code)
    assert [(line["log_level"], line["error"]) for line in logs] == [("error", SECRET)]


def test_while_shutting_down_the_connection_is_closed() -> None:
    answer = problem(ShuttingDown())
    assert answer.status_code == 503
    assert extra(answer) == {
        b"retry-after": b"1",
        b"connection": b"close",
        b"toril-code": b"shutting_down",
    }


def test_a_body_that_was_not_read_closes_the_connection() -> None:
    assert extra(problem(PayloadTooLarge())) == {b"connection": b"close", b"toril-code": b"payload_too_large"}


def test_a_crash_is_logged_and_not_shown() -> None:
    error = ZeroDivisionError(SECRET)
    with capture_logs() as logs:
        answer = unexpected(error)
    assert (answer.status_code, answer.body) == (500, b"Internal error")
    assert [(line["event"], line["exc_info"]) for line in logs] == [("request.crashed", error)]


@pytest.mark.parametrize(
    ("error", "more"),
    [
        (InvalidRequest("Invalid wait", field="wait"), {"field": "wait"}),
        (InvalidRequest("Malformed JSON"), {}),
        (JobRefused("Job 1 is active", state="active"), {"state": "active"}),
        (LeaseLost(state="completed"), {"state": "completed"}),
        (JobFailed("unlucky"), {"failedReason": "unlucky"}),
        (JobFailed(), {"failedReason": ""}),
        (Forbidden(), {}),
        (WrongLockToken(), {}),
        (QueueNotFound(), {}),
    ],
)
def test_on_our_own_routes_it_is_problem_details(error: TorilError, more: dict[str, str]) -> None:
    answer = problem(error, own=True)
    assert answer.content_type == b"application/problem+json"
    assert (
        json.loads(answer.body)
        == {
            "type": "about:blank",
            "title": HTTPStatus(error.status).phrase,
            "status": error.status,
            "code": error.code,
            "detail": error.message,
        }
        | more
    )
    assert (b"toril-code", error.code.encode()) in answer.raw_headers


def test_problem_details_tell_no_secret_either() -> None:
    for error in (StoreUnavailable(SECRET), StoreRefused(SECRET)):
        with capture_logs():
            answer = problem(error, own=True)
        assert SECRET.encode() not in answer.body
        assert json.loads(answer.body)["code"] == error.code
    with capture_logs():
        assert json.loads(unexpected(ZeroDivisionError(), own=True).body)["code"] == "internal_error"


def test_a_limited_caller_hears_when_to_come_back() -> None:
    answer = problem(RateLimited(retry_after_s=1.2))
    assert (answer.status_code, dict(answer.raw_headers)[b"retry-after"]) == (429, b"2")
