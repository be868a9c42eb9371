"""How large bodies are named, and told from others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.blob import fits, owner, reference


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_one_job_s_bodies_share_a_name_only_if_they_are_the_same(one: bytes, other: bytes) -> None:
    first, second = (reference("deliveries", "job-1", "request", body) for body in (one, other))
    assert (first == second) == (one == other)
    assert (first.name == second.name) == (one == other)


def test_names_of_different_jobs_and_parts_differ() -> None:
    names = {
        reference(folder, job_id, part, b"body").name
        for folder in ("deliveries", "proxied")
        for job_id in ("job-1", "job-2")
        for part in ("request", "response")
    }
    assert len(names) == 8


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_a_reference_fits_the_body_that_it_was_made_of(body: bytes, other: bytes) -> None:
    ref = reference("deliveries", "job-1", "request", body)
    assert fits(ref, body)
    assert fits(ref, other) == (body == other)


def test_the_owner_of_a_name_is_the_job() -> None:
    assert owner(reference("deliveries", "01-Ab_c.d", "request", b"").name) == "01-Ab_c.d"


@pytest.mark.parametrize("name", ["", "deliveries", "deliveries/x", "a/b/c/d", "a//c", "/b/c"])
def test_other_names_have_no_owner(name: str) -> None:
    assert owner(name) is None


@pytest.mark.parametrize("bad", ["", "..", ".hidden", "a/b", "ä", "a b", "a\n", "x" * 201, "#1"])
def test_a_name_part_that_a_store_might_refuse_is_refused(bad: str) -> None:
    for parts in ((bad, "job", "request"), ("folder", bad, "request"), ("folder", "job", bad)):
        with pytest.raises(ValueError, match="cannot be part of"):
            reference(*parts, b"")
