"""Lua scripts, called alone or with others in a transaction.

A script is called by its SHA. A Redis that has no script of that SHA (after a failover or `SCRIPT FLUSH`, or on a new
node of a cluster) runs nothing. Then the call is repeated with the script's text, which Redis caches. Calls go through
`Links.of`, which follows keys that move in a cluster.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Awaitable, Sequence
from typing import Any

from toril.redis.links import KeyLink, Links
from toril.redis.resp import Argument, Reply, ReplyError, Wire, pack

# The beginning of a packed call, after the number of its parts.
_EVALSHA = b"$7\r\nEVALSHA\r\n$40\r\n"
_SHA_LENGTH = 40


class Script:
    """A Lua script, which Redis runs in one step.

    Args:
        name: its name in errors and tests.
        text: its Lua source.
        keys: what each of KEYS is, in order, with a space between; `*` behind the last one stands for any number.
        arguments: what each of ARGV is, in order, with a space between. One whose name ends in `?` may be left out;
            `*` stands for any number of values.
        returns: what the reply means.
        names_all: True for a script that touches no key but those that it is called with. In a cluster its call then
            follows keys that have moved while their slot is still being moved; other scripts wait for the whole slot.
    """

    __slots__ = ("_least", "_more_keys", "_most", "arguments", "keys", "name", "names_all", "returns", "sha", "text")

    def __init__(
        self,
        name: str,
        text: str | bytes,
        *,
        keys: str,
        arguments: str = "",
        returns: str = "",
        names_all: bool = False,
    ) -> None:
        self.name = name
        self.text = text.encode() if isinstance(text, str) else text
        self.keys = tuple(keys.split())
        self.arguments = tuple(arguments.split())
        self.returns = returns
        self.names_all = names_all
        self._more_keys = keys.endswith("*")
        self._least = sum(not name.endswith(("?", "*")) for name in self.arguments)
        self._most = math.inf if any(name.endswith("*") for name in self.arguments) else len(self.arguments)
        self.sha = hashlib.sha1(self.text).hexdigest().encode()  # noqa: S324 - how Redis names scripts

    def head(self, keys: Sequence[Argument], arguments: int) -> bytes:
        """Return the part of a call that stays the same: everything before the arguments, as RESP.

        It is built once per queue and script. A call appends its arguments, which costs a quarter of packing all of it.

        Raises:
            ValueError: the script takes another number of keys or arguments.
        """
        least = len(self.keys) - self._more_keys
        if len(keys) < least or (len(keys) > least and not self._more_keys):
            raise ValueError(f"{self.name} takes {least}{' or more' * self._more_keys} keys, got {len(keys)}")
        if not self._least <= arguments <= self._most:
            raise ValueError(f"{self.name} takes the arguments {' '.join(self.arguments)}, got {arguments}")
        packed = pack("EVALSHA", self.sha, len(keys), *keys)
        return b"*%d\r\n%b" % (3 + len(keys) + arguments, packed.partition(b"\r\n")[2])

    def packed(self, keys: Sequence[Argument], *arguments: Argument) -> bytes:
        """Return a whole call as RESP."""
        return self.head(keys, len(arguments)) + pack(*arguments).partition(b"\r\n")[2]

    def with_text(self, packed: bytes) -> bytes:
        """Return a packed call as `EVAL` of the script's text, which Redis then caches."""
        count, _, rest = packed.partition(b"\r\n")
        behind = rest[len(_EVALSHA) + _SHA_LENGTH + 2 :]
        return b"%b\r\n$4\r\nEVAL\r\n$%d\r\n%b\r\n%b" % (count, len(self.text), self.text, behind)

    async def call(self, links: Links, keys: Sequence[Argument], *arguments: Argument) -> Any:
        """Run the script on the node that has the first key; return its reply."""
        first = keys[0]
        key = first if isinstance(first, bytes) else str(first).encode()
        return await self.run(links, key, self.packed(keys, *arguments))

    async def run(self, links: Links, key: bytes, packed: bytes) -> Any:
        """Run a packed call on the node that has `key`; return its reply."""
        link = links.of(key)
        try:
            return await self._sent(link, packed)
        except ReplyError as exc:
            if not _is_unknown(exc):
                raise
        return await self._sent(link, self.with_text(packed))

    def _sent(self, link: KeyLink, packed: bytes) -> Awaitable[Reply]:
        return _alone(link, packed) if self.names_all else link.run_script(packed)


Call = tuple[Script | None, bytes]
"""A packed call with its script; with None, another packed command."""


async def run_together(links: Links, key: bytes, calls: Sequence[Call]) -> list[Any]:
    """Run calls as one MULTI/EXEC on the node that has `key`; return their replies, with error replies as exceptions.

    Redis may not know the scripts. If all calls are of one script, none of them has run then, and everything is sent
    again; other commands beside them must be safe to run twice. With several scripts, some would run and others not, so
    the first call of each script has its text.
    """
    scripts = {script for script, _ in calls if script is not None}
    if len(scripts) <= 1:
        replies = await links.of(key).transaction([packed for _, packed in calls])
        if not any(isinstance(reply, ReplyError) and _is_unknown(reply) for reply in replies):
            return replies
    return await links.of(key).transaction(_with_texts(calls))


async def load(wire: Wire, scripts: Sequence[Script]) -> None:
    """Load scripts on a new connection, in one write."""
    await wire.pipeline([pack("SCRIPT", "LOAD", script.text) for script in scripts])


def _with_texts(calls: Sequence[Call]) -> list[bytes]:
    """Return the calls, with the first one of each script as EVAL of its text."""
    sent: set[Script] = set()
    commands: list[bytes] = []
    for script, packed in calls:
        if script is None or script in sent:
            commands.append(packed)
        else:
            sent.add(script)
            commands.append(script.with_text(packed))
    return commands


async def _alone(link: KeyLink, packed: bytes) -> Reply:
    (reply,) = await link.pipeline([packed])
    return reply


def _is_unknown(error: ReplyError) -> bool:
    return error.message.startswith("NOSCRIPT")
