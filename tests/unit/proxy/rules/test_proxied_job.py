"""Ids of proxied jobs, and the JSON that callers see of them."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.proxy.rules.proxied_job import ProxiedJob, candidates, is_owned_by, job_name, new_id

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@given(st.binary(min_size=16, max_size=16), st.sampled_from(["default/", "default/api", "a/b"]))
def test_an_id_is_a_uuid_that_says_which_queue(chance: bytes, queue: str) -> None:
    job_id = new_id(chance, queue)
    assert UUID4.fullmatch(job_id)
    assert candidates(job_id, ["other/x", queue]) == [queue]


@given(st.sets(st.binary(min_size=16, max_size=16), max_size=50))
def test_ids_differ_by_their_random_part(chances: set[bytes]) -> None:
    # All but 22 of the 128 bits are left to chance: version, variant, and the queue's sixteen.
    ids = {new_id(chance, "q/") for chance in chances}
    assert len(ids) <= len(chances)
    assert len({new_id(bytes([number]) * 16, "q/") for number in range(256)}) == 256


@pytest.mark.parametrize(
    "job_id",
    ["", "1", "wait", "../x", "0c14571f-6b02-181f-b436-68ea6f730bbe", "0C14571F-6B02-481F-B436-68EA6F730BBE"],
)
def test_an_invalid_id_has_no_candidate_queue(job_id: str) -> None:
    assert candidates(job_id, ["default/"]) == []


def job(**given: object) -> ProxiedJob:
    return ProxiedJob(**({"id": "1", "queue": "q/", "status": "queued"} | given))  # type: ignore[arg-type]


def test_a_job_says_no_more_than_proxqs_do() -> None:
    assert json.loads(job().as_json()) == {"id": "1", "status": "queued"}
    assert json.loads(job(status="running", error="an earlier attempt's").as_json()) == {"id": "1", "status": "running"}
    completed = job(status="completed", finished_at_ms=1_795_578_134_999, error="an earlier attempt's")
    assert json.loads(completed.as_json()) == {"id": "1", "status": "completed", "completedAt": "2026-11-25T03:42:14Z"}
    assert json.loads(job(status="failed", error="why").as_json()) == {"id": "1", "status": "failed", "error": "why"}
    assert json.loads(job(status="failed").as_json())["error"]


def test_a_job_is_forgotten_to_the_millisecond() -> None:
    ended = job(status="failed", finished_at_ms=10_000)
    assert [ended.gone(now_s, 0.5) for now_s in (10.0, 10.499, 10.5, 99.0)] == [False, False, True, True]
    assert not job().gone(1e12, 0.5)


def test_an_owner_is_matched_by_the_whole_word() -> None:
    name = job_name("POST", b"/v1/x?secret=1", "abc")
    assert name == "POST /v1/x by abc"
    assert is_owned_by(name, "abc")
    assert not is_owned_by(name, "bc")
    assert not is_owned_by(name, "")
    assert not is_owned_by(job_name("POST", b"/by", ""), "abc")
