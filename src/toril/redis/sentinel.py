"""The master of a replicated Redis, as its Sentinels name it, and the connection to it.

Every Sentinel is asked twice a second, and all of them at once while there is no connection. The newest answer counts:
that of the highest configuration epoch, so a Sentinel that is cut off with the old master is ignored.
When the master changes, every connection to the old one is closed and made anew, also one that still seems to work.
Each new connection asks its server for its role: what says it is a replica is left.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from typing import Any

import structlog
from msgspec import Struct
from msgspec.structs import replace

from toril.core.errors import StoreError, StoreRefused, StoreUnavailable
from toril.core.metrics import UNMETERED
from toril.core.ports import Meter
from toril.redis.connection import Link, Prepare
from toril.redis.policy import RedisAddress, StorePolicy
from toril.redis.resp import pack

log = structlog.get_logger(__name__)

_EVERY_S = 0.5
_IN_TROUBLE_S = 0.1
_ANSWERS_WITHIN_S = 0.5


class _Named(Struct, frozen=True, order=True):
    """A master that a Sentinel names. The greater answer is the newer one."""

    epoch: int
    # The Sentinel that leads a failover names the new master before its epoch counts.
    promoted: bool
    host: str
    port: int


class _Said(Struct, frozen=True):
    """What a Sentinel says: the master, and whether it is making another server the master now."""

    named: _Named
    failing_over: bool


class Sentinels:
    """The Sentinels of one master, and what they say.

    Args:
        address: their addresses, the master's name and the credentials for both; without a host.
        policy: timeouts and backoff.
    """

    def __init__(self, address: RedisAddress, policy: StorePolicy) -> None:
        self._address = address
        self._links = [Link(_of_sentinel(address, place), policy, name="toril:sentinel") for place in address.sentinels]
        self._followers: weakref.WeakSet[Link] = weakref.WeakSet()
        self._named: _Named | None = None
        self._failing_over = False
        self._why = "none has been asked yet"

    @property
    def master(self) -> RedisAddress:
        """The address of the master.

        Raises:
            StoreUnavailable: no Sentinel has named it yet.
        """
        if self._named is None:
            raise StoreUnavailable(self.fault or "")
        return replace(self._address, host=self._named.host, port=self._named.port, path=None)

    @property
    def fault(self) -> str | None:
        """Why the master is not known; None if it is. Names no address: `/ready` shows it without a token."""
        name = self._address.sentinel_master
        return None if self._named is not None else f"the Sentinels do not say where the master {name} is: {self._why}"

    def follow(self, link: Link) -> None:
        """Make a connection anew whenever the master changes."""
        self._followers.add(link)

    async def run(self) -> None:
        """Ask the Sentinels until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for link in self._links:
                tasks.create_task(link.run(), name=f"redis:sentinel:{link.address.host}:{link.address.port}")
            while True:
                await self.look()
                in_trouble = self._named is None or any(not link.is_up for link in self._followers)
                await asyncio.sleep(_IN_TROUBLE_S if in_trouble else _EVERY_S)

    async def look(self) -> None:
        """Ask every Sentinel that is connected, and follow the newest answer."""
        answers = await asyncio.gather(*map(self._asked, self._links))
        said = [answer for answer in answers if isinstance(answer, _Said)]
        self._failing_over = any(answer.failing_over for answer in said)
        named = [answer.named for answer in said]
        if not named:
            self._why = "; ".join(dict.fromkeys(map(str, answers)))
            return
        newest, before = max(named), self._named
        older = before is not None and (newest.epoch, newest.promoted) < (before.epoch, before.promoted)
        if older and len(named) <= len(self._links) // 2:
            return  # Sentinels with a newer answer are out of reach. If a majority is older, they were set up anew.
        self._named = newest
        if before is None or (before.host, before.port) == (newest.host, newest.port):
            return
        why = f"the Sentinels name {newest.host}:{newest.port} as the master, instead of {before.host}:{before.port}"
        log.warning("redis.master_changed", master=f"{newest.host}:{newest.port}", name=self._address.sentinel_master)
        for link in list(self._followers):
            link.relocate(why)

    async def failing_over(self) -> bool:
        """Ask every Sentinel now; return True if one of them is making another server the master.

        From then on, what the old master takes may be lost although a replica has it: the chosen one has left it.
        """
        await self.look()
        return self._failing_over

    async def _asked(self, link: Link) -> _Said | str:
        """Return what a Sentinel says, or why it does not."""
        name = str(self._address.sentinel_master)
        if not link.is_up:
            fault = link.last_error
            return fault.message if isinstance(fault, StoreRefused) else "they cannot be reached"
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN_S):
                state, current = await link.pipeline(
                    [pack("SENTINEL", "MASTER", name), pack("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)]
                )
        except TimeoutError:
            return "they do not answer"
        except StoreError as exc:
            return exc.message
        return _said(state, current) or "they have no address of it"


class SentinelLink(Link):
    """The connection to the master that Sentinels name. As a `Links`, it is that of a single server.

    Args:
        sentinels: they say where the master is; run by this one.
        policy: timeouts and backoff.
        name: the name for `CLIENT SETNAME`.
        prepare: runs on each new connection before any other command.
        meter: counts reconnects.
    """

    def __init__(
        self,
        sentinels: Sentinels,
        policy: StorePolicy,
        *,
        name: str = "toril",
        prepare: Prepare | None = None,
        meter: Meter = UNMETERED,
    ) -> None:
        super().__init__(lambda: sentinels.master, policy, name=name, prepare=prepare, meter=meter)
        self._sentinels = sentinels
        self.follow(self)

    def follow(self, link: Link) -> None:
        """Make another connection anew, too, when the master changes."""
        self._sentinels.follow(link)


def _of_sentinel(address: RedisAddress, place: tuple[str, int]) -> RedisAddress:
    host, port = place
    return RedisAddress(
        host=host,
        port=port,
        username=address.sentinel_username,
        password=address.sentinel_password,
        tls=address.sentinel_tls,
        ca_file=address.ca_file,
        cert_file=address.cert_file,
        key_file=address.key_file,
        verify=address.verify,
    )


def _said(state: Sequence[Any], current: Sequence[Any] | None) -> _Said | None:
    """Return what `SENTINEL MASTER` and `SENTINEL GET-MASTER-ADDR-BY-NAME` say together."""
    if current is None:
        return None
    fields = dict(zip((bytes(name) for name in state[::2]), (bytes(value) for value in state[1::2]), strict=False))
    host, port = bytes(current[0]).decode(), int(current[1])
    promoted = (host.encode(), b"%d" % port) != (fields.get(b"ip"), fields.get(b"port"))
    named = _Named(int(fields.get(b"config-epoch", b"0")), promoted, host, port)
    return _Said(named, b"failover_in_progress" in fields.get(b"flags", b"").split(b","))
