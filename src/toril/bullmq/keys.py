"""The names of BullMQ's keys of one queue, and the error for keys that hold another type of value than BullMQ's."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from toril.core.errors import WrongKeyType
from toril.redis.resp import ReplyError

STORED_AS = {"waiting": "wait"}
"""States whose keys have another name."""
LISTS = frozenset({"wait", "waiting", "paused", "active"})
"""States whose jobs are in a list; the others are sorted sets."""

_PLACEHOLDER = re.compile(rb"\{(\w+)\}")


class QueueKeys:
    """Keys of one queue, as bytes. `key("wait")` is `bull:orders:wait`; a job's hash is `key(job_id)`."""

    __slots__ = ("name", "prefix", "qualified")

    def __init__(self, prefix: str, name: str) -> None:
        self.name = name
        self.qualified = f"{prefix}:{name}"
        self.prefix = f"{self.qualified}:".encode()

    def key(self, part: str | bytes) -> bytes:
        """Return the key of a part of the queue, or of a job."""
        return self.prefix + (part.encode() if isinstance(part, str) else part)

    def keys(self, *parts: str) -> tuple[bytes, ...]:
        """Return several keys, in order."""
        return tuple(self.prefix + part.encode() for part in parts)

    def named(self, parts: Sequence[str], values: Mapping[str, str | bytes]) -> list[bytes]:
        """Return the keys of parts of the queue, in order.

        `{job}` in a part stands for the value of `job`, as in `{job}:lock`. The part `prefix` is the prefix itself.
        """

        def value(found: re.Match[bytes]) -> bytes:
            given = values[found[1].decode()]
            return given.encode() if isinstance(given, str) else given

        def key(part: str) -> bytes:
            if part == "prefix":
                return self.prefix
            return self.prefix + (_PLACEHOLDER.sub(value, part.encode()) if "{" in part else part.encode())

        return [key(part) for part in parts]

    def client_name(self) -> str:
        """Return the connection name by which BullMQ's `getWorkers` recognises a worker of this queue."""
        prefix = self.qualified[: -len(self.name) - 1]
        return f"{prefix}:{base64.b64encode(self.name.encode()).decode()}"

    def presence_name(self) -> str:
        """Return the name of a connection that shows others a worker of this queue, as that of a worker `toril`."""
        return f"{self.client_name()}:w:toril"


def is_wrong_type(error: ReplyError) -> bool:
    """Return True for Redis' refusal of a command that does not suit the type of the key's value."""
    return error.message.startswith("WRONGTYPE")


def wrong_key_type(queue: str) -> WrongKeyType:
    """Return the error for a queue of which a key holds another type of value."""
    return WrongKeyType(f"A Redis key of the queue {queue} holds another type of value than BullMQ keeps there")


@contextmanager
def expected_types(queue: str) -> Iterator[None]:
    """Raise `WrongKeyType` where Redis refuses a command of this block for the type of a key's value."""
    try:
        yield
    except ReplyError as exc:
        if not is_wrong_type(exc):
            raise
        raise wrong_key_type(queue) from exc
