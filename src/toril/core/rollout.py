"""The result of a reload of the configuration: what applies, and what waits for a restart."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct


class Rollout(Struct, frozen=True, kw_only=True):
    """The state of a process's configuration.

    `generation` counts, from 1, the different valid configurations that this process has read. `pending` names the keys
    whose values have yet to be rolled out, `applied` those that the last reload has changed, `secrets_kept` the secret
    files that are gone, whose last secrets still count.
    """

    generation: int = 1
    applied: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    secrets_kept: tuple[str, ...] = ()

    def pending_of(self, target: str) -> tuple[str, ...]:
        """Return the pending keys of one target."""
        own = f"targets.{target}"
        return tuple(key for key in self.pending if key == own or key.startswith(own + "."))


class Reloads(Protocol):
    """A reader of the configuration that can read it again."""

    @property
    def rollout(self) -> Rollout:
        """The state of this process's configuration."""
        ...

    async def reload(self) -> Rollout:
        """Read everything again, here and in the processes beside this one. Idempotent.

        Raises:
            ConfigInvalid: with every fault; nothing has changed.
        """
        ...
