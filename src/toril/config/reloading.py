"""Reads the configuration again when one of its files changes, or on demand, and applies what it can.

Watched are the configuration file and the secret files that it names. A configuration with any fault changes nothing.
`toril.config.rollout` says what applies at once and what has to wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

from toril.config.loading import load
from toril.config.rollout import Plan, plan
from toril.config.secret_files import SecretFiles, State, state_of
from toril.config.settings import Settings
from toril.core.errors import ConfigInvalid, TorilError
from toril.core.rollout import Rollout

log = structlog.get_logger(__name__)

POLL_S = 1.0
# A file that is written in place, and not renamed into it, is whole when it has stopped changing.
_SETTLED_S = 0.1


def _as_read(settings: Settings) -> Settings:
    return settings


class ConfigFile:
    """The configuration of a process: the environment, a file, and the secret files that it names, all of which may
    change.

    Args:
        adapt: applies the command line to the settings that were read, at each reload too.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        file: Path | None,
        adapt: Callable[[Settings], Settings] = _as_read,
    ) -> None:
        self._environment = environment
        self._file = file
        self._adapt = adapt
        self._secrets = SecretFiles()
        self._seen: dict[Path, State] = {}
        self._asked = asyncio.Event()
        self._was_read = False

    @property
    def vanished(self) -> list[str]:
        """The secret files that are gone, and whose last secrets are still in use."""
        return sorted(map(str, self._secrets.vanished))

    def read(self) -> Settings:
        """Return the settings as they are now.

        Raises:
            ConfigInvalid: with every fault. What was read before stays in use.
        """
        # Before it is read, so that a change in between is noticed.
        seen = self._states()
        if self._file is not None:
            seen[self._file] = state_of(self._file)
        secrets = SecretFiles(self._secrets)
        try:
            settings = self._adapt(load(self._environment, self._file, secrets, again=self._was_read))
        except ConfigInvalid:
            # A secret file that appears may mend it.
            self._seen = seen | secrets.seen
            raise
        self._was_read = True
        self._secrets = secrets
        self._seen = {file: state for file, state in seen.items() if file == self._file} | secrets.seen
        return settings

    def ask(self) -> None:
        """Ask for another read, changed or not."""
        self._asked.set()

    async def changed(self) -> None:
        """Wait until a file has changed and is whole, or `ask` was called."""
        while True:
            try:
                async with asyncio.timeout(POLL_S):
                    await self._asked.wait()
                break
            except TimeoutError:
                if self._states() != self._seen:
                    break
        self._asked.clear()
        state = self._states()
        while True:
            await asyncio.sleep(_SETTLED_S)
            before, state = state, self._states()
            if before == state:
                return

    def _states(self) -> dict[Path, State]:
        return {file: state_of(file) for file in self._seen}


def _ignore(faults: Sequence[str]) -> None:
    pass


class Reloading:
    """The reloads of a process: it follows the configuration as far as possible without a restart.

    Args:
        config: where it comes from. It has been read once.
        running: what was read.
        apply: takes over what runs from now on, all or nothing; raises a `TorilError` where it cannot.
        spread: makes the processes beside this one read it too.

    `heard` is called with what is wrong with each configuration that is read; with nothing for one that is valid.
    """

    def __init__(
        self,
        config: ConfigFile,
        running: Settings,
        apply: Callable[[Plan], None],
        spread: Callable[[], None] | None = None,
    ) -> None:
        self.rollout = Rollout()
        self._config = config
        self._running = running
        self._wanted = running
        self._apply = apply
        self._spread = spread
        # Two reloads at once could apply an older state behind a newer one.
        self._one_at_a_time = asyncio.Lock()
        self._vanished: list[str] = []
        self.heard: Callable[[Sequence[str]], None] = _ignore

    async def run(self) -> None:
        """Follow the configuration until cancelled."""
        while True:
            await self._config.changed()
            try:
                await self._reload()
            except ConfigInvalid:
                continue  # and logged already
            except Exception:  # a task boundary: the process survives any file
                log.exception("config.kept", hint="the previous configuration stays in use")

    async def reload(self) -> Rollout:
        """Read everything again, here and in the processes beside this one.

        Raises:
            ConfigInvalid: with every fault; nothing has changed.
        """
        rollout = await self._reload()
        if self._spread is not None:
            self._spread()
        return rollout

    async def _reload(self) -> Rollout:
        async with self._one_at_a_time:
            try:
                # Off the loop: a YAML file of a thousand tokens takes a third of a second to read.
                wanted = await asyncio.to_thread(self._config.read)
            except ConfigInvalid as exc:
                log.error("config.kept", faults=exc.faults, hint="the previous configuration stays in use")
                self.heard(exc.faults)
                raise
            self._tell_vanished()
            anew = plan(self._wanted, wanted)
            next_one = plan(self._running, wanted)
            before = self.rollout
            if next_one.applied:
                try:
                    self._apply(next_one)
                except TorilError as exc:
                    log.error("config.kept", faults=[exc.message], hint="the previous configuration stays in use")
                    self.heard([exc.message])
                    raise ConfigInvalid([exc.message]) from exc
            self._wanted, self._running = wanted, next_one.settings
            self.rollout = Rollout(
                generation=before.generation + bool(anew.applied or anew.pending),
                applied=next_one.applied,
                pending=next_one.pending,
                secrets_kept=tuple(self._vanished),
            )
            self.heard(())
            log.info("config.reloaded", generation=self.rollout.generation, applied=list(next_one.applied))
            if next_one.pending and next_one.pending != before.pending:
                log.warning(
                    "config.pending_rollout", keys=list(next_one.pending), hint="not applied; a restart rolls them out"
                )
            return self.rollout

    def _tell_vanished(self) -> None:
        vanished = self._config.vanished
        if vanished and vanished != self._vanished:
            log.warning("secret.vanished", files=vanished, hint="the last secrets that were read stay in use")
        self._vanished = vanished
