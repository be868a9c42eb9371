"""Presence where there is no Redis, and so no BullMQ that asks which workers there are."""

from __future__ import annotations


class NoPresence:
    """`Presence` that shows nothing."""

    def active(self, queue: str) -> None:
        """Do nothing."""

    def gone(self, queue: str) -> None:
        """Do nothing."""
