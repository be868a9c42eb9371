"""The format of log lines: one line per event, readable on a terminal, JSON otherwise. Never bodies or secrets."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from toril.telemetry.policy import LogPolicy

_HANDLER = "toril"
_OURS = "made_by_toril"


def configure(policy: LogPolicy, *, whole_process: bool = True) -> None:
    """Configure structlog, to stderr.

    Args:
        whole_process: configure the standard library's logging too. Not where the process is another application's.
    """
    human = policy.format == "human" or (policy.format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[structlog.typing.Processor] = (
        [
            # Where rich is installed, structlog would else show the local variables, secrets among them.
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
        if human
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=_wrapper(policy.level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    if not whole_process:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.name = _HANDLER
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(_number(policy.level), logging.WARNING))


def set_level(level: str) -> None:
    """Change the level of all loggers that `configure` has configured, those in use included."""
    wrapper = structlog.get_config()["wrapper_class"]
    if getattr(wrapper, _OURS, False):
        for name, method in _methods(level).items():
            setattr(wrapper, name, method)
    root = logging.getLogger()
    if any(handler.name == _HANDLER for handler in root.handlers):
        root.setLevel(max(_number(level), logging.WARNING))


def _wrapper(level: str) -> type[Any]:
    """Return a new class of loggers, which `set_level` can change: loggers in use keep their class.

    A line below the level costs one empty call.
    """
    return type("Logger", (structlog.make_filtering_bound_logger(_number(level)),), _methods(level) | {_OURS: True})


def _methods(level: str) -> dict[str, Any]:
    filtering = structlog.make_filtering_bound_logger(_number(level))
    return {name: method for name, method in vars(filtering).items() if not name.startswith("__")}


def _number(level: str) -> int:
    return int(getattr(logging, level.upper()))
