"""Which upstream a request is for, and what goes past the queue."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.proxy.rules.matching import Bypass, Enqueue, Reason, match, passes_by, stripped
from toril.proxy.rules.upstream import PathFilter, Upstream, queue_name

API = Upstream(prefix="/api", url="http://api:3000")
FILES = Upstream(prefix="/files", url="http://storage:9000/bucket/data/")
ALL = Upstream(prefix="/", url="http://api:3000")
TARGETS = st.text(alphabet="/abc%2F?=;+.~", max_size=30).map(lambda text: b"/" + text.encode())


@pytest.mark.parametrize(
    ("target", "forwarded"),
    [
        (b"/api", b"/"),
        (b"/api?x=1", b"/?x=1"),
        (b"/api/users?page=1", b"/users?page=1"),
        (b"/api/a%2Fb%2f;v=1?q=a+b", b"/a%2Fb%2f;v=1?q=a+b"),
        (b"/api//x/./../y", b"//x/./../y"),
        (b"/api/?", b"/?"),
    ],
)
def test_the_prefix_is_cut_from_the_raw_target(target: bytes, forwarded: bytes) -> None:
    assert match([FILES, API], target, []) == Enqueue(API, forwarded)


@pytest.mark.parametrize("target", [b"/api2", b"/ap", b"/", b"/API/x", b"/x/api", b"/%61pi", b"*"])
def test_other_paths_match_nothing(target: bytes) -> None:
    assert match([API], target, []) is None


def test_the_upstreams_path_is_put_before_it() -> None:
    for target, forwarded in ((b"/files", b"/bucket/data/"), (b"/files?x", b"/bucket/data/?x")):
        found = match([FILES], target, [])
        assert found is not None
        assert found.upstream.forwarded(found.target) == forwarded
    assert (FILES.origin, FILES.host) == ("http://storage:9000", b"storage:9000")


@given(TARGETS)
def test_a_prefix_of_one_slash_takes_every_path_as_it_is(target: bytes) -> None:
    assert match([ALL], target, []) == Enqueue(ALL, target)


@given(st.sampled_from([b"/a", b"/a/b", b"/abc"]), TARGETS)
def test_only_the_prefix_is_cut_off_a_path(prefix: bytes, target: bytes) -> None:
    rest = stripped(prefix, target)
    path = target.partition(b"?")[0]
    assert (rest is not None) == (path == prefix or path.startswith(prefix + b"/"))
    assert rest is None or rest.startswith(b"/")
    assert rest is None or prefix + rest in (target, target.replace(prefix, prefix + b"/", 1))


def test_requests_that_cannot_be_queued_bypass_the_queue() -> None:
    upstream = Upstream(prefix="/", url="http://x", direct_threshold_bytes=10)

    def reason(*headers: tuple[bytes, bytes]) -> Reason | None:
        found = match([upstream], b"/x", headers)
        return found.reason if isinstance(found, Bypass) else None

    assert reason((b"connection", b"keep-alive, Upgrade"), (b"upgrade", b"WebSocket")) is Reason.WEBSOCKET
    assert reason((b"connection", b"upgrade"), (b"upgrade", b"h2c")) is None
    assert reason((b"upgrade", b"websocket")) is None
    assert reason((b"transfer-encoding", b"Chunked")) is Reason.CHUNKED
    assert reason((b"content-length", b"10")) is None
    assert reason((b"content-length", b"11")) is Reason.LARGE
    unlimited = Upstream(prefix="/", url="http://x", direct_threshold_bytes=None)
    assert match([unlimited], b"/x", [(b"content-length", b"99999999999")]) == Enqueue(unlimited, b"/x")


def test_a_filter_searches_the_decoded_path_with_its_prefix_and_without_its_query() -> None:
    black = PathFilter(patterns=(re.compile("^/api/auth"), re.compile("fast$")))
    white = PathFilter(mode="whitelist", patterns=black.patterns)
    for target, found in (
        (b"/api/auth/login", True),
        (b"/api/%61uth", True),
        (b"/api/so-fast", True),
        (b"/api/so-fast?x", True),
        (b"/api/x?y=fast", False),
        (b"/api/x", False),
    ):
        assert passes_by(black, target) is found
        assert passes_by(white, target) is not found


def test_a_filter_without_patterns_lets_nothing_go_past_the_queue() -> None:
    assert not passes_by(PathFilter(), b"/x")
    assert not passes_by(PathFilter(mode="whitelist"), b"/x")


@given(
    st.lists(st.tuples(st.sampled_from(["q", "q/a", "a:b"]), st.sampled_from(["/", "/a", "/a/b", "/x:y"])), unique=True)
)
def test_every_upstream_has_a_separate_queue(upstreams: list[tuple[str, str]]) -> None:
    names = {queue_name(*each) for each in upstreams}
    assert len(names) == len(upstreams)
    assert not any(":" in name for name in names)
