import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.errors import InvalidRequest
from toril.queues.queues import window


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, (0, 10)),
        ({"start": "5"}, (5, 10)),
        ({"length": "0"}, (0, 0)),
        ({"start": "0", "length": "100"}, (0, 100)),
        ({"start": "", "length": ""}, (0, 10)),
    ],
)
def test_a_window_has_a_start_and_a_length(query: dict[str, str], found: tuple[int, int]) -> None:
    assert window(query) == found


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"start": "x"}, "Invalid start or length"),
        ({"length": "1.5"}, "Invalid start or length"),
        ({"start": str(2**53)}, "Invalid start or length"),
        ({"start": "9" * 5000}, "Invalid start or length"),
        ({"start": "-1"}, "Start and length must be positive"),
        ({"length": "-1"}, "Start and length must be positive"),
        ({"length": "101"}, "Length must be less than or equal to 100"),
    ],
)
def test_an_invalid_window_is_refused_in_bullmq_proxys_words(query: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        window(query)
    assert caught.value.message == text


@given(st.text(), st.text())
def test_any_window_is_within_bounds_or_refused(start: str, length: str) -> None:
    try:
        first, count = window({"start": start, "length": length})
    except InvalidRequest:
        return
    assert 0 <= first < 2**53
    assert 0 <= count <= 100
