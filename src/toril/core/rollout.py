"""What a reload of the configuration came to: what applies, and what has to wait for a restart."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct


class Rollout(Struct, frozen=True, kw_only=True):
    """Where a process stands with its configuration.

    `generation` counts, from 1, the different valid configurations that this process has read. `pending` names the keys
    whose values have yet to be rolled out, `applied` those that the last reload has changed, `secrets_kept` the secret
    files that are gone, whose last secrets still count.
    """

    generation: int = 1
    applied: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    secrets_kept: tuple[str, ...] = ()

    def pending_of(self, target: str) -> tuple[str, ...]:
        """What is pending for one target."""
        own = f"targets.{target}"
        return tuple(key for key in self.pending if key == own or key.startswith(own + "."))


class Reloads(Protocol):
    """Reads the configuration again."""

    @property
    def rollout(self) -> Rollout:
        """Where this process stands."""
        ...

    async def reload(self) -> Rollout:
        """Read everything anew, here and in the processes beside this one. Idempotent.

        Raises:
            ConfigInvalid: with every fault; nothing has changed.
        """
        ...
