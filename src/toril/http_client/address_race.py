"""Connects to the first of several addresses that answers (RFC 8305, "Happy Eyeballs").

The addresses are given: no name is looked up here.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, zip_longest

STAGGER_S = 0.25
"""How long an address has before the next one is tried beside it (RFC 8305 section 5)."""


class AddressRace:
    """One race to a port. `failures` has the addresses that did not answer and why, in the order of failing."""

    def __init__(self, addresses: Sequence[str], port: int) -> None:
        self._addresses = interleaved(addresses)
        self._port = port
        self._won: list[socket.socket] = []
        self._news = asyncio.Event()
        self.failures: list[tuple[str, OSError]] = []

    async def run(self) -> socket.socket | None:
        """Return a connected socket; None where every address has failed. It has no limit in time of itself."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tried: list[asyncio.Task[None]] = []
                for address in self._addresses:
                    self._news.clear()
                    tried.append(tasks.create_task(self._try(address)))
                    # The next attempt begins when this one has failed, or after the stagger.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(STAGGER_S):
                            await self._news.wait()
                    if self._won:
                        break
                while not self._won and len(self.failures) < len(tried):
                    self._news.clear()
                    await self._news.wait()
                for task in tried:
                    task.cancel()
        except BaseException:
            for sock in self._won:
                sock.close()
            raise
        return self._won[0] if self._won else None

    async def _try(self, address: str) -> None:
        try:
            sock = await _connected(address, self._port)
        except OSError as exc:
            self.failures.append((address, exc))
        else:
            if self._won:
                sock.close()  # another one connected in the same turn of the loop
            else:
                self._won.append(sock)
        self._news.set()


async def _connected(address: str, port: int) -> socket.socket:
    (family, kind, protocol, _, where), *_ = socket.getaddrinfo(
        address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    )
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


def interleaved(addresses: Sequence[str]) -> list[str]:
    """Return the addresses with the families alternating, the best one first (RFC 8305 section 4)."""
    first = [address for address in addresses if (":" in address) == (":" in addresses[0])]
    other = [address for address in addresses if (":" in address) != (":" in addresses[0])]
    return [address for address in chain.from_iterable(zip_longest(first, other)) if address is not None]
