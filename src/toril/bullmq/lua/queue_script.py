"""A script on the keys of one queue, which names its keys as parts of the queue."""

from __future__ import annotations

import functools
from importlib.resources import files

from toril.bullmq.keys import QueueKeys
from toril.redis.resp import Argument
from toril.redis.script import Script


class QueueScript(Script):
    """A script on the keys of one queue: its `keys` are parts of the queue, as `QueueKeys.named` reads them.

    `moves` is true of a script that may make jobs wait.
    """

    __slots__ = ("moves",)

    def __init__(
        self, name: str, text: bytes, *, keys: str, arguments: str = "", returns: str = "", moves: bool = False
    ) -> None:
        super().__init__(name, text, keys=keys, arguments=arguments, returns=returns)
        self.moves = moves

    def of(self, queue: QueueKeys, *arguments: Argument, **named: str | bytes) -> bytes:
        """Return a whole call for a queue, as RESP. `named` fills the placeholders in the names of its keys."""
        return self.packed(queue.named(self.keys, named), *arguments)

    def head_of(self, queue: QueueKeys, arguments: int, **named: str | bytes) -> bytes:
        """Return the `head` of calls for a queue."""
        return self.head(queue.named(self.keys, named), arguments)


@functools.cache
def bullmq_text(name: str, keys: int) -> bytes:
    """Return the text of BullMQ's script of this name and number of keys."""
    return files("bullmq").joinpath("commands", f"{name}-{keys}.lua").read_bytes()


def replaced_once(text: bytes, part: bytes, by: bytes) -> bytes:
    """Return a script of BullMQ with another text in place of a part that it must have once.

    Raises:
        ValueError: it has not; this is another BullMQ than the one that toril is made for.
    """
    if text.count(part) != 1:
        raise ValueError(f"BullMQ's script does not have {part!r} once, as expected")
    return text.replace(part, by)
