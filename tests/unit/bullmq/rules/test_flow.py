"""What `POST /flows` takes, and what it refuses before anything is written."""

import json
import uuid
from typing import Any

import pytest

from toril.bullmq.rules.flow import read_flows
from toril.core.errors import InvalidRequest


def new_id() -> str:
    return str(uuid.uuid4())


def node(job_id: str | None = None, *children: dict[str, Any], queue: str = "orders", **opts: Any) -> dict[str, Any]:
    """A job of a flow."""
    options = opts | ({} if job_id is None else {"jobId": job_id})
    return {"name": "n", "queueName": queue, "opts": options, "children": list(children)}


def fault(*flows: dict[str, Any]) -> InvalidRequest:
    """What these flows are refused with."""
    with pytest.raises(InvalidRequest) as caught:
        read_flows(json.dumps(list(flows)).encode(), new_id)
    return caught.value


@pytest.mark.parametrize("job_id", ["a:b:c", "repeat:daily:1700000000000", "::"])
@pytest.mark.parametrize("place", ["root", "parent", "leaf", "single"])
def test_an_id_with_a_colon_is_refused_wherever_it_stands(job_id: str, place: str) -> None:
    flow = {
        "root": node(job_id, node()),
        "parent": node("r", node(job_id, node("x"))),
        "leaf": node("r", node("x", node(job_id))),
        "single": node(job_id),
    }[place]
    refused = fault(node("good"), flow)
    assert refused.message == f"Invalid jobId {job_id}, an id in a flow must not contain :"
    assert refused.field == "jobId"


@pytest.mark.parametrize("job_id", ["0:2026:42", "a:b", "5", "NaN", "wait"])
def test_an_id_that_no_job_may_have_is_refused_in_a_flow(job_id: str) -> None:
    assert fault(node("r", node(job_id))).field == "jobId"


def test_a_job_cannot_wait_for_itself_nor_stand_at_two_places() -> None:
    assert "twice" in fault(node("r", node("x", node("r")))).message
    assert "twice" in fault(node("r", node("x"), node("x"))).message
    assert "twice" in fault(node("r", node("x")), node("s", node("x"))).message
    flows, _ = read_flows(json.dumps(node("r", node("r", queue="others"))).encode(), new_id)
    assert [job.queueName for job in flows[0].all()] == ["orders", "others"]


def test_deduplication_is_for_jobs_without_parent_and_children() -> None:
    once = {"id": "once"}
    assert fault(node("r", node("x", deduplication=once))).field == "deduplication"
    assert fault(node("r", node("x"), deduplication=once)).field == "deduplication"
    read_flows(json.dumps(node("r", deduplication=once)).encode(), new_id)


def test_a_failure_does_one_thing_to_the_parent() -> None:
    assert fault(node("r", node("x", failParentOnFailure=True, ignoreDependencyOnFailure=True))).message == (
        "The following options cannot be used together: failParentOnFailure, ignoreDependencyOnFailure"
    )
    read_flows(
        json.dumps(node("r", node("x", failParentOnFailure=True, ignoreDependencyOnFailure=False))).encode(), new_id
    )
