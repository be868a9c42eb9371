"""Which paths lead out of the place that they are joined to, in every spelling that a server reads so."""

import posixpath
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.http.paths import climbs_out, has_dot_segments

UPS = [
    b"..", b"%2e%2e", b"%2E%2e", b".%2e", b"%2E.", b"..;", b"..;x=1", b"%2e%2e;x", b"..%3bx", b"..%20", b"..%00",
    b"..%09", b"..#", b"%2e%2e#x", b"..;#", b"..%23", b"..%3f", b"..%3Fx",
]  # fmt: skip
NO_UPS = [b"...", b"..a", b"a..", b"a;..", b"%252e%252e", b"a", b"..=", b"a#..", b"#..", b"%", b"%2", b"%zz"]


@pytest.mark.parametrize("up", UPS)
@pytest.mark.parametrize(
    "around", [b"/%b", b"/%b/admin", b"/%b/a/b", b"/a/%b/../b", b"//%b/x", b"/a/./%b/%b", b"/%b?q=1"]
)
def test_a_parent_segment_is_found_in_every_spelling(up: bytes, around: bytes) -> None:
    target = around.replace(b"%b", up)
    assert climbs_out(target)
    assert has_dot_segments(target.partition(b"?")[0])


@pytest.mark.parametrize(
    "target",
    [
        b"/..\\admin", b"/..%5cadmin", b"/..%5Cadmin", b"/..%2fadmin", b"/..%2Fadmin", b"/a%2f..%2f..%2fadmin",
        b"/a\\..\\..\\b", b"/a%2fb/../../admin", b"/a/%2e%2e%2f%2e%2e/b", b"/a//../../b", b"/a/%20/../../b",
        b"/;x/../b",
    ],
)  # fmt: skip
def test_encoded_separators_and_backslashes_count_as_the_reading_that_leads_further_up(target: bytes) -> None:
    assert climbs_out(target)


@pytest.mark.parametrize(
    "target",
    [
        b"/", b"/a/../b", b"/a/b/../../c", b"//a/./b/../c", b"/a%2Fb/../c?d=%20", b"/x?to=/../../y", b"/a;v=1/..",
        b"/./a", b"/a/%2e%2e", b"/files/%2F%2f+;", b"/a/..;x",
    ],
)  # fmt: skip
def test_a_path_that_stays_inside_does_not_climb_out(target: bytes) -> None:
    assert not climbs_out(target)


@pytest.mark.parametrize("segment", NO_UPS)
def test_a_segment_that_only_resembles_a_dot_segment_is_accepted(segment: bytes) -> None:
    assert not climbs_out(b"/" + segment)
    assert not has_dot_segments(b"/a/" + segment)


@pytest.mark.parametrize("here", [b".", b"%2e", b"%2E", b".;x", b"%2e;", b"a%2f.%2fb", b".\\a", b".%20"])
def test_a_single_dot_is_a_dot_segment_that_leads_nowhere(here: bytes) -> None:
    assert has_dot_segments(b"/a/" + here + b"/b")
    assert not climbs_out(b"/" + here)


SEGMENTS = st.lists(st.sampled_from(["a", "bc", "..", ".", "", "%2e%2e", "a%2fb"]), max_size=8)


@given(SEGMENTS)
def test_an_accepted_path_stays_below_its_prefix_decoded_or_not(segments: list[str]) -> None:
    path = "/" + "/".join(segments)
    if not climbs_out(path.encode()):
        for read in (path, unquote(path)):
            assert posixpath.normpath(f"/own{read}").startswith("/own")
