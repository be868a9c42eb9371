import re
from typing import Any

import pytest

from toril.core.settings.values import (
    WrittenInteger,
    boolean,
    duration,
    integer,
    secret_text,
    text,
    texts,
    written_text,
)


@pytest.mark.parametrize("value", [WrittenInteger(83, "0123"), "0123"])
def test_a_number_stands_for_the_text_that_is_written(value: Any) -> None:
    assert written_text(value) == "0123"
    assert secret_text(value) == "0123"
    assert texts([value, "a"]) == ["0123", "a"]


def test_a_number_is_no_text_where_texts_do_not_look_like_numbers() -> None:
    with pytest.raises(ValueError, match="83 is not a text"):
        text(WrittenInteger(83, "0123"))


@pytest.mark.parametrize("value", [True, 1.0, None, [], 7])
def test_a_value_that_yaml_rewrites_is_refused_as_text(value: Any) -> None:
    for parse in (written_text, secret_text):
        with pytest.raises(ValueError, match="a text"):
            parse(value)
    with pytest.raises(ValueError, match="list of texts"):
        texts([value])


@pytest.mark.parametrize("value", [5, "5", " 5 ", WrittenInteger(5, "0x5")])
def test_a_whole_number_may_be_a_text(value: Any) -> None:
    number = integer(1, 10)(value)
    assert number == 5
    assert type(number) is int


@pytest.mark.parametrize("value", [True, 5.0, "5.0", "1_0", "\u0665", None, 0, 11, "11", "9" * 5000])
def test_a_value_that_is_no_whole_number_within_bounds_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="is not a whole number from 1 to 10"):
        integer(1, 10)(value)


@pytest.mark.parametrize(
    ("bounds", "value", "fault"),
    [
        ((), "0", "'0' is shorter than 1ms"),
        ((0.1,), "99ms", "'99ms' is shorter than 100ms"),
        ((0.001, 3600), "2h", "'2h' is not between 1ms and 1h"),
        ((0.0, 366 * 86400.0), "367d", "'367d' is not between 0s and 366d"),
        ((), "9" * 400 + "h", "longer than 292 years"),
        ((), "999999999999h", "longer than 292 years"),
        ((), 5, "5 is not a duration such as 30s, 1h30m or 30d"),
        ((), True, "True is not a duration"),
    ],
)
def test_a_duration_out_of_bounds_is_refused(bounds: tuple[float, ...], value: Any, fault: str) -> None:
    with pytest.raises(ValueError, match=re.escape(fault)):
        duration(*bounds)(value)


@pytest.mark.parametrize(("value", "meant"), [("TRUE", True), ("1", True), ("", False), ("0", False), (False, False)])
def test_true_and_false_may_be_texts(value: Any, meant: bool) -> None:
    assert boolean(value) is meant
