from toril.cli.dev.inspected_requests import (
    MAX_BODY_BYTES,
    MAX_BYTES,
    MAX_REQUESTS,
    InspectedRequest,
    InspectedRequests,
)


def request(
    number: int, name: str = "charge", body: bytes = b"{}", target: str = "/inspect/charge"
) -> InspectedRequest:
    return InspectedRequest(
        number, name, 0.0, "POST", target, ((b"a", b"b"),), body, len(body), 200, 0.0, b'{"ok":1}', "application/json"
    )


def kept(numbers: int, **more: bytes) -> InspectedRequests:
    requests = InspectedRequests()
    for _ in range(numbers):
        requests.keep(request(requests.next_number(), **more))  # type: ignore[arg-type]
    return requests


def test_the_newest_requests_come_first() -> None:
    assert [one.number for one in kept(3).last(2)] == [3, 2]


def test_requests_are_selected_by_name_and_number() -> None:
    requests = kept(2)
    requests.keep(request(requests.next_number(), "other"))
    assert [one.number for one in requests.last(9, name="other")] == [3]
    assert [one.number for one in requests.last(9, after=1)] == [3, 2]
    assert [one.number for one in requests.last(9, after=1, before=3)] == [2]
    assert requests.last(9, name="nobody") == []


def test_the_oldest_requests_are_dropped_over_the_count_limit() -> None:
    assert [one.number for one in kept(MAX_REQUESTS + 2).last(MAX_REQUESTS + 9)][-1] == 3


def test_the_oldest_requests_are_dropped_over_the_byte_limit() -> None:
    each = MAX_BODY_BYTES + len("/inspect/charge") + 2 + len('{"ok":1}')
    found = kept(MAX_BYTES // each + 5, body=b"x" * MAX_BODY_BYTES).last(MAX_REQUESTS)
    assert len(found) == MAX_BYTES // each
    assert sum(one.kept_bytes for one in found) <= MAX_BYTES
    assert found[0].number == MAX_BYTES // each + 5


def test_an_inspected_request_is_shown_with_headers_and_body() -> None:
    shown = request(7, body='{"ä":1}'.encode()).shown()
    assert (shown["number"], shown["body"], shown["bodyBytes"]) == (7, '{"ä":1}', 8)
    assert shown["headers"] == [["a", "b"]]
    assert (shown["answer"], shown["answerType"]) == ('{"ok":1}', "application/json")
    assert shown["at"] == "1970-01-01T00:00:00.000Z"


def test_a_body_that_is_no_text_is_shown_in_base64() -> None:
    shown = request(1, body=b"\xff\x00").shown()
    assert "body" not in shown
    assert shown["bodyBase64"] == "/wA="
