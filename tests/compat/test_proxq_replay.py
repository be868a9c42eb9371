"""What the client gets (wire/proxq.md, "Replay"): the upstream's answer as it came, and nothing of our own."""

import gzip
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.endpoint import Answer, in_chunks, respond
from tests.support.proxq import Backend, Proxq, StartProxq, answering


@pytest.fixture
def proxq(shared_proxq: StartProxq, backend: Backend) -> Proxq:
    return shared_proxq({"jobsPath": "/my/jobs", "upstreams": [{"prefix": "/", "url": backend.url}]})


def test_headers_come_back_in_order_with_their_repetitions(proxq: Proxq, backend: Backend) -> None:
    headers = [
        ("Set-Cookie", "a=1"),
        ("X-Up", "1"),
        ("Set-Cookie", "b=2"),
        ("Date", "Tue, 01 Jan 2030 00:00:00 GMT"),
        ("Server", "mine"),
        ("X-Request-Id", "req_42"),
        ("Content-Type", "text/x"),
        ("X-Up", "\xe9"),
    ]
    answer = proxq.replayed("GET", backend.path(answering(200, headers, b"body")))
    assert answer.headers == (*((name.lower(), value) for name, value in headers), ("content-length", "4"))


def test_no_header_is_added_to_a_replayed_answer_but_its_length(proxq: Proxq, backend: Backend) -> None:
    answer = proxq.replayed("GET", backend.path(respond(200, "OK", [], b"no type, no date")))
    assert answer.headers == (("content-length", "16"),)


def test_hop_by_hop_headers_of_the_answer_are_not_replayed(proxq: Proxq, backend: Backend) -> None:
    headers = [("Connection", "X-Hop"), ("X-Hop", "1"), ("Keep-Alive", "timeout=5"), ("X-End", "1")]
    answer = proxq.replayed("GET", backend.path(respond(200, "OK", headers, b"x")))
    assert answer.headers == (("x-end", "1"), ("content-length", "1"))


def test_a_compressed_answer_stays_compressed_and_is_not_asked_for(proxq: Proxq, backend: Backend) -> None:
    packed = gzip.compress(b"hello" * 100)
    path = backend.path(respond(200, "OK", [("Content-Encoding", "gzip")], packed))
    answer = proxq.replayed("GET", path, [("Accept-Encoding", "gzip")])
    assert (answer.body, answer.value("content-encoding")) == (packed, "gzip")
    plain = backend.path()
    proxq.replayed("GET", plain)
    assert backend.calls(plain)[0].header("accept-encoding") is None


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_content_have_none(proxq: Proxq, backend: Backend, status: int) -> None:
    head = f'HTTP/1.1 {status} X\r\netag: "1"\r\n\r\n'
    answer = proxq.replayed("GET", backend.path(Answer((head.encode(),))))
    assert (answer.status, answer.body, answer.headers) == (status, b"", (("etag", '"1"'),))


def test_the_answer_to_head_keeps_its_length_and_has_no_body(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(Answer((b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\nx-up: 1\r\n\r\n",)))
    accepted = proxq.send("HEAD", path)
    job_id = (accepted.value("location") or "").rpartition("/")[2]
    proxq.is_in(job_id, "completed")
    head = proxq.content(job_id, "HEAD")
    assert (head.status, head.headers, head.body) == (200, (("content-length", "1234"), ("x-up", "1")), b"")
    fetched = proxq.content(job_id)
    assert (fetched.value("content-length"), fetched.value("x-up"), fetched.body) == ("0", "1", b"")


def test_head_of_a_jobs_content_has_its_headers_and_no_body(proxq: Proxq, backend: Backend) -> None:
    job_id = proxq.submit("GET", backend.path(respond(200, "OK", [("x-up", "1")], b"body")))
    proxq.is_in(job_id, "completed")
    head = proxq.content(job_id, "HEAD")
    assert (head.headers, head.body) == ((("x-up", "1"), ("content-length", "4")), b"")


def test_the_answer_to_head_without_a_length_is_replayed_without_one(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(Answer((b"HTTP/1.1 200 OK\r\nx-a: 1\r\n\r\n",)))
    waited = proxq.send("HEAD", path, [("prefer", "wait=20")])
    assert (waited.status, waited.headers) == (200, (("x-a", "1"),))
    accepted = proxq.send("HEAD", path)
    job_id = (accepted.value("location") or "").rpartition("/")[2]
    proxq.is_in(job_id, "completed")
    assert proxq.content(job_id, "HEAD").headers == (("x-a", "1"),)
    # A GET of it has an empty body, and says so.
    assert proxq.content(job_id).headers == (("x-a", "1"), ("content-length", "0"))


@pytest.mark.parametrize("line", [b"200 Fine by me", b"299 Odd", b"404 R\xe9sum\xe9", b"500 "])
def test_the_reason_phrase_is_the_upstreams(proxq: Proxq, backend: Backend, line: bytes) -> None:
    path = backend.path(Answer((b"HTTP/1.1 %b\r\ncontent-length: 0\r\n\r\n" % line,)))
    job_id = proxq.submit("GET", path)
    proxq.is_in(job_id, "completed")
    with socket.create_connection(("127.0.0.1", proxq.port), timeout=30) as connection:
        connection.sendall(f"GET /my/jobs/{job_id}/content HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert connection.recv(65_536).partition(b"\r\n")[0] == b"HTTP/1.1 " + line


def test_an_answer_in_another_transfer_coding_fails_with_the_reason(proxq: Proxq, backend: Backend) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n"
    job_id = proxq.submit("GET", backend.path(Answer((head, b"3\r\n\x1f\x8b\x08\r\n0\r\n\r\n"))))
    assert "transfer coding gzip, chunked" in proxq.is_in(job_id, "failed")["error"]


def test_a_chunked_answer_is_stored_whole(proxq: Proxq, backend: Backend) -> None:
    answer = proxq.replayed("GET", backend.path(in_chunks([b"one ", b"two ", b"three"], "text/x")))
    assert (answer.body, answer.headers) == (b"one two three", (("content-type", "text/x"), ("content-length", "13")))


def test_an_answer_that_ends_with_its_connection_is_stored_whole(proxq: Proxq, backend: Backend) -> None:
    answer = proxq.replayed("GET", backend.path(Answer((b"HTTP/1.1 200 OK\r\nx-up: 1\r\n\r\nall of it",), "close")))
    assert (answer.body, answer.headers) == (b"all of it", (("x-up", "1"), ("content-length", "9")))


def test_an_informational_response_is_not_taken_for_the_answer(proxq: Proxq, backend: Backend) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    path = backend.path(Answer((early, 0.05, b"HTTP/1.1 201 Made\r\ncontent-length: 1\r\n\r\nx")))
    answer = proxq.replayed("GET", path)
    assert (answer.status, answer.headers) == (201, (("content-length", "1"),))


def test_any_bytes_of_an_answers_body_are_replayed(proxq: Proxq, backend: Backend) -> None:
    body = bytes(range(256)) * 500
    assert proxq.replayed("POST", backend.path(), body=body).body == body


def test_a_redirect_is_replayed_and_not_followed(proxq: Proxq, backend: Backend) -> None:
    elsewhere = backend.path()
    answer = proxq.replayed("POST", backend.path(respond(307, "X", [("location", elsewhere)])), body=b"x")
    assert (answer.status, answer.value("location")) == (307, elsewhere)
    assert backend.calls(elsewhere) == []


_NAMES = st.from_regex(r"x-[a-z0-9]{1,8}", fullmatch=True)
_VALUES = st.text(alphabet=[chr(code) for code in (*range(33, 127), *range(161, 256))], max_size=30)
_HEADERS = st.lists(st.tuples(_NAMES, _VALUES), max_size=8)
_METHODS = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"])
_TARGETS = st.text(alphabet="abcXYZ019-._~!$&'()*+,;=:@/%2F", max_size=20).filter(lambda text: "%" not in text)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=_METHODS,
    rest=_TARGETS,
    query=_TARGETS,
    sent=_HEADERS,
    body=st.one_of(st.none(), st.binary(max_size=200)),
    status=st.integers(200, 599).filter(lambda status: status not in (204, 304)),
    returned=_HEADERS,
    answer=st.binary(max_size=200),
)
def test_random_requests_and_answers_arrive_header_by_header(  # noqa: PLR0917
    proxq: Proxq,
    backend: Backend,
    method: str,
    rest: str,
    query: str,
    sent: list[tuple[str, str]],
    body: bytes | None,
    status: int,
    returned: list[tuple[str, str]],
    answer: bytes,
) -> None:
    path = backend.path(answering(status, returned, answer))
    target = f"{path}/{rest}?{query}"
    got = proxq.replayed(method, target, sent, body)
    (call,) = backend.calls(path)
    framing = [] if body is None else [("content-length", str(len(body)))]
    ours = {"host", "x-forwarded-for", "x-real-ip", "x-forwarded-proto", "x-forwarded-host"}
    assert (call.method, call.target, call.body) == (method, target, body or b"")
    assert [pair for pair in call.headers if pair[0].lower() not in ours] == [*sent, *framing]
    assert (got.status, got.body) == (status, answer)
    assert list(got.headers) == [*returned, ("content-length", str(len(answer)))]
