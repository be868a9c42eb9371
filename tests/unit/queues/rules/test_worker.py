import base64
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.json_texts import json_values
from toril.bullmq.rules.queue_name import NameRules
from toril.core.errors import InvalidRequest
from toril.core.stored_job import Keep
from toril.http_client.egress import Egress, EgressPolicy
from toril.queues.rules.worker import (
    MAX_CONCURRENCY,
    Endpoint,
    Limiter,
    WorkerSpec,
    check_origin,
    read_worker,
    shown_worker,
    stored_url,
)

ENDPOINT = {"url": "http://127.0.0.1:3000/charge", "method": "POST"}


def document(**fields: Any) -> dict[str, Any]:
    return {"queue": "orders", "endpoint": ENDPOINT} | fields


def endpoint(**fields: Any) -> dict[str, Any]:
    return document(endpoint=ENDPOINT | fields)


def opts(**fields: Any) -> dict[str, Any]:
    return document(opts=fields)


def without(name: str, part: str | None = None) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(json.dumps(document()))
    del (whole if part is None else whole[part])[name]
    return whole


def read(given: Any) -> WorkerSpec:
    text = given if isinstance(given, bytes) else json.dumps(given, ensure_ascii=False).encode()
    return read_worker(text, NameRules())


def fault_of(given: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(given)
    return caught.value


def test_a_worker_needs_no_more_than_a_queue_and_an_endpoint() -> None:
    assert read(document()) == WorkerSpec("orders", Endpoint("http://127.0.0.1:3000/charge", "POST"))


def test_the_defaults_are_bullmq_proxys() -> None:
    spec = read(document())
    assert spec.endpoint.timeout_s == 3.0
    assert (spec.concurrency, spec.limiter, spec.max_stalled_count) == (1, None, 1)
    assert (spec.keep_completed, spec.keep_failed) == (None, None)


def test_a_whole_document_is_read() -> None:
    spec = read(
        {
            "queue": "größe",
            "endpoint": {
                "url": "https://example.org/a?b=c",
                "method": "put",
                "headers": {"X-One": "1", "authorization": "Basic x"},
                "timeout": 30000,
            },
            "opts": {
                "concurrency": 5,
                "removeOnComplete": {"count": 100, "age": 3600},
                "removeOnFail": {"age": 60},
                "limiter": {"max": 10, "duration": 1000},
                "maxStalledCount": 2,
            },
        }
    )
    assert spec == WorkerSpec(
        "größe",
        Endpoint("https://example.org/a?b=c", "PUT", (("X-One", "1"), ("authorization", "Basic x")), 30.0),
        concurrency=5,
        limiter=Limiter(10, 1000),
        max_stalled_count=2,
        keep_completed=Keep(100, 3600),
        keep_failed=Keep(None, 60),
    )


# wire/bullmq-proxy.md, "Worker validation": each text.
TEXTS = [
    (without("queue"), "queue is required"),
    (document(queue=""), "queue is required"),
    (document(queue=None), "queue is required"),
    (without("endpoint"), "endpoint is required"),
    (document(endpoint=None), "endpoint is required"),
    (without("url", "endpoint"), "url is required"),
    (endpoint(url=""), "url is required"),
    (without("method", "endpoint"), "method is required"),
    (document(extra=1), "Invalid field: extra"),
    (endpoint(body="x"), "Invalid field: body"),
    (opts(connection={}), "Invalid field: connection"),
    (opts(removeOnComplete={"limit": 1}), "Invalid field: removeOnComplete.limit"),
    (opts(removeOnFail={"x": 1}), "Invalid field: removeOnFail.x"),
    (endpoint(url="nonsense"), "Invalid URL"),
    (endpoint(method="GET"), "Invalid HTTP method GET"),
    (endpoint(method="DELETE"), "Invalid HTTP method DELETE"),
    (endpoint(method=5), "Invalid HTTP method 5"),
    (endpoint(timeout=-1), "Invalid timeout"),
    (endpoint(timeout=1.5), "Invalid timeout"),
    (endpoint(timeout="5"), "Invalid timeout"),
    (opts(concurrency=0), "Invalid concurrency"),
    (opts(concurrency=True), "Invalid concurrency"),
    (opts(concurrency=False), "Invalid concurrency"),
    (opts(maxStalledCount=-1), "Invalid maxStalledCount"),
    (opts(maxStalledCount=False), "Invalid maxStalledCount"),
    (opts(maxStalledCount=10**400), "Invalid maxStalledCount"),
    (opts(limiter={}), "Invalid limiter.max"),
    (opts(limiter={"max": 1}), "Invalid limiter.duration"),
    (opts(limiter={"duration": 1}), "Invalid limiter.max"),
    (opts(limiter={"max": 0, "duration": 1}), "Invalid limiter.max"),
    (opts(limiter={"max": 1, "duration": "1s"}), "Invalid limiter.duration"),
    (opts(removeOnComplete={"count": -1}), "Invalid removeOnComplete.count"),
    (opts(removeOnComplete={"age": False}), "Invalid removeOnComplete.age"),
    (opts(removeOnComplete={"age": -1}), "Invalid removeOnComplete.age"),
    (opts(removeOnFail={"count": "5"}), "Invalid removeOnFail.count"),
    (opts(removeOnFail={"age": 0.5}), "Invalid removeOnFail.age"),
]


@pytest.mark.parametrize(("given", "text"), TEXTS, ids=[f"{text}-{number}" for number, (_, text) in enumerate(TEXTS)])
def test_a_fault_is_named_in_bullmq_proxys_words(given: dict[str, Any], text: str) -> None:
    assert fault_of(given).message == text


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (5, "Body must be an object"),
        ([], "Body must be an object"),
        (document(queue=["a"]), 'Invalid queue ["a"], must be a string'),
        (document(queue="ab"), "queue name must be at least 3 characters long"),
        (document(queue="a:b"), "queue name must not contain :"),
        (document(endpoint="http://a"), "Invalid endpoint http://a, must be an object"),
        (document(opts=[]), "Invalid opts [], must be an object"),
        (endpoint(headers=[]), "Invalid headers [], must be an object"),
        (opts(limiter=5), "Invalid limiter 5, must be an object"),
        (opts(limiter=True), "Invalid limiter true, must be an object"),
        (opts(removeOnComplete=True), "Invalid removeOnComplete true, must be an object"),
        (opts(removeOnComplete=5), "Invalid removeOnComplete 5, must be an object"),
        (opts(concurrency=MAX_CONCURRENCY + 1), f"Invalid concurrency, must be at most {MAX_CONCURRENCY}"),
        (b"", "Malformed JSON: Input data was truncated"),
        (b"\xff", "Malformed JSON: not UTF-8 at byte 0"),
    ],
)
def test_a_worker_that_could_not_run_is_refused(given: Any, text: str) -> None:
    assert fault_of(given).message == text


@pytest.mark.parametrize("field", ["removeOnComplete", "removeOnFail", "limiter"])
@pytest.mark.parametrize("value", [False, 0, ""])
def test_an_option_that_javascript_takes_for_false_counts_as_not_there(field: str, value: Any) -> None:
    assert read(opts(**{field: value})) == read(document())


@pytest.mark.parametrize("value", [False, 0, "", None])
def test_options_and_a_timeout_that_javascript_takes_for_false_count_as_not_there(value: Any) -> None:
    assert read(document(opts=value)) == read(endpoint(timeout=value)) == read(document())


def test_keeping_no_jobs_and_allowing_no_stalls_is_accepted() -> None:
    spec = read(opts(removeOnComplete={"count": 0}, removeOnFail={"age": 0}, maxStalledCount=0))
    assert (spec.keep_completed, spec.keep_failed, spec.max_stalled_count) == (Keep(0), Keep(None, 0), 0)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "post", "Put", "pAtCh"])
def test_a_method_is_taken_in_any_case(method: str) -> None:
    assert read(endpoint(method=method)).endpoint.method == method.upper()


@pytest.mark.parametrize("value", [5, 5.0])
def test_a_whole_number_may_be_written_as_a_float(value: float) -> None:
    assert read(opts(concurrency=value)).concurrency == 5


@pytest.mark.parametrize("field", ["concurrency", "removeOnComplete", "removeOnFail", "limiter", "maxStalledCount"])
def test_a_null_option_counts_as_not_there(field: str) -> None:
    assert read(opts(**{field: None})) == read(document())


def test_null_options_headers_and_timeout_count_as_not_there() -> None:
    assert read(document(opts=None)) == read(endpoint(headers=None, timeout=None)) == read(document())


GOOD_URLS = [
    "http://a",
    "http://a/",
    "https://a.example.org:8443/x/y?z=1&w#part",
    "HTTP://A.example",
    "http://127.0.0.1:2",
    "http://[::1]:8080/",
    "http://a:65535/",
    "http://a:/",
    "http://a/%2e%2e/{x}/ü?q=[1]",
    "http://münchen.example/",
    "http://localhost:80?x",
]


@pytest.mark.parametrize("url", GOOD_URLS)
def test_an_absolute_http_url_is_accepted_as_it_is(url: str) -> None:
    assert read(endpoint(url=url)).endpoint.url == url


@pytest.mark.parametrize(
    "url",
    [
        "a",
        "/a",
        "//a",
        "a.example:80",
        "ftp://a/",
        "file:///etc/passwd",
        "javascript:x",
        "unix:///run/x.sock",
        "http://",
        "http:///a",
        "http://:80/",
        "http:a",
        "http://a:0/",
        "http://a:65536/",
        "http://a:-1/",
        "http://a:x/",
        "http://a:80:80/",
        "http://[::1",
        "http://a b/",
        "http://a/ b",
        "http://a\\b/",
        "http://a/\r\nX-Evil: 1",
        "http://a/\nx",
        "http://a/\tx",
        "http://a/\x00",
        " http://a/",
        "http://a/ ",
        "http://a\u2028/",
        "http://a/\u200b\u2029",
        "http://a\u2100b/",
    ],
)
def test_a_url_that_cannot_be_requested_is_refused(url: str) -> None:
    assert fault_of(endpoint(url=url)).message == "Invalid URL"


@pytest.mark.parametrize("port", [1, 22, 25, 53, 110, 6000, 6667, 10080])
def test_a_port_of_another_protocol_is_refused(port: int) -> None:
    registered = read(endpoint(url=f"http://a.example:{port}/")).endpoint
    with pytest.raises(InvalidRequest) as caught:
        check_origin(registered, Egress(EgressPolicy(allow=("b.example",))))
    assert caught.value.message == f"Invalid URL, port {port} belongs to another protocol"
    assert caught.value.field == "endpoint.url"
    check_origin(registered, Egress(EgressPolicy(allow=("a.example",))))


@pytest.mark.parametrize("port", [80, 443, 3000, 6001, 8080, 65535])
def test_other_ports_are_the_callers_choice(port: int) -> None:
    check_origin(read(endpoint(url=f"http://a.example:{port}/")).endpoint, Egress(EgressPolicy()))


@pytest.mark.parametrize(
    ("host", "refusal"),
    [
        ("10.0.0.1:8080", "10.0.0.1 is a private address, refused by the egress policy public"),
        ("[::1]", "::1 is a loopback address, refused by the egress policy public"),
        ("0x7f.1", "0x7f.1 (127.0.0.1) is a loopback address, refused by the egress policy public"),
        (
            "Metadata.google.internal",
            "metadata.google.internal serves cloud metadata, refused by the egress policy public",
        ),
        ("evil.example", "evil.example is refused by the egress deny list"),
    ],
)
def test_a_host_that_egress_refuses_is_refused_with_the_reason(host: str, refusal: str) -> None:
    egress = Egress(EgressPolicy(policy="public", deny=("evil.example",)))
    with pytest.raises(InvalidRequest) as caught:
        check_origin(read(endpoint(url=f"https://{host}/x")).endpoint, egress)
    assert caught.value.message == f"Invalid URL, {refusal}"
    assert caught.value.field == "endpoint.url"


def test_a_name_is_not_judged_by_addresses_when_it_is_registered() -> None:
    check_origin(read(endpoint(url="http://localhost/")).endpoint, Egress(EgressPolicy(policy="public")))


@pytest.mark.parametrize("url", [5, ["http://a"], {"href": "http://a"}, True])
def test_a_url_that_is_no_text_is_refused(url: Any) -> None:
    assert fault_of(endpoint(url=url)).message == "Invalid URL"


@pytest.mark.parametrize("url", ["http://u@a/", "http://u:p@a/", "http://:p@a/", "http://@a/", "http://u:@a/"])
def test_a_url_with_a_user_is_refused_without_repeating_it(url: str) -> None:
    assert fault_of(endpoint(url=url)).message == "Invalid URL, must not contain a user name or password"


@pytest.mark.parametrize("host", ["é..example", "é" * 70, "xn--é.example", ".é", "é.a." + "b" * 64])
def test_a_host_name_that_cannot_be_looked_up_is_refused(host: str) -> None:
    assert fault_of(endpoint(url=f"http://{host}/")).message == "Invalid URL"


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "x\n", "ü", "a\x00", "(a)"])
def test_a_header_name_that_is_no_token_is_refused(name: str) -> None:
    fault = fault_of(endpoint(headers={name: "1"}))
    assert fault.message == f"Invalid header name {name!r}"
    assert fault.field == "endpoint.headers"


def test_a_second_host_is_refused() -> None:
    fault = fault_of(endpoint(headers={"Host": "a", "host": "b"}))
    assert fault.message == "Invalid headers, there is more than one Host"


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "\x00", "a\x7f", "日本", "\u2028", None, ["a"], 10**400])
def test_a_header_value_that_cannot_be_sent_is_refused(value: Any) -> None:
    fault = fault_of(endpoint(headers={"x-a": value}))
    assert fault.message == "Invalid value of header x-a"
    assert fault.field == "endpoint.headers.x-a"


@pytest.mark.parametrize(
    ("value", "text"),
    [(5, "5"), (-1.5, "-1.5"), (2.0, "2"), (1e21, "1e+21"), (0, "0"), (True, "true"), (False, "false")],
)
def test_a_number_or_a_boolean_as_a_header_value_is_sent_as_text(value: Any, text: str) -> None:
    assert read(endpoint(headers={"X-A": value})).endpoint.headers == (("X-A", text),)


@pytest.mark.parametrize("value", ["", "a b\tc", "é", "ÿ", "Bearer x.y.z"])
def test_a_header_value_of_latin_1_is_kept(value: str) -> None:
    assert read(endpoint(headers={"X-A": value})).endpoint.headers == (("X-A", value),)


_near_documents = st.fixed_dictionaries(
    {},
    optional={
        "queue": st.one_of(st.just("orders"), json_values),
        "endpoint": st.one_of(
            st.fixed_dictionaries(
                {"url": st.one_of(st.sampled_from(GOOD_URLS), st.text().map("http://{}".format), json_values)},
                optional={
                    "method": st.one_of(st.just("POST"), json_values),
                    "headers": st.one_of(st.dictionaries(st.text(), st.text()), json_values),
                    "timeout": json_values,
                },
            ),
            json_values,
        ),
        "opts": st.one_of(
            st.dictionaries(
                st.sampled_from(("concurrency", "removeOnComplete", "removeOnFail", "limiter", "maxStalledCount")),
                st.one_of(
                    json_values,
                    st.dictionaries(st.sampled_from(("count", "age", "max", "duration")), json_values),
                ),
            ),
            json_values,
        ),
    },
)


@given(st.one_of(_near_documents, json_values).map(json.dumps).map(str.encode))
@example(b"\xff")
@example(b"[" * 100_000)
@example(b'{"queue":1%b}' % (b"0" * 5000))
def test_any_document_is_read_or_refused(text: bytes) -> None:
    try:
        spec = read_worker(text, NameRules())
    except InvalidRequest:
        return
    assert spec.concurrency >= 1


SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_a_worker_may_have_a_policy() -> None:
    spec = read(document(policy={"fail_on": [410], "signing": {"secrets": [SECRET]}}, opts={"concurrency": 2}))
    assert spec.concurrency == 2
    assert spec.policy is not None
    assert spec.policy.fail_on == {410}
    assert SECRET.removeprefix("whsec_") not in repr(spec)


def test_a_null_or_missing_policy_is_no_policy() -> None:
    assert read(document(policy=None)) == read(document())
    assert read(document()).policy is None


@pytest.mark.parametrize("name", ["webhook-id", "Webhook-Timestamp", "WEBHOOK-SIGNATURE"])
def test_headers_that_signing_sets_cannot_be_registered_with_it(name: str) -> None:
    given = endpoint(headers={name: "mine"})
    assert read(given).endpoint.headers == ((name, "mine"),)
    fault = fault_of(given | {"policy": {"signing": {"secrets": [SECRET]}}})
    assert fault.message == f"Invalid header {name}, signing sets it"


class TestWhatIsShown:
    """What is shown of a worker."""

    DOCUMENT = (
        b'{"queue":"orders","endpoint":{"url":"http://a/","method":"POST","headers":{"authorization":"Bearer s3cret"},'
        b'"timeout":500},"opts":{"concurrency":3},"policy":{"signing":{"secrets":["whsec_%b"]}}}'
        % base64.b64encode(b"s3cret" * 6)
    )

    def test_a_worker_is_shown_without_its_secrets(self) -> None:
        shown = shown_worker("orders", self.DOCUMENT, NameRules(), paused=False)
        headers = {"authorization": "(hidden)"}
        assert shown == {
            "queue": "orders",
            "endpoint": {"url": "http://a/", "method": "POST", "headers": headers, "timeout": 500},
            "opts": {"concurrency": 3},
            "state": "running",
        }

    def test_a_worker_is_shown_as_paused_or_running(self) -> None:
        assert shown_worker("orders", self.DOCUMENT, NameRules(), paused=True)["state"] == "paused"

    def test_a_document_stored_for_another_queue_is_shown_as_invalid(self) -> None:
        shown = shown_worker("invoices", self.DOCUMENT, NameRules(), paused=False)
        assert (shown["state"], shown["reason"]) == (
            "invalid",
            "Invalid queue orders, the document is stored for invoices",
        )

    @pytest.mark.parametrize(
        ("document", "url"),
        [
            (b'{"endpoint":{"url":"ftp://a/"},"opts":5}', "ftp://a/"),
            (b'{"endpoint":{"url":"http://me:s3cret@a/b"}}', "http://(hidden)@a/b"),
            (b'{"endpoint":{"url":"http:me:s3cret@a/b"}}', "http:(hidden)@a/b"),
            (b'{"endpoint":{"url":"http://a:80/b@c//d@e"}}', "http://a:80/b@c//d@e"),
            (b'{"endpoint":{"url":5}}', ""),
            (b'{"endpoint":[]}', ""),
            (b"5", ""),
            (b"{not json", ""),
            (b"\xff", ""),
        ],
    )
    def test_the_url_of_an_invalid_worker_is_shown_without_its_password(self, document: bytes, url: str) -> None:
        assert stored_url(document) == url

    def test_the_reason_why_it_cannot_run_is_shown(self) -> None:
        shown = shown_worker("orders", b'{"queue":"orders"}', NameRules(), paused=False)
        assert (shown["state"], shown["reason"], shown["endpoint"]) == ("invalid", "endpoint is required", None)


def test_the_length_of_the_url_and_headers_is_bounded() -> None:
    url = "http://endpoint.internal/"
    assert read(endpoint(url=url.ljust(16 * 1024, "x"), headers={"a": "b" * 65_531}))
    with pytest.raises(InvalidRequest, match="at most 16384 characters"):
        read(endpoint(url=url.ljust(16 * 1024 + 1, "x")))
    with pytest.raises(InvalidRequest, match="at most 65536 bytes in sum"):
        read(endpoint(headers={"a": "b" * 65_532}))
