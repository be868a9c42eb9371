import logging
from collections.abc import Iterator

import pytest
import structlog

from toril.config.logs import configure, set_level
from toril.core.policy import LogPolicy

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
