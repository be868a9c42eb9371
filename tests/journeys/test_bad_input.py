"""What bad input gets: a 4xx that names the problem in BullMQ Proxy's words, and nothing written."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.support import raw
from tests.support.gateway import TOKEN, worker
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess

MAX_BODY_BYTES = 65_536
AUTH = (("authorization", f"Bearer {TOKEN}"),)
URL = "http://127.0.0.1:4/hook"
JOBS = "/queues/bad-input/jobs"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TorilProcess, redis.Redis]]:
    """A toril on a Valkey that no other program writes to, so that every key can be accounted for."""
    folder: Path = tmp_path_factory.mktemp("bad-input")
    env = {"TORIL_MAX_BODY_BYTES": str(MAX_BODY_BYTES)}
    with (
        ValkeyProcess(folder / "valkey") as valkey,
        TorilProcess(valkey.url, folder / "toril.log", env=env) as toril,
    ):
        toril.gateway.register("registered", URL)
        toril.gateway.unregister("registered")
        yield toril, valkey.client()
        assert toril.complaints() == []


@pytest.fixture
def toril(bench: tuple[TorilProcess, redis.Redis]) -> TorilProcess:
    """The toril of this module."""
    return bench[0]


@pytest.fixture(autouse=True)
def nothing_written(bench: tuple[TorilProcess, redis.Redis], request: pytest.FixtureRequest) -> Iterator[None]:
    """Every key and value in Redis is after the test what it was before, unless the test is marked."""
    before = _everything(bench[1])
    yield
    if "writes" not in request.fixturenames:
        assert _everything(bench[1]) == before


@pytest.fixture
def writes() -> None:
    """Used by tests whose requests are accepted."""


def _everything(store: redis.Redis) -> dict[str, Any]:
    readers: dict[str, Callable[[str], Any]] = {
        "string": store.get,
        "hash": store.hgetall,
        "list": lambda key: store.lrange(key, 0, -1),
        "set": lambda key: sorted(store.smembers(key)),
        "zset": lambda key: store.zrange(key, 0, -1, withscores=True),
        "stream": store.xrange,
    }
    # What toril does by itself at any moment: /ready probes, names of queues, the audit log and statistics.
    keys = [
        key
        for key in store.keys("*")
        if not key.startswith(("toril:writable", "toril:queues", "toril:audit", "toril:stats", "toril:failures"))
    ]
    return {key: readers[store.type(key)](key) for key in keys}


def refused(answer: httpx.Response | raw.RawAnswer, status: int, text: str | None = None) -> None:
    """The answer has this status and (when given) exactly this text, and gives nothing away."""
    code = answer.status_code if isinstance(answer, httpx.Response) else answer.status
    assert code == status, answer.text
    if text is not None:
        assert answer.text == text
    assert answer.text, "it names the problem"
    for leak in ("Traceback", ".py", "site-packages", "/src/"):
        assert leak not in answer.text


def one(**fields: Any) -> list[dict[str, Any]]:
    """A bulk of one job with these fields."""
    return [{"name": "n", "data": 1} | fields]


def with_opts(**opts: Any) -> list[dict[str, Any]]:
    """A bulk of one job with these options."""
    return one(opts=opts)


BACKOFF_TYPE = 'Invalid backoff type {}, must be "fixed" or "exponential" if delay is provided'
OBJECT = "must be a number or an object"

JOB_TABLE: list[tuple[Any, str]] = [
    ({}, "Body must be an array"),
    ("text", "Body must be an array"),
    (17, "Body must be an array"),
    (None, "Body must be an array"),
    ({"name": "n", "data": 1}, "Body must be an array"),
    ([{}], "name is required"),
    ([{"data": 1}], "name is required"),
    ([{"name": "", "data": 1}], "name is required"),
    ([{"name": "n"}], "data is required"),
    (one(extra=1), "Unexpected field: extra"),
    (one(id="7"), "Unexpected field: id"),
    (one(timestamp=1), "Unexpected field: timestamp"),
    (with_opts(repeat={"every": 5}), "Unexpected field: opts.repeat"),
    (with_opts(prevMillis=1), "Unexpected field: opts.prevMillis"),
    (with_opts(parent={"id": "1", "queue": "q"}), "Unexpected field: opts.parent"),
    (with_opts(delay=-1), "Invalid delay -1"),
    (with_opts(delay=1.5), "Invalid delay 1.5"),
    (with_opts(delay="soon"), "Invalid delay soon"),
    (with_opts(delay=True), "Invalid delay true"),
    (with_opts(attempts=-1), "Invalid attempts -1"),
    (with_opts(attempts=2.5), "Invalid attempts 2.5"),
    (with_opts(attempts="3"), "Invalid attempts 3"),
    (with_opts(priority=0), "Invalid priority 0"),
    (with_opts(priority=-3), "Invalid priority -3"),
    (with_opts(priority=1.5), "Invalid priority 1.5"),
    (with_opts(priority="1"), "Invalid priority 1"),
    (with_opts(priority=2_097_153), "Invalid priority 2097153"),
    (with_opts(priority=None), "Invalid priority null"),
    (with_opts(backoff="fast"), f"Invalid backoff fast, {OBJECT}"),
    (with_opts(backoff=True), f"Invalid backoff true, {OBJECT}"),
    (with_opts(backoff={}), f"Invalid backoff {{}}, {OBJECT} with at least the type field"),
    (with_opts(backoff=-1), "Invalid backoff delay -1, must be greater than 0"),
    (with_opts(backoff={"type": "fixed", "spread": 0.5}), "Unexpected field: opts.spread"),
    (with_opts(backoff={"type": "fixed", "jitter": 1.5}), "Jitter should be between 0 and 1"),
    (with_opts(sizeLimit=-1), "Invalid sizeLimit -1"),
    (one(data="x" * 20, opts={"sizeLimit": 20}), "The size of job n exceeds the limit 20 bytes"),
    (with_opts(backoff={"type": "linear", "delay": 5}), BACKOFF_TYPE.format("linear")),
    (with_opts(backoff={"delay": 5}), BACKOFF_TYPE.format("undefined")),
    (with_opts(backoff={"type": "fixed", "delay": "5"}), "Invalid backoff delay 5, must be a number"),
    (with_opts(backoff={"type": "fixed", "delay": None}), "Invalid backoff delay null, must be a number"),
    (
        with_opts(backoff={"type": "exponential", "delay": -5}),
        "Invalid backoff delay -5, must be greater than 0",
    ),
    (with_opts(lifo="yes"), "Invalid lifo yes, must be a boolean"),
    (with_opts(lifo=1), "Invalid lifo 1, must be a boolean"),
    (with_opts(lifo=None), "Invalid lifo null, must be a boolean"),
    (with_opts(jobId=123), "Invalid jobId 123, must be a string"),
    (with_opts(jobId=0), "Invalid jobId 0, must be a string"),
    (with_opts(jobId=True), "Invalid jobId true, must be a string"),
    (with_opts(deduplication={}), "Invalid deduplication.id undefined, must be a string"),
    (with_opts(deduplication={"id": 5}), "Invalid deduplication.id 5, must be a string"),
    (with_opts(deduplication={"id": None}), "Invalid deduplication.id null, must be a string"),
    (with_opts(deduplication={"id": "x", "ttl": "5"}), "Invalid deduplication.ttl 5, must be a number"),
    (with_opts(deduplication={"id": "x", "ttl": -5}), "Invalid deduplication.ttl -5, must be greater than 0"),
    (with_opts(deduplication={"id": "x", "reschedule": True}), "Unexpected field: opts.reschedule"),
    (with_opts(deduplication={"id": "x", "extend": "yes"}), "Invalid deduplication.extend yes, must be a boolean"),
]


@pytest.mark.parametrize(("body", "text"), JOB_TABLE, ids=[json.dumps(body)[:60] for body, _ in JOB_TABLE])
def test_a_bad_job_is_refused_in_bullmq_proxy_s_words(toril: TorilProcess, body: Any, text: str) -> None:
    refused(toril.client.post(JOBS, content=json.dumps(body)), 400, text)


@pytest.mark.parametrize(("body", "text"), JOB_TABLE[5:], ids=[json.dumps(body)[:60] for body, _ in JOB_TABLE[5:]])
def test_one_bad_job_spoils_the_bulk(toril: TorilProcess, body: Any, text: str) -> None:
    good = {"name": "good", "data": {}}
    refused(toril.client.post(JOBS, json=[good, good, *body, good]), 400, text)


@pytest.mark.parametrize(
    "body",
    [
        [1],
        [None],
        ["text"],
        [[]],
        one(name=5),
        one(name=["n"]),
        one(name={"a": 1}),
        one(name="line\nbreak"),
        one(opts=5),
        one(opts="fast"),
        one(opts=[]),
        with_opts(deduplication="key"),
        with_opts(backoff=[]),
        with_opts(delay={"a": 1}),
        with_opts(attempts=[1]),
        with_opts(jobId={"a": 1}),
    ],
    ids=json.dumps,
)
def test_a_wrong_type_is_refused(toril: TorilProcess, body: Any) -> None:
    refused(toril.client.post(JOBS, json=body), 400)


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize(
    ("body", "text"),
    [
        (with_opts(jobId="123"), "Custom Id cannot be integers"),
        (with_opts(jobId="0"), "Custom Id cannot be integers"),
        (with_opts(jobId="-5"), "Custom Id cannot be integers"),
        (with_opts(jobId="a:b"), "Custom Id cannot contain :"),
        (with_opts(jobId="a:b:c:d"), "Custom Id cannot contain :"),
        (with_opts(jobId="NaN"), "Custom Id cannot be integers"),
        (with_opts(jobId="0:2026:42"), "Invalid jobId 0:2026:42, BullMQ drops jobs whose id begins with 0:"),
        (with_opts(priority=2_097_152), "Priority should be between 0 and 2097151"),
        (with_opts(deduplication={"id": ""}), "Deduplication id must be provided"),
    ],
)
def test_bullmq_s_own_refusals_keep_their_words(toril: TorilProcess, body: Any, text: str, bulk: bool) -> None:
    # The original answers 500 here; bad input gets a 4xx from us (issue 2, and the end of the wire file).
    refused(toril.client.post(JOBS, json=one() + body if bulk else body), 400, text)


def endpoint(**fields: Any) -> dict[str, Any]:
    """A worker document whose endpoint has these fields."""
    return {"queue": "bad-input", "endpoint": {"url": URL, "method": "POST"} | fields}


def opts(**fields: Any) -> dict[str, Any]:
    """A worker document with these options."""
    return worker("bad-input", URL) | {"opts": fields}


WORKER_TABLE: list[tuple[Any, str]] = [
    ({}, "queue is required"),
    ({"queue": ""}, "queue is required"),
    ({"queue": "bad-input"}, "endpoint is required"),
    ({"queue": "bad-input", "endpoint": None}, "endpoint is required"),
    ({"queue": "bad-input", "endpoint": {}}, "url is required"),
    ({"queue": "bad-input", "endpoint": {"method": "POST"}}, "url is required"),
    ({"queue": "bad-input", "endpoint": {"url": URL}}, "method is required"),
    (endpoint(url=""), "url is required"),
    (endpoint(method=""), "method is required"),
    (worker("bad-input", URL) | {"extra": 1}, "Invalid field: extra"),
    (endpoint(body="x"), "Invalid field: body"),
    (opts(lockDuration=5), "Invalid field: lockDuration"),
    (opts(connection={}), "Invalid field: connection"),
    (opts(autorun=False), "Invalid field: autorun"),
    (opts(removeOnComplete={"limit": 5}), "Invalid field: removeOnComplete.limit"),
    (opts(removeOnFail={"number": 5}), "Invalid field: removeOnFail.number"),
    (worker("ab", URL), "queue name must be at least 3 characters long"),
    (worker("a" * 101, URL), "queue name must be at most 100 characters long"),
    (endpoint(url="htp://example.com"), "Invalid URL"),
    (endpoint(url="not a url"), "Invalid URL"),
    (endpoint(url="file:///etc/passwd"), "Invalid URL"),
    (endpoint(url="http://"), "Invalid URL"),
    (endpoint(url="http://host:99999/"), "Invalid URL"),
    (endpoint(url="//host/path"), "Invalid URL"),
    (endpoint(method="GET"), "Invalid HTTP method GET"),
    (endpoint(method="DELETE"), "Invalid HTTP method DELETE"),
    (endpoint(method="INVALID"), "Invalid HTTP method INVALID"),
    (endpoint(timeout=-1), "Invalid timeout"),
    (endpoint(timeout=1.5), "Invalid timeout"),
    (endpoint(timeout="3000"), "Invalid timeout"),
    (opts(concurrency=0), "Invalid concurrency"),
    (opts(concurrency=-1), "Invalid concurrency"),
    (opts(concurrency=1.5), "Invalid concurrency"),
    (opts(concurrency="5"), "Invalid concurrency"),
    (opts(maxStalledCount=-1), "Invalid maxStalledCount"),
    (opts(maxStalledCount="1"), "Invalid maxStalledCount"),
    (opts(limiter={"max": 0, "duration": 1000}), "Invalid limiter.max"),
    (opts(limiter={"max": -1, "duration": 1000}), "Invalid limiter.max"),
    (opts(limiter={"duration": 1000}), "Invalid limiter.max"),
    (opts(limiter={}), "Invalid limiter.max"),
    (opts(limiter={"max": 5}), "Invalid limiter.duration"),
    (opts(limiter={"max": 5, "duration": -1}), "Invalid limiter.duration"),
    (opts(limiter={"max": 5, "duration": "1s"}), "Invalid limiter.duration"),
    (opts(removeOnComplete={"count": -1}), "Invalid removeOnComplete.count"),
    (opts(removeOnComplete={"count": 3.5}), "Invalid removeOnComplete.count"),
    (opts(removeOnComplete={"age": -1}), "Invalid removeOnComplete.age"),
    (opts(removeOnComplete={"age": "1"}), "Invalid removeOnComplete.age"),
    (opts(removeOnFail={"count": 3.5}), "Invalid removeOnFail.count"),
    (opts(removeOnFail={"age": -1}), "Invalid removeOnFail.age"),
]


@pytest.mark.parametrize(("body", "text"), WORKER_TABLE, ids=[json.dumps(body)[:80] for body, _ in WORKER_TABLE])
def test_a_bad_worker_is_refused_in_bullmq_proxy_s_words(toril: TorilProcess, body: Any, text: str) -> None:
    refused(toril.client.post("/workers", json=body), 400, text)


@pytest.mark.parametrize(
    "body",
    [
        [],
        "text",
        5,
        None,
        worker("with:colon", URL),
        worker("line\nbreak", URL),
        worker("nul\0byte", URL),
        {"queue": 12345, "endpoint": {"url": URL, "method": "POST"}},
        {"queue": ["abc"], "endpoint": {"url": URL, "method": "POST"}},
        {"queue": "bad-input", "endpoint": "http://host"},
        {"queue": "bad-input", "endpoint": [URL]},
        endpoint(url=5),
        endpoint(method=5),
        endpoint(headers=5),
        endpoint(headers="x: y"),
        endpoint(headers={"x": {"y": 1}}),
        endpoint(headers={"x": "line\r\nbreak: 1"}),
        endpoint(headers={"bad name": "x"}),
        endpoint(url="http://ho st/"),
        endpoint(url="http://host/\r\nx: y"),
        opts(limiter=5),
        worker("bad-input", URL) | {"opts": 5},
        worker("bad-input", URL) | {"opts": [1]},
    ],
    ids=lambda body: json.dumps(body)[:80],
)
def test_a_worker_that_cannot_run_is_refused(toril: TorilProcess, body: Any) -> None:
    refused(toril.client.post("/workers", content=json.dumps(body)), 400)


MALFORMED = [
    b"",
    b"{",
    b"[",
    b'[{"name": "n", "data": NaN}]',
    b'[{"name": "n", "data": Infinity}]',
    b'[{"name": "n", "data": -Infinity}]',
    b'[{"name": "n", "data": {"deep": [NaN]}}]',
    b'[{"name": "n", "data": 1}] trailing',
    b'[{"name": "n", "data": 01}]',
    b"[{'name': 'n', 'data': 1}]",
    b'[{"name": "n", "data": "\xff\xfe"}]',
    b'[{"name": "n", "data": "line\nbreak"}]',
    b'[{"name": "n", "data": "\\x41"}]',
    b"undefined",
    b"\x00",
    b"name=n&data=1",
]


@pytest.mark.parametrize("body", MALFORMED)
@pytest.mark.parametrize("path", [JOBS, "/workers"])
def test_malformed_json_is_a_plain_400(toril: TorilProcess, path: str, body: bytes) -> None:
    refused(toril.client.post(path, content=body), 400)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_json_nested_without_end_is_refused(toril: TorilProcess, opening: bytes) -> None:
    depth = 9_000
    closing = b"]" if opening == b"[" else b"}"
    body = b'[{"name": "n", "data": %b1%b}]' % (opening * depth, closing * depth)
    assert len(body) <= MAX_BODY_BYTES
    answer = toril.client.post(JOBS, content=body)
    refused(answer, answer.status_code)
    assert 400 <= answer.status_code < 500


class TestSize:
    """Bodies over the limit: 413."""

    def body(self, size: int) -> bytes:
        """A valid bulk of exactly so many bytes."""
        head, tail = b'[{"name": "n", "data": "', b'"}]'
        return head + b"x" * (size - len(head) - len(tail)) + tail

    def test_the_limit_itself_is_accepted(self, toril: TorilProcess, writes: None) -> None:
        answer = toril.client.post(JOBS, content=self.body(MAX_BODY_BYTES))
        assert answer.status_code == 200

    @pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, MAX_BODY_BYTES * 50])
    @pytest.mark.parametrize("path", [JOBS, "/workers"])
    def test_a_declared_length_over_the_limit_is_refused(self, toril: TorilProcess, path: str, size: int) -> None:
        refused(raw.request(toril.port, "POST", path, headers=AUTH, body=self.body(size)), 413)

    @pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, MAX_BODY_BYTES * 50])
    @pytest.mark.parametrize("path", [JOBS, "/workers"])
    def test_a_chunked_body_over_the_limit_is_refused(self, toril: TorilProcess, path: str, size: int) -> None:
        body = self.body(size)
        chunks = [body[start : start + 8192] for start in range(0, size, 8192)]
        sent = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n".encode()
        sent += f"authorization: Bearer {TOKEN}\r\n\r\n".encode()
        sent += b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
        refused(raw.exchange(toril.port, sent), 413)

    def test_a_chunked_body_within_the_limit_is_fine(self, toril: TorilProcess, writes: None) -> None:
        body = self.body(MAX_BODY_BYTES // 2)
        answer = toril.client.post(JOBS, content=iter([body[:100], body[100:]]))
        assert answer.status_code == 200

    def test_progress_and_logs_have_the_limit_too(self, toril: TorilProcess) -> None:
        body = json.dumps("x" * MAX_BODY_BYTES).encode()
        for kind in ("progress", "logs"):
            answer = raw.request(toril.port, "POST", f"{JOBS}/1/{kind}", headers=AUTH, body=body)
            assert answer.status in {401, 413}

    def test_a_huge_request_line_is_refused(self, toril: TorilProcess) -> None:
        answer = raw.request(toril.port, "GET", "/queues/" + "x" * 200_000 + "/jobs", headers=AUTH)
        assert 400 <= answer.status < 500


class TestQueueNames:
    """3 to 100 characters; neither control characters nor ``:``."""

    ROUTES = pytest.mark.parametrize(
        ("method", "rest"), [("POST", "/jobs"), ("GET", "/jobs"), ("GET", "/jobs/1"), ("GET", "/jobs/1/logs")]
    )

    def ask(self, toril: TorilProcess, method: str, path: str) -> raw.RawAnswer:
        """The same harmless request, whatever the route."""
        body = b'[{"name": "n", "data": 1}]' if method == "POST" else None
        return raw.request(toril.port, method, path, headers=AUTH, body=body)

    @ROUTES
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("ab", "queue name must be at least 3 characters long"),
            ("a", "queue name must be at least 3 characters long"),
            ("%61b", "queue name must be at least 3 characters long"),
            ("a" * 101, "queue name must be at most 100 characters long"),
        ],
    )
    def test_a_name_of_the_wrong_length_is_refused(
        self, toril: TorilProcess, method: str, rest: str, name: str, text: str
    ) -> None:
        refused(self.ask(toril, method, f"/queues/{name}{rest}"), 400, text)

    @ROUTES
    @pytest.mark.parametrize("name", ["a:b:c", "abc%3Adef", "abc%00", "a%0Ab%0Dc", "abc%7F", "%1Babc", "abc%C2%85"])
    def test_a_name_that_cannot_be_a_key_is_refused(
        self, toril: TorilProcess, method: str, rest: str, name: str
    ) -> None:
        refused(self.ask(toril, method, f"/queues/{name}{rest}"), 400)

    @ROUTES
    @pytest.mark.parametrize("name", ["abc%", "abc%4", "abc%zz", "%E0%A4%A", "abc%ff", "abc%C3%28", "%ED%A0%80abc"])
    def test_malformed_percent_encoding_is_a_plain_400(
        self, toril: TorilProcess, method: str, rest: str, name: str
    ) -> None:
        refused(self.ask(toril, method, f"/queues/{name}{rest}"), 400)

    @pytest.mark.parametrize("name", ["abc%", "abc%zz", "abc%ff"])
    def test_malformed_percent_encoding_of_other_parts_is_a_plain_400(self, toril: TorilProcess, name: str) -> None:
        refused(self.ask(toril, "GET", f"/queues/fine/jobs/{name}"), 400)
        refused(self.ask(toril, "GET", f"/queues/fine/jobs/{name}/logs"), 400)
        refused(raw.request(toril.port, "DELETE", f"/workers/{name}", headers=AUTH), 400)

    @pytest.mark.parametrize("name", ["abc", "a" * 100, "%C3%BC" * 100, "a%20b"])
    def test_a_name_is_counted_in_characters(self, toril: TorilProcess, writes: None, name: str) -> None:
        assert self.ask(toril, "POST", f"/queues/{name}/jobs").status == 200


class TestPages:
    """``start``, ``length`` and ``statuses``."""

    @pytest.mark.parametrize(
        ("query", "text"),
        [
            ("start=abc", "Invalid start or length"),
            ("length=abc", "Invalid start or length"),
            ("start=NaN", "Invalid start or length"),
            ("start=-1", "Start and length must be positive"),
            ("length=-1", "Start and length must be positive"),
            ("length=101", "Length must be less than or equal to 100"),
            ("statuses=lost", "Invalid status: lost"),
            ("statuses=waiting,lost,found", "Invalid status: lost"),
            ("statuses=Waiting", "Invalid status: Waiting"),
            ("statuses=prioritized", "Invalid status: prioritized"),
            ("statuses=waiting_children", "Invalid status: waiting_children"),
        ],
    )
    def test_a_bad_page_is_refused(self, toril: TorilProcess, query: str, text: str) -> None:
        refused(toril.client.get(f"{JOBS}?{query}"), 400, text)

    @pytest.mark.parametrize("query", ["", "start=", "length=", "statuses=", "other=1", "start=5&length=100"])
    def test_a_good_or_empty_page_is_accepted(self, toril: TorilProcess, query: str) -> None:
        assert toril.client.get(f"{JOBS}?{query}").status_code == 200

    def test_a_start_beyond_every_integer_is_refused_or_an_empty_page(self, toril: TorilProcess) -> None:
        answer = toril.client.get(f"{JOBS}?start=99999999999999999999999")
        assert answer.status_code in {200, 400}
        if answer.status_code == 200:
            assert answer.json()["jobs"] == []


API_ROUTES = [
    ("POST", JOBS),
    ("GET", JOBS),
    ("GET", f"{JOBS}/1"),
    ("GET", f"{JOBS}/1/logs"),
    ("POST", "/workers"),
    ("GET", "/workers"),
    ("DELETE", "/workers/bad-input"),
]


class TestAuthorization:
    """``Authorization: Bearer <token>``, and nothing else."""

    @pytest.mark.parametrize(("method", "path"), API_ROUTES)
    @pytest.mark.parametrize(
        "header",
        [
            None,
            "",
            "Bearer",
            "Bearer ",
            "Bearer wrong",
            f"bearer  {TOKEN}",
            f"BEARER  {TOKEN}",
            f"Bearer  {TOKEN}",
            f"Bearer\t{TOKEN}",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            f"Bearer {TOKEN} {TOKEN}",
            f"Bearer {TOKEN.upper()}",
            f"Basic {TOKEN}",
            f"Token {TOKEN}",
            TOKEN,
            f"Bearer ü{TOKEN}",
        ],
    )
    def test_a_request_without_the_right_token_is_unauthorized(
        self, toril: TorilProcess, method: str, path: str, header: str | None
    ) -> None:
        headers = () if header is None else (("authorization", header),)
        body = b'[{"name": "n", "data": 1}]' if method == "POST" else None
        refused(raw.request(toril.port, method, path, headers=headers, body=body), 401, "Unauthorized")

    @pytest.mark.parametrize(("method", "path"), API_ROUTES)
    def test_a_token_in_the_query_does_not_count(self, toril: TorilProcess, method: str, path: str) -> None:
        refused(raw.request(toril.port, method, f"{path}?token={TOKEN}", body=b"[]"), 401, "Unauthorized")

    def test_the_token_is_asked_for_before_the_body_is_looked_at(self, toril: TorilProcess) -> None:
        refused(raw.request(toril.port, "POST", JOBS, body=b"{"), 401, "Unauthorized")
        refused(raw.request(toril.port, "POST", "/workers", body=b"{"), 401, "Unauthorized")
        refused(raw.request(toril.port, "POST", "/queues/ab/jobs", body=b"[]"), 401, "Unauthorized")
        refused(raw.request(toril.port, "GET", f"{JOBS}?start=x"), 401, "Unauthorized")

    @pytest.mark.parametrize("kind", ["progress", "logs"])
    def test_reports_need_a_lock_token(self, toril: TorilProcess, kind: str) -> None:
        for headers in ((), AUTH, (("authorization", "Bearer x:0"),)):
            answer = raw.request(toril.port, "POST", f"{JOBS}/1/{kind}", headers=headers, body=b"1")
            refused(answer, 401, "Unauthorized")


class TestRoutes:
    """What is not a route is not found, token or no token."""

    @pytest.mark.parametrize("headers", [(), AUTH])
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/nowhere"),
            ("GET", "/queues/abc/nothing"),
            ("GET", "/queues//jobs"),
            ("PUT", JOBS),
            ("PATCH", JOBS),
            ("DELETE", "/workers"),
            ("PUT", "/workers"),
            ("GET", f"{JOBS}/1/progress"),
            ("PUT", f"{JOBS}/1/logs"),
            ("POST", "/"),
            ("POST", "/workers/abc"),
            ("PURGE", JOBS),
        ],
    )
    def test_an_unknown_path_or_a_wrong_method_is_not_found(
        self, toril: TorilProcess, method: str, path: str, headers: tuple[tuple[str, str], ...]
    ) -> None:
        body = b"[]" if method in {"POST", "PUT", "PATCH"} else None
        refused(raw.request(toril.port, method, path, headers=headers, body=body), 404, "Not found")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /workers HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\nconnection: close\r\n\r\n",
        b"POST /workers HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST /workers HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_bytes_that_are_not_http_leave_the_server_working(toril: TorilProcess, sent: bytes) -> None:
    answer = raw.exchange(toril.port, sent, may_hang_up=True)
    assert answer.status == 0 or 400 <= answer.status < 500
    assert toril.status("/health") == 200


def test_a_client_that_hangs_up_in_the_middle_of_its_body_writes_nothing(toril: TorilProcess) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", toril.port)) as connection:
            head = f"POST {JOBS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"
            connection.sendall(head.encode() + b'content-length: 500\r\n\r\n[{"name": "n", "data": 1}]')
    assert toril.status("/health") == 200
