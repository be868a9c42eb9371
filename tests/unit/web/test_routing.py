import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

from tests.unit.web.asgi import DISCONNECT, Body, request
from toril.core.errors import InvalidRequest, PayloadTooLarge
from toril.web.request import Request
from toril.web.responses import BytesResponse
from toril.web.routing import IndexedRouter, Route


async def handler(_: Request) -> Response:
    return BytesResponse()


def table(*routes: tuple[str, str]) -> IndexedRouter:
    return IndexedRouter([Route(template, handler, method=method) for method, template in routes])


TABLE = table(
    ("GET", "/"),
    ("GET", "/health"),
    ("GET", "/queues/{queue}/jobs"),
    ("POST", "/queues/{queue}/jobs"),
    ("GET", "/queues/{queue}/jobs/{id}"),
    ("GET", "/queues/{queue}/jobs/{id}/logs"),
    ("DELETE", "/workers/{queue}"),
)


def found(method: str, path: bytes) -> str | None:
    route = TABLE.find(method, path)
    return None if route is None else route.path


@pytest.mark.parametrize(
    ("method", "path", "template"),
    [
        ("GET", b"/", "/"),
        ("GET", b"/health", "/health"),
        ("GET", b"/queues/orders/jobs", "/queues/{queue}/jobs"),
        ("POST", b"/queues/orders/jobs", "/queues/{queue}/jobs"),
        ("GET", b"/queues/orders/jobs/1", "/queues/{queue}/jobs/{id}"),
        ("GET", b"/queues/jobs/jobs/logs/logs", "/queues/{queue}/jobs/{id}/logs"),
        ("GET", b"/queues/a%2Fb/jobs", "/queues/{queue}/jobs"),
        ("GET", b"/queues/%/jobs", "/queues/{queue}/jobs"),
        ("DELETE", b"/workers/queues", "/workers/{queue}"),
        ("HEAD", b"/health", "/health"),
    ],
)
def test_a_route_is_found_by_its_raw_path(method: str, path: bytes, template: str) -> None:
    assert found(method, path) == template


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", b""),
        ("GET", b"//"),
        ("GET", b"/health/"),
        ("GET", b"/Health"),
        ("GET", b"/heal%74h"),
        ("POST", b"/health"),
        ("get", b"/health"),
        ("GET", b"/queues//jobs"),
        ("GET", b"/queues/orders/jobs/"),
        ("GET", b"/queues/a/b/jobs"),
        ("GET", b"/queues/orders/jobs/1/logs/2"),
        ("DELETE", b"/workers/"),
        ("DELETE", b"/queues/orders/jobs"),
        ("GET", b"*"),
        ("GET", b"http://a/health"),
    ],
)
def test_an_unknown_path_or_method_matches_no_route(method: str, path: bytes) -> None:
    assert found(method, path) is None


def test_a_fixed_segment_does_not_hide_behind_a_parameter() -> None:
    routes = table(("GET", "/workers/status"), ("GET", "/workers/{queue}"))
    first, second = (routes.find("GET", path) for path in (b"/workers/status", b"/workers/orders"))
    assert first is not None
    assert second is not None
    assert (first.path, second.path) == ("/workers/status", "/workers/{queue}")


@given(st.lists(st.binary(max_size=4), max_size=6))
def test_any_path_matches_one_route_or_none(segments: list[bytes]) -> None:
    segments = b"/".join(segments).split(b"/")
    route = TABLE.find("GET", b"/".join(segments))
    if route is not None:
        assert len(route.path.split("/")) == len(segments)


@pytest.mark.parametrize(
    ("segment", "text"),
    [
        (b"orders", "orders"),
        (b"a%2Fb", "a/b"),
        (b"a%2fb", "a/b"),
        (b"a%20b", "a b"),
        (b"a+b", "a+b"),
        (b"%7Btag%7Dq", "{tag}q"),
        (b"gr%C3%B6%C3%9Fe", "größe"),
        (b"%F0%9F%91%8D", "👍"),
        (b"%2541", "%41"),
        ("größe".encode(), "größe"),
        (b"%00", "\x00"),
    ],
)
def test_a_segment_is_decoded_after_matching(segment: bytes, text: str) -> None:
    assert request(b"/queues/%b/jobs" % segment, template="/queues/{queue}/jobs").queue == text


@pytest.mark.parametrize(
    "segment",
    [
        b"%",
        b"a%",
        b"%4",
        b"%4g",
        b"%g4",
        b"% 4",
        b"%+1",
        b"%-1",
        b"%4%31",
        b"%%",
        b"%C3",
        b"%FF",
        b"%C0%AF",
        b"\xff",
        b"%ED%A0%80",
    ],
)
def test_malformed_percent_encoding_is_refused(segment: bytes) -> None:
    with pytest.raises(InvalidRequest, match="Malformed percent-encoding in the URL"):
        request(b"/queues/%b/jobs" % segment, template="/queues/{queue}/jobs").queue  # noqa: B018 - reading raises


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_percent_encoded_segment_is_decoded_back(text: str) -> None:
    encoded = b"".join(b"%%%02x" % byte for byte in text.encode())
    assert request(b"/%b" % encoded, template="/{queue}").queue == text


@given(st.binary(min_size=1).filter(lambda raw: b"/" not in raw))
def test_any_segment_is_decoded_or_refused(raw: bytes) -> None:
    try:
        text = request(b"/%b" % raw, template="/{queue}").queue
    except InvalidRequest:
        return
    assert text.encode()


@pytest.mark.parametrize(
    ("query", "parsed"),
    [
        (b"", {}),
        (b"start=0&length=10", {"start": "0", "length": "10"}),
        (b"a=1&a=2", {"a": "2"}),
        (b"a=&b", {"a": "", "b": ""}),
        (b"a=b%26c%3Dd", {"a": "b&c=d"}),
        (b"a+b=c+d", {"a b": "c d"}),
        (b"%61=%C3%BC", {"a": "ü"}),
        (b"a=b=c", {"a": "b=c"}),
        (b"&&a=1&", {"a": "1"}),
        ("a=ü".encode(), {"a": "ü"}),
    ],
)
def test_a_query_is_decoded(query: bytes, parsed: dict[str, str]) -> None:
    assert request(query=query).query() == parsed


@pytest.mark.parametrize("query", [b"a=%", b"%=a", b"a=1&b=%4", b"a=%zz", b"a=%FF", b"a=\xff"])
def test_a_malformed_query_is_refused(query: bytes) -> None:
    with pytest.raises(InvalidRequest, match="Malformed percent-encoding in the URL"):
        request(query=query).query()


@pytest.mark.parametrize("pieces", [(b"hello",), (b"he", b"llo"), (b"", b"hello"), (b"h", b"", b"ello", b"")])
async def test_a_body_is_read_whole(pieces: tuple[bytes, ...]) -> None:
    assert await request(body=Body(*pieces)).body(5) == b"hello"


async def test_a_request_without_a_body_has_an_empty_one() -> None:
    assert await request().body(0) == b""


async def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    body = Body(b"123456")
    with pytest.raises(PayloadTooLarge, match="The body must be at most 5 bytes"):
        await request(headers=[(b"content-length", b"6")], body=body).body(5)
    assert len(body.unread) == 1


@pytest.mark.parametrize("pieces", [(b"123456",), (b"12345", b"6"), (b"1", b"2345", b"6")])
async def test_a_body_that_turns_out_too_large_is_refused(pieces: tuple[bytes, ...]) -> None:
    with pytest.raises(PayloadTooLarge):
        await request(body=Body(*pieces)).body(5)


@pytest.mark.parametrize("before", [(), (b"12345",), (b"1", b"2", b"345")])
async def test_reading_stops_with_the_piece_that_goes_over_the_limit(before: tuple[bytes, ...]) -> None:
    """Whoever sends too much, and then nothing more, gets the answer all the same."""
    body = Body(*before, b"123456", b"never read")
    with pytest.raises(PayloadTooLarge):
        await request(body=body).body(5)
    assert [piece["body"] for piece in body.unread] == [b"never read"]


async def test_a_body_of_just_the_limit_is_read() -> None:
    assert await request(headers=[(b"content-length", b"5")], body=Body(b"123", b"45")).body(5) == b"12345"


@pytest.mark.parametrize("pieces", [(DISCONNECT,), (b"he", DISCONNECT)])
async def test_a_caller_who_hangs_up_sent_no_request(pieces: tuple[bytes | dict[str, str], ...]) -> None:
    body = Body(*pieces)
    if len(body.unread) > 1:
        body.unread[0]["more_body"] = True
    with pytest.raises(InvalidRequest, match="broken off"):
        await request(body=body).body(5)


def test_the_authorization_header_of_a_request_is_available() -> None:
    assert request(headers=[(b"host", b"a"), (b"authorization", b"Bearer x")]).authorization == b"Bearer x"
    assert request().authorization is None
