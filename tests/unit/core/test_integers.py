import pytest

from toril.core.integers import MAX_SAFE_INTEGER, whole_number


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("7", 7), ("007", 7), (str(MAX_SAFE_INTEGER), MAX_SAFE_INTEGER), ("100", 100)]
)
def test_digits_are_a_whole_number(text: str, number: int) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize(
    "text", ["", " 7", "7 ", "+7", "1_000", "0x10", "7.0", "1e3", "\u0667", "-", "7\n", "9" * 5000]
)
def test_a_text_with_anything_but_digits_is_no_whole_number(text: str) -> None:
    assert whole_number(text) is None


def test_a_number_out_of_bounds_is_no_whole_number() -> None:
    assert whole_number("-1") is None
    assert whole_number("-0") is None
    assert whole_number("-1", least=-1) == -1
    assert whole_number("11", 1, 10) is None
    assert whole_number(str(MAX_SAFE_INTEGER + 1)) is None
