import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.errors import InvalidRequest
from toril.core.lease import Lease
from toril.core.stored_job import read_options
from toril.core.verdict import Complete, Fail, Retry
from toril.queues.rules.pull import (
    MAX_SETTLED,
    Extended,
    Failed,
    Finished,
    LeaseRequest,
    Released,
    id_of,
    read_action,
    read_batch,
    read_item,
    read_lease_request,
)


def held(attempts: int = 3, made: int = 0) -> Lease:
    options = read_options(b'{"attempts":%d,"backoff":{"type":"fixed","delay":5000}}' % attempts)
    return Lease(queue="orders", job_id=b"1", token=b"t", fields={}, options=options, attempts_made=made)


def no_chance() -> float:
    return 0.0


def test_an_empty_ask_is_one_job_at_once_for_thirty_seconds() -> None:
    assert read_lease_request(b"") == read_lease_request(b"{}") == LeaseRequest(1, 0, 30_000, None)


def test_a_result_completes_digit_for_digit() -> None:
    action = read_action("complete", b'{"returnvalue": {"n": 1.10}}')
    assert isinstance(action, Finished)
    assert action.verdict(held(), no_chance) == Complete(b'{"n": 1.10}')
    assert read_action("complete", b"").verdict(held(), no_chance) == Complete(b"null")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("said", "made", "kind", "after_ms"),
    [
        ({"reason": "no"}, 0, Retry, 5000),
        ({"reason": "no"}, 2, Fail, None),
        ({"reason": "no", "retry_in_ms": 7}, 0, Retry, 7),
        ({"reason": "no", "retry_in_ms": 7}, 2, Fail, None),
        ({"reason": "no", "unrecoverable": True, "retry_in_ms": 7}, 0, Fail, None),
    ],
)
def test_a_failure_is_judged_as_for_every_worker(
    said: dict[str, Any], made: int, kind: type[Retry | Fail], after_ms: int | None
) -> None:
    action = read_action("fail", json.dumps(said).encode())
    assert isinstance(action, Failed)
    verdict = action.verdict(held(made=made), no_chance)
    assert isinstance(verdict, kind)
    assert verdict.reason == "no"
    assert getattr(verdict, "after_ms", None) == after_ms


def test_a_batch_item_holds_its_action_and_the_actions_fields() -> None:
    item = b'{"id":"7","token":"t","action":"extend","lock_ms":5000}'
    assert read_item(item) == ("7", b"t", Extended(5000))
    assert read_item(b'{"id":"7","token":"t","action":"release"}') == ("7", b"t", Released())


@pytest.mark.parametrize(
    "item",
    [
        b"7",
        b"{}",
        b'{"id":7,"token":"t","action":"release"}',
        b'{"id":"7","action":"release"}',
        b'{"id":"7","token":"t","action":"drop"}',
        b'{"id":"7","token":"t","action":"release","more":1}',
        b'{"id":"7","token":"t","action":"fail"}',
    ],
)
def test_an_invalid_item_is_refused(item: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_item(item)


def test_a_body_cannot_choose_another_action() -> None:
    assert read_action("release", b'{"action":"complete"}') == Released()


@given(st.binary(max_size=60))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    for read in (read_lease_request, read_batch, read_item, lambda text: read_action("fail", text)):
        with contextlib.suppress(InvalidRequest):  # and nothing else is raised
            read(body)
    id_of(body)


def test_a_batch_has_a_limit() -> None:
    assert len(read_batch(b'{"jobs":[%b]}' % b",".join([b"1"] * MAX_SETTLED))) == MAX_SETTLED
    with pytest.raises(InvalidRequest, match="At most 1000 jobs"):
        read_batch(b'{"jobs":[%b]}' % b",".join([b"1"] * (MAX_SETTLED + 1)))
