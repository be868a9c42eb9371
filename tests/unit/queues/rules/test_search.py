import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.queues.rules.search import MAX_CONDITIONS, MAX_LENGTH, NotUnderstood, read_search

DATA = {
    "customer": {"id": 42, "plan": "pro", "email": "Ana@Example.org", "vip": True, "note": None},
    "order": {"total": 129.9, "lines": [{"sku": "T-220", "qty": 2}, {"sku": "K-009", "qty": 1}]},
    "tags": ["new", "eu"],
    "number_as_text": "42",
    "odd key": 1,
}
HASH = {
    b"name": b"order-confirmation",
    b"data": json.dumps(DATA).encode(),
    b"opts": b'{"attempts":5,"backoff":{"type":"fixed"}}',
    b"failedReason": b"550 5.1.1 Mailbox unavailable (timeout)",
    b"returnvalue": b"null",
    b"timestamp": b"1795940859000",
    b"finishedOn": b"1795941015204",
    b"atm": b"3",
    b"priority": b"0",
}


def found(text: str, **changed: bytes) -> bool:
    return read_search(text).matches("88213", {**HASH, **{name.encode(): value for name, value in changed.items()}})


@pytest.mark.parametrize(
    "text",
    [
        "id = 88213",
        "name = order-confirmation",
        'name = "order-confirmation"',
        "name ~ CONFIRM",
        "data.customer.id = 42",
        "data.customer.id=42",
        "data.customer.id >= 42 and data.customer.id <= 42",
        "data.customer.id != 41",
        "data.customer.plan = pro",
        "data.customer.vip = true",
        "data.customer.note = null",
        "data.customer.email ~ example.ORG",
        "data.number_as_text = 42",
        'data.number_as_text = "42"',
        "data.order.lines.sku = K-009",
        "data.order.lines[1].sku = K-009",
        "data.order.lines.1.qty < 2",
        "data.tags = eu",
        "data.tags ~ NE",
        "data.order ~ t-220",
        "data.customer exists",
        "exists data.customer.note",
        "data.absent != 3",
        "not data.absent exists",
        "failedReason ~ timeout",
        'failedReason ~ "mailbox unavailable (timeout)"',
        "attemptsMade > 2",
        "attemptsMade = 3",
        "opts.backoff.type = fixed",
        "returnvalue = null",
        "timestamp > 2026-11-29T08:00:00Z",
        'finishedOn <= "2026-11-29T09:30:15.204+01:00"',
        "finishedOn < 1795941015205",
        "data.absent = 1 or data.customer.id = 42",
        "data.absent = 1 or data.customer.id = 42 and name ~ order",
        "(data.absent = 1 or data.customer.id = 42) and name ~ order",
        "NOT (data.absent = 1 OR name = x) AND id = 88213",
        "not not id = 88213",
        'data.customer.email = "Ana@Example.org"',
    ],
)
def test_a_matching_search_finds_the_job(text: str) -> None:
    assert found(text)


@pytest.mark.parametrize(
    "text",
    [
        "id = 8821",
        'data.customer.id = "42"',
        "data.customer.id > 42",
        "data.customer.vip = 1",
        "data.customer.plan < 3",
        "data.customer.email = ana@example.org",
        "data.absent exists",
        "data.absent.deeper exists",
        "data.absent = null",
        "data.customer.id.deeper = 42",
        "data.order.lines[2].sku exists",
        "data.order.lines.sku = T-221",
        "processedOn exists",
        "returnvalue ~ x",
        "(data.customer.id = 42 or id = 1) and name = x",
        "timestamp < 2026-11-29T08:00:00Z",
        "not data.customer.id = 42",
    ],
)
def test_a_search_that_does_not_match_finds_nothing(text: str) -> None:
    assert not found(text)


@pytest.mark.parametrize(
    ("text", "fault", "at"),
    [
        ("", "Expected a condition", 1),
        ("   ", "Expected a condition", 4),
        ("data.customer.id", "Expected an operator behind data.customer.id", 17),
        ("data.customer.id =", "Expected a value behind =", 19),
        ("data.customer.id == 42", "'=' is no value", 19),
        ("data.x = 1 name = 2", "'name' is one too many", 12),
        ("data.x like 1", "'like' is no operator", 8),
        ("(data.x = 1", "Expected a closing parenthesis", 12),
        ("(data.x = 1 name", "A closing parenthesis is missing", 13),
        ("data.x = 1)", "')' is one too many", 11),
        ('name = "open', "A quoted text does not end", 8),
        (r'name = "\q"', "has an escape that JSON does not know", 8),
        ("daat.x = 1", "A job has no daat; did you mean data?", 1),
        ("zzz = 1", "A job has no zzz; paths begin with id, name", 1),
        ("data..x = 1", "The path data..x has an empty part", 1),
        ("data.x > abc", "abc is no number, so > cannot compare with it", 10),
        ("timestamp > yesterday", "neither a number nor a moment", 13),
        ("timestamp > 2026-11-29T08:00:00", "neither a number nor a moment", 13),
        ("name ! x", "'!' has no meaning here", 6),
        ("and = 1", "'and' is no path", 1),
        ("name = x and", "Expected a condition", 13),
        ('"name" = x', "is no path", 1),
    ],
)
def test_a_fault_says_at_which_character_it_stopped(text: str, fault: str, at: int) -> None:
    with pytest.raises(NotUnderstood) as raised:
        read_search(text)
    assert fault in str(raised.value)
    assert str(raised.value).endswith(f"at character {at}")


def test_a_search_is_bounded() -> None:
    with pytest.raises(NotUnderstood, match="at most 2000 characters"):
        read_search("name = " + "x" * MAX_LENGTH)
    read_search(" or ".join(["id = 1"] * MAX_CONDITIONS))
    with pytest.raises(NotUnderstood, match="at most 50 conditions"):
        read_search(" or ".join(["id = 1"] * (MAX_CONDITIONS + 1)))
    with pytest.raises(NotUnderstood, match="nested too deeply"):
        read_search("(" * 900 + "id = 1" + ")" * 900)


def test_only_the_fields_that_are_looked_at_are_asked_for() -> None:
    assert read_search("id = 1").fields == frozenset()
    assert read_search("data.x = 1 or data.y = 2 and attemptsMade > 1").fields == {b"data", b"atm"}


@pytest.mark.parametrize("data", [b"no json", b"\xff\xfe", b"[" * 5000, b"", b"3", b'"text"'])
def test_data_of_any_form_is_no_fault(data: bytes) -> None:
    assert not found("data.customer.id = 42", data=data)
    read_search("data ~ x").matches("1", {b"data": data})


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read_search(text).matches("1", HASH)
    except NotUnderstood as fault:
        at = fault.at
    else:
        at = 0
    assert 0 <= at <= len(text)


_keys = st.text(string.ascii_letters, min_size=1, max_size=5)


@given(st.dictionaries(_keys, st.integers(-(2**53), 2**53) | st.text(max_size=8) | st.booleans(), min_size=1))
def test_each_value_is_found_by_its_own_path(data: dict[str, Any]) -> None:
    stored = {b"data": json.dumps(data).encode()}
    for key, value in data.items():
        assert read_search(f"data.{key} = {json.dumps(value)}").matches("1", stored)
        assert not read_search(f"data.{key} != {json.dumps(value)}").matches("1", stored)
