"""A target whose requests a listener makes: without its URL, host and credentials."""

from __future__ import annotations

from toril.core.ports import Now
from toril.delivery.rules.destination import Target
from toril.delivery.rules.target import TargetSpec


class ListenedTarget(Target):
    """Makes the requests of a target's deliveries for a listener, who puts in its own URL and credentials.

    The request target is `*` and the path of the envelope, if it has one.
    """

    __slots__ = ("_slots",)

    def __init__(self, spec: TargetSpec, now: Now, slots: int) -> None:
        self._slots = slots
        super().__init__(spec, now)
        self._base, self._query, self._host = b"*", b"", b"listener"

    def renew(self, spec: TargetSpec) -> None:
        """Use this policy and these secrets for signatures from the next attempt or verdict on."""
        super().renew(spec)
        self._auth = b""

    @property
    def concurrency(self) -> int:
        """How many attempts the listener makes at once."""
        return self._slots
