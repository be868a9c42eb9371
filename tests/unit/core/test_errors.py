import pytest

from toril.core import errors
from toril.core.errors import ConfigInvalid, InvalidRequest, JobNotFound, StoreUnavailable, TorilError, unwrapped

CLASSES = [
    found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, TorilError) and found is not ConfigInvalid
]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_an_errors_default_message_is_its_docstring(error: type[TorilError]) -> None:
    assert error().message == (error.__doc__ or "").strip().splitlines()[0]
    assert error("mine").message == "mine"


def drawn() -> dict[str, tuple[int, str]]:
    """The tree of the module's docstring: name → status, code."""
    lines = (
        line.replace("│", " ").replace("├──", " ").replace("└──", " ").split() for line in errors.__doc__.splitlines()
    )
    return {line[0]: (int(line[1]), line[2]) for line in lines if len(line) == 3 and line[1].isdigit()}  # fmt: skip


def test_the_drawn_error_tree_matches_the_classes() -> None:
    all_of_them = [*CLASSES, ConfigInvalid]
    stand_in = {error.__name__: (error.status, error.code) for error in all_of_them if error is not TorilError}
    assert drawn() == stand_in


def test_a_config_error_lists_every_fault() -> None:
    assert ConfigInvalid(["a", "b"]).message == "a\nb"
    assert ConfigInvalid(["a", "b"]).faults == ["a", "b"]


def test_an_invalid_request_may_name_its_field() -> None:
    assert InvalidRequest("x", field="y").field == "y"
    assert InvalidRequest("x").field is None


def test_the_error_of_a_task_is_raised_by_itself() -> None:
    group = ExceptionGroup("tasks", [ExceptionGroup("inner", [JobNotFound("one")]), StoreUnavailable("two")])
    with pytest.raises(JobNotFound, match="one") as caught, unwrapped():
        raise group
    assert caught.value.__cause__ is group


def test_a_fault_of_ours_is_not_taken_for_an_expected_error() -> None:
    with pytest.raises(ExceptionGroup) as caught, unwrapped():
        raise ExceptionGroup("tasks", [JobNotFound("one"), KeyError("ours")])
    assert len(caught.value.exceptions) == 2


def test_an_exception_outside_a_group_passes_unchanged() -> None:
    with pytest.raises(KeyError), unwrapped():
        raise KeyError("ours")
    with unwrapped():
        pass
