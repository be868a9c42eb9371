import pytest

from toril.cli.dev.prescribed_answer import MAX_DELAY_S, PrescribedAnswer, is_json, read_answer
from toril.core.errors import InvalidRequest


def test_without_a_query_the_inspector_gives_the_default_answer() -> None:
    answer = read_answer({"year": "2026"})
    assert answer == PrescribedAnswer(200, 0.0, None)
    assert answer.content(b"usual") == b"usual"


def test_status_delay_and_body_come_from_the_query() -> None:
    answer = read_answer({"status": "503", "delay": "1m", "body": "müde"})
    assert answer == PrescribedAnswer(503, MAX_DELAY_S, "müde".encode())
    assert answer.content(b"usual") == "müde".encode()


@pytest.mark.parametrize("status", ["204", "205", "304"])
def test_some_statuses_have_no_body(status: str) -> None:
    assert read_answer({"status": status, "body": "x"}).content(b"usual") == b""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("status", "99"), ("status", "101"), ("status", "600"), ("status", "abc"), ("status", ""), ("status", "-200"),
        ("delay", "61s"), ("delay", "1h"), ("delay", "soon"), ("delay", ""), ("delay", "-1s"), ("delay", "300y"),
        ("delay", "99999999999999999h"),
    ],
)  # fmt: skip
def test_an_answer_that_the_inspector_cannot_give_is_refused(field: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_answer({field: value})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("body", "same"), [(b'{"a":1}', True), (b"1", True), (b"<p>", False), (b"", False), (b'"\xff"', False)]
)
def test_a_json_body_is_distinguished_from_text(body: bytes, same: bool) -> None:
    assert is_json(body) is same
