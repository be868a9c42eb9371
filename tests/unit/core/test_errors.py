import pytest

from toril.core import errors
from toril.core.errors import ConfigInvalid, InvalidRequest, TorilError

CLASSES = [
    found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, TorilError) and found is not ConfigInvalid
]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_an_error_says_what_is_wrong_without_being_told(error: type[TorilError]) -> None:
    assert error().message == (error.__doc__ or "").strip().splitlines()[0]
    assert error("mine").message == "mine"


def drawn() -> dict[str, tuple[int, str]]:
    """The tree of the module's docstring: name → status, code."""
    lines = (
        line.replace("│", " ").replace("├──", " ").replace("└──", " ").split() for line in errors.__doc__.splitlines()
    )
    return {line[0]: (int(line[1]), line[2]) for line in lines if len(line) == 3 and line[1].isdigit()}  # fmt: skip


def test_the_tree_is_drawn_as_it_is() -> None:
    all_of_them = [*CLASSES, ConfigInvalid]
    stand_in = {error.__name__: (error.status, error.code) for error in all_of_them if error is not TorilError}
    assert drawn() == stand_in


def test_a_config_error_lists_every_fault() -> None:
    assert ConfigInvalid(["a", "b"]).message == "a\nb"
    assert ConfigInvalid(["a", "b"]).faults == ["a", "b"]


def test_an_invalid_request_may_name_its_field() -> None:
    assert InvalidRequest("x", field="y").field == "y"
    assert InvalidRequest("x").field is None
