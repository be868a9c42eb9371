import pytest

from toril.queues.rules.javascript import is_falsy, number_text


@pytest.mark.parametrize("value", [None, False, 0, 0.0, -0.0, ""])
def test_falsy_values_of_javascript_are_recognised(value: object) -> None:
    assert is_falsy(value)


@pytest.mark.parametrize("value", [True, 1, -1, "0", "false", [], {}])
def test_truthy_values_of_javascript_are_recognised(value: object) -> None:
    assert not is_falsy(value)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (5, "5"),
        (5.0, "5"),
        (100, "100"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (-2.5e-10, "-2.5e-10"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (12345678901234567890, "12345678901234567000"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (10**400, None),
        (float("inf"), None),
    ],
)
def test_a_number_is_written_as_node_writes_it(number: float, text: str | None) -> None:
    assert number_text(number) == text
