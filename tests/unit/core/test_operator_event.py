import json

import pytest

from toril.core.operator_event import OperatorEvent, matches

AT_S = 1_700_000_000.25


def event(subject: str = "billing", at_s: float = AT_S, **data: object) -> OperatorEvent:
    return OperatorEvent("breaker.opened", subject, at_s, data)


def test_the_key_of_an_event_ignores_its_figures_and_differs_between_facts() -> None:
    assert event(failures=3).key == event(failures=4).key
    keys = {event().key, event("email").key, event(at_s=AT_S + 0.001).key}
    assert len(keys) == 3
    assert all(key.isascii() and len(key) < 100 for key in keys)


def test_an_event_has_the_shape_of_standard_webhooks() -> None:
    assert json.loads(event(target="billing").body()) == {
        "type": "breaker.opened",
        "timestamp": "2023-11-14T22:13:20.250Z",
        "data": {"target": "billing"},
    }


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (["*"], True),
        (["breaker.*"], True),
        (["breaker.opened"], True),
        (["breaker.closed", "queue.*"], False),
        ([], False),
    ],
)
def test_types_are_wanted_by_patterns(wanted: list[str], found: bool) -> None:
    assert matches(wanted, "breaker.opened") is found
