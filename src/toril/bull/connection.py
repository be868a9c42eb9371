"""One Redis connection that everything in the process shares, kept alive.

Owns connecting, logging in and connecting again, with backoff and jitter. A connection that breaks fails what is in
flight (it never hangs and is never silently repeated). It must never interpret a command. Called by everything in
`toril.bull` and, through ports, by the adapters.

Measured (2 cores, 32 in flight, CPU per command): redis-py asyncio 86 µs, its pipelines of 32 30 µs, this 8 µs.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import hiredis
import structlog

from toril.bull.wire import Argument, Reply, SlotElsewhere, Wire, as_error, pack
from toril.core.errors import StoreError, StoreRefused, StoreTimeout, StoreUnavailable
from toril.core.metrics import REDIS_RECONNECTS, UNMETERED
from toril.core.policy import RedisAddress, StorePolicy
from toril.core.ports.shared import Meter

Prepare = Callable[[Wire], Awaitable[None]]
Locate = Callable[[], RedisAddress]

log = structlog.get_logger(__name__)

PROBE = "toril:writable"
"""The key that is written to see whether Redis takes writes."""
_PROBE_MS = 1000


class Link:
    """A connection that keeps itself alive. Run `run()` in a task group, then use `call` or `send`.

    Args:
        address: where to connect, or what says so anew for each connection (in a cluster, a slot's node changes).
        policy: timeouts and backoff.
        name: what `CLIENT SETNAME` gets.
        prepare: runs on each new connection before anybody else may use it.
        patience_s: overrides the command timeout, for connections whose commands block.
        meter: told when the connection was made again.
    """

    def __init__(
        self,
        address: RedisAddress | Locate,
        policy: StorePolicy,
        *,
        name: str = "toril",
        prepare: Prepare | None = None,
        patience_s: float | None = None,
        meter: Meter = UNMETERED,
    ) -> None:
        self._locate: Locate = (lambda: address) if isinstance(address, RedisAddress) else address
        self.name = name
        self.connects = 0
        self._policy = policy
        self._prepare = prepare
        self._meter = meter
        self._command_timeout_s = policy.command_timeout_s if patience_s is None else patience_s
        self._silence_timeout_s = max(policy.silence_timeout_s, self._command_timeout_s)
        self._wire: Wire | None = None
        self._up = asyncio.Event()
        self._last_error: BaseException | None = None
        self._told: set[str] = set()
        self._listeners: list[Callable[[], None]] = []

    @property
    def address(self) -> RedisAddress:
        """Where this connection goes."""
        return self._locate()

    def of(self, key: bytes) -> Link:
        """The connection to the node that has this key: on one server, always this one."""
        return self

    def address_of(self, key: bytes) -> RedisAddress:
        """The address of the node that has this key: on one server, always this one."""
        return self.address

    def group(self, key: bytes) -> int:
        """On one server, every key may stand beside every other."""
        return 0

    def reconnect(self, why: str) -> None:
        """Give the connection up and make it anew, perhaps to another address."""
        if self._wire is not None:
            self._wire.drop(why)

    def all(self) -> list[Link]:
        """The connections to every node: this one."""
        return [self]

    async def refresh(self, told: SlotElsewhere | None = None) -> None:
        """Learn anew which node has which keys: there is only one."""

    async def check(self) -> None:
        """Raise `StoreUnavailable` unless Redis answers."""
        await self.call("PING")

    async def check_writable(self, key: str = PROBE) -> None:
        """Raise `StoreError` unless Redis takes a write."""
        await self.call("SET", key, "1", "PX", _PROBE_MS)

    @property
    def is_up(self) -> bool:
        """Whether commands can be sent now."""
        return self._up.is_set()

    def on_reconnect(self, listener: Callable[[], None]) -> None:
        """Call this after every connection but the first: replies may have been lost before it."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Keep the connection alive until cancelled."""
        failures = 0
        try:
            while True:
                try:
                    wire = await self._connect()
                except (OSError, StoreError, TimeoutError) as exc:
                    self._last_error = exc
                    failures += 1
                    delay_s = min(self._policy.backoff_max_s, self._policy.backoff_first_s * 2 ** min(failures, 16))
                    delay_s *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads reconnects, guards nothing
                    if failures in (1, 10) or failures % 100 == 0:
                        log.warning("redis.connect_failed", error=str(exc), name=self.name)
                    await asyncio.sleep(delay_s)
                    continue
                failures = 0
                await wire.closed.wait()
                self._up.clear()
                self._wire = None
                self._last_error = wire.fault
                log.warning("redis.connection_lost", error=wire.why, name=self.name)
        finally:
            self._up.clear()
            if self._wire is not None:
                self._wire.drop("toril closed the connection")
                self._wire = None

    def send(self, packed: bytes) -> asyncio.Future[Reply]:
        """Send one packed command; the future has its reply, or the error reply as an exception.

        Raises:
            StoreUnavailable: there is no connection now; nothing was sent.
        """
        if self._wire is None:
            raise self._unavailable()
        return self._wire.send(packed)

    def send_many(self, packed: bytes, count: int, wanted: int) -> list[asyncio.Future[Reply]]:
        """Send `count` commands as one piece, nothing in between; futures for the last `wanted` replies."""
        if self._wire is None:
            raise self._unavailable()
        return self._wire.send_many(packed, count, wanted)

    async def up(self, patience_s: float | None = None) -> None:
        """Wait for a connection, by default as long as a command may take.

        Raises:
            StoreUnavailable: there was none in time.
        """
        if self._up.is_set():
            return
        try:
            async with asyncio.timeout(self._command_timeout_s if patience_s is None else patience_s):
                await self._up.wait()
        except TimeoutError:
            raise self._unavailable() from None

    async def call(self, *args: Argument) -> Reply:
        """Send one command and wait for its reply, first for a connection if there is none."""
        if self._wire is None:
            await self.up()
        return await self.send(pack(*args))

    async def run_script(self, packed: bytes) -> Reply:
        """Send one packed call of a script and wait for its reply, first for a connection if there is none."""
        if self._wire is None:
            await self.up()
        return await self.send(packed)

    def leave(self, packed: bytes) -> None:
        """Send one packed command before whatever is sent next; its reply is not looked at."""
        self.send_many(packed, 1, 0)

    async def pipeline(self, commands: Sequence[bytes]) -> list[Reply]:
        """Send packed commands as one piece and wait for all replies; the first error reply is raised."""
        if self._wire is None:
            await self.up()
        if self._wire is None:
            raise self._unavailable()
        return await self._wire.pipeline(commands)

    async def transaction(self, commands: list[bytes]) -> list[Reply]:
        """Run packed commands as MULTI/EXEC; the replies of EXEC, error replies among them as exceptions.

        Raises:
            StoreError: Redis refused to queue a command; none was run.
        """
        if self._wire is None:
            await self.up()
        packed = b"".join((_MULTI, *commands, _EXEC))
        (reply,) = self.send_many(packed, len(commands) + 2, 1)
        replies = await reply
        return [as_error(str(r)) if isinstance(r, hiredis.ReplyError) else r for r in replies]

    def _unavailable(self) -> StoreUnavailable:
        reason = f": {self._last_error}" if self._last_error else ""
        return StoreUnavailable(f"Redis cannot be reached{reason}")

    async def _connect(self) -> Wire:
        loop = asyncio.get_running_loop()
        address = self.address
        wire = Wire(loop, self._command_timeout_s, self._silence_timeout_s, self._told)
        try:
            async with asyncio.timeout(self._policy.connect_timeout_s):
                if address.path is not None:
                    await loop.create_unix_connection(lambda: wire, address.path)
                else:
                    context = tls_context(address) if address.tls else None
                    await loop.create_connection(lambda: wire, address.host, address.port, ssl=context)
                await self._shake_hands(wire, address)
                if self._prepare is not None:
                    await self._prepare(wire)
        except TimeoutError:
            wire.drop("the handshake took too long")
            raise StoreTimeout(f"{address} does not answer within {self._policy.connect_timeout_s:g} s") from None
        except BaseException:
            wire.drop("the handshake failed")
            raise
        self.connects += 1
        self._wire = wire
        self._up.set()
        if self.connects > 1:
            log.info("redis.reconnected", address=str(address), name=self.name)
            self._meter.count(REDIS_RECONNECTS, (_role(self.name),))
            for listener in self._listeners:
                listener()
        return wire

    async def _shake_hands(self, wire: Wire, address: RedisAddress) -> None:
        steps: list[bytes] = []
        if address.password is not None:
            user = () if address.username is None else (address.username,)
            steps.append(pack("AUTH", *user, address.password))
        if address.db:
            steps.append(pack("SELECT", address.db))
        steps.append(pack("PING"))
        await wire.pipeline(steps)
        # Some hosted Redis services refuse CLIENT; a name is worth having and not worth failing for.
        with contextlib.suppress(StoreRefused):
            await wire.call("CLIENT", "SETNAME", self.name)


def tls_context(address: RedisAddress) -> ssl.SSLContext:
    """The TLS settings of an address: the system's authorities or `ca_file`, and a client certificate if any."""
    context = ssl.create_default_context(cafile=address.ca_file)
    if not address.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if address.cert_file is not None:
        context.load_cert_chain(address.cert_file, address.key_file)
    return context


def _role(name: str) -> str:
    """What a connection is for, in a word: names of single lanes and queues would be too many."""
    if name == "toril":
        return "commands"
    return name.removeprefix("toril:").partition("-")[0] if name.startswith("toril:") else "presence"


_MULTI = pack("MULTI")
_EXEC = pack("EXEC")


@contextlib.asynccontextmanager
async def linked(link: Link) -> AsyncIterator[Link]:
    """Keep a link alive for the length of a block. It may not be up yet when the block begins."""
    async with asyncio.TaskGroup() as tasks:
        runner = tasks.create_task(link.run(), name=f"redis:{link.name}")
        try:
            yield link
        finally:
            runner.cancel()
