"""How log lines look: one line per event, human on a terminal, JSON otherwise. Never bodies, never secrets."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from toril.core.policy import LogPolicy


def configure(policy: LogPolicy) -> None:
    """Set structlog and the standard library's logging up for this process, both to stderr."""
    human = policy.format == "human" or (policy.format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if human
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=_wrapper(policy.level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
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
    """From now on log what is at least this grave, in this process; also by loggers that are in use."""
    wrapper = structlog.get_config()["wrapper_class"]
    for name, method in _methods(level).items():
        setattr(wrapper, name, method)
    logging.getLogger().setLevel(max(_number(level), logging.WARNING))


def _wrapper(level: str) -> type[Any]:
    """A class of this configuration's own, because `set_level` changes it: loggers that are in use keep their class,
    and what is below the level costs one empty call.
    """
    return type("Logger", (structlog.make_filtering_bound_logger(_number(level)),), _methods(level))


def _methods(level: str) -> dict[str, Any]:
    filtering = structlog.make_filtering_bound_logger(_number(level))
    return {name: method for name, method in vars(filtering).items() if not name.startswith("__")}


def _number(level: str) -> int:
    return int(getattr(logging, level.upper()))
