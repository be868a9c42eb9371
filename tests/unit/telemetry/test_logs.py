import logging
from collections.abc import Iterator

import pytest
import structlog

from toril.telemetry.logs import configure, set_level
from toril.telemetry.policy import LogPolicy

LEVELS = ("debug", "info", "warning", "error")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    structlog.reset_defaults()
    root.handlers, root.level = handlers, level


@pytest.mark.parametrize("before", LEVELS)
@pytest.mark.parametrize("after", LEVELS)
def test_a_logger_in_use_takes_over_a_new_level(before: str, after: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogPolicy(level=before, format="json"))  # type: ignore[arg-type]
    log = structlog.get_logger("test")
    for level in LEVELS:
        getattr(log, level)("before")
    set_level(after)
    for level in LEVELS:
        getattr(log, level)("after")
    printed = capsys.readouterr().err
    assert printed.count('"before"') == len(LEVELS) - LEVELS.index(before)
    assert printed.count('"after"') == len(LEVELS) - LEVELS.index(after)


def test_other_loggers_say_warnings_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogPolicy(level="error", format="json"))
    logging.getLogger("other").warning("one")
    set_level("debug")
    logging.getLogger("other").warning("two")
    logging.getLogger("other").info("three")
    printed = capsys.readouterr().err
    assert [word in printed for word in ("one", "two", "three")] == [False, True, False]


def test_in_a_process_of_another_application_its_logging_stays_as_it_is() -> None:
    root, own = logging.getLogger(), logging.StreamHandler()
    root.handlers, root.level = [own], logging.INFO
    configure(LogPolicy(level="info"), whole_process=False)
    set_level("error")
    assert (root.handlers, root.level) == ([own], logging.INFO)


def test_a_new_level_leaves_loggers_of_others_alone() -> None:
    class Loggers(structlog.stdlib.BoundLogger):
        """How the application around it has configured structlog."""

    structlog.configure(wrapper_class=Loggers)
    set_level("error")
    assert "info" not in vars(Loggers)


def test_a_trace_for_people_shows_no_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogPolicy(format="human"), whole_process=False)

    def fails() -> None:
        password = "".join(["hun", "ter2"])
        raise RuntimeError(f"{len(password)} characters")

    try:
        fails()
    except RuntimeError:
        structlog.get_logger("test").exception("it.failed")
    printed = capsys.readouterr().err
    assert "RuntimeError: 7 characters" in printed
    assert "hunter2" not in printed
