"""Reads the tokens of the configuration file again when it changes, or when told to. Everything else needs a restart.

A file that is not valid as a whole changes nothing. Called by `toril.server`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from toril.config.loading import load
from toril.core.errors import ConfigInvalid
from toril.core.policy import GatewayPolicy, Settings

log = structlog.get_logger(__name__)

POLL_S = 1.0
# A file that is written in place, and not renamed into it, is whole when it has stopped changing.
_SETTLED_S = 0.1
_State = tuple[int, int, int] | None


class ConfigFile:
    """The configuration of a process: the environment, and a file that may change."""

    def __init__(self, environment: Mapping[str, str], file: Path | None) -> None:
        self._environment = environment
        self._file = file
        self._seen: _State = None
        self._asked = asyncio.Event()

    def read(self) -> Settings:
        """The settings as they are now.

        Raises:
            ConfigInvalid: with every fault.
        """
        # Looked at before it is read: what changes in between is a change.
        self._seen = self._state()
        return load(self._environment, self._file)

    def ask(self) -> None:
        """Read it again, changed or not."""
        self._asked.set()

    async def follow(self, apply: Callable[[GatewayPolicy], None]) -> None:
        """Hand the tokens to `apply` whenever they have been read anew, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(POLL_S):
                    await self._asked.wait()
            except TimeoutError:
                if self._state() == self._seen:
                    continue
            self._asked.clear()
            await self._settle()
            try:
                # Off the loop: a YAML file of a thousand tokens takes a third of a second to read.
                policy = (await asyncio.to_thread(self.read)).gateway
            except ConfigInvalid as exc:
                log.error("tokens.kept", faults=exc.faults, hint="the tokens known before go on counting")
            except Exception:  # a task boundary: whatever the file holds, the process goes on
                log.exception("tokens.kept", hint="the tokens known before go on counting")
            else:
                apply(policy)
                log.info("tokens.reloaded", tokens=len(policy.tokens), auth_tokens=len(policy.auth_tokens))

    async def _settle(self) -> None:
        state = self._state()
        while True:
            await asyncio.sleep(_SETTLED_S)
            now = self._state()
            if now == state:
                return
            state = now

    def _state(self) -> _State:
        if self._file is None:
            return None
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
