"""Which envelopes are the same: compared decoded, with defaults filled in."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.delivery.rules.enqueue import read_envelope
from toril.delivery.rules.idempotency import fingerprint


def of(envelope: Any) -> bytes:
    text = envelope if isinstance(envelope, bytes) else json.dumps(envelope).encode()
    return fingerprint(read_envelope(text, key="k", max_body_bytes=10**6))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"target":"a","body":{"x":1,"y":[2]}}', b'{ "body" : {"y":[ 2 ],"x":1}, "target":"a" }'),
        ({"target": "a"}, {"target": "a", "method": "POST", "headers": {}, "priority": 0, "labels": {}}),
        ({"target": "a"}, {"target": "a", "delay_ms": 0}),
        ({"target": "a", "headers": {"X-A": "1", "x-b": "2"}}, {"target": "a", "headers": {"x-B": ["2"], "x-a": "1"}}),
        ({"target": "a", "body": 1}, {"target": "a", "body": 1, "headers": {"Content-Type": "application/json"}}),
        ({"target": "a", "deadline": "2027-01-01T00:00:00Z"}, {"target": "a", "deadline": "2027-01-01T01:00:00+01:00"}),
        (b'{"target":"a","body":"\\u0061"}', b'{"target":"a","body":"a"}'),
        ({"target": "a", "group": {"id": 7}}, {"target": "a", "group": {"priority": 0, "id": "7"}}),
        ({"target": "a", "labels": {"x": "1", "y": "2"}}, {"target": "a", "labels": {"y": "2", "x": "1"}}),
    ],
)
def test_differences_in_spelling_do_not_change_the_fingerprint(one: Any, other: Any) -> None:
    assert of(one) == of(other)


@pytest.mark.parametrize(
    "other",
    [
        {"target": "b"},
        {"target": "a", "method": "post"},
        {"target": "a", "path": "/"},
        {"target": "a", "path": "/%41"},
        {"target": "a", "headers": {"x": "1"}},
        {"target": "a", "headers": {"x": ["1", "1"]}},
        {"target": "a", "headers": {"x": ""}},
        {"target": "a", "body": None},
        {"target": "a", "body": ""},
        {"target": "a", "body": 1},
        {"target": "a", "body": "1"},
        {"target": "a", "body": [1]},
        {"target": "a", "body": {"x": [1, 2]}},
        {"target": "a", "body": {"x": [2, 1]}},
        {"target": "a", "body_base64": ""},
        {"target": "a", "body_base64": "MQ=="},
        {"target": "a", "delay_ms": 1},
        {"target": "a", "not_before": "2027-01-01T00:00:00Z"},
        {"target": "a", "deadline": "2027-01-01T00:00:00Z"},
        {"target": "a", "priority": 1},
        {"target": "a", "labels": {"x": "1"}},
        {"target": "a", "group": {"id": "x"}},
        {"target": "a", "group": {"id": "x", "priority": 1}},
        {"target": "a", "group": {"id": "y"}},
    ],
)
def test_every_difference_in_content_changes_the_fingerprint(other: Any) -> None:
    assert of(other) != of({"target": "a"})


def test_envelopes_without_a_group_have_the_fingerprints_that_ledgers_hold() -> None:
    before = "c327c651fb5fd57353df9292b87c03082b5c2a60667ed90efc9fef1ff07e62b7"
    assert of({"target": "a", "path": "/x", "body": {"b": 1}, "labels": {"x": "1"}, "priority": 3}).hex() == before


def test_all_variants_have_different_fingerprints() -> None:
    marks = test_every_difference_in_content_changes_the_fingerprint.pytestmark  # type: ignore[attr-defined]
    envelopes = [{"target": "a"}, *marks[0].args[1]]
    assert len({of(envelope) for envelope in envelopes}) == len(envelopes)


def test_json_that_python_cannot_hold_is_compared_as_text() -> None:
    assert of(b'{"target":"a","body":1e999}') == of(b'{"target":"a","body":1e999}')
    assert of(b'{"target":"a","body":1e999}') != of(b'{"target":"a","body":1e998}')


def inside(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(part) | st.dictionaries(st.text(), part)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), inside, max_leaves=8), st.randoms())
def test_the_order_of_keys_never_makes_a_difference(value: Any, chance: random.Random) -> None:
    def shuffled(part: Any) -> Any:
        if isinstance(part, list):
            return [shuffled(item) for item in part]
        if isinstance(part, dict):
            keys = list(part)
            chance.shuffle(keys)
            return {key: shuffled(part[key]) for key in keys}
        return part

    other = json.dumps(shuffled(value), indent=2).encode()
    assert of({"target": "a", "body": value}) == of(b'{"target":"a","body":' + other + b"}")
