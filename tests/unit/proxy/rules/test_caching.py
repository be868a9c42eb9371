"""Which requests are equal, and which answers may be given again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.http.headers import Header
from toril.proxy.rules.caching import MAX_BODY_BYTES, as_hit, as_miss, cache_key, from_record, is_cacheable, to_record
from toril.proxy.rules.envelope import RecordedResponse, decode_response, encode_response
from toril.testing.outbound import answered

NONE: frozenset[bytes] = frozenset()
HEADERS = st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.binary(max_size=4)), max_size=6)


@given(HEADERS, st.randoms(use_true_random=False))
def test_the_order_of_different_names_does_not_matter_that_of_one_names_values_does(headers, chance) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(headers)
    chance.shuffle(shuffled)
    same = all(
        [value for key, value in headers if key == name] == [value for key, value in shuffled if key == name]
        for name in (b"a", b"b", b"c")
    )
    keys = {cache_key(b"GET", b"/", each, b"", NONE) for each in (headers, shuffled)}
    assert (len(keys) == 1) is same


@given(
    st.lists(st.tuples(st.binary(max_size=3), st.binary(max_size=3), HEADERS, st.binary(max_size=3)), unique_by=repr)
)
def test_no_two_different_requests_have_one_key(requests) -> None:  # type: ignore[no-untyped-def]
    canonical = {
        (method, url, tuple(sorted(headers, key=lambda pair: pair[0])), body) for method, url, headers, body in requests
    }
    keys = {cache_key(method, url, headers, body, NONE) for method, url, headers, body in requests}
    assert len(keys) == len(canonical)


@pytest.mark.parametrize(
    "other",
    [
        (b"PUT", b"/a", [(b"a", b"1")], b"body"),
        (b"POST", b"/b", [(b"a", b"1")], b"body"),
        (b"POST", b"/a", [(b"b", b"1")], b"body"),
        (b"POST", b"/a", [(b"a", b"2")], b"body"),
        (b"POST", b"/a", [(b"a", b"1")], b"another"),
    ],
)
def test_each_part_of_a_request_counts(other: tuple[bytes, bytes, list[Header], bytes]) -> None:
    assert cache_key(*other, NONE) != cache_key(b"POST", b"/a", [(b"a", b"1")], b"body", NONE)


def test_excluded_headers_do_not_count_in_any_spelling() -> None:
    excludes = frozenset({b"x-request-id"})
    with_id = cache_key(b"GET", b"/", [(b"X-Request-ID", b"1"), (b"a", b"b")], b"", excludes)
    assert with_id == cache_key(b"GET", b"/", [(b"A", b"b")], b"", excludes)


def test_only_a_2xx_answer_below_the_size_limit_is_cached() -> None:
    assert [is_cacheable(answered(status)) for status in (199, 200, 204, 299, 300, 404, 500)] == [
        False, True, True, True, False, False, False,
    ]  # fmt: skip
    assert not is_cacheable(answered(200, b"x" * (MAX_BODY_BYTES + 1)))


def test_an_upstreams_cache_header_is_replaced() -> None:
    answer = answered(200, b"x", headers=[(b"X-Cache-Status", b"BYPASS"), (b"a", b"1")])
    assert as_hit(answer).headers == [(b"a", b"1"), (b"X-Cache-Status", b"HIT")]
    assert as_miss(answer).headers == [(b"a", b"1"), (b"X-Cache-Status", b"MISS")]


def test_a_cached_answer_reads_back_unchanged() -> None:
    answer = answered(203, b"\xff", reason="Odd", headers=[(b"a", b"1"), (b"a", b"2")])
    again = from_record(decode_response(encode_response(to_record(answer))), answer.duration_s)
    assert again == answer


@pytest.mark.parametrize("status", [300, 404, 599])
def test_a_cached_answer_whose_status_is_not_cacheable_is_refused(status: int) -> None:
    with pytest.raises(ValueError, match="given again"):
        from_record(RecordedResponse(status=status, reason="", headers=[]), 0.0)
